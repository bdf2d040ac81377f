//! Security mechanisms: how two peers exchange their metadata, and prove who they are while doing so.
//!
//! The handshake does not know which one runs. It hands each command of the peer to a [`Mechanism`], tells it
//! our own metadata once that is decided, sends what it puts into the output, and follows its [`Status`].
//! [`Null`] proves nothing: two READYs cross, and that is all. PLAIN and CURVE fit the same three calls:
//! their diallers get the metadata before anything else and keep it for INITIATE, their listeners report
//! [`Status::PeerKnown`] at INITIATE and answer READY when told ours. What CURVE does to the frames of
//! traffic is not this trait's business.

use std::borrow::Cow;
use std::fmt;

use super::command::{self, Command, CommandError};
use super::printable;

/// The name of a mechanism as it stands in a greeting: 20 octets, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MechanismName([u8; 20]);

impl MechanismName {
    /// No authentication, no encryption.
    pub const NULL: Self = Self(*b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

    /// Takes the octets as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// All 20 octets.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for MechanismName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.split(|&octet| octet == 0).next().unwrap_or_default();
        f.write_str(&printable(name))
    }
}

impl fmt::Debug for MechanismName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How far a mechanism has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits for a command of the peer.
    Exchanging,
    /// It has the peer's metadata and waits for ours.
    PeerKnown,
    /// Both sides have each other's metadata: traffic may begin.
    Ready,
}

/// One side of a security mechanism, for one connection.
pub trait Mechanism: fmt::Debug + Send {
    /// What stands in the greeting.
    fn name(&self) -> MechanismName;

    /// Says what our metadata (a property list) is, once. It goes into `output` as the mechanism's next
    /// command, or is kept until the mechanism has come that far.
    fn offer(&mut self, metadata: &[u8], output: &mut Vec<u8>);

    /// Takes the body of one command of the peer, appends whole command frames that answer it to `output`,
    /// and returns the peer's metadata (a property list, still unread) if the command brought it.
    ///
    /// # Errors
    /// If the command is not the one that the mechanism waits for, or the peer refuses us.
    fn handle_command<'a>(
        &mut self,
        body: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Cow<'a, [u8]>>, MechanismError>;

    /// How far it has come.
    fn status(&self) -> Status;
}

/// Why a mechanism gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MechanismError {
    /// A command's bytes are wrong.
    #[error("the peer sent a malformed command")]
    Malformed(#[from] CommandError),
    /// A well-formed command that has no place here: a second READY, a PING, another mechanism's.
    #[error("the peer sent {name} where the mechanism has no place for it")]
    Unexpected {
        /// The command's name.
        name: String,
    },
    /// The peer sent ERROR.
    #[error("the peer refused us: {reason}")]
    Refused {
        /// Its reason, with all but printable ASCII replaced by `?`.
        reason: String,
    },
}

/// The NULL mechanism: each side sends READY with its metadata, in either order.
#[derive(Debug, Default)]
pub struct Null {
    sent: bool,
    received: bool,
}

impl Null {
    /// Nothing sent or received yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Mechanism for Null {
    fn name(&self) -> MechanismName {
        MechanismName::NULL
    }

    fn offer(&mut self, metadata: &[u8], output: &mut Vec<u8>) {
        if !self.sent {
            self.sent = true;
            command::encode_ready(metadata, output);
        }
    }

    fn handle_command<'a>(
        &mut self,
        body: &'a [u8],
        _output: &mut Vec<u8>,
    ) -> Result<Option<Cow<'a, [u8]>>, MechanismError> {
        match command::parse(body)? {
            Command::Ready { properties } if !self.received => {
                self.received = true;
                Ok(Some(Cow::Borrowed(properties)))
            }
            Command::Error { reason } => Err(MechanismError::Refused { reason: printable(reason) }),
            other => Err(MechanismError::Unexpected { name: printable(other.name()) }),
        }
    }

    fn status(&self) -> Status {
        match (self.received, self.sent) {
            (false, _) => Status::Exchanging,
            (true, false) => Status::PeerKnown,
            (true, true) => Status::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_ready_when_both_readys_have_crossed_in_either_order() {
        let mut output = Vec::new();
        let mut dialler = Null::new();
        dialler.offer(b"p", &mut output);
        assert_eq!(
            (output.as_slice(), dialler.status()),
            (b"\x04\x07\x05READYp".as_slice(), Status::Exchanging)
        );
        assert_eq!(dialler.handle_command(b"\x05READYq", &mut output).unwrap().unwrap().as_ref(), b"q");
        assert_eq!(dialler.status(), Status::Ready);

        let mut listener = Null::new();
        listener.handle_command(b"\x05READY", &mut output).unwrap();
        assert_eq!(listener.status(), Status::PeerKnown);
        listener.offer(b"", &mut output);
        assert_eq!(listener.status(), Status::Ready);
    }

    #[test]
    fn null_has_place_for_one_ready_and_nothing_else() {
        let refusal = |bodies: &[&[u8]]| {
            let (mut null, mut output) = (Null::new(), Vec::new());
            let mut outcomes = bodies.iter().map(|body| null.handle_command(body, &mut output).map(drop));
            outcomes.find_map(Result::err).unwrap()
        };
        let unexpected = |name: &str| MechanismError::Unexpected { name: name.to_owned() };
        assert_eq!(refusal(&[b"\x05READY", b"\x05READY"]), unexpected("READY"));
        assert_eq!(refusal(&[b"\x04PING\0\0"]), unexpected("PING"));
        assert_eq!(refusal(&[b"\x05HELLO"]), unexpected("HELLO"));
        assert_eq!(refusal(&[b""]), MechanismError::Malformed(CommandError::Name));
        let reason = "400??x".to_owned();
        assert_eq!(refusal(&[b"\x05ERROR\x06400\n\x1bx"]), MechanismError::Refused { reason });
    }

    #[test]
    fn a_name_prints_without_its_padding_and_without_control_characters() {
        assert_eq!(MechanismName::NULL.to_string(), "NULL");
        assert_eq!(MechanismName::from_bytes([7; 20]).to_string(), "?".repeat(20));
    }
}
