//! Message frames of ZMTP 3.1 (RFC 37): flags, size, body.
//!
//! The first thing that touches a received byte once the handshake is over, and the last that touches one that
//! is sent.

/// Flag: more frames of this message follow.
pub const MORE: u8 = 0x01;
/// Flag: the size has eight octets instead of one.
pub const LONG: u8 = 0x02;
/// Flag: a command, not a part of a message.
pub const COMMAND: u8 = 0x04;
/// Longest frame header: flags and an eight-octet size.
pub const FRAME_HEADER_LEN_MAX: usize = 9;

/// What the header of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The message goes on with another frame.
    pub more: bool,
    /// The frame is a command.
    pub command: bool,
    /// Length of the header itself: 2 or 9.
    pub header_len: usize,
    /// Length of the body, at most 2^63-1.
    pub body_len: u64,
}

/// Framing is lost: nothing behind this point can be understood, so the link must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Reserved bits, or a command that claims to have more parts.
    #[error("illegal frame flags {0:#04x}")]
    Flags(u8),
    /// A size with its highest bit set (RFC 37 allows 0 to 2^63-1).
    #[error("frame size over 2^63-1")]
    Size,
    /// A command longer than any that exists.
    #[error("command of {len} octets, the limit is {limit}")]
    CommandTooLong {
        /// Its announced length.
        len: u64,
        /// The limit.
        limit: usize,
    },
    /// A frame over the limit that is not skipped.
    #[error("frame of {len} octets, the limit is {limit}")]
    TooLarge {
        /// Its announced length.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// A message of more frames than any sane peer sends.
    #[error("message of more than {limit} frames")]
    TooManyFrames {
        /// The limit.
        limit: u32,
    },
}

impl FrameHeader {
    /// Reads a frame header from the front of `input`; `None` when more octets are needed.
    ///
    /// # Errors
    ///
    /// As soon as the octets that are there break the rules.
    #[inline]
    pub fn decode(input: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some((&flags, rest)) = input.split_first() else { return Ok(None) };
        if flags > (LONG | COMMAND) || flags == (MORE | COMMAND) {
            return Err(FrameError::Flags(flags));
        }
        let (header_len, body_len) = if flags & LONG == 0 {
            match rest.first() {
                Some(&size) => (2, u64::from(size)),
                None => return Ok(None),
            }
        } else {
            match rest.first_chunk::<8>() {
                Some(size) => (9, u64::from_be_bytes(*size)),
                None => return Ok(None),
            }
        };
        if body_len > i64::MAX as u64 {
            return Err(FrameError::Size);
        }
        Ok(Some(Self { more: flags & MORE != 0, command: flags & COMMAND != 0, header_len, body_len }))
    }
}

/// Appends the header of a message frame whose body has `body_len` octets.
#[inline]
pub fn encode_header(more: bool, body_len: usize, out: &mut Vec<u8>) {
    let flags = u8::from(more) * MORE;
    match u8::try_from(body_len) {
        Ok(short) => out.extend_from_slice(&[flags, short]),
        Err(_) => {
            let mut header = [0; FRAME_HEADER_LEN_MAX];
            header[0] = flags | LONG;
            header[1..].copy_from_slice(&(body_len as u64).to_be_bytes());
            out.extend_from_slice(&header);
        }
    }
}

/// How many octets [`encode_header`] appends for a body of `body_len`.
#[inline]
#[must_use]
pub const fn header_len(body_len: usize) -> usize {
    if body_len <= u8::MAX as usize { 2 } else { FRAME_HEADER_LEN_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_ends_at_255_octets() {
        for (len, header) in [(0, 2), (255, 2), (256, 9), (1 << 20, 9)] {
            let mut out = Vec::new();
            encode_header(true, len, &mut out);
            assert_eq!(out.len(), header);
            let decoded = FrameHeader::decode(&out).unwrap().unwrap();
            assert_eq!((decoded.body_len, decoded.more, decoded.command), (len as u64, true, false));
        }
    }

    #[test]
    fn illegal_flags_are_told_before_the_size_is_there() {
        for flags in (0u8..=255).filter(|flags| ![0, 1, 2, 3, 4, 6].contains(flags)) {
            assert_eq!(FrameHeader::decode(&[flags]), Err(FrameError::Flags(flags)));
        }
    }

    #[test]
    fn a_size_over_the_specification_is_refused_and_nothing_is_allocated() {
        let mut bytes = [0xFF; 9];
        bytes[0] = LONG;
        assert_eq!(FrameHeader::decode(&bytes), Err(FrameError::Size));
    }
}
