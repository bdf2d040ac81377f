//! The decoder against hand-made streams, and against every way to cut them.

use proptest::prelude::*;

use super::*;
use crate::wire::zmtp::frame::{COMMAND, encode_header};

const LIMITS: PayloadLimits = PayloadLimits {
    in_place_len_max: 64 * 1024,
    large_len_min: 16 * 1024,
    frame_len_max: 1 << 20,
    skip_len_max: 0,
};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Message { envelope: Vec<u8>, header: Vec<u8>, payload: Vec<u8> },
    Command(Vec<u8>),
    TooLarge(u64),
    Malformed { header: Vec<u8> },
}

/// Envelope, header, octets still to come, octets so far, and whether they are kept.
type Large = (Vec<u8>, Vec<u8>, u64, Vec<u8>, bool);

/// Drives a decoder as the reader of a link does: pieces are appended, whole steps are taken off the front.
fn run<'a>(
    limits: PayloadLimits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Event>, FrameError> {
    let mut decoder = Decoder::new(limits);
    let (mut input, mut events) = (Vec::new(), Vec::new());
    let mut large: Option<Large> = None;
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            if let Some((envelope, header, len, payload, keep)) = &mut large {
                let take = usize::try_from(*len).unwrap().min(input.len());
                payload.extend(input.drain(..take));
                *len -= take as u64;
                if *len > 0 {
                    break;
                }
                events.push(match keep {
                    true => Event::Message {
                        envelope: envelope.clone(),
                        header: header.clone(),
                        payload: payload.clone(),
                    },
                    false => Event::TooLarge(payload.len() as u64),
                });
                large = None;
            }
            let short = decoder.short_message(&input);
            let step = decoder.step(&input)?;
            if let Some(ShortMessage { header, payload }) = short {
                let used = payload.end;
                assert_eq!(step, Step::Message { header, payload, used }, "the short way says the same");
            }
            let held = decoder.held();
            let used = match step {
                Step::NeedMore => break,
                Step::Skipped { used } | Step::Empty { used } => used,
                Step::Message { header, payload, used } => {
                    let (header, payload) = (input[header].to_vec(), input[payload].to_vec());
                    events.push(Event::Message { envelope: Vec::new(), header, payload });
                    used
                }
                Step::HeldMessage { payload, used } => {
                    let payload = input[payload].to_vec();
                    let (envelope, header) = (held.envelope.clone(), held.header.clone());
                    events.push(Event::Message { envelope, header, payload });
                    used
                }
                Step::Large { payload_len, used } => {
                    large = Some((held.envelope.clone(), held.header.clone(), payload_len, Vec::new(), true));
                    used
                }
                Step::TooLarge { payload_len, used } => {
                    large = Some((Vec::new(), Vec::new(), payload_len, Vec::new(), false));
                    used
                }
                Step::Command { body, used } => {
                    events.push(Event::Command(input[body].to_vec()));
                    used
                }
                Step::Malformed { used } => {
                    events.push(Event::Malformed { header: held.header.clone() });
                    used
                }
            };
            assert!(used > 0 && used <= input.len());
            input.drain(..used);
        }
    }
    Ok(events)
}

fn message(frames: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        encode_header(index + 1 < frames.len(), frame.len(), &mut out);
        out.extend_from_slice(frame);
    }
    out
}

fn command(body: &[u8]) -> Vec<u8> {
    let mut out = vec![COMMAND, u8::try_from(body.len()).unwrap()];
    out.extend_from_slice(body);
    out
}

fn whole(stream: &[u8]) -> Vec<Event> {
    run(LIMITS, [stream]).unwrap()
}

fn plain(header: &[u8], payload: &[u8]) -> Event {
    Event::Message { envelope: Vec::new(), header: header.to_vec(), payload: payload.to_vec() }
}

#[test]
fn one_or_two_frames_are_header_and_payload() {
    let stream = [message(&[b"head"]), message(&[b"head", b"body"]), message(&[b"head", b""])].concat();
    assert_eq!(whole(&stream), [plain(b"head", b""), plain(b"head", b"body"), plain(b"head", b"")]);
}

#[test]
fn an_envelope_reaches_to_the_first_empty_frame() {
    let req = message(&[b"", b"head", b"body"]);
    let correlated = message(&[b"\0\0\0\x07", b"", b"head", b"body"]);
    let no_payload = message(&[b"", b"head"]);
    for (stream, envelope, payload) in [
        (req, &b"\x01\x00"[..], &b"body"[..]),
        (correlated, b"\x01\x04\0\0\0\x07\x01\x00", b"body"),
        (no_payload, b"\x01\x00", b""),
    ] {
        let expected = Event::Message {
            envelope: envelope.to_vec(),
            header: b"head".to_vec(),
            payload: payload.to_vec(),
        };
        assert_eq!(whole(&stream), [expected]);
    }
}

#[test]
fn a_single_empty_frame_is_a_probe_and_ignored() {
    assert_eq!(whole(&message(&[b""])), []);
}

#[test]
fn what_is_no_message_is_malformed_once_and_the_stream_goes_on() {
    let long = vec![b'x'; 17 * 1024];
    let part = vec![b'y'; 600];
    let nine = [&b"f"[..]; 9];
    for bad in [
        message(&[b"0123456789abcdefgh", b"two", b"three"]),
        message(&[b"one", b"two", b""]),
        message(&[b"", b""]),
        message(&[b"", b"head", b"body", b"more"]),
        message(&[&long]),
        message(&[&long, b"body"]),
        message(&[&part, &part, b"", b"head"]),
        message(&nine),
    ] {
        let stream = [bad, message(&[b"good", b"one"])].concat();
        let events = whole(&stream);
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(matches!(&events[0], Event::Malformed { header } if header.len() <= 16));
        assert_eq!(events[1], plain(b"good", b"one"));
    }
}

#[test]
fn the_id_of_a_malformed_message_can_be_read_from_its_first_frame() {
    let stream = message(&[b"0123456789abcdefgh", b"two", b"three"]);
    assert_eq!(whole(&stream), [Event::Malformed { header: b"0123456789abcdef".to_vec() }]);
}

#[test]
fn commands_may_stand_between_the_frames_of_a_message() {
    let big = vec![7; 40_000];
    for frames in [&[&b"head"[..], b"body"][..], &[b"", b"head", b"body"], &[b"head", &big]] {
        let parts: Vec<_> = (0..frames.len())
            .map(|index| {
                let mut out = Vec::new();
                encode_header(index + 1 < frames.len(), frames[index].len(), &mut out);
                out.extend_from_slice(frames[index]);
                out
            })
            .collect();
        let stream = parts.join(&command(b"\x04PING\0\0")[..]);
        let mut events = whole(&stream);
        events.retain(|event| !matches!(event, Event::Command(_)));
        assert_eq!(events, whole(&message(frames)));
    }
}

#[test]
fn a_payload_over_the_limit_is_skipped_for_foreign_peers_and_ends_own_links() {
    let big = vec![1; (1 << 20) + 1];
    let stream = [message(&[b"head", &big]), message(&[b"next"])].concat();
    assert!(matches!(run(LIMITS, [&stream[..]]), Err(FrameError::TooLarge { .. })));
    let foreign = PayloadLimits { skip_len_max: 1 << 30, ..LIMITS };
    assert_eq!(
        run(foreign, [&stream[..]]).unwrap(),
        [Event::TooLarge(big.len() as u64), plain(b"next", b"")]
    );
}

#[test]
fn a_flood_of_empty_frames_ends_the_link() {
    let stream = [1, 0].repeat(2000);
    assert!(matches!(run(LIMITS, [&stream[..]]), Err(FrameError::TooManyFrames { .. })));
}

#[test]
fn a_huge_command_ends_the_link_before_its_body_comes() {
    let mut stream = vec![0x06];
    stream.extend_from_slice(&(1u64 << 40).to_be_bytes());
    assert!(matches!(run(LIMITS, [&stream[..]]), Err(FrameError::CommandTooLong { .. })));
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let frame = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 250..300),
        1 => (15_000usize..20_000).prop_map(|len| vec![9; len]),
    ];
    let message = prop::collection::vec(frame, 1..5).prop_map(|frames| {
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        message(&frames)
    });
    let part = prop_oneof![6 => message, 1 => Just(command(b"\x04PING\0\0ctx"))];
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_messages(
        stream in streams(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
        prop_assert_eq!(run(LIMITS, pieces), run(LIMITS, [&stream[..]]));
    }

    #[test]
    fn every_octet_by_itself_gives_the_same_messages(stream in streams()) {
        prop_assume!(stream.len() < 3000);
        prop_assert_eq!(run(LIMITS, stream.chunks(1)), run(LIMITS, [&stream[..]]));
    }

    #[test]
    fn arbitrary_octets_never_panic(stream in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = run(LIMITS, stream.chunks(7));
    }

    #[test]
    fn what_is_encoded_is_decoded(
        header in prop::collection::vec(any::<u8>(), 1..300),
        payload in prop::collection::vec(any::<u8>(), 0..70_000),
    ) {
        prop_assert_eq!(whole(&message(&[&header, &payload])), [plain(&header, &payload)]);
    }
}

#[test]
fn a_malformed_message_keeps_its_envelope_however_many_frames_follow_its_header() {
    for behind in [&[][..], &[b"three".as_slice()], &[b"three".as_slice(), b"four"]] {
        let frames: Vec<&[u8]> =
            [b"".as_slice(), b"header", b"payload", b"two"].iter().chain(behind).copied().collect();
        let stream = message(&frames);
        let (mut decoder, mut at) = (Decoder::new(LIMITS), 0);
        loop {
            match decoder.step(&stream[at..]).unwrap() {
                Step::Skipped { used } | Step::Empty { used } => at += used,
                step => {
                    assert!(matches!(step, Step::Malformed { .. }), "{step:?}");
                    break;
                }
            }
        }
        assert_eq!(decoder.held().envelope, [1, 0], "a REQ takes no answer without it");
    }
}
