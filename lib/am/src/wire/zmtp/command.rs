//! Command frames: what peers say to each other about the link, beside its messages.
//!
//! A command's body is a name with a length octet, then data whose form the name decides. [`parse`] reads the
//! body of a frame that a decoder has cut out already; the `encode_*` functions append whole frames, with the
//! short size form up to 255 octets and the long one above. An [`Unknown`](Command::Unknown) command is
//! well-formed and can be ignored in traffic; a malformed one is reason to close.

/// Flags of a command frame whose size is one octet.
pub const FLAGS_COMMAND: u8 = 0x04;
/// Flags of a command frame whose size is eight octets.
pub const FLAGS_COMMAND_LONG: u8 = 0x06;
/// Longest context of a PING or PONG, in octets (ZMTP 3.1).
pub const CONTEXT_LEN_MAX: usize = 16;
/// Longest reason of an ERROR, in octets: its length has one octet.
pub const REASON_LEN_MAX: usize = 255;

/// A command, borrowed from the frame it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command<'a> {
    /// Asks for a PONG with the same context.
    Ping {
        /// If not 0: the sender wants to be given up after this many tenths of a second without a byte.
        ttl_ds: u16,
        /// What the PONG has to repeat, at most 16 octets.
        context: &'a [u8],
    },
    /// Answers a PING.
    Pong {
        /// The PING's context.
        context: &'a [u8],
    },
    /// Ends the handshake of its sender.
    Ready {
        /// A property list, not looked at yet; see [`Properties`](super::properties::Properties).
        properties: &'a [u8],
    },
    /// Refuses the peer for good.
    Error {
        /// Why; any octets, so not to be logged as they are.
        reason: &'a [u8],
    },
    /// Asks for messages that begin with a prefix.
    Subscribe {
        /// The prefix.
        prefix: &'a [u8],
    },
    /// Takes one SUBSCRIBE back.
    Cancel {
        /// The prefix.
        prefix: &'a [u8],
    },
    /// A well-formed command that is none of the above.
    Unknown {
        /// Its name: 1 to 255 ASCII letters.
        name: &'a [u8],
    },
}

impl<'a> Command<'a> {
    /// The name on the wire.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        match self {
            Self::Ping { .. } => b"PING",
            Self::Pong { .. } => b"PONG",
            Self::Ready { .. } => b"READY",
            Self::Error { .. } => b"ERROR",
            Self::Subscribe { .. } => b"SUBSCRIBE",
            Self::Cancel { .. } => b"CANCEL",
            Self::Unknown { name } => name,
        }
    }
}

/// Why a command is malformed: the link has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The name is missing, empty, cut short, or not all letters.
    #[error("a command's name is not 1 to 255 letters")]
    Name,
    /// A PING ends before its time to live.
    #[error("a PING has no time to live")]
    PingWithoutTtl,
    /// The context of a PING or PONG is too long.
    #[error("the context of a PING or PONG has {len} octets, at most 16 are allowed")]
    ContextTooLong {
        /// Its length in octets.
        len: usize,
    },
    /// The reason of an ERROR is not exactly as long as its length octet says.
    #[error("the reason of an ERROR does not fit its length octet")]
    Reason,
}

/// Splits a command's body into its name and its data.
///
/// # Errors
/// [`CommandError::Name`].
pub fn split_name(body: &[u8]) -> Result<(&[u8], &[u8]), CommandError> {
    let (&len, rest) = body.split_first().ok_or(CommandError::Name)?;
    let (name, data) = rest.split_at_checked(usize::from(len)).ok_or(CommandError::Name)?;
    let letters = !name.is_empty() && name.iter().all(u8::is_ascii_alphabetic);
    if letters { Ok((name, data)) } else { Err(CommandError::Name) }
}

/// Reads the body of a command frame. Names are compared octet by octet, as all implementations do.
///
/// # Errors
/// If the command is malformed.
pub fn parse(body: &[u8]) -> Result<Command<'_>, CommandError> {
    let (name, data) = split_name(body)?;
    Ok(match name {
        b"PING" => {
            let (ttl, context) = data.split_first_chunk().ok_or(CommandError::PingWithoutTtl)?;
            Command::Ping { ttl_ds: u16::from_be_bytes(*ttl), context: checked_context(context)? }
        }
        b"PONG" => Command::Pong { context: checked_context(data)? },
        b"READY" => Command::Ready { properties: data },
        b"ERROR" => match data.split_first() {
            Some((&len, reason)) if usize::from(len) == reason.len() => Command::Error { reason },
            _ => return Err(CommandError::Reason),
        },
        b"SUBSCRIBE" => Command::Subscribe { prefix: data },
        b"CANCEL" => Command::Cancel { prefix: data },
        name => Command::Unknown { name },
    })
}

/// Appends a PING frame. `ttl_ds` is in tenths of a second, 0 for none; libzmq handles at most 655. A context
/// is cut at 16 octets.
pub fn encode_ping(ttl_ds: u16, context: &[u8], out: &mut Vec<u8>) {
    put_frame(b"\x04PING", [ttl_ds.to_be_bytes().as_slice(), cut(context, CONTEXT_LEN_MAX)], out);
}

/// Appends a PONG frame. A context is cut at 16 octets.
pub fn encode_pong(context: &[u8], out: &mut Vec<u8>) {
    put_frame(b"\x04PONG", [cut(context, CONTEXT_LEN_MAX)], out);
}

/// Appends an ERROR frame. A reason is cut at 255 octets. libzmq peers never come back after an ERROR: only
/// for permanent refusals.
pub fn encode_error(reason: &[u8], out: &mut Vec<u8>) {
    let reason = cut(reason, REASON_LEN_MAX);
    let len = u8::try_from(reason.len()).unwrap_or(u8::MAX);
    put_frame(b"\x05ERROR", [[len].as_slice(), reason], out);
}

/// Appends a READY frame around a property list.
pub fn encode_ready(properties: &[u8], out: &mut Vec<u8>) {
    put_frame(b"\x05READY", [properties], out);
}

fn checked_context(context: &[u8]) -> Result<&[u8], CommandError> {
    let len = context.len();
    if len > CONTEXT_LEN_MAX { Err(CommandError::ContextTooLong { len }) } else { Ok(context) }
}

fn cut(octets: &[u8], len_max: usize) -> &[u8] {
    octets.get(..len_max).unwrap_or(octets)
}

/// `name` comes with its length octet in front.
fn put_frame<const PARTS: usize>(name: &[u8], data: [&[u8]; PARTS], out: &mut Vec<u8>) {
    let size = data.iter().fold(name.len(), |size, part| size.saturating_add(part.len()));
    match u8::try_from(size) {
        Ok(size) => out.extend_from_slice(&[FLAGS_COMMAND, size]),
        Err(_) => {
            out.push(FLAGS_COMMAND_LONG);
            out.extend_from_slice(&u64::try_from(size).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(name);
    for part in data {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn frames_have_the_bytes_of_the_specification() {
        assert_eq!(frame(|out| encode_ping(0, b"", out)), b"\x04\x07\x04PING\0\0");
        assert_eq!(frame(|out| encode_ping(300, b"x", out)), b"\x04\x08\x04PING\x01\x2Cx");
        assert_eq!(frame(|out| encode_pong(b"ab", out)), b"\x04\x07\x04PONGab");
        assert_eq!(frame(|out| encode_error(b"400", out)), b"\x04\x0A\x05ERROR\x03400");
    }

    #[test]
    fn a_command_over_255_octets_takes_the_long_form() {
        let of_list = |len: usize| frame(|out| encode_ready(&vec![0; len], out));
        assert_eq!(of_list(249)[..2], [0x04, 255]);
        assert_eq!(of_list(250)[..9], [0x06, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn what_is_too_long_to_send_is_cut() {
        assert_eq!(frame(|out| encode_pong(&[7; 99], out)).len(), 2 + 5 + CONTEXT_LEN_MAX);
        let error = frame(|out| encode_error(&[b'x'; 999], out));
        assert_eq!(parse(&error[9..]), Ok(Command::Error { reason: &[b'x'; REASON_LEN_MAX] }));
    }

    #[test]
    fn each_command_is_read_as_what_it_is() {
        for (body, command) in [
            (b"\x04PING\0\x0Aab".as_slice(), Command::Ping { ttl_ds: 10, context: b"ab" }),
            (b"\x04PONG", Command::Pong { context: b"" }),
            (b"\x05READYxyz", Command::Ready { properties: b"xyz" }),
            (b"\x05ERROR\x02no", Command::Error { reason: b"no" }),
            (b"\x05ERROR\0", Command::Error { reason: b"" }),
            (b"\x09SUBSCRIBEA", Command::Subscribe { prefix: b"A" }),
            (b"\x06CANCEL", Command::Cancel { prefix: b"" }),
            (b"\x04JOINgroup", Command::Unknown { name: b"JOIN" }),
            (b"\x04ping", Command::Unknown { name: b"ping" }),
        ] {
            assert_eq!(parse(body), Ok(command));
            assert_eq!(command.name(), &body[1..=usize::from(body[0])]);
        }
    }

    #[test]
    fn malformed_commands_are_refused() {
        for (body, error) in [
            (b"".as_slice(), CommandError::Name),
            (b"\0", CommandError::Name),
            (b"\x05PING", CommandError::Name),
            (b"\xFFHELLO", CommandError::Name),
            (b"\x04PI\0G", CommandError::Name),
            (b"\x04PING", CommandError::PingWithoutTtl),
            (b"\x04PING\0", CommandError::PingWithoutTtl),
            (b"\x04PING\0\x000123456789abcdefg", CommandError::ContextTooLong { len: 17 }),
            (b"\x04PONG0123456789abcdefg", CommandError::ContextTooLong { len: 17 }),
            (b"\x05ERROR", CommandError::Reason),
            (b"\x05ERROR\x03no", CommandError::Reason),
            (b"\x05ERROR\x01no", CommandError::Reason),
        ] {
            assert_eq!(parse(body), Err(error), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&body);
        }

        #[test]
        fn a_ping_survives_a_round_trip(
            ttl_ds: u16,
            context in proptest::collection::vec(any::<u8>(), 0..=16),
        ) {
            let ping = frame(|out| encode_ping(ttl_ds, &context, out));
            prop_assert_eq!(parse(&ping[2..]), Ok(Command::Ping { ttl_ds, context: &context }));
        }
    }
}
