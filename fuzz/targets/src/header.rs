//! The message header, its extras and the payload of a Credit: what is read is what was written, what is accepted
//! is what `docs/wire.md` allows, and an error is answered by the rules alone.

use dynamo_am::wire::answer::{Answer, PeerClass};
use dynamo_am::wire::codes::{DeliveryMode, Kind};
use dynamo_am::wire::credit_frame::{CREDIT_LEN, CreditTotals};
use dynamo_am::wire::extras::{Extras, encode_extras};
use dynamo_am::wire::header::{Header, HeaderError, PlainMessage};
use dynamo_am::wire::zmtp::frame;

const PEERS: [PeerClass; 4] =
    [PeerClass::Own, PeerClass::Foreign, PeerClass::ForeignReq, PeerClass::ForeignPush];
/// Codes below this one say that the handler never ran.
const RAN_MIN: u8 = 32;

/// Reads the input as a header, as extras and as a Credit's totals.
pub fn header(data: &[u8]) {
    match Header::decode(data) {
        Ok(header) => {
            assert!(is_allowed(data), "accepted against the rules: {header:?}");
            comes_back(&header, data);
            is_taken_by_the_rules(&header);
            plain_form_is_the_same(&header);
            if let Some(extras) = header.extras {
                extras_come_back(extras);
            }
        }
        Err(error) => {
            assert!(!is_allowed(data), "refused against the rules: {error:?}");
            is_answered_by_the_rules(&error, data);
        }
    }
    extras_come_back(data);
    match CreditTotals::decode(data) {
        Ok(totals) => assert_eq!(totals.encode(), data[..CREDIT_LEN]),
        Err(error) => assert_eq!((error.len, error.len < CREDIT_LEN), (data.len(), true)),
    }
}

/// The rules of `docs/wire.md` in the order of the octets.
fn is_allowed(data: &[u8]) -> bool {
    let Some((fixed, rest)) = data.split_at_checked(16) else { return false };
    let (kind, octet2, flags) = (fixed[1], fixed[2], fixed[3]);
    let octet2_fits = match kind {
        1 => octet2 <= 4,
        2..=5 | 9 => true,
        6 => octet2 == 0 || octet2 == 1 || octet2 == 4,
        7 => octet2 <= 1,
        8 => octet2 == 1 || octet2 == 4,
        _ => false,
    };
    let name_fits = kind != 1 || fixed[5] > 0;
    let mut rest = rest.get(usize::from(fixed[5])..);
    let mut skip = |count: usize| rest = rest.and_then(|rest| rest.get(count..));
    if flags & 1 != 0 {
        skip(4);
    }
    if flags & 2 != 0 {
        skip(25);
    }
    if flags & 4 != 0 {
        skip(16);
    }
    let length = |rest: Option<&[u8]>| match rest {
        Some([high, low, ..]) => usize::from(u16::from_be_bytes([*high, *low])),
        _ => usize::MAX,
    };
    if flags & 4 != 0 {
        let endpoint = length(rest);
        rest = rest.filter(|_| endpoint <= 255).and_then(|rest| rest.get(2 + endpoint..));
    }
    if flags & 8 != 0 {
        let extras = length(rest);
        rest = rest.filter(|_| extras <= 8192).and_then(|rest| rest.get(2 + extras..));
    }
    if flags & 16 != 0 {
        rest = rest.and_then(|rest| rest.get(8..));
    }
    let fixed_fits = fixed[0] == 1 && octet2_fits && flags & 128 == 0 && fixed[4] <= 2 && fixed[6] <= 16;
    data.len() <= 16 * 1024 && fixed_fits && name_fits && rest.is_some()
}

/// What is written again is read as the same, and is what came but for what a reader ignores.
fn comes_back(header: &Header<'_>, data: &[u8]) {
    let mut encoded = Vec::new();
    header.encode(&mut encoded);
    assert_eq!(encoded.len(), header.encoded_len());
    assert_eq!(Header::decode(&encoded).as_ref(), Ok(header));
    let mut came = data[..encoded.len()].to_vec();
    came[3] &= !(32 | 64);
    came[7] = 0;
    assert_eq!(encoded, came);
}

fn is_taken_by_the_rules(header: &Header<'_>) {
    let answered = header.mode().is_some_and(DeliveryMode::is_answered);
    let own_only = header.total_len.is_some() || matches!(header.kind, Kind::Chunk | Kind::Credit);
    assert_eq!(header.refusal(PeerClass::Own), None);
    assert_eq!(header.refusal(PeerClass::Foreign).is_some(), own_only);
    for peer in PEERS {
        let Some(Answer::Nack { id, code }) = header.refusal(peer) else { continue };
        assert_eq!(id, header.id);
        assert!(code.as_u8() < RAN_MIN);
        assert!(answered || peer == PeerClass::ForeignReq, "{peer:?} is answered for {header:?}");
        assert_ne!(peer, PeerClass::ForeignPush);
    }
    assert!(header.kind == Kind::Message || header.refusal(PeerClass::ForeignReq).is_some());
}

/// The short way in which most messages are written gives the same octets as the long one.
fn plain_form_is_the_same(header: &Header<'_>) {
    let Some(mode) = header.mode() else { return };
    let Header { codec, depth, id, handler, deadline_ms, .. } = *header;
    let plain = PlainMessage { mode, codec, depth, id, handler, deadline_ms };
    let long = Header { codec, depth, deadline_ms, ..Header::message(mode, id, handler) };
    for payload in [&[][..], handler] {
        let (mut short_way, mut long_way) = (Vec::new(), Vec::new());
        let fits = plain.encode_frames(payload, &mut short_way);
        assert_eq!(fits, long.encoded_len() <= 255);
        frame::encode_header(!payload.is_empty(), long.encoded_len(), &mut long_way);
        long.encode(&mut long_way);
        if !payload.is_empty() {
            frame::encode_header(false, payload.len(), &mut long_way);
            long_way.extend_from_slice(payload);
        }
        assert_eq!(plain.header_len(), long.encoded_len());
        assert!(if fits { short_way == long_way } else { short_way.is_empty() });
    }
}

/// Only what a peer is waiting for, or cannot have meant otherwise, is answered.
fn is_answered_by_the_rules(error: &HeaderError, data: &[u8]) {
    let id = data.get(8..16).filter(|_| data[0] != b'{');
    let id = id.and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
    assert_eq!(error.id, id);
    assert!(!error.to_string().is_empty());
    let is_answered_message = data.len() >= 16 && data[0] == 1 && data[1] == 1 && (1..=4).contains(&data[2]);
    let means_a_message = data.len() >= 16
        && data[0] != b'{'
        && (data[0] != 1 || !(1..=9).contains(&data[1]) || (data[1] == 1 && data[2] > 4));
    for peer in PEERS {
        let expected = match peer {
            PeerClass::Own => is_answered_message,
            PeerClass::Foreign => is_answered_message || means_a_message,
            PeerClass::ForeignReq => true,
            PeerClass::ForeignPush => false,
        };
        match error.answer(peer) {
            Answer::Nack { id: answered, code } => {
                assert!(expected, "{peer:?} is answered for {error:?}");
                assert_eq!(answered, id.unwrap_or(0));
                assert!(code.as_u8() < RAN_MIN);
            }
            Answer::Nothing => assert!(!expected, "{peer:?} is not answered for {error:?}"),
        }
    }
}

fn extras_come_back(data: &[u8]) {
    let Ok(extras) = Extras::decode(data) else { return };
    let entries: Vec<_> = extras.iter().collect();
    assert_eq!(entries.len(), extras.len());
    let mut encoded = Vec::new();
    encode_extras(entries.iter().copied(), &mut encoded).expect("what was read can be written");
    assert!(encoded.len() <= data.len(), "the shortest form is written");
    let again = Extras::decode(&encoded).expect("what was written can be read");
    assert!(again.iter().eq(entries.iter().copied()));
    for (key, value) in entries {
        assert_eq!(extras.get(key), Some(value), "each key has one value");
    }
}
