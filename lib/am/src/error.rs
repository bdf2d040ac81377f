//! What can go wrong, one type per operation.

use std::io;

use crate::endpoint::Endpoint;

/// Why a node cannot listen on an endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody listens there already.
    #[error("cannot listen on {endpoint}: the address is in use; choose another or stop the process that has it")]
    InUse {
        /// The endpoint asked for.
        endpoint: Endpoint,
    },
    /// The address can be reached from outside this machine, and nothing authenticates peers.
    #[error("refusing to use {endpoint}: it can be reached from outside this machine and nothing authenticates \
             peers; use a loopback address or ipc, or say `allow_insecure()` (`--insecure`)")]
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
