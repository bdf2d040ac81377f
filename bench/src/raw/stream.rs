//! What the baselines talk over: a tcp or unix socket, or a pair of pipes in memory, each as two halves.
//!
//! The kinds are an enum and not a type parameter, as one more branch costs nothing beside a system call.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net as std_unix;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};
use tokio::sync::mpsc;

use crate::case::Transport;

/// Octets that a pipe in memory holds, each way: half of what a tcp connection over loopback grows to.
const PIPE_LEN: usize = 512 << 10;
/// Pipes that wait to be accepted.
const PIPES_MAX: usize = 1024;

/// Where the pipes of this process are dialled, by name.
static PIPES: Mutex<BTreeMap<String, mpsc::Sender<DuplexStream>>> = Mutex::new(BTreeMap::new());

fn pipes() -> MutexGuard<'static, BTreeMap<String, mpsc::Sender<DuplexStream>>> {
    PIPES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
}

/// Its receiving half.
#[derive(Debug)]
pub(crate) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Pipe(ReadHalf<DuplexStream>),
}

/// Its sending half.
#[derive(Debug)]
pub(crate) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Pipe(WriteHalf<DuplexStream>),
}

impl Stream {
    /// Connects to a [`Listener`]'s address.
    pub(crate) async fn dial(transport: Transport, address: &str) -> io::Result<Self> {
        match transport {
            Transport::Tcp => Self::tcp(TcpStream::connect(address).await?),
            Transport::Ipc => {
                let address = std_unix::SocketAddr::from_abstract_name(address)?;
                let stream = std_unix::UnixStream::connect_addr(&address)?;
                stream.set_nonblocking(true)?;
                Ok(Self::unix(UnixStream::from_std(stream)?))
            }
            Transport::Inproc => {
                let listener = pipes().get(address).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
                let (ours, theirs) = tokio::io::duplex(PIPE_LEN);
                listener.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(Self::pipe(ours))
            }
        }
    }

    fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, 512 << 10)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 512 << 10)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: Reader::Tcp(reader), writer: Writer::Tcp(writer) })
    }

    fn unix(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: Reader::Unix(reader), writer: Writer::Unix(writer) }
    }

    fn pipe(stream: DuplexStream) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: Reader::Pipe(reader), writer: Writer::Pipe(writer) }
    }
}

/// Accepts connections at an address that it chose.
#[derive(Debug)]
pub(crate) struct Listener {
    address: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
    Pipe(mpsc::Receiver<DuplexStream>),
}

impl Listener {
    /// A free port of loopback, or a name that no other listener has.
    pub(crate) async fn bind(transport: Transport) -> io::Result<Self> {
        // Names without a file leave nothing behind, even of a process that was killed.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dynamo-am-bench-{}-{number}", std::process::id());
        match transport {
            Transport::Tcp => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                Ok(Self { address: listener.local_addr()?.to_string(), kind: Kind::Tcp(listener) })
            }
            Transport::Ipc => {
                let address = std_unix::SocketAddr::from_abstract_name(&name)?;
                let listener = std_unix::UnixListener::bind_addr(&address)?;
                listener.set_nonblocking(true)?;
                Ok(Self { address: name, kind: Kind::Unix(UnixListener::from_std(listener)?) })
            }
            Transport::Inproc => {
                let (dialled, accepted) = mpsc::channel(PIPES_MAX);
                pipes().insert(name.clone(), dialled);
                Ok(Self { address: name, kind: Kind::Pipe(accepted) })
            }
        }
    }

    /// What [`Stream::dial`] takes.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The next connection.
    pub(crate) async fn accept(&mut self) -> io::Result<Stream> {
        match &mut self.kind {
            Kind::Tcp(listener) => Stream::tcp(listener.accept().await?.0),
            Kind::Unix(listener) => Ok(Stream::unix(listener.accept().await?.0)),
            Kind::Pipe(accepted) => {
                let stream = accepted.recv().await.ok_or(io::ErrorKind::NotConnected)?;
                Ok(Stream::pipe(stream))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        pipes().remove(&self.address);
    }
}

impl Reader {
    /// Reads what is there at this moment, past the I/O driver; `WouldBlock` when that is nothing.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let (read, _) = match self {
            Self::Tcp(half) => rustix::net::recv(half.as_ref(), buffer, flags)?,
            Self::Unix(half) => rustix::net::recv(half.as_ref(), buffer, flags)?,
            Self::Pipe(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(read)
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Self::Unix(half) => Pin::new(half).poll_read(cx, buf),
            Self::Pipe(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, buf),
            Self::Unix(half) => Pin::new(half).poll_write(cx, buf),
            Self::Pipe(half) => Pin::new(half).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            Self::Unix(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            Self::Pipe(half) => Pin::new(half).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(half) => half.is_write_vectored(),
            Self::Unix(half) => half.is_write_vectored(),
            Self::Pipe(half) => half.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Unix(half) => Pin::new(half).poll_flush(cx),
            Self::Pipe(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
            Self::Pipe(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
