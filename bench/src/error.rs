//! What can go wrong: [`RoleError`] inside one of the two measured processes, [`BenchError`] in the
//! one that conducts them.

use std::io;

/// Why a server or client process could not do its part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// The argument is not the JSON of a [`crate::RoleSpec`].
    #[error("the role's specification can't be read; it is written by the benchmark itself")]
    Spec(#[source] serde_json::Error),
    /// A value of the specification is outside its range.
    #[error("{what} must be {range}, not {actual}")]
    OutOfRange {
        /// The setting's name.
        what: &'static str,
        /// What would be accepted.
        range: &'static str,
        /// What was asked for.
        actual: u64,
    },
    /// The node under test failed.
    #[error("{doing} failed: {reason}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The node's own words.
        reason: String,
    },
    /// A socket or a standard stream failed.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The other process closed the connection in the middle of the measurement.
    #[error("the peer closed the connection with calls unanswered")]
    PeerClosed,
    /// Bytes arrived that the workload never sends.
    #[error("the peer sent what this workload never sends: {0}")]
    Unexpected(&'static str),
    /// A phase took longer than the specification's limit.
    #[error("{phase} did not end within {limit_ms} ms; ask for a smaller count or a longer limit")]
    TooSlow {
        /// Which phase.
        phase: &'static str,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// A task of the workload panicked, which is a defect of the benchmark.
    #[error("a task of the workload panicked")]
    TaskPanicked,
    /// The conductor closed the control stream or said something that is not in the protocol.
    #[error("expected {expected:?} on the control stream, got {got:?}")]
    Control {
        /// The line that was due.
        expected: &'static str,
        /// The line that came; empty when the stream ended.
        got: String,
    },
}

impl RoleError {
    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// Wraps an error of the node under test with what was being done.
    pub(crate) fn system<E: std::error::Error>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System { doing, reason: error.to_string() }
    }
}

/// Why a benchmark could not be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The options contradict themselves or leave nothing to measure.
    #[error("{0}")]
    Options(String),
    /// A process could not be started.
    #[error("can't start {exe} for the {role}")]
    Spawn {
        /// `server` or `client`.
        role: &'static str,
        /// The program.
        exe: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A process ended before it had said what was due.
    #[error("the {role} of {case} ended before its {expected}: {said}")]
    Ended {
        /// `server` or `client`.
        role: &'static str,
        /// The measurement.
        case: String,
        /// What it should have said.
        expected: &'static str,
        /// The end of what it wrote to its error stream.
        said: String,
    },
    /// A process said nothing for too long, and was killed.
    #[error("the {role} of {case} did not give its {expected} within {limit_ms} ms and was stopped")]
    Silent {
        /// `server` or `client`.
        role: &'static str,
        /// The measurement.
        case: String,
        /// What it should have said.
        expected: &'static str,
        /// How long was waited, in milliseconds.
        limit_ms: u64,
    },
    /// A process said something else than what was due.
    #[error("the {role} of {case} said {line:?} where its {expected} was due")]
    Unexpected {
        /// `server` or `client`.
        role: &'static str,
        /// The measurement.
        case: String,
        /// What it should have said.
        expected: &'static str,
        /// What it said, at most 200 characters.
        line: String,
    },
    /// Nothing was measured in a run, so no rate can be given.
    #[error("{case} finished no message; ask for a longer time or a higher count")]
    Nothing {
        /// The measurement.
        case: String,
    },
    /// A cost could not be counted.
    #[error("can't count {what}: {reason}")]
    NotCounted {
        /// What was to be counted.
        what: &'static str,
        /// Why it can't.
        reason: String,
    },
}
