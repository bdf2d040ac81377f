//! TCP: dials host names and addresses, listens on interfaces.
//!
//! The first and last step of a message between machines. The hazards it removes: a dial that connects to
//! itself (a port of the ephemeral range on which nobody listens can be chosen as one's own source port), a
//! listener that ends for lack of descriptors, small writes held back by Nagle's algorithm.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, lookup_host};

use super::listening::{AcceptBackoff, BACKLOG};
use super::socket::tcp_stream;
use crate::endpoint::Endpoint;
use crate::error::BindError;
use crate::limits::Limits;
use crate::transport::{BoxFuture, ByteStream, Listener, PeerAddress, ThinTransport};

/// `tcp://HOST:PORT`.
///
/// Dialling resolves the name and tries its addresses in order. Listening on `*` takes both address families
/// (`[::]`), or `0.0.0.0` where IPv6 is off; a name is resolved, and its first address that exists here is
/// taken.
#[derive(Debug, Clone, Copy)]
pub struct TcpTransport(Options);

/// Of every connection.
#[derive(Debug, Clone, Copy)]
struct Options {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has it"))]
    user_timeout: Duration,
    buffer_len: usize,
}

impl Default for TcpTransport {
    fn default() -> Self {
        let limits = Limits::default();
        Self::new(limits.slow_consumer_timeout, limits.socket_buffer_len)
    }
}

impl TcpTransport {
    /// The transport. `stall_max` is how long a peer may take nothing of what waits for it: that verdict must be the
    /// link's, with its own error, so the kernel gives a connection up later, also while the peer's window is closed.
    /// `buffer_len` is what the kernel is asked to hold of a connection, in octets, each way and at each end.
    #[must_use]
    pub fn new(stall_max: Duration, buffer_len: usize) -> Self {
        Self(Options { user_timeout: stall_max.saturating_mul(3) / 2, buffer_len })
    }
}

impl ThinTransport for TcpTransport {
    fn serves(&self, endpoint: &Endpoint) -> bool {
        matches!(endpoint, Endpoint::Tcp { .. })
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<ByteStream>> {
        Box::pin(dial(endpoint, self.0))
    }

    fn listen<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Box<dyn Listener>, BindError>> {
        Box::pin(listen(endpoint, self.0))
    }
}

async fn dial(endpoint: &Endpoint, options: Options) -> io::Result<ByteStream> {
    let Endpoint::Tcp { host, port } = endpoint else {
        return Err(cannot_dial(endpoint, "it is not tcp"));
    };
    if endpoint.is_wildcard() {
        return Err(cannot_dial(endpoint, "it stands for many addresses or none; name one host and port"));
    }
    let mut failures = String::new();
    let mut kind = io::ErrorKind::NotFound;
    for address in lookup_host((host.as_str(), *port)).await.map_err(|e| unresolved(host, &e))? {
        match dial_address(address, options).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                kind = error.kind();
                failures
                    .push_str(&format!("{}{address}: {error}", if failures.is_empty() { "" } else { "; " }));
            }
        }
    }
    if failures.is_empty() {
        failures.push_str("the name has no address");
    }
    Err(io::Error::new(kind, format!("cannot reach {endpoint}: {failures}")))
}

async fn dial_address(address: SocketAddr, options: Options) -> io::Result<ByteStream> {
    let stream = TcpStream::connect(address).await?;
    let peer = stream.peer_addr()?;
    if stream.local_addr()? == peer {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "nobody listens there (the connection reached itself)",
        ));
    }
    prepare(&stream, options)?;
    Ok(tcp_stream(stream, peer_address(peer)))
}

async fn listen(endpoint: &Endpoint, options: Options) -> Result<Box<dyn Listener>, BindError> {
    let Endpoint::Tcp { host, port } = endpoint else {
        return Err(BindError::Unsupported { endpoint: endpoint.clone() });
    };
    let io_error = |source| BindError::Io { endpoint: endpoint.clone(), source };
    let addresses = if host == "*" {
        vec![(Ipv6Addr::UNSPECIFIED, *port).into(), (Ipv4Addr::UNSPECIFIED, *port).into()]
    } else {
        let found = lookup_host((host.as_str(), *port)).await.map_err(|e| io_error(unresolved(host, &e)))?;
        found.collect::<Vec<_>>()
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match bind(address) {
            Ok((listener, endpoint)) => {
                let backoff = AcceptBackoff::default();
                return Ok(Box::new(TcpAcceptor { listener, endpoint, backoff, options }));
            }
            // Another address of the name would be free, but whoever dials the name might get the other one.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(BindError::InUse { endpoint: endpoint.clone() });
            }
            Err(error) => last = error,
        }
    }
    Err(io_error(last))
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, Endpoint)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Only past connections are waited for otherwise: Linux still refuses a second living listener.
    socket.set_reuse_address(true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let endpoint = Endpoint::from(listener.local_addr()?);
    Ok((listener, endpoint))
}

#[derive(Debug)]
struct TcpAcceptor {
    listener: TcpListener,
    endpoint: Endpoint,
    backoff: AcceptBackoff,
    options: Options,
}

impl Listener for TcpAcceptor {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<ByteStream>> {
        Box::pin(async {
            loop {
                self.backoff.wait().await;
                // No await between a connection's arrival and its return: a dropped future loses none.
                match self.listener.accept().await {
                    Ok((stream, peer)) => {
                        self.backoff.on_success();
                        match prepare(&stream, self.options) {
                            Ok(()) => return Ok(tcp_stream(stream, peer_address(peer))),
                            Err(error) => tracing::debug!(%peer, %error, "connection ended while accepted"),
                        }
                    }
                    Err(error) => self.backoff.on_error(error)?,
                }
            }
        })
    }
}

impl Drop for TcpAcceptor {
    fn drop(&mut self) {
        // A process that is being started at this moment holds a copy of the descriptor until it executes, and
        // closing ours would not yet free the port.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
    }
}

/// Options of every connection, dialled or accepted.
fn prepare(stream: &TcpStream, options: Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    // Half of it is what Linux then makes of it for data; without, it would grow to many MiB on a fast network, and
    // all that is sent behind a large payload would wait for as much to be read.
    socket.set_recv_buffer_size(options.buffer_len)?;
    socket.set_send_buffer_size(options.buffer_len)?;
    Ok(())
}

/// A dual-stack listener sees IPv4 peers as mapped addresses; nobody else should.
fn peer_address(peer: SocketAddr) -> PeerAddress {
    PeerAddress::Tcp(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
}

fn cannot_dial(endpoint: &Endpoint, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("cannot dial {endpoint}: {reason}"))
}

fn unresolved(host: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot resolve the host name {host}: {error}"))
}

/// Silence after which the kernel begins to ask an idle peer's kernel for a sign of life.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// Questions without an answer that end the connection (where no user timeout governs it).
const KEEPALIVE_PROBES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_have_no_delay_keepalive_and_a_user_timeout_above_the_stall_limit() {
        let (listener, endpoint) = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let Endpoint::Tcp { port, .. } = endpoint else { panic!("not tcp") };
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let transport = TcpTransport::new(Duration::from_secs(40), 100_000);
        prepare(&stream, transport.0).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)));
        assert_eq!(socket.recv_buffer_size().unwrap(), 2 * 100_000);
        drop(listener);
    }

    #[tokio::test]
    async fn wildcards_cannot_be_dialled_and_the_error_says_so() {
        for text in ["tcp://*:5", "tcp://0.0.0.0:5", "tcp://127.0.0.1:0"] {
            let error = dial(&text.parse().unwrap(), TcpTransport::default().0).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn mapped_addresses_are_shown_as_ipv4() {
        let peer = peer_address("[::ffff:10.0.0.1]:5".parse().unwrap());
        assert_eq!(peer, PeerAddress::Tcp("10.0.0.1:5".parse().unwrap()));
    }
}
