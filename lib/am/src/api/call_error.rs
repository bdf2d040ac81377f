//! How a call can fail: [`CallError`]. Each variant says whether the handler can have run.

use std::fmt;

use crate::id::InstanceId;
use crate::wire::codes::NackCode;

/// Which call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallInfo {
    /// The handler that was called.
    pub handler: String,
    /// The peer it was called at.
    pub peer: InstanceId,
    /// The message's id as it stands in logs at both ends; empty when it had none yet.
    pub id: String,
}

impl fmt::Display for CallInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` at {}", self.handler, self.peer)?;
        if !self.id.is_empty() {
            write!(f, " (message {})", self.id)?;
        }
        Ok(())
    }
}

/// Why the peer did not run the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The message broke the protocol.
    Protocol,
    /// No handler of that name is registered there.
    NoHandler,
    /// The handler, or the node, has as much to do as it may.
    Overloaded,
    /// The node is shutting down.
    Draining,
    /// The caller may not call this handler.
    Unauthorized,
    /// The payload is longer than the peer takes.
    TooLarge,
    /// The handler does not offer what was asked for: a response, a codec, a type.
    ContractMismatch,
    /// The payload does not decode as what the handler takes.
    BadArgument,
    /// The deadline had passed when the message arrived.
    Expired,
    /// A reason that this version does not know; the handler never ran all the same.
    Other(u8),
}

impl Refusal {
    /// The refusal that an error code stands for; `None` for codes of handlers that ran.
    #[must_use]
    pub const fn from_code(code: NackCode) -> Option<Self> {
        Some(match code {
            NackCode::Protocol => Self::Protocol,
            NackCode::NoHandler => Self::NoHandler,
            NackCode::Overloaded => Self::Overloaded,
            NackCode::Draining => Self::Draining,
            NackCode::Unauthorized => Self::Unauthorized,
            NackCode::TooLarge => Self::TooLarge,
            NackCode::ContractMismatch => Self::ContractMismatch,
            NackCode::BadArgument => Self::BadArgument,
            NackCode::Expired => Self::Expired,
            other if other.never_ran() => Self::Other(other.as_u8()),
            _ => return None,
        })
    }

    const fn is_transient(self) -> bool {
        matches!(self, Self::Overloaded | Self::Draining | Self::Expired)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol => "protocol",
            Self::NoHandler => "no handler",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Unauthorized => "unauthorized",
            Self::TooLarge => "too large",
            Self::ContractMismatch => "contract mismatch",
            Self::BadArgument => "bad argument",
            Self::Expired => "expired",
            Self::Other(code) => return write!(f, "code {code}"),
        })
    }
}

/// How a call, or a send, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nothing of the message left this node.
    #[error("{call} was not sent: {reason}")]
    NotSent {
        /// Which call.
        call: Box<CallInfo>,
        /// Why.
        reason: String,
        /// Whether sending it again can help; not so for a bad name or a payload that does not encode.
        transient: bool,
    },
    /// The peer refused it: the handler never ran.
    #[error("{call} was refused ({reason}): {message}")]
    Refused {
        /// Which call.
        call: Box<CallInfo>,
        /// Why.
        reason: Refusal,
        /// The peer's own words.
        message: String,
    },
    /// The handler ran and returned an error.
    #[error("{call} failed: {message}")]
    HandlerError {
        /// Which call.
        call: Box<CallInfo>,
        /// The handler's own words.
        message: String,
    },
    /// The handler ran and panicked.
    #[error("{call} panicked: {message}")]
    HandlerPanicked {
        /// Which call.
        call: Box<CallInfo>,
        /// The panic's message, if it had one.
        message: String,
    },
    /// The handler ran, but its answer does not decode as what the caller expects.
    #[error("the answer of {call} is no `{expected}`: {reason}")]
    BadResponse {
        /// Which call.
        call: Box<CallInfo>,
        /// The type that was expected.
        expected: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The link ended before an answer came.
    #[error("the link to the peer was lost during {call}; the handler {}", may_have_run(*maybe_executed))]
    PeerLost {
        /// Which call.
        call: Box<CallInfo>,
        /// Whether the handler can have run.
        maybe_executed: bool,
    },
    /// The deadline passed before an answer came.
    #[error("the deadline of {call} has passed; the handler {}", may_have_run(*maybe_executed))]
    DeadlineExceeded {
        /// Which call.
        call: Box<CallInfo>,
        /// Whether the handler can have run.
        maybe_executed: bool,
    },
    /// The handler has answered, and this node had no memory for the answer: see `Limits::budget_len_max`.
    #[error("there was no memory for the answer of {call}; the handler {}", may_have_run(*maybe_executed))]
    Overloaded {
        /// Which call.
        call: Box<CallInfo>,
        /// Whether the handler can have run.
        maybe_executed: bool,
    },
    /// The call was cancelled: by the call it was nested in, or at the peer.
    #[error("{call} was cancelled; the handler {}", may_have_run(*maybe_executed))]
    Cancelled {
        /// Which call.
        call: Box<CallInfo>,
        /// Whether the handler can have run.
        maybe_executed: bool,
    },
    /// The peer answered with something that was not asked for.
    #[error("the peer broke the protocol in answering {call}: {reason}")]
    Protocol {
        /// Which call.
        call: Box<CallInfo>,
        /// What it did.
        reason: String,
    },
}

const fn may_have_run(maybe_executed: bool) -> &'static str {
    if maybe_executed { "may have run" } else { "has not run" }
}

impl CallError {
    /// Whether the handler cannot have run, so that calling again does nothing twice.
    #[must_use]
    pub const fn is_retry_safe(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::Refused { .. } => true,
            Self::PeerLost { maybe_executed, .. }
            | Self::DeadlineExceeded { maybe_executed, .. }
            | Self::Overloaded { maybe_executed, .. }
            | Self::Cancelled { maybe_executed, .. } => !*maybe_executed,
            Self::HandlerError { .. }
            | Self::HandlerPanicked { .. }
            | Self::BadResponse { .. }
            | Self::Protocol { .. } => false,
        }
    }

    /// Whether calling again, perhaps a little later, can help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::NotSent { transient, .. } => *transient,
            Self::Refused { reason, .. } => reason.is_transient(),
            Self::PeerLost { .. } | Self::DeadlineExceeded { .. } | Self::Overloaded { .. } => true,
            _ => false,
        }
    }

    /// Which call failed.
    #[must_use]
    pub const fn call(&self) -> &CallInfo {
        match self {
            Self::NotSent { call, .. }
            | Self::Refused { call, .. }
            | Self::HandlerError { call, .. }
            | Self::HandlerPanicked { call, .. }
            | Self::BadResponse { call, .. }
            | Self::PeerLost { call, .. }
            | Self::DeadlineExceeded { call, .. }
            | Self::Overloaded { call, .. }
            | Self::Cancelled { call, .. }
            | Self::Protocol { call, .. } => call,
        }
    }
}

/// Why `try_send` did not take a message. Nothing of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// The peer grants no more right now; `send` would wait.
    #[error("{0} would have to wait for the peer's credit")]
    Full(Box<CallInfo>),
    /// There is no link to the peer right now.
    #[error("{0}: the peer is not connected")]
    NotConnected(Box<CallInfo>),
    /// Waiting would not help.
    #[error(transparent)]
    Failed(#[from] CallError),
}

/// What a handler returns when it cannot do what it was asked; the caller gets it as
/// [`CallError::HandlerError`].
///
/// Any error converts into it by `?`, so it does not implement `std::error::Error` itself.
///
/// ```
/// # use dynamo_am::HandlerError;
/// fn size(path: &str) -> Result<u64, HandlerError> {
///     if path.is_empty() {
///         return Err(HandlerError::msg("no path was given"));
///     }
///     Ok(std::fs::metadata(path)?.len())
/// }
/// assert_eq!(size("").unwrap_err().to_string(), "no path was given");
/// assert!(size("/no such file").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    pub(crate) code: NackCode,
    message: String,
}

impl HandlerError {
    /// An error that says `message` to the caller.
    #[must_use]
    pub fn msg(message: impl fmt::Display) -> Self {
        Self { code: NackCode::HandlerError, message: message.to_string() }
    }

    /// The caller may not do this; it gets a refusal.
    pub(crate) fn unauthorized(message: &str) -> Self {
        Self { code: NackCode::Unauthorized, message: message.to_owned() }
    }

    /// What the caller is told.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { code: NackCode::HandlerError, message }
    }
}
