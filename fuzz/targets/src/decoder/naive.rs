//! A reader of whole streams, frame by frame, after `docs/wire.md` sections 1 and 2.

use dynamo_am::wire::zmtp::decoder::PayloadLimits;

use super::Event;

/// Most octets of a header, of a command, of an envelope; most frames of an envelope and of a message.
const HEADER_LEN: u64 = 16 * 1024;
const COMMAND_LEN: u64 = 8 * 1024;
const ENVELOPE_LEN: usize = 1024;
const ENVELOPE_FRAMES: usize = 8;
const MESSAGE_FRAMES: usize = 1024;

/// What stands in `stream`, as far as it is whole.
pub(super) fn naive(stream: &[u8], limits: PayloadLimits) -> Vec<Event> {
    let mut reader = Naive { rest: stream, limits, events: Vec::new(), message: Message::default() };
    while reader.read_frame().is_some() {}
    reader.events
}

struct Naive<'a> {
    rest: &'a [u8],
    limits: PayloadLimits,
    events: Vec<Event>,
    message: Message,
}

/// What has come of a message that is not complete.
#[derive(Default)]
struct Message {
    /// Frames that count against the limit, dropped ones included.
    count: usize,
    /// The first frame, or as much as is kept of one that is too long.
    first: Vec<u8>,
    /// Frames before the header, as they came.
    envelope: Vec<u8>,
    envelope_frames: usize,
    envelope_is_whole: bool,
    header: Option<Vec<u8>>,
    is_malformed: bool,
}

impl<'a> Naive<'a> {
    /// `None` at the end: of the stream, of what is whole of it, or of what can be understood.
    fn read_frame(&mut self) -> Option<()> {
        let encoded = self.rest;
        let (&flags, rest) = encoded.split_first()?;
        if !matches!(flags, 0..=4 | 6) {
            return self.lost();
        }
        let (size, body) = if flags & 2 == 0 { rest.split_at_checked(1)? } else { rest.split_at_checked(8)? };
        let len = size.iter().fold(0, |sum, &octet| sum << 8 | u64::from(octet));
        if len >= 1 << 63 {
            return self.lost();
        }
        self.rest = body;
        if flags & 4 != 0 {
            if len > COMMAND_LEN {
                return self.lost();
            }
            let body = self.take(len)?.to_vec();
            self.events.push(Event::Command(body));
            return Some(());
        }
        let is_last = flags & 1 == 0;
        if is_last && self.is_payload_next() {
            return self.payload(len);
        }
        if is_last && len == 0 && self.message.count == 0 {
            return Some(());
        }
        self.message.count += 1;
        if self.message.count > MESSAGE_FRAMES {
            return self.lost();
        }
        if self.is_frame_wrong(len) {
            self.drop_frame(len)?;
        } else {
            let body = self.take(len)?;
            let encoded = &encoded[..encoded.len() - self.rest.len()];
            self.message.add(body, encoded, is_last);
        }
        if is_last {
            self.end_message();
        }
        Some(())
    }

    fn is_payload_next(&self) -> bool {
        let message = &self.message;
        let follows_first = message.count == 1 && !message.first.is_empty();
        !message.is_malformed && (follows_first || message.header.is_some())
    }

    /// A frame that cannot stand here, whatever its octets.
    fn is_frame_wrong(&self, len: u64) -> bool {
        let message = &self.message;
        let header_is_empty = message.envelope_is_whole && message.header.is_none() && len == 0;
        message.is_malformed || len > HEADER_LEN || header_is_empty || message.header.is_some()
    }

    fn payload(&mut self, len: u64) -> Option<()> {
        let Message { first, envelope, header, .. } = std::mem::take(&mut self.message);
        let (header, envelope) = match header {
            Some(header) => (header, envelope),
            None => (first, Vec::new()),
        };
        if len > self.limits.frame_len_max.max(self.limits.skip_len_max) {
            return self.lost();
        }
        let payload = self.take(len)?.to_vec();
        self.events.push(match len <= self.limits.frame_len_max {
            true => Event::Message { envelope, header, payload },
            false => Event::TooLarge { envelope, header, payload_len: len },
        });
        Some(())
    }

    fn drop_frame(&mut self, len: u64) -> Option<()> {
        if len > self.limits.frame_len_max.max(self.limits.skip_len_max) {
            return self.lost();
        }
        let body = self.take(len)?;
        let message = &mut self.message;
        if message.count == 1 {
            message.first = body[..16].to_vec();
        }
        if !message.envelope_is_whole {
            message.envelope.clear();
        }
        message.is_malformed = true;
        Some(())
    }

    fn end_message(&mut self) {
        let Message { first, envelope, header, is_malformed, .. } = std::mem::take(&mut self.message);
        let header = header.unwrap_or(first);
        self.events.push(match is_malformed {
            true => Event::Malformed { envelope, first: header.into_iter().take(16).collect() },
            false => Event::Message { envelope, header, payload: Vec::new() },
        });
    }

    fn lost(&mut self) -> Option<()> {
        self.events.push(Event::Lost);
        None
    }

    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(taken)
    }
}

impl Message {
    /// A frame that may be the header or a part of the envelope.
    fn add(&mut self, body: &[u8], encoded: &[u8], is_last: bool) {
        if self.count == 1 {
            self.first = body.to_vec();
        }
        if self.envelope_is_whole {
            self.header = Some(body.to_vec());
            return;
        }
        if self.count == 1 && is_last {
            return;
        }
        self.envelope.extend_from_slice(encoded);
        self.envelope_frames += 1;
        let is_too_long = self.envelope.len() > ENVELOPE_LEN || self.envelope_frames > ENVELOPE_FRAMES;
        // The first frame may be a header of any length, with a payload behind it.
        if is_last || (is_too_long && self.count > 1) {
            self.is_malformed = true;
            self.envelope.clear();
        } else {
            self.envelope_is_whole = body.is_empty();
        }
    }
}
