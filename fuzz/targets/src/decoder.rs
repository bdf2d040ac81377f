//! The decoder of traffic: whatever the octets and however they are cut, it finds the messages that a naive reader
//! of the whole stream finds, and holds no more than its limits.

mod naive;

use dynamo_am::wire::header::HEADER_LEN_MAX;
use dynamo_am::wire::zmtp::decoder::{Decoder, ENVELOPE_LEN_MAX, PayloadLimits, ShortMessage, Step};
use dynamo_am::wire::zmtp::frame::{
    self, COMMAND, FRAME_HEADER_LEN_MAX, FrameError, FrameHeader, LONG, MORE,
};

use crate::input::Cut;
use naive::naive;

const MIB: u64 = 1 << 20;
/// What own links, foreign links, and three kinds of links with tiny limits use.
const LIMITS: [PayloadLimits; 5] = [
    limits(65_536, 65_536, MIB, 0),
    limits(65_536, 65_536, 64 * MIB, 1024 * MIB),
    limits(65_536, 64, 128, 0),
    limits(65_536, 64, 128, 400),
    limits(64, 32, 128, 400),
];
/// The first octet of an input: limits in the low bits; this bit says that the rest describes frames.
const DESCRIBED: u8 = 0x80;
/// Longest stream made from a description, and most frames.
const DESCRIBED_LEN_MAX: usize = 96 * 1024;
const DESCRIBED_FRAMES_MAX: usize = 1500;
/// A long stream is cut into so many times longer pieces.
const LONG_SCALE: usize = 64;

const fn limits(in_place: usize, large: usize, frame_len_max: u64, skip_len_max: u64) -> PayloadLimits {
    PayloadLimits { in_place_len_max: in_place, large_len_min: large, frame_len_max, skip_len_max }
}

/// What a link's reader would be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Message {
        envelope: Vec<u8>,
        header: Vec<u8>,
        payload: Vec<u8>,
    },
    TooLarge {
        envelope: Vec<u8>,
        header: Vec<u8>,
        payload_len: u64,
    },
    Malformed {
        envelope: Vec<u8>,
        first: Vec<u8>,
    },
    Command(Vec<u8>),
    /// Framing is lost, or a limit passed that ends the link.
    Lost,
}

/// Decodes the input as one piece, octet by octet, and cut as the input says.
pub fn decoder(data: &[u8]) {
    let (&options, rest) = data.split_first().unwrap_or((&0, &[]));
    let limits = LIMITS[usize::from(options & !DESCRIBED) % LIMITS.len()];
    let cut = Cut::new(rest);
    let described = if options & DESCRIBED == 0 { Vec::new() } else { described(cut.stream) };
    let stream = if options & DESCRIBED == 0 { cut.stream } else { &described };
    let expected = naive(stream, limits);
    assert_eq!(decode(limits, [stream]), expected, "in one piece");
    let scale = if stream.len() <= 1024 { 1 } else { LONG_SCALE };
    assert_eq!(decode(limits, cut.with_stream(stream, scale).pieces()), expected, "in pieces");
    if stream.len() <= 256 {
        assert_eq!(decode(limits, stream.chunks(1)), expected, "octet by octet");
    }
    frame_headers_come_back(stream);
}

/// All that a reader is told of a stream that comes in pieces.
fn decode<'a>(limits: PayloadLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut reader = Reader::new(limits);
    pieces.into_iter().flat_map(|piece| reader.push(piece)).collect()
}

/// A payload that the decoder leaves to its caller.
struct Large {
    event: Event,
    remaining: u64,
}

/// Drives a decoder as the reader of a link does: pieces are appended, whole steps are taken off the front.
pub(crate) struct Reader {
    limits: PayloadLimits,
    decoder: Decoder,
    input: Vec<u8>,
    /// What of the input is used.
    at: usize,
    events: Vec<Event>,
    large: Option<Large>,
    is_lost: bool,
}

impl Reader {
    pub(crate) fn new(limits: PayloadLimits) -> Self {
        let (input, events) = (Vec::new(), Vec::new());
        Self { limits, decoder: Decoder::new(limits), input, at: 0, events, large: None, is_lost: false }
    }

    /// Takes a piece, and gives what has become whole; nothing more after [`Event::Lost`].
    pub(crate) fn push(&mut self, piece: &[u8]) -> Vec<Event> {
        if self.is_lost {
            return Vec::new();
        }
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(piece);
        if self.take_events().is_err() {
            self.is_lost = true;
            self.events.push(Event::Lost);
        }
        std::mem::take(&mut self.events)
    }

    fn take_events(&mut self) -> Result<(), FrameError> {
        loop {
            if let Some(large) = self.large.take() {
                let Some(event) = self.collect(large) else { return Ok(()) };
                self.events.push(event);
            }
            let short = self.decoder.short_message(&self.input[self.at..]);
            let step = self.decoder.step(&self.input[self.at..])?;
            if let Some(ShortMessage { header, payload }) = short {
                let used = payload.end;
                assert_eq!(
                    step,
                    Step::Message { header, payload, used },
                    "the short way says something else"
                );
            }
            assert!(self.decoder.held().header.capacity() <= 2 * HEADER_LEN_MAX);
            assert!(self.decoder.held().envelope.capacity() <= 2 * ENVELOPE_LEN_MAX);
            let Some((used, event)) = self.event_of(step) else {
                let room = self.limits.in_place_len_max.max(HEADER_LEN_MAX + 2 * FRAME_HEADER_LEN_MAX);
                assert!(self.input.len() - self.at < room, "a reader with a full chunk waits for ever");
                return Ok(());
            };
            assert!(used > 0 && used <= self.input.len() - self.at);
            self.events.extend(event);
            self.at += used;
        }
    }

    /// What was used of the input, and what it amounts to; `None` when there is nothing whole.
    fn event_of(&mut self, step: Step) -> Option<(usize, Option<Event>)> {
        let input = &self.input[self.at..];
        let held = || {
            let held = self.decoder.held();
            (held.envelope.clone(), held.header.clone())
        };
        Some(match step {
            Step::NeedMore => return None,
            Step::Skipped { used } | Step::Empty { used } => (used, None),
            Step::Message { header, payload, used } => {
                let (header, payload) = (input[header].to_vec(), input[payload].to_vec());
                (used, Some(Event::Message { envelope: Vec::new(), header, payload }))
            }
            Step::HeldMessage { payload, used } => {
                let ((envelope, header), payload) = (held(), input[payload].to_vec());
                (used, Some(Event::Message { envelope, header, payload }))
            }
            Step::Large { payload_len, used } => {
                let (envelope, header) = held();
                let event = Event::Message { envelope, header, payload: Vec::new() };
                self.large = Some(Large { event, remaining: payload_len });
                (used, None)
            }
            Step::TooLarge { payload_len, used } => {
                let (envelope, header) = held();
                let event = Event::TooLarge { envelope, header, payload_len };
                self.large = Some(Large { event, remaining: payload_len });
                (used, None)
            }
            Step::Command { body, used } => (used, Some(Event::Command(input[body].to_vec()))),
            Step::Malformed { used } => {
                let (envelope, first) = held();
                (used, Some(Event::Malformed { envelope, first }))
            }
        })
    }

    /// Takes what has come of a large payload; gives its message when that is all.
    fn collect(&mut self, mut large: Large) -> Option<Event> {
        let input = &self.input[self.at..];
        let len = usize::try_from(large.remaining).unwrap_or(usize::MAX).min(input.len());
        large.remaining -= len as u64;
        if let Event::Message { payload, .. } = &mut large.event {
            payload.extend_from_slice(&input[..len]);
        }
        self.at += len;
        if large.remaining == 0 {
            return Some(large.event);
        }
        self.large = Some(large);
        None
    }
}

/// Three octets for each run of like frames: flags and a scale of length, the length, and how many.
fn described(description: &[u8]) -> Vec<u8> {
    let (mut stream, mut frames) = (Vec::new(), 0);
    for (number, run) in description.chunks_exact(3).enumerate() {
        let len = usize::from(run[1]) << (4 * usize::from(run[0] >> 6));
        for _ in 0..=run[2] {
            frames += 1;
            if stream.len() + len > DESCRIBED_LEN_MAX || frames > DESCRIBED_FRAMES_MAX {
                return stream;
            }
            let flags = run[0] & (MORE | LONG | COMMAND);
            match u8::try_from(len) {
                Ok(short) if flags & LONG == 0 => stream.extend_from_slice(&[flags, short]),
                _ => {
                    stream.push(flags | LONG);
                    stream.extend_from_slice(&(len as u64).to_be_bytes());
                }
            }
            stream.resize(stream.len() + len, number as u8);
        }
    }
    stream
}

/// A frame header that is read and written again says the same.
fn frame_headers_come_back(stream: &[u8]) {
    let Ok(Some(header)) = FrameHeader::decode(stream) else { return };
    let Ok(body_len) = usize::try_from(header.body_len) else { return };
    let mut written = Vec::new();
    frame::encode_header(header.more, body_len, &mut written);
    assert_eq!(written.len(), frame::header_len(body_len));
    let again = FrameHeader::decode(&written).expect("what was written can be read").expect("it is whole");
    assert_eq!((again.more, again.body_len, again.command), (header.more, header.body_len, false));
}
