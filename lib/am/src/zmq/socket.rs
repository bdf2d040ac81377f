//! The two halves of a kernel socket, shared by TCP and unix sockets: the last step before the system call.
//!
//! The hazards it removes: a receive buffer that grows beyond what was asked or is zeroed first, a `SIGPIPE`
//! in programs that do not ignore it (a library cannot know), and `EMSGSIZE` for more slices than the kernel
//! takes at once.
//!
//! **Invariants**
//! 1. A reader never appends more than `len_max` bytes, and reserves exactly that when the buffer is shorter.
//! 2. Reads by way of the I/O driver and direct ones mix freely: readiness is edge-triggered, so a direct
//!    read can only make it stale towards "ready", which costs one system call and loses no wake-up.

use std::fmt;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use rustix::buffer::spare_capacity;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use tokio::io::{AsyncRead, Interest};
use tokio::net::{TcpStream, UnixStream};

use crate::transport::{ByteStream, PeerAddress, StreamReader, StreamWriter};

/// What the halves need of a stream of tokio's beyond its descriptor.
pub(super) trait Socket: AsFd + Send + Sync + 'static {
    fn try_io(&self, interest: Interest, operation: impl FnOnce() -> io::Result<usize>) -> io::Result<usize>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! socket {
    ($stream:ty) => {
        impl Socket for $stream {
            fn try_io(
                &self,
                interest: Interest,
                operation: impl FnOnce() -> io::Result<usize>,
            ) -> io::Result<usize> {
                <$stream>::try_io(self, interest, operation)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                <$stream>::poll_write_ready(self, cx)
            }
        }
    };
}
socket!(TcpStream);
socket!(UnixStream);

/// A TCP stream as the contract wants it.
pub(super) fn tcp_stream(stream: TcpStream, peer: PeerAddress) -> ByteStream {
    let (reader, writer) = stream.into_split();
    ByteStream { reader: Box::new(Reader::new(reader)), writer: Box::new(Writer::new(writer)), peer }
}

/// A unix stream as the contract wants it.
pub(super) fn unix_stream(stream: UnixStream, peer: PeerAddress) -> ByteStream {
    let (reader, writer) = stream.into_split();
    ByteStream { reader: Box::new(Reader::new(reader)), writer: Box::new(Writer::new(writer)), peer }
}

/// The receiving half: `H` is tokio's owned read half of an `S`.
struct Reader<H, S> {
    half: H,
    socket: PhantomData<fn() -> S>,
}

impl<H, S> Reader<H, S> {
    fn new(half: H) -> Self {
        Self { half, socket: PhantomData }
    }
}

impl<H, S> StreamReader for Reader<H, S>
where
    H: AsyncRead + AsRef<S> + Unpin + Send + 'static,
    S: Socket,
{
    // tokio's own read: it remembers a short one as "drained", which saves the call that would say so.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        len_max: usize,
    ) -> Poll<io::Result<usize>> {
        buffer.reserve_exact(len_max);
        tokio_util::io::poll_read_buf(Pin::new(&mut self.half), cx, &mut buffer.limit(len_max))
    }

    fn try_read(&mut self, buffer: &mut Vec<u8>, len_max: usize) -> io::Result<usize> {
        read_direct(self.half.as_ref(), buffer, len_max)
    }
}

/// One `read` into `buffer`'s spare capacity.
fn read_direct(socket: &impl AsFd, buffer: &mut Vec<u8>, len_max: usize) -> io::Result<usize> {
    if len_max == 0 {
        return Ok(0);
    }
    buffer.reserve_exact(len_max);
    if buffer.capacity() - buffer.len() == len_max {
        return retry_interrupted(|| rustix::io::read(socket, spare_capacity(buffer)));
    }
    // The spare capacity is larger than the limit, and cannot be narrowed in safe code: by way of the stack.
    let mut scratch = [MaybeUninit::<u8>::uninit(); SCRATCH_LEN];
    let (window, _) = scratch.split_at_mut(len_max.min(SCRATCH_LEN));
    retry_interrupted(|| {
        let (filled, _) = rustix::io::read(socket, &mut *window)?;
        buffer.extend_from_slice(filled);
        Ok(filled.len())
    })
}

/// The sending half: `H` is tokio's owned write half of an `S`; dropping it ends the sending direction.
struct Writer<H, S> {
    half: H,
    socket: PhantomData<fn() -> S>,
}

impl<H, S> Writer<H, S> {
    fn new(half: H) -> Self {
        Self { half, socket: PhantomData }
    }
}

impl<H, S> StreamWriter for Writer<H, S>
where
    H: AsRef<S> + Send + Sync + 'static,
    S: Socket,
{
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.half.as_ref();
        socket.try_io(Interest::WRITABLE, || retry_interrupted(|| send(socket, buffers)))
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half.as_ref().poll_write_ready(cx)
    }

    fn shutdown(&self) -> io::Result<()> {
        match rustix::net::shutdown(self.half.as_ref(), Shutdown::Write) {
            // The connection is gone already: its sending direction has ended all the more.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl<H, S> fmt::Debug for Reader<H, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<H, S> fmt::Debug for Writer<H, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

fn send(socket: &impl AsFd, buffers: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    match buffers {
        [] => Ok(0),
        [one] => rustix::net::send(socket, one, SendFlags::NOSIGNAL),
        many => {
            let slices = many.get(..SLICES_MAX).unwrap_or(many);
            let mut control = SendAncillaryBuffer::default();
            rustix::net::sendmsg(socket, slices, &mut control, SendFlags::NOSIGNAL)
        }
    }
}

fn retry_interrupted(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    rustix::io::retry_on_intr(&mut call).map_err(io::Error::from)
}

/// Slices that one `sendmsg` takes (`UIO_MAXIOV`); what lies behind them goes with the next call.
const SLICES_MAX: usize = 1024;
/// Bytes that a direct read into an oversized buffer moves at most: a quarter of a receive chunk, small enough
/// for any stack.
const SCRATCH_LEN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_direct_read_never_takes_more_than_asked_nor_grows_the_buffer_further() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.write_all(&[7; 100]).unwrap();
        let mut tight = Vec::new();
        assert_eq!(read_direct(&theirs, &mut tight, 10).unwrap(), 10);
        assert_eq!((tight.len(), tight.capacity()), (10, 10));
        let mut roomy = Vec::with_capacity(64);
        roomy.push(1);
        assert_eq!(read_direct(&theirs, &mut roomy, 20).unwrap(), 20);
        assert_eq!((roomy.len(), roomy.capacity()), (21, 64));
        assert_eq!(read_direct(&theirs, &mut roomy, 0).unwrap(), 0);
        assert!(roomy.ends_with(&[7; 20]));
    }

    #[test]
    fn more_slices_than_the_kernel_takes_are_a_partial_write() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let slices = vec![IoSlice::new(b"x"); SLICES_MAX + 5];
        assert_eq!(send(&ours, &slices).unwrap(), SLICES_MAX);
        let mut buffer = Vec::new();
        assert_eq!(read_direct(&theirs, &mut buffer, 4096).unwrap(), SLICES_MAX);
        assert_eq!(send(&ours, &[]).unwrap(), 0);
    }
}
