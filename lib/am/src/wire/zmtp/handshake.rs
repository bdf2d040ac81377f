//! The handshake: everything between a fresh connection and its first message, as a state machine.
//!
//! The owner moves bytes: what it reads goes into [`Handshake::handle_input`], what
//! [`Handshake::take_output`] gives is to be written, and [`Handshake::status`] says what is next. The owner
//! also keeps the time: if the peer ends the stream or lets the handshake's deadline pass, it takes its error
//! from [`Handshake::unfinished`].
//!
//! **Invariants**
//! 1. No octet behind the peer's READY is consumed: that is traffic.
//! 2. The outcome and the number of octets consumed do not depend on how the stream was split.
//! 3. At most a greeting or one command is buffered; sizes are judged before any of their octets are.
//! 4. A dialler's READY leaves after the peer's greeting, a listener's only after [`Handshake::answer`], so
//!    that it can suit what the peer presents, and so that its owner can refuse by closing.
//!
//! After an error the greeting may still wait in the output: write it, then close. A link-level refusal is
//! never said by an ERROR command, because libzmq peers do not come back after one.

use std::mem;

use super::PRE_TRAFFIC_COMMANDS_LEN_MAX;
use super::command::{CommandError, FLAGS_COMMAND, FLAGS_COMMAND_LONG};
use super::greeting::{self, GREETING_LEN, Greeting, GreetingError};
use super::mechanism::{self, Mechanism, MechanismError, MechanismName, Null};
use super::properties::{AmHello, Hello, HelloError, SocketType};

/// Which side of a connection we are, and whom we expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We accepted the connection; the peer may be of our kind or foreign.
    Listen,
    /// We dialled a node of our kind.
    Dial,
    /// We dialled a foreign ZeroMQ socket, which sends its READY at once: we present what fits it.
    DialForeign,
}

/// What a handshake needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// More of the peer's octets. Also after an error, when they no longer help.
    NeedInput,
    /// A look at [`Handshake::peer`], then [`Handshake::answer`] or a close. Octets that have arrived behind
    /// READY wait with the owner.
    NeedAnswer,
    /// Nothing: once the output is written, all that follows is traffic.
    Done,
}

/// Why a handshake failed. Each variant stands for one way in which a dialler and a log line treat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's first octets are no greeting of ZMTP 3.
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// The peers do not use the same security mechanism.
    #[error("the peer's security mechanism is {theirs}, ours is {ours}: configure the same on both sides")]
    Mechanism {
        /// The peer's.
        theirs: MechanismName,
        /// Ours.
        ours: MechanismName,
    },
    /// A command is larger than what the rest of the handshake may have.
    #[error("the peer announced a command of {size} octets before traffic, at most {limit} are allowed")]
    TooLarge {
        /// Its size in octets, as announced.
        size: u64,
        /// What was allowed, in octets.
        limit: usize,
    },
    /// A frame that is no command, or has illegal flags.
    #[error("the peer sent a frame with flags {flags:#04x} before traffic, where only commands may be sent")]
    Flags {
        /// The flags.
        flags: u8,
    },
    /// A command's bytes are wrong.
    #[error("the peer sent a malformed command: {0}")]
    Command(#[from] CommandError),
    /// A well-formed command that has no place in the handshake.
    #[error("the peer sent {name} before its handshake was done")]
    UnexpectedCommand {
        /// The command's name.
        name: String,
    },
    /// A READY that says too little or nonsense.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The peer's socket type cannot talk to us in this role.
    #[error("the peer is a {theirs} socket, and a node {expected}")]
    SocketType {
        /// What the peer presents.
        theirs: SocketType,
        /// Whom we can talk to instead.
        expected: &'static str,
    },
    /// We dialled a node of our kind and met a foreign socket.
    #[error("the peer is a foreign ZeroMQ {socket_type} socket, not a node: use `connect_foreign`")]
    Foreign {
        /// What it presents.
        socket_type: SocketType,
    },
    /// The peer sent ERROR.
    #[error("the peer refused us: {reason}")]
    Refused {
        /// Its reason, with all but printable ASCII replaced by `?`.
        reason: String,
    },
    /// The peer ended the stream, or the handshake's deadline passed; see [`Handshake::unfinished`].
    #[error("the peer did not finish the handshake: it owes its {owed}{hint}")]
    Unfinished {
        /// What we waited for.
        owed: &'static str,
        /// What may be the cause.
        hint: &'static str,
    },
}

impl HandshakeError {
    /// Whether the same attempt will most likely fail again, so that a dialler should take its longest
    /// backoff and raise an event. It should not stop for good: the peer may be restarted as something else.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        !matches!(self, Self::Unfinished { .. })
    }

    /// The kind, as a label for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Greeting(_) => "greeting",
            Self::Mechanism { .. } => "mechanism",
            Self::TooLarge { .. } => "too_large",
            Self::Flags { .. } => "flags",
            Self::Command(_) => "command",
            Self::UnexpectedCommand { .. } => "unexpected_command",
            Self::Hello(_) => "ready",
            Self::SocketType { .. } => "socket_type",
            Self::Foreign { .. } => "foreign",
            Self::Refused { .. } => "refused",
            Self::Unfinished { .. } => "unfinished",
        }
    }
}

impl From<MechanismError> for HandshakeError {
    fn from(error: MechanismError) -> Self {
        match error {
            MechanismError::Malformed(error) => Self::Command(error),
            MechanismError::Unexpected { name } => Self::UnexpectedCommand { name },
            MechanismError::Refused { reason } => Self::Refused { reason },
        }
    }
}

/// One side of a handshake; see the [module](self).
#[derive(Debug)]
pub struct Handshake {
    role: Role,
    local: AmHello,
    mechanism: Box<dyn Mechanism>,
    stage: Stage,
    /// The part that has arrived of the greeting or the command that is being read.
    partial: Vec<u8>,
    /// Octets that the bodies of further commands may have together.
    command_room: usize,
    output: Vec<u8>,
    minor: u8,
    peer: Option<Hello>,
}

#[derive(Debug)]
enum Stage {
    Greeting,
    Commands,
    /// The peer is known; we would present `presents`.
    Answer {
        presents: SocketType,
    },
    Done,
    Failed(HandshakeError),
}

impl Handshake {
    /// Starts a handshake with the NULL mechanism; the output then holds our greeting.
    #[must_use]
    pub fn new(role: Role, local: AmHello) -> Self {
        Self::with_mechanism(role, local, Box::new(Null::new()))
    }

    /// Starts a handshake with another mechanism, which must not have been used before.
    #[must_use]
    pub fn with_mechanism(role: Role, local: AmHello, mechanism: Box<dyn Mechanism>) -> Self {
        let output = greeting::encode(&mechanism.name()).to_vec();
        Self {
            role,
            local,
            mechanism,
            stage: Stage::Greeting,
            partial: Vec::new(),
            command_room: PRE_TRAFFIC_COMMANDS_LEN_MAX,
            output,
            minor: 0,
            peer: None,
        }
    }

    /// Takes octets that the peer has sent, split in any way, and returns how many of them it consumed: all,
    /// until READY is there, and then none of those behind it.
    ///
    /// # Errors
    /// If the handshake has failed; the same error again at each further call. Write what the output holds,
    /// then close.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, HandshakeError> {
        let mut rest = input;
        loop {
            let step = match &self.stage {
                Stage::Greeting => self.read_greeting(rest),
                Stage::Commands => self.read_command(rest),
                Stage::Answer { .. } | Stage::Done => break,
                Stage::Failed(error) => return Err(error.clone()),
            };
            match step {
                Ok(tail) => rest = tail,
                Err(error) => {
                    self.partial = Vec::new();
                    self.stage = Stage::Failed(error.clone());
                    return Err(error);
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        Ok(input.len().saturating_sub(rest.len()))
    }

    /// The octets to write now; empty if there are none.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        mem::take(&mut self.output)
    }

    /// What is needed next.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self.stage {
            Stage::Greeting | Stage::Commands | Stage::Failed(_) => Status::NeedInput,
            Stage::Answer { .. } => Status::NeedAnswer,
            Stage::Done => Status::Done,
        }
    }

    /// Accepts the peer: puts our READY, with the socket type that fits, into the output. Does nothing unless
    /// the status is [`Status::NeedAnswer`].
    pub fn answer(&mut self) {
        let Stage::Answer { presents } = self.stage else { return };
        let is_own = self.peer.as_ref().is_some_and(|peer| peer.own.is_some());
        let metadata = if is_own { self.local.encode(presents) } else { self.local.encode_foreign(presents) };
        self.mechanism.offer(&metadata, &mut self.output);
        let is_ready = self.mechanism.status() == mechanism::Status::Ready;
        self.stage = if is_ready { Stage::Done } else { Stage::Commands };
    }

    /// Changes the credit that our READY will grant: what there is to grant is known only once the peer is.
    pub const fn grant(&mut self, messages: u64, bytes: u64) {
        self.local.credit_messages = messages;
        self.local.credit_bytes = bytes;
    }

    /// Who the peer says it is, once its READY has been read and found acceptable.
    #[must_use]
    pub const fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// The same, by value, at the end.
    #[must_use]
    pub fn into_peer(self) -> Option<Hello> {
        self.peer
    }

    /// The error for a stream that ended, or a deadline that passed, before the status was
    /// [`Status::NeedAnswer`] or [`Status::Done`]; the handshake's own error if it has failed already.
    #[must_use]
    pub fn unfinished(&self) -> HandshakeError {
        let (owed, hint) = match &self.stage {
            Stage::Failed(error) => return error.clone(),
            Stage::Greeting => ("greeting", ""),
            // A listener of our kind waits for the dialler's READY, and so would we for its.
            _ if self.role == Role::DialForeign => ("READY", "; if it is a node, use `connect`"),
            // A plain close is how nodes say that they are full, draining, or not yet up.
            _ => ("READY", "; it may be overloaded or shutting down"),
        };
        HandshakeError::Unfinished { owed, hint }
    }

    fn read_greeting<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8], HandshakeError> {
        let rest = self.buffer_up_to(GREETING_LEN, input);
        let Some(Greeting { minor, mechanism: theirs, .. }) = greeting::decode(&self.partial)? else {
            return Ok(rest);
        };
        let ours = self.mechanism.name();
        if theirs != ours {
            return Err(HandshakeError::Mechanism { theirs, ours });
        }
        self.minor = minor;
        self.partial.clear();
        self.stage = Stage::Commands;
        if self.role == Role::Dial {
            self.mechanism.offer(&self.local.encode(SocketType::Dealer), &mut self.output);
        }
        Ok(rest)
    }

    /// Reads up to the end of one command, and acts on it if it is whole.
    fn read_command<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8], HandshakeError> {
        let mut rest = input;
        loop {
            let head = FrameHead::read(&self.partial, self.command_room)?;
            rest = self.buffer_up_to(head.wanted_len(), rest);
            if self.partial.len() < head.wanted_len() {
                return Ok(rest);
            }
            if let FrameHead::Whole { len, body_len } = head {
                let frame = mem::take(&mut self.partial);
                self.command_room = self.command_room.saturating_sub(body_len);
                let body = len.checked_sub(body_len).and_then(|start| frame.get(start..));
                self.handle_command(body.unwrap_or_default())?;
                return Ok(rest);
            }
        }
    }

    /// Moves octets from `input` until `len` are buffered; returns those left. Space at most doubles with
    /// what has arrived, never reaches beyond `len`, and is not had for what was only announced.
    fn buffer_up_to<'i>(&mut self, len: usize, input: &'i [u8]) -> &'i [u8] {
        let missing = len.saturating_sub(self.partial.len());
        let (head, rest) = input.split_at_checked(missing).unwrap_or((input, &[]));
        let needed = self.partial.len().saturating_add(head.len());
        if needed > self.partial.capacity() {
            let space = self.partial.capacity().saturating_mul(2).clamp(needed, len.max(needed));
            self.partial.reserve_exact(space.saturating_sub(self.partial.len()));
        }
        self.partial.extend_from_slice(head);
        rest
    }

    fn handle_command(&mut self, body: &[u8]) -> Result<(), HandshakeError> {
        if let Some(metadata) = self.mechanism.handle_command(body, &mut self.output)? {
            let hello = Hello::decode(&metadata, self.minor)?;
            let presents = self.judge(hello)?;
            self.stage = match self.mechanism.status() {
                mechanism::Status::Exchanging => Stage::Commands,
                mechanism::Status::PeerKnown => Stage::Answer { presents },
                mechanism::Status::Ready => Stage::Done,
            };
        }
        Ok(())
    }

    /// Keeps what the peer says of itself if we can talk to it, and returns what we present to it.
    fn judge(&mut self, mut hello: Hello) -> Result<SocketType, HandshakeError> {
        let theirs = hello.socket_type;
        if self.role == Role::DialForeign {
            // We say nothing of ourselves to what we dialled as foreign, so nothing was agreed either.
            hello.own = None;
        }
        if self.role == Role::Dial && hello.own.is_none() {
            return Err(HandshakeError::Foreign { socket_type: theirs });
        }
        let (presents, expected) = presented(self.role, theirs, hello.own.is_some());
        let presents = presents.ok_or(HandshakeError::SocketType { theirs, expected })?;
        if let Some(own) = &mut hello.own {
            own.version = own.version.min(self.local.version);
        }
        self.peer = Some(hello);
        Ok(presents)
    }
}

/// What we present to a peer, `None` if nothing fits; and whom we could have talked to.
const fn presented(role: Role, theirs: SocketType, is_own: bool) -> (Option<SocketType>, &'static str) {
    use SocketType::{Dealer, Pull, Push, Rep, Req, Router};
    match (role, is_own) {
        (Role::Dial, _) => {
            let presents = if matches!(theirs, Router) { Some(Dealer) } else { None };
            (presents, "that listens presents ROUTER")
        }
        (Role::Listen, true) => {
            let presents = if matches!(theirs, Dealer) { Some(Router) } else { None };
            (presents, "that dials presents DEALER")
        }
        (Role::Listen, false) => {
            let presents = match theirs {
                Dealer | Router | Req => Some(Router),
                Push => Some(Pull),
                _ => None,
            };
            (presents, "serves DEALER, ROUTER, REQ and PUSH")
        }
        (Role::DialForeign, _) => {
            let presents = match theirs {
                Router | Rep => Some(Dealer),
                Req | Dealer => Some(Router),
                Push => Some(Pull),
                Pull => Some(Push),
                _ => None,
            };
            (presents, "can dial ROUTER, REP, DEALER, REQ, PUSH and PULL")
        }
    }
}

/// What the first octets of a frame tell.
enum FrameHead {
    /// The head itself is not whole: `len` octets will tell more.
    Partial { len: usize },
    /// The frame has `len` octets, of which the last `body_len` are its body.
    Whole { len: usize, body_len: usize },
}

impl FrameHead {
    fn read(octets: &[u8], body_len_max: usize) -> Result<Self, HandshakeError> {
        const SHORT_LEN: usize = 2;
        const LONG_LEN: usize = 9;
        let Some((&flags, size)) = octets.split_first() else { return Ok(Self::Partial { len: 1 }) };
        let (head_len, size) = match flags {
            FLAGS_COMMAND => (SHORT_LEN, size.first().map(|&size| u64::from(size))),
            FLAGS_COMMAND_LONG => (LONG_LEN, size.first_chunk().map(|size| u64::from_be_bytes(*size))),
            flags => return Err(HandshakeError::Flags { flags }),
        };
        let Some(size) = size else { return Ok(Self::Partial { len: head_len }) };
        match usize::try_from(size).ok().filter(|&size| size <= body_len_max) {
            Some(body_len) => Ok(Self::Whole { len: head_len.saturating_add(body_len), body_len }),
            None => Err(HandshakeError::TooLarge { size, limit: body_len_max }),
        }
    }

    const fn wanted_len(&self) -> usize {
        match self {
            Self::Partial { len } | Self::Whole { len, .. } => *len,
        }
    }
}

#[cfg(test)]
mod tests;
