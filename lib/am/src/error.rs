//! What can go wrong, one type per operation.

use std::io;

use crate::endpoint::{Endpoint, EndpointError};
use crate::id::{InstanceId, InstanceIdError};

/// Why a node cannot listen on an endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody listens there already.
    #[error(
        "cannot listen on {endpoint}: the address is in use; choose another or stop the process that has it"
    )]
    InUse {
        /// The endpoint asked for.
        endpoint: Endpoint,
    },
    /// The address can be reached from outside this machine, and nothing authenticates peers.
    #[error(
        "refusing to use {endpoint}: it can be reached from outside this machine and nothing authenticates \
             peers; use a loopback address or ipc, or say `allow_insecure()` (`--insecure`)"
    )]
    Insecure {
        /// The endpoint asked for.
        endpoint: Endpoint,
    },
    /// A file that is no socket, or a directory that others can write to, is in the way.
    #[error("cannot listen on {endpoint}: {reason}")]
    Path {
        /// The endpoint asked for.
        endpoint: Endpoint,
        /// What is wrong with the path and what to do about it.
        reason: String,
    },
    /// The endpoint makes no sense for listening.
    #[error("cannot listen on {endpoint}: no transport serves it")]
    Unsupported {
        /// The endpoint asked for.
        endpoint: Endpoint,
    },
    /// The operating system says no.
    #[error("cannot listen on {endpoint}")]
    Io {
        /// The endpoint asked for.
        endpoint: Endpoint,
        /// The system's own word.
        source: io::Error,
    },
}

/// Why no link to a peer came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is no endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Nobody could be reached. Lists every attempt.
    #[error("no connection: {}", attempts_text(attempts))]
    Unreachable {
        /// What was tried, in order.
        attempts: Vec<ConnectAttempt>,
    },
    /// Somebody else answered.
    #[error("{endpoint} is instance {found}, not {expected}; its address may have been taken over")]
    WrongInstance {
        /// What was dialled.
        endpoint: Endpoint,
        /// Who was wanted.
        expected: InstanceId,
        /// Who answered.
        found: InstanceId,
    },
    /// The address can be reached from outside this machine, and nothing authenticates peers.
    #[error(
        "refusing to dial {endpoint}: it is not on this machine and nothing authenticates peers; use a \
             loopback address or ipc, or say `allow_insecure()` (`--insecure`)"
    )]
    Insecure {
        /// What was to be dialled.
        endpoint: Endpoint,
    },
    /// The node has as many links as it may.
    #[error("this node has {limit} links already, its `links_max`")]
    TooManyLinks {
        /// The limit.
        limit: usize,
    },
    /// This node has shut down or was dropped.
    #[error("this node has shut down")]
    NodeStopped,
}

/// One endpoint that could not be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectAttempt {
    /// What was dialled.
    pub endpoint: Endpoint,
    /// What went wrong.
    pub reason: String,
}

fn attempts_text(attempts: &[ConnectAttempt]) -> String {
    let texts: Vec<String> = attempts.iter().map(|at| format!("{}: {}", at.endpoint, at.reason)).collect();
    if texts.is_empty() { "no endpoint was given".to_owned() } else { texts.join("; ") }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The text is no endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// It cannot listen where it was told to.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// An identity whose first octet is 0 is not allowed.
    #[error("{0}")]
    Identity(#[from] InstanceIdError),
}

/// Why a handler was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is taken.
    #[error("a handler `{name}` is registered already; say `.replace()` to take its place")]
    Taken {
        /// The name.
        name: String,
    },
    /// The name is not allowed.
    #[error("`{name}` cannot name a handler: {reason}")]
    Name {
        /// The name, cut at 64 characters.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// An option that this kind of handler does not have.
    #[error("handler `{name}`: {option} does not apply to {kind} handlers")]
    Option {
        /// The name.
        name: String,
        /// The option.
        option: &'static str,
        /// The kind of handler.
        kind: &'static str,
    },
    /// Too many handlers.
    #[error("this node has {limit} handlers already, its `handlers_max`")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// This node has shut down.
    #[error("this node has shut down")]
    NodeStopped,
}
