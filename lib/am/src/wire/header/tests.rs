//! Tests of the header's encoding: identity of the round trip, every refusal, and that no octets panic.

#![allow(clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;

const ID: u64 = 0x0102_0304_0506_0708;

fn encoded(header: &Header<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    header.encode(&mut out);
    out
}

fn plain() -> Vec<u8> {
    encoded(&Header::message(DeliveryMode::WithResponse, ID, b"sum"))
}

fn with_octet(at: usize, octet: u8) -> Vec<u8> {
    let mut bytes = plain();
    bytes[at] = octet;
    bytes
}

#[test]
fn a_plain_message_is_sixteen_octets_and_its_name() {
    assert_eq!(plain(), [1, 1, 2, 0, 0, 3, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, b's', b'u', b'm']);
    assert_eq!(encoded(&Header::reply(Kind::Ack, ID)).len(), FIXED_LEN);
}

#[test]
fn encoding_appends_and_leaves_what_is_there() {
    let mut out = b"before".to_vec();
    Header::message(DeliveryMode::WithResponse, ID, b"sum").encode(&mut out);
    assert_eq!(out, [b"before", plain().as_slice()].concat());
}

#[test]
fn encoding_into_a_buffer_with_room_does_not_allocate() {
    let header = Header { deadline_ms: Some(1), ..Header::message(DeliveryMode::Confirmed, ID, b"sum") };
    let mut out = Vec::with_capacity(64);
    let place = out.as_ptr();
    header.encode(&mut out);
    assert_eq!((out.as_ptr(), out.capacity()), (place, 64));
}

#[test]
fn malformed_headers_are_refused_with_their_reason() {
    use HeaderErrorKind as E;
    let cases = [
        (vec![], E::TooShort { len: 0 }),
        (plain()[..15].to_vec(), E::TooShort { len: 15 }),
        (with_octet(0, b'{'), E::JsonHeader),
        (with_octet(0, 0), E::UnknownVersion(0)),
        (with_octet(0, 2), E::UnknownVersion(2)),
        (with_octet(1, 0), E::UnknownKind(0)),
        (with_octet(1, 10), E::UnknownKind(10)),
        (with_octet(1, 16), E::UnknownKind(16)),
        (with_octet(2, 5), E::UnknownMode(5)),
        (with_octet(3, 128), E::MustUnderstand),
        (with_octet(4, 3), E::UnknownCodec(3)),
        (with_octet(5, 0), E::NameMissing),
        (with_octet(5, 4), E::Truncated { field: "handler name" }),
        (with_octet(6, 17), E::TooDeep(17)),
        (with_octet(3, flags::DEADLINE), E::Truncated { field: "deadline" }),
        (with_octet(3, flags::TRACE), E::Truncated { field: "trace context" }),
        (with_octet(3, flags::SENDER), E::Truncated { field: "claimed sender" }),
        (with_octet(3, flags::EXTRAS), E::Truncated { field: "extras" }),
        (with_octet(3, flags::CHUNKED), E::Truncated { field: "payload length" }),
        (
            [with_octet(3, flags::SENDER), vec![9; 16], vec![1, 0], vec![0; 256]].concat(),
            E::EndpointTooLong(256),
        ),
        ([with_octet(3, flags::EXTRAS), vec![0x20, 1], vec![0; 8193]].concat(), E::ExtrasTooLong(8193)),
    ];
    for (bytes, reason) in cases {
        let error = Header::decode(&bytes).unwrap_err();
        assert_eq!(error.kind, reason, "{bytes:02x?}");
        assert_eq!(error.id, (bytes.len() >= 16 && bytes[0] != b'{').then_some(ID), "{reason}");
    }
}

#[test]
fn octet_two_must_mean_something_where_the_kind_gives_it_a_meaning() {
    use HeaderErrorKind as E;
    let bytes = |kind: Kind, aux| encoded(&Header { aux, ..Header::reply(kind, ID) });
    let nothing = |kind, aux| Header::decode(&bytes(kind, aux)).unwrap_err().kind;
    for aux in 0..=255 {
        for kind in [Kind::Ack, Kind::Nack, Kind::Response, Kind::Receipt, Kind::Bye] {
            assert!(Header::decode(&bytes(kind, aux)).is_ok(), "{kind} with {aux}");
        }
    }
    assert_eq!(nothing(Kind::Chunk, 0), E::UnknownChunkOf { kind: Kind::Chunk, octet: 0 });
    assert_eq!(nothing(Kind::Cancel, 2), E::UnknownChunkOf { kind: Kind::Cancel, octet: 2 });
    assert_eq!(nothing(Kind::Credit, 2), E::UnknownAccount(2));

    let of = |bytes: &[u8]| Header::decode(bytes).map(|h| (h.chunk_of(), h.credit_account(), h.nack_code()));
    assert_eq!(of(&bytes(Kind::Chunk, 4)), Ok((Some(ChunkOf::Response), None, None)));
    assert_eq!(of(&bytes(Kind::Cancel, 0)), Ok((None, None, None)));
    assert_eq!(of(&bytes(Kind::Cancel, 1)), Ok((Some(ChunkOf::Message), None, None)));
    assert_eq!(of(&bytes(Kind::Credit, 1)), Ok((None, Some(CreditAccount::Large), None)));
    assert_eq!(of(&bytes(Kind::Nack, 200)), Ok((None, None, Some(NackCode::Other(200)))));
}

#[test]
fn a_refused_reply_still_says_which_call_it_belongs_to() {
    let mut bytes = encoded(&Header::reply(Kind::Response, ID));
    bytes[4] = 77;
    let error = Header::decode(&bytes).unwrap_err();
    assert_eq!((error.message_kind, error.id, error.mode), (Some(Kind::Response), Some(ID), None));
}

#[test]
fn a_header_has_at_most_16_kib_with_what_is_ignored() {
    let mut bytes = plain();
    bytes.resize(HEADER_LEN_MAX, 0xff);
    assert!(Header::decode(&bytes).is_ok());
    bytes.push(0);
    let error = Header::decode(&bytes).unwrap_err();
    assert_eq!(error.kind, HeaderErrorKind::TooLong { len: HEADER_LEN_MAX + 1 });
    assert_eq!(error.mode, Some(DeliveryMode::WithResponse), "too long a request is still answered");
}

#[test]
fn the_longest_header_that_can_be_encoded_is_accepted() {
    let (name, extras) = ([b'n'; NAME_LEN_MAX], [0; EXTRAS_LEN_MAX]);
    let header = Header {
        deadline_ms: Some(u32::MAX),
        trace: Some(Trace { trace_id: [1; 16], span_id: [2; 8], flags: 3 }),
        sender: Some(ClaimedSender { instance: [4; 16], endpoint: &name }),
        extras: Some(&extras),
        total_len: Some(u64::MAX),
        ..Header::message(DeliveryMode::WithReceiptAndResponse, u64::MAX, &name)
    };
    let bytes = encoded(&header);
    assert!(bytes.len() <= HEADER_LEN_MAX);
    assert_eq!(Header::decode(&bytes), Ok(header));
}

#[test]
fn the_reserved_octet_and_flags_32_and_64_are_ignored() {
    let expected = Header::message(DeliveryMode::WithResponse, ID, b"sum");
    assert_eq!(Header::decode(&with_octet(7, 0xff)), Ok(expected));
    assert_eq!(Header::decode(&with_octet(3, 32 | 64)), Ok(expected));
}

#[test]
#[should_panic(expected = "a handler name is checked when it is given")]
fn too_long_a_name_is_never_cut_short() {
    encoded(&Header::message(DeliveryMode::Confirmed, ID, &[b'n'; 256]));
}

#[test]
#[should_panic(expected = "an endpoint is at most 255 octets")]
fn too_long_an_endpoint_is_never_cut_short() {
    let sender = ClaimedSender { instance: [1; 16], endpoint: &[b'e'; 256] };
    encoded(&Header { sender: Some(sender), ..Header::bye(false) });
}

#[test]
#[should_panic(expected = "extras are at most 8 KiB")]
fn too_long_extras_are_never_cut_short() {
    encoded(&Header { extras: Some(&[0; EXTRAS_LEN_MAX + 1]), ..Header::bye(false) });
}

/// The variable-length parts of a header, owned, so that proptest can hold them.
#[derive(Debug, Clone)]
struct Fields {
    fixed: (Kind, u8, Codec, u8, u64),
    handler: Vec<u8>,
    deadline_ms: Option<u32>,
    trace: Option<([u8; 16], [u8; 8], u8)>,
    sender: Option<([u8; 16], Vec<u8>)>,
    extras: Option<Vec<u8>>,
    total_len: Option<u64>,
}

impl Fields {
    fn header(&self) -> Header<'_> {
        let (kind, aux, codec, depth, id) = self.fixed;
        Header {
            kind,
            aux,
            codec,
            depth,
            id,
            handler: &self.handler,
            deadline_ms: self.deadline_ms,
            trace: self.trace.map(|(trace_id, span_id, flags)| Trace { trace_id, span_id, flags }),
            sender: self
                .sender
                .as_ref()
                .map(|(instance, e)| ClaimedSender { instance: *instance, endpoint: e }),
            extras: self.extras.as_deref(),
            total_len: self.total_len,
        }
    }
}

fn fields() -> impl Strategy<Value = Fields> {
    let octets = |max| prop::collection::vec(any::<u8>(), 0..=max);
    let kind_and_aux = prop::sample::select(Kind::ALL).prop_flat_map(|kind| {
        let aux: Vec<u8> = (0..=255).filter(|aux| check_aux(kind, *aux).is_ok()).collect();
        (Just(kind), prop::sample::select(aux))
    });
    let fixed = (kind_and_aux, prop::sample::select(Codec::ALL), 0..=DEPTH_MAX, any::<u64>());
    let optional = (
        any::<Option<u32>>(),
        any::<Option<([u8; 16], [u8; 8], u8)>>(),
        prop::option::of((any::<[u8; 16]>(), octets(255))),
        prop::option::of(octets(300)),
        any::<Option<u64>>(),
    );
    (fixed, prop::collection::vec(any::<u8>(), 1..=255), optional).prop_map(
        |(((kind, aux), codec, depth, id), name, (deadline_ms, trace, sender, extras, total_len))| {
            let handler = if kind == Kind::Message { name } else { Vec::new() };
            let fixed = (kind, aux, codec, depth, id);
            Fields { fixed, handler, deadline_ms, trace, sender, extras, total_len }
        },
    )
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(fields in fields()) {
        let header = fields.header();
        let bytes = encoded(&header);
        prop_assert_eq!(bytes.len(), header.encoded_len());
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn octets_behind_the_known_fields_are_ignored(
        fields in fields(),
        tail in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let header = fields.header();
        let mut bytes = encoded(&header);
        bytes.extend(tail);
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn every_truncation_of_the_known_fields_is_refused(fields in fields()) {
        let header = fields.header();
        let bytes = encoded(&header);
        for end in 0..bytes.len() {
            let error = Header::decode(&bytes[..end]).unwrap_err();
            prop_assert_eq!(error.id, (end >= FIXED_LEN).then_some(header.id));
        }
    }

    #[test]
    fn arbitrary_octets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Header::decode(&bytes);
    }

    #[test]
    fn octets_that_almost_are_a_header_never_panic_and_read_the_same_again(
        fields in fields(),
        at: prop::sample::Index,
        octet: u8,
    ) {
        let mut bytes = encoded(&fields.header());
        let at = at.index(bytes.len());
        bytes[at] = octet;
        if let Ok(header) = Header::decode(&bytes) {
            let again = encoded(&header);
            prop_assert_eq!(Header::decode(&again), Ok(header));
        }
    }
}

#[test]
fn a_plain_message_has_the_same_octets_by_the_short_way() {
    use super::super::zmtp::frame;
    for (name, payload, deadline_ms) in
        [("sum", &b"payload"[..], None), ("sum", b"", Some(7)), ("s", &[1; 70_000], Some(u32::MAX))]
    {
        let plain = PlainMessage {
            mode: DeliveryMode::WithResponse,
            codec: Codec::Json,
            depth: 3,
            id: 0x0102_0304_0506_0708,
            handler: name.as_bytes(),
            deadline_ms,
        };
        let header = Header {
            codec: plain.codec,
            depth: plain.depth,
            deadline_ms,
            ..Header::message(plain.mode, plain.id, plain.handler)
        };
        let mut expected = Vec::new();
        frame::encode_header(!payload.is_empty(), header.encoded_len(), &mut expected);
        header.encode(&mut expected);
        if !payload.is_empty() {
            frame::encode_header(false, payload.len(), &mut expected);
            expected.extend_from_slice(payload);
        }
        let mut octets = Vec::new();
        assert!(plain.encode_frames(payload, &mut octets));
        assert_eq!((octets, plain.header_len()), (expected, header.encoded_len()));
    }
    let long = [b'x'; 250];
    let plain = PlainMessage {
        mode: DeliveryMode::FireAndForget,
        codec: Codec::Raw,
        depth: 0,
        id: 1,
        handler: &long,
        deadline_ms: None,
    };
    assert!(!plain.encode_frames(b"", &mut Vec::new()), "its header needs a long frame");
}
