//! From received octets to whole messages, in place: [`Decoder`].
//!
//! The reader of a link hands it what it has; the decoder answers with ranges into that input, so a message
//! that lies whole in the receive chunk is never copied. It holds state only where a message cannot be taken
//! from one piece of input: envelopes, commands between frames, frames to be skipped.
//!
//! **Invariants.** What it buffers is bounded by [`ENVELOPE_LEN_MAX`] and [`HEADER_LEN_MAX`], whatever a peer
//! announces. Any split of a stream gives the same messages.

use std::ops::Range;

use super::frame::{FrameError, FrameHeader, MORE};
use crate::wire::header::HEADER_LEN_MAX;

/// Longest command: `READY` with all its properties is far the longest that exists.
pub const COMMAND_LEN_MAX: usize = 8 * 1024;
/// Most frames of an envelope; REQ needs 2, each proxy adds 1.
pub const ENVELOPE_FRAMES_MAX: usize = 8;
/// Longest envelope, frame headers included.
pub const ENVELOPE_LEN_MAX: usize = 1024;
/// Most frames of one message, malformed ones included.
pub const FRAMES_MAX: u32 = 1024;

/// How large the payload frames of one link may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadLimits {
    /// A payload frame whose message fits in this many octets is awaited in the input; a longer one is
    /// announced as [`Step::Large`].
    pub in_place_len_max: usize,
    /// Payloads from this length on are announced as [`Step::Large`] when they are not whole in the input, so
    /// that nobody moves them to make room.
    pub large_len_min: usize,
    /// The longest payload frame that is accepted.
    pub frame_len_max: u64,
    /// A longer one is skipped up to this length (for foreign peers), or ends the link (0, own peers).
    pub skip_len_max: u64,
}

/// What the decoder found at the front of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing whole; call again with the same octets and more.
    NeedMore,
    /// A message of one empty frame (`ZMQ_PROBE_ROUTER`): it says nothing.
    Empty {
        /// Octets consumed.
        used: usize,
    },
    /// Only framing was consumed; call again with what follows.
    Skipped {
        /// Octets consumed.
        used: usize,
    },
    /// A message of one or two frames.
    Message {
        /// Where the header lies in the input.
        header: Range<usize>,
        /// Where the payload lies in the input.
        payload: Range<usize>,
        /// Octets consumed.
        used: usize,
    },
    /// The last frame of a message whose beginning the decoder holds: see [`Decoder::held`].
    HeldMessage {
        /// Where the payload lies in the input.
        payload: Range<usize>,
        /// Octets consumed.
        used: usize,
    },
    /// A payload too large to wait for in place: the caller collects the `payload_len` octets that follow
    /// `used`. The message's beginning is held: see [`Decoder::held`].
    Large {
        /// Length of the payload.
        payload_len: u64,
        /// Octets consumed.
        used: usize,
    },
    /// As [`Step::Large`], over the limit: the caller drops the `payload_len` octets that follow.
    TooLarge {
        /// Length of the payload.
        payload_len: u64,
        /// Octets consumed.
        used: usize,
    },
    /// A command.
    Command {
        /// Where its body lies in the input.
        body: Range<usize>,
        /// Octets consumed.
        used: usize,
    },
    /// A message that breaks the rules on frames; its first octets are held: see [`Decoder::held`].
    Malformed {
        /// Octets consumed.
        used: usize,
    },
}

/// A message in two short frames; its payload ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortMessage {
    /// Where the header lies in the input.
    pub header: Range<usize>,
    /// Where the payload lies in the input.
    pub payload: Range<usize>,
}

/// What is held of a message that came in pieces.
#[derive(Debug, Default)]
pub struct Held {
    /// The envelope as encoded frames, to be put in front of the reply as it is.
    pub envelope: Vec<u8>,
    /// The header; of a malformed message, at most the first 16 octets of its first frame.
    pub header: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Between messages.
    Idle,
    /// Collecting frames, and no empty one has come yet.
    Envelope { frames: usize },
    /// The envelope is complete, the header comes next.
    Header,
    /// The header is held, the payload comes next.
    Payload,
    /// The message is malformed; the rest of it is dropped.
    Discard,
}

/// Finds messages and commands in a stream of octets.
#[derive(Debug)]
pub struct Decoder {
    limits: PayloadLimits,
    stage: Stage,
    held: Held,
    /// Frames of the current message so far.
    frames: u32,
    /// Octets of a dropped frame still to come.
    skip: u64,
    /// Whether the frame that is dropped is the last of its message.
    skip_last: bool,
}

impl Decoder {
    /// A decoder at the start of traffic.
    #[must_use]
    pub fn new(limits: PayloadLimits) -> Self {
        Self { limits, stage: Stage::Idle, held: Held::default(), frames: 0, skip: 0, skip_last: false }
    }

    /// Envelope and header of the message that the last step announced as held or large, or the first octets
    /// of a malformed one. Valid until the next step.
    #[must_use]
    pub const fn held(&self) -> &Held {
        &self.held
    }

    /// Looks at the front of `input`.
    ///
    /// # Errors
    ///
    /// When framing is lost or a limit that ends the link is passed.
    #[inline]
    pub fn step(&mut self, input: &[u8]) -> Result<Step, FrameError> {
        if self.stage != Stage::Idle || self.skip > 0 {
            return self.step_held(input);
        }
        self.step_idle(input)
    }

    /// The message at the front, if it is what nearly all are: a header and a payload in short frames, whole. Asked
    /// first it saves [`step`](Self::step), which would say the same.
    #[inline]
    #[must_use]
    pub fn short_message(&self, input: &[u8]) -> Option<ShortMessage> {
        if self.stage != Stage::Idle || self.skip > 0 {
            return None;
        }
        let (&[MORE, header_len], rest) = input.split_first_chunk()? else { return None };
        let header_end = 2 + usize::from(header_len);
        let (&[0, payload_len], rest) = rest.get(usize::from(header_len)..)?.split_first_chunk()? else {
            return None;
        };
        let payload_len = usize::from(payload_len);
        let start = header_end + 2;
        let is_whole = header_len > 0 && payload_len <= rest.len();
        (is_whole && payload_len as u64 <= self.limits.frame_len_max)
            .then(|| ShortMessage { header: 2..header_end, payload: start..start + payload_len })
    }

    /// [`step`](Self::step) between messages.
    fn step_idle(&mut self, input: &[u8]) -> Result<Step, FrameError> {
        let Some(first) = FrameHeader::decode(input)? else { return Ok(Step::NeedMore) };
        if first.command || first.body_len == 0 || first.body_len > HEADER_LEN_MAX as u64 {
            return self.step_held(input);
        }
        let header_end = first.header_len + first.body_len as usize;
        let header = first.header_len..header_end;
        if !first.more {
            return Ok(match input.len() >= header_end {
                true => Step::Message { header, payload: 0..0, used: header_end },
                false => Step::NeedMore,
            });
        }
        let Some(rest) = input.get(header_end..) else { return Ok(Step::NeedMore) };
        let Some(second) = FrameHeader::decode(rest)? else { return Ok(Step::NeedMore) };
        if second.more || second.command {
            return self.step_held(input);
        }
        let start = header_end + second.header_len;
        let have = (input.len() - start) as u64;
        if second.body_len <= have {
            let used = start + second.body_len as usize;
            if second.body_len <= self.limits.frame_len_max {
                return Ok(Step::Message { header, payload: start..used, used });
            }
        } else if second.body_len < self.limits.large_len_min as u64
            && start as u64 + second.body_len <= self.limits.in_place_len_max as u64
        {
            return Ok(Step::NeedMore);
        }
        self.hold_header(input.get(header).unwrap_or_default());
        self.large(second.body_len, start)
    }

    /// The same, one frame at a time, for all that is not a plain message.
    fn step_held(&mut self, input: &[u8]) -> Result<Step, FrameError> {
        if self.skip > 0 {
            let used = usize::try_from(self.skip).unwrap_or(usize::MAX).min(input.len());
            if used == 0 {
                return Ok(Step::NeedMore);
            }
            self.skip -= used as u64;
            return Ok(self.after_skip(used));
        }
        let Some(frame) = FrameHeader::decode(input)? else { return Ok(Step::NeedMore) };
        if frame.command {
            return self.command(input, frame);
        }
        if self.stage == Stage::Idle {
            self.held.envelope.clear();
            self.held.header.clear();
            self.frames = 0;
        }
        let body_fits = |max: usize| frame.body_len <= max as u64;
        let body_end = || frame.header_len + frame.body_len as usize;
        match self.stage {
            Stage::Idle if frame.body_len == 0 && !frame.more => Ok(Step::Empty { used: frame.header_len }),
            // The payload of a plain message, after a command that came in between.
            Stage::Envelope { frames: 1 } if !frame.more && !self.held.header.is_empty() => {
                self.held.envelope.clear();
                self.payload(input, frame)
            }
            Stage::Idle | Stage::Envelope { .. } if body_fits(HEADER_LEN_MAX) => {
                let end = body_end();
                let Some(encoded) = input.get(..end) else { return Ok(Step::NeedMore) };
                self.count_frame()?;
                Ok(self.envelope_frame(encoded, frame))
            }
            Stage::Header if body_fits(HEADER_LEN_MAX) && frame.body_len > 0 => {
                let end = body_end();
                let Some(body) = input.get(frame.header_len..end) else { return Ok(Step::NeedMore) };
                self.count_frame()?;
                self.held.header.clear();
                self.held.header.extend_from_slice(body);
                if frame.more {
                    self.stage = Stage::Payload;
                    return Ok(Step::Skipped { used: end });
                }
                self.stage = Stage::Idle;
                Ok(Step::HeldMessage { payload: 0..0, used: end })
            }
            Stage::Payload if !frame.more => self.payload(input, frame),
            _ => {
                self.count_frame()?;
                self.discard(input, frame)
            }
        }
    }

    /// The last frame of a message whose header is held.
    fn payload(&mut self, input: &[u8], frame: FrameHeader) -> Result<Step, FrameError> {
        let start = frame.header_len;
        let have = (input.len() - start) as u64;
        if frame.body_len <= have && frame.body_len <= self.limits.frame_len_max {
            self.stage = Stage::Idle;
            let used = start + frame.body_len as usize;
            return Ok(Step::HeldMessage { payload: start..used, used });
        }
        if frame.body_len < self.limits.large_len_min as u64
            && start as u64 + frame.body_len <= self.limits.in_place_len_max as u64
        {
            return Ok(Step::NeedMore);
        }
        self.stage = Stage::Idle;
        self.large(frame.body_len, start)
    }

    fn envelope_frame(&mut self, encoded: &[u8], frame: FrameHeader) -> Step {
        let frames = match self.stage {
            Stage::Envelope { frames } => frames + 1,
            _ => 1,
        };
        let body = encoded.get(frame.header_len..).unwrap_or_default();
        let used = encoded.len();
        if frames == 1 {
            self.held.header.extend_from_slice(body);
        }
        if frames == 1 && !frame.more {
            self.stage = Stage::Idle;
            return Step::HeldMessage { payload: 0..0, used };
        }
        // A payload may follow the first frame; only more than two frames make that one a part of an envelope.
        let too_long = self.held.envelope.len() + used > ENVELOPE_LEN_MAX && frames > 1;
        if too_long || frames > ENVELOPE_FRAMES_MAX || !frame.more {
            self.held.envelope.clear();
            return self.malformed(used, !frame.more);
        }
        if self.held.envelope.len() + used <= ENVELOPE_LEN_MAX {
            self.held.envelope.extend_from_slice(encoded);
        } else {
            // Too long for an envelope, so it must be a header: the next frame has to be the last.
            self.held.envelope.resize(ENVELOPE_LEN_MAX, 0);
        }
        self.stage = if frame.body_len == 0 { Stage::Header } else { Stage::Envelope { frames } };
        Step::Skipped { used }
    }

    fn command(&self, input: &[u8], frame: FrameHeader) -> Result<Step, FrameError> {
        if frame.body_len > COMMAND_LEN_MAX as u64 {
            return Err(FrameError::CommandTooLong { len: frame.body_len, limit: COMMAND_LEN_MAX });
        }
        let used = frame.header_len + frame.body_len as usize;
        Ok(match input.len() >= used {
            true => Step::Command { body: frame.header_len..used, used },
            false => Step::NeedMore,
        })
    }

    fn count_frame(&mut self) -> Result<(), FrameError> {
        self.frames += 1;
        if self.frames > FRAMES_MAX { Err(FrameError::TooManyFrames { limit: FRAMES_MAX }) } else { Ok(()) }
    }

    fn hold_header(&mut self, header: &[u8]) {
        self.held.envelope.clear();
        self.held.header.clear();
        self.held.header.extend_from_slice(header);
    }

    fn large(&self, payload_len: u64, used: usize) -> Result<Step, FrameError> {
        if payload_len <= self.limits.frame_len_max {
            return Ok(Step::Large { payload_len, used });
        }
        if payload_len <= self.limits.skip_len_max {
            return Ok(Step::TooLarge { payload_len, used });
        }
        Err(FrameError::TooLarge { len: payload_len, limit: self.limits.frame_len_max })
    }

    /// Drops `frame`, of which only a part may have come.
    fn discard(&mut self, input: &[u8], frame: FrameHeader) -> Result<Step, FrameError> {
        let limit = self.limits.frame_len_max.max(self.limits.skip_len_max);
        if frame.body_len > limit {
            return Err(FrameError::TooLarge { len: frame.body_len, limit });
        }
        if self.frames == 1 && self.held.header.is_empty() {
            // The first frame is too long for a header, but its id may be readable: wait for that much.
            let Some(first) = input.get(frame.header_len..frame.header_len + 16) else {
                self.frames = 0;
                return Ok(Step::NeedMore);
            };
            self.held.header.extend_from_slice(first);
        }
        // A whole envelope is kept, however many frames are dropped behind it: a REQ takes no answer without it.
        if matches!(self.stage, Stage::Idle | Stage::Envelope { .. }) {
            self.held.envelope.clear();
        }
        self.stage = Stage::Discard;
        self.skip = frame.body_len;
        self.skip_last = !frame.more;
        Ok(self.after_skip(frame.header_len))
    }

    fn after_skip(&mut self, used: usize) -> Step {
        if self.skip == 0 && self.skip_last {
            return self.malformed(used, true);
        }
        Step::Skipped { used }
    }

    fn malformed(&mut self, used: usize, is_last: bool) -> Step {
        if !is_last {
            self.stage = Stage::Discard;
            return Step::Skipped { used };
        }
        self.skip_last = false;
        self.stage = Stage::Idle;
        self.held.header.truncate(16);
        Step::Malformed { used }
    }
}

#[cfg(test)]
mod tests;
