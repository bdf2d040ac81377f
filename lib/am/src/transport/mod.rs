//! Byte streams between nodes, and the links that run over them.
//!
//! A [`ThinTransport`] knows how to dial and how to listen, and gives a [`ByteStream`] for each connection;
//! all else (handshake, framing, buffering, flow control) is the same for every transport and lives in
//! [`link`]. That is why it is called thin.
//!
//! # The contract of a transport
//!
//! Each bullet is a test of the conformance suite (`conformance`, feature `test-util`), which runs over
//! `tcp`, `ipc` and `inproc` here and can be run by other crates over their own transports.
//!
//! - **Order**: bytes arrive unchanged, in the order written, each exactly once.
//! - **Duplex**: both ends write and read independently; neither waits for the other.
//! - **Bounded**: `try_write` takes what fits and then answers `WouldBlock`; nothing is queued without bound.
//! - **Wakes**: `poll_read` and `poll_writable` wake their task when bytes, room, the end or an error comes;
//!   no wake-up is lost.
//! - **End**: after the peer's `shutdown` (or its stream's drop) every byte written before is still read, then
//!   reads give 0 for ever. Half-close: after our own `shutdown` we can still read.
//! - **Writes to a peer that is gone** fail with an error and never panic or raise a signal.
//! - **Dialling** resolves only when the stream is usable, and fails at once when nobody listens.
//! - **Listening** is usable when `listen` resolves; [`Listener::endpoint`] then names what was really bound.
//! - **One listener** for an endpoint: a second one, while the first lives, is an error that says so.
//! - **A dropped listener** frees its endpoint (and its socket file) at once.
//! - **Accepting** is cancel safe, and survives errors that concern one connection or a lack of descriptors.

#[cfg(feature = "test-util")]
pub mod conformance;
pub mod handshake;
pub mod inproc;
pub mod link;
#[cfg(feature = "test-util")]
pub mod sim;

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::endpoint::Endpoint;
use crate::error::BindError;

/// A future on the heap: dialling and listening are rare, so they may cost an allocation.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Dials and listens; see the [contract](self).
pub trait ThinTransport: Send + Sync + fmt::Debug + 'static {
    /// Whether this transport serves `endpoint`.
    fn serves(&self, endpoint: &Endpoint) -> bool;

    /// Opens a stream to `endpoint`. The caller bounds the time.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<ByteStream>>;

    /// Starts to listen on `endpoint`.
    fn listen<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Box<dyn Listener>, BindError>>;
}

/// A bound endpoint that accepts streams until it is dropped.
pub trait Listener: Send + fmt::Debug + 'static {
    /// What was really bound: the port that the kernel chose, the private path. The host may still be a
    /// wildcard; making it dialable is the manager's business.
    fn endpoint(&self) -> &Endpoint;

    /// The next stream. Cancel safe. An `Err` is permanent; passing trouble is waited out inside.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<ByteStream>>;
}

/// One connection, as two independent halves.
pub struct ByteStream {
    /// Its receiving half.
    pub reader: Box<dyn StreamReader>,
    /// Its sending half.
    pub writer: Box<dyn StreamWriter>,
    /// Who is at the other end, as far as the transport itself can tell.
    pub peer: PeerAddress,
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What the transport knows of a peer before any handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAddress {
    /// The address of a TCP peer.
    Tcp(SocketAddr),
    /// The user id of a unix-socket peer (`SO_PEERCRED`).
    Ipc {
        /// Numeric user id.
        uid: u32,
    },
    /// Another node of this process.
    Inproc,
}

/// The receiving half of a stream.
pub trait StreamReader: Send + 'static {
    /// Appends at most `len_max` bytes to `buffer`, without zeroing and without growing it beyond
    /// `buffer.len() + len_max`. 0 means the end of the stream. Partial reads are normal.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        len_max: usize,
    ) -> Poll<io::Result<usize>>;

    /// The same by a direct system call, past the I/O driver's readiness; `WouldBlock` when nothing is there.
    /// For busy polling.
    fn try_read(&mut self, buffer: &mut Vec<u8>, len_max: usize) -> io::Result<usize>;
}

/// The sending half of a stream. Shared: whoever finds the send buffer idle writes, so it takes `&self`; the
/// link makes sure that only one writes at a time.
pub trait StreamWriter: Send + Sync + 'static {
    /// Writes what fits; `WouldBlock` when nothing does.
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ready when writing may make progress. One task waits at a time.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the sending direction; the receiving one goes on. Idempotent.
    fn shutdown(&self) -> io::Result<()>;
}
