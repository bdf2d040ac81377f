//! Unix sockets: the short way between processes of one machine.
//!
//! The first and last step of a message on one host; who may bind a path, and what becomes of its files, is
//! `ipc_path`'s business. A peer is known by its user id, which the kernel vouches for.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{UnixListener, UnixStream};

use super::ipc_path::{self, BoundPath, Refusal};
use super::listening::AcceptBackoff;
use super::socket::unix_stream;
use crate::endpoint::Endpoint;
use crate::error::BindError;
use crate::transport::{BoxFuture, ByteStream, Listener, PeerAddress, ThinTransport};

/// `ipc:///PATH`, and `ipc://*` for a fresh path in the [runtime directory](super::runtime_dir).
///
/// A socket that a dead process left is taken over, a living one is [`BindError::InUse`]; whatever else stands
/// in the way is [`BindError::Path`]. Socket files have mode 0600, and are removed when the listener is dropped.
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct IpcTransport;

impl IpcTransport {
    /// The transport. It has no settings and no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl ThinTransport for IpcTransport {
    fn serves(&self, endpoint: &Endpoint) -> bool {
        matches!(endpoint, Endpoint::Ipc { .. } | Endpoint::IpcPrivate)
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<ByteStream>> {
        Box::pin(async move {
            dial(endpoint)
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("cannot reach {endpoint}: {error}")))
        })
    }

    fn listen<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Box<dyn Listener>, BindError>> {
        // System calls on local files, none of which waits for anybody: not worth a thread.
        Box::pin(async move {
            let acceptor = match endpoint {
                Endpoint::IpcPrivate => ipc_path::bind_private(),
                Endpoint::Ipc { path } => ipc_path::bind(path),
                _ => return Err(BindError::Unsupported { endpoint: endpoint.clone() }),
            }
            .and_then(|(socket, bound)| IpcAcceptor::new(socket, bound));
            match acceptor {
                Ok(acceptor) => Ok(Box::new(acceptor) as Box<dyn Listener>),
                Err(refusal) => Err(bind_error(endpoint.clone(), refusal)),
            }
        })
    }
}

fn bind_error(endpoint: Endpoint, refusal: Refusal) -> BindError {
    match refusal {
        Refusal::InUse => BindError::InUse { endpoint },
        Refusal::Path(reason) => BindError::Path { endpoint, reason },
        Refusal::Io(source) => BindError::Io { endpoint, source },
    }
}

async fn dial(endpoint: &Endpoint) -> io::Result<ByteStream> {
    let Some(path) = endpoint.ipc_path() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no socket"));
    };
    let mut pause = PAUSE_MIN;
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => {
                let peer = peer_address(&stream)?;
                return Ok(unix_stream(stream, peer));
            }
            // The listener's backlog is full. TCP waits for room by itself; here the kernel leaves it to us.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(error) => return Err(error),
        }
    }
}

#[derive(Debug)]
struct IpcAcceptor {
    listener: UnixListener,
    endpoint: Endpoint,
    backoff: AcceptBackoff,
    // Its drop removes the files.
    _bound: BoundPath,
}

impl IpcAcceptor {
    fn new(socket: socket2::Socket, bound: BoundPath) -> Result<Self, Refusal> {
        let listener = UnixListener::from_std(socket.into())?;
        let endpoint = Endpoint::Ipc { path: bound.path().to_owned() };
        Ok(Self { listener, endpoint, backoff: AcceptBackoff::default(), _bound: bound })
    }
}

impl Listener for IpcAcceptor {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<ByteStream>> {
        Box::pin(async {
            loop {
                self.backoff.wait().await;
                // No await between a connection's arrival and its return: a dropped future loses none.
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        self.backoff.on_success();
                        match peer_address(&stream) {
                            Ok(peer) => return Ok(unix_stream(stream, peer)),
                            Err(error) => tracing::debug!(%error, "connection ended while accepted"),
                        }
                    }
                    Err(error) => self.backoff.on_error(error)?,
                }
            }
        })
    }
}

impl Drop for IpcAcceptor {
    fn drop(&mut self) {
        // See the TCP listener: a copy of the descriptor in a starting process must not keep it alive.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
    }
}

fn peer_address(stream: &UnixStream) -> io::Result<PeerAddress> {
    Ok(PeerAddress::Ipc { uid: stream.peer_cred()?.uid() })
}

/// First pause of a dial that finds the backlog full.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Its longest pause: far below the time that a caller allows (seconds).
const PAUSE_MAX: Duration = Duration::from_millis(50);
