//! How a command ends: [`Failure`], its exit code and its words.

use std::process::ExitCode;

use dynamo_am::{CallError, ConnectError, StartError};
use serde_json::json;

/// What `am --help` says about exit codes.
pub(crate) const CODES: &str = "Exit codes:
  0    it worked
  1    the handler failed or panicked
  2    wrong usage or bad input
  3    no connection, or the peer was lost
  4    the peer refused: no such handler, overloaded, draining, ...
  5    the deadline passed
  130  interrupted";

/// Why a command did not work.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    kind: &'static str,
    message: String,
}

impl Failure {
    const fn new(code: u8, kind: &'static str, message: String) -> Self {
        Self { code, kind, message }
    }

    /// The handler failed.
    pub(crate) fn handler(message: impl Into<String>) -> Self {
        Self::new(1, "failed", message.into())
    }

    /// Wrong usage or bad input.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, "usage", message.into())
    }

    /// Nobody there.
    pub(crate) fn connection(message: impl Into<String>) -> Self {
        Self::new(3, "connection", message.into())
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new(130, "interrupted", "interrupted".to_owned())
    }

    /// Says it on standard error.
    pub(crate) fn report(&self, as_json: bool) -> ExitCode {
        if as_json {
            eprintln!("{}", json!({"error": self.kind, "message": self.message, "exit": self.code}));
        } else {
            eprintln!("am: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (code, kind) = match &error {
            CallError::Refused { .. } => (4, "refused"),
            CallError::DeadlineExceeded { .. } => (5, "deadline"),
            CallError::PeerLost { .. } | CallError::Protocol { .. } => (3, "connection"),
            CallError::NotSent { transient: true, .. } => (3, "connection"),
            CallError::NotSent { .. } => (2, "usage"),
            _ => (1, "failed"),
        };
        Self::new(code, kind, error.to_string())
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::Endpoint(_) | ConnectError::Insecure { .. } => Self::usage(error.to_string()),
            _ => Self::connection(error.to_string()),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self::usage(message)
    }
}
