//! How a command ends: [`Exit`] is the code that scripts see, [`Failure`] what a person, or a program that asked
//! for JSON, is told on standard error.
//!
//! **Invariant**: whatever goes wrong has a code of [`Exit`], and the codes mean the same in every command.

use std::io;

use dynamo_am::{CallError, ConnectError, EndpointError, Refusal, RegisterError, ShutdownError, StartError};
use serde_json::json;

use crate::output::printable;

/// The exit codes, as `am --help` lists them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    it worked
  1    it failed at the handler: an error, a panic, an answer that cannot be used
  2    wrong usage or bad input: nothing was sent
  3    no connection, or it was lost on the way
  4    refused: no such handler, bad argument, draining, overloaded, not allowed
  5    the deadline has passed
  130  ended by Ctrl-C
  141  nobody reads the output any more";

/// With what code the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Handler = 1,
    Usage = 2,
    NoConnection = 3,
    Refused = 4,
    Deadline = 5,
    Interrupted = 130,
    /// 128 and SIGPIPE, as the shell has it for programs that do not catch it.
    BrokenPipe = 141,
}

impl Exit {
    const fn kind(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Handler => "handler",
            Self::Usage => "usage",
            Self::NoConnection => "no_connection",
            Self::Refused => "refused",
            Self::Deadline => "deadline",
            Self::Interrupted => "interrupted",
            Self::BrokenPipe => "broken_pipe",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What went wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    hint: Option<String>,
    /// Why the peer refused.
    reason: Option<Refusal>,
    /// For calls: whether the handler cannot have run, and whether trying again can help.
    retry: Option<(bool, bool)>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, reason: None, retry: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The handler, or the work itself, failed.
    pub(crate) fn handler(message: impl Into<String>) -> Self {
        Self::new(Exit::Handler, message)
    }

    /// Nobody there, or not any more.
    pub(crate) fn connection(message: impl Into<String>) -> Self {
        Self::new(Exit::NoConnection, message)
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What is written to standard error, or nothing where nobody needs to be told.
    pub(crate) fn text(&self, as_json: bool) -> Option<String> {
        if matches!(self.exit, Exit::Ok | Exit::BrokenPipe) {
            return None;
        }
        if as_json {
            let mut error = json!({
                "error": self.exit.kind(),
                "exit": self.exit as u8,
                "message": self.message,
            });
            if let Some(hint) = &self.hint {
                error["hint"] = json!(hint);
            }
            if let Some(reason) = self.reason {
                error["reason"] = json!(reason.to_string());
            }
            if let Some((retry_safe, transient)) = self.retry {
                error["retry_safe"] = json!(retry_safe);
                error["transient"] = json!(transient);
            }
            return Some(format!("{error}\n"));
        }
        // The words may be a peer's: its control characters must not reach the terminal.
        let message = printable(&self.message);
        Some(match &self.hint {
            Some(hint) => format!("am: {message}\n    {hint}\n"),
            None => format!("am: {message}\n"),
        })
    }
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (exit, hint) = match &error {
            CallError::NotSent { transient: true, .. } => {
                (Exit::NoConnection, Some("the handler has not run; it is safe to try again"))
            }
            CallError::NotSent { .. } => (Exit::Usage, None),
            CallError::Refused { reason: Refusal::Expired, .. } | CallError::DeadlineExceeded { .. } => {
                (Exit::Deadline, Some("give it longer with --timeout"))
            }
            CallError::Refused { reason, .. } => (Exit::Refused, refusal_hint(*reason)),
            CallError::PeerLost { .. } => {
                (Exit::NoConnection, Some("see whether it has ended, and call again if that does no harm"))
            }
            CallError::HandlerPanicked { .. } => (Exit::Handler, Some("the log of that node says more")),
            _ => (Exit::Handler, None),
        };
        Self {
            exit,
            message: chain(&error),
            hint: hint.map(str::to_owned),
            reason: match &error {
                CallError::Refused { reason, .. } => Some(*reason),
                _ => None,
            },
            retry: Some((error.is_retry_safe(), error.is_transient())),
        }
    }
}

const fn refusal_hint(reason: Refusal) -> Option<&'static str> {
    Some(match reason {
        Refusal::NoHandler => "`am handlers ENDPOINT` lists the handlers of that node",
        Refusal::Overloaded => "it has too much to do right now; try again a little later",
        Refusal::Draining => "that node is shutting down; call another one, or this one when it is back",
        Refusal::Unauthorized => "`am serve --allow-shutdown` settles who may shut a node down",
        Refusal::TooLarge => "send it in smaller parts",
        Refusal::ContractMismatch => {
            "`am handlers ENDPOINT` says what it takes and gives; --notify and --confirm ask for no response"
        }
        Refusal::BadArgument => "`am handlers ENDPOINT` says what type it takes",
        _ => return None,
    })
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::Endpoint(_) | ConnectError::Insecure { .. } => Self::usage(chain(&error)),
            _ => Self::new(Exit::NoConnection, chain(&error))
                .hint("see that a node listens there; `am serve` starts one and prints its endpoints"),
        }
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<RegisterError> for Failure {
    fn from(error: RegisterError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<ShutdownError> for Failure {
    fn from(error: ShutdownError) -> Self {
        Self::new(Exit::Deadline, chain(&error))
    }
}

/// Writing the output failed: the only I/O whose error says nothing of its place.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::BrokenPipe, "nobody reads the output any more");
        }
        Self::usage(format!("cannot write the output: {error}")).hint("see whether the disk is full")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_peer_never_reach_the_terminal() {
        let failure = Failure::new(Exit::Handler, "bad \u{1b}[2J words\r\n");
        let text = failure.text(false).unwrap();
        assert!(!text.trim_end_matches('\n').contains(['\u{1b}', '\r', '\n']), "{text:?}");
    }

    #[test]
    fn json_errors_are_one_line_with_code_and_words() {
        let text = Failure::usage("a\nb").hint("do c").text(true).unwrap();
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, json!({"error": "usage", "exit": 2, "message": "a\nb", "hint": "do c"}));
    }

    #[test]
    fn a_closed_pipe_is_nobodys_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.text(false)), (Exit::BrokenPipe, None));
    }

    #[test]
    fn the_help_lists_every_code() {
        for exit in [
            Exit::Ok,
            Exit::Handler,
            Exit::Usage,
            Exit::NoConnection,
            Exit::Refused,
            Exit::Deadline,
            Exit::Interrupted,
            Exit::BrokenPipe,
        ] {
            let code = format!("  {} ", exit as u8);
            assert!(EXIT_CODES.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }
}
