//! Streams within one process: links to oneself, tests, and nodes that share a process.
//!
//! They take the place of sockets at the bottom of a message's way, so that such links have buffer, credit and
//! reader like any other. A direction is a pipe: a bounded ring of bytes behind a lock.
//!
//! **Invariants**
//! 1. A pipe never holds more than its capacity; what does not fit is the writer's to keep.
//! 2. Wakers are called after the lock is released, and whoever returns `Pending` has left his waker under the
//!    same lock that showed him nothing to do: no wake-up is lost.
//! 3. One lock at a time: a pipe's or the registry's, never one inside the other.

use std::collections::{HashMap, VecDeque, hash_map::Entry};
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{BoxFuture, ByteStream, Listener, PeerAddress, StreamReader, StreamWriter, ThinTransport};
use crate::endpoint::Endpoint;
use crate::error::BindError;

/// Bytes that one direction of a stream holds: about what a loopback socket holds, four receive chunks.
pub const CAPACITY: usize = 256 * 1024;

/// `inproc://NAME`. Names are one space for the whole process.
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct InprocTransport;

impl InprocTransport {
    /// The transport. It has no settings; all of them share the process's names.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// Two connected streams, each direction of [`CAPACITY`] bytes.
#[must_use]
pub fn pair() -> (ByteStream, ByteStream) {
    pair_with_capacity(CAPACITY)
}

/// Two connected streams, each direction of `capacity` bytes (at least 1).
#[must_use]
pub fn pair_with_capacity(capacity: usize) -> (ByteStream, ByteStream) {
    let (there, back) = (Pipe::shared(capacity), Pipe::shared(capacity));
    let stream = |incoming: &SharedPipe, outgoing: &SharedPipe| ByteStream {
        reader: Box::new(PipeReader { pipe: Arc::clone(incoming) }),
        writer: Box::new(PipeWriter { pipe: Arc::clone(outgoing) }),
        peer: PeerAddress::Inproc,
    };
    (stream(&back, &there), stream(&there, &back))
}

/// Names that are listened on. Whoever dials puts one end of a new pair into the listener's queue.
static LISTENERS: LazyLock<Mutex<HashMap<String, mpsc::Sender<ByteStream>>>> = LazyLock::new(Mutex::default);

impl ThinTransport for InprocTransport {
    fn serves(&self, endpoint: &Endpoint) -> bool {
        matches!(endpoint, Endpoint::Inproc { .. })
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<ByteStream>> {
        Box::pin(async move {
            let refused = || {
                let text = format!("cannot reach {endpoint}: no node of this process listens there");
                io::Error::new(io::ErrorKind::ConnectionRefused, text)
            };
            let Endpoint::Inproc { name } = endpoint else {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{endpoint} is not inproc")));
            };
            let listener = LISTENERS.lock().get(name).cloned().ok_or_else(refused)?;
            let (ours, theirs) = pair();
            // A full queue is waited for, as with a socket's backlog.
            listener.send(theirs).await.map_err(|_| refused())?;
            Ok(ours)
        })
    }

    fn listen<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Box<dyn Listener>, BindError>> {
        Box::pin(async move {
            let Endpoint::Inproc { name } = endpoint else {
                return Err(BindError::Unsupported { endpoint: endpoint.clone() });
            };
            match LISTENERS.lock().entry(name.clone()) {
                Entry::Occupied(_) => Err(BindError::InUse { endpoint: endpoint.clone() }),
                Entry::Vacant(vacant) => {
                    let (sender, arrivals) = mpsc::channel(BACKLOG);
                    vacant.insert(sender);
                    let listener =
                        InprocListener { endpoint: endpoint.clone(), name: name.clone(), arrivals };
                    Ok(Box::new(listener) as Box<dyn Listener>)
                }
            }
        })
    }
}

#[derive(Debug)]
struct InprocListener {
    endpoint: Endpoint,
    name: String,
    arrivals: mpsc::Receiver<ByteStream>,
}

impl Listener for InprocListener {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<ByteStream>> {
        Box::pin(async {
            // The registry holds a sender for as long as this listener lives.
            let closed = || io::Error::new(io::ErrorKind::BrokenPipe, "the listener is closed");
            self.arrivals.recv().await.ok_or_else(closed)
        })
    }
}

impl Drop for InprocListener {
    fn drop(&mut self) {
        // The name is ours: nobody else can have taken it while we had it.
        let sender = LISTENERS.lock().remove(&self.name);
        // Dropped here, outside of the lock, as are the streams that nobody accepted: they wake their diallers.
        drop(sender);
    }
}

type SharedPipe = Arc<Mutex<Pipe>>;

/// One direction of a stream.
struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The reader's waker while it waits for bytes or the end.
    reader: Option<Waker>,
    /// The writer's waker while it waits for room or the reader's end.
    writer: Option<Waker>,
    reader_is_gone: bool,
    writer_is_done: bool,
}

impl Pipe {
    fn shared(capacity: usize) -> SharedPipe {
        Arc::new(Mutex::new(Self {
            bytes: VecDeque::new(),
            capacity: capacity.max(1),
            reader: None,
            writer: None,
            reader_is_gone: false,
            writer_is_done: false,
        }))
    }

    /// Moves at most `len_max` bytes to `buffer`. `None` if there are none yet; 0 is the end.
    fn read(&mut self, buffer: &mut Vec<u8>, len_max: usize) -> Option<usize> {
        let len = self.bytes.len().min(len_max);
        if len == 0 {
            return (self.writer_is_done || len_max == 0).then_some(0);
        }
        buffer.reserve_exact(len);
        let (front, back) = self.bytes.as_slices();
        let (from_front, from_back) = match front.get(..len) {
            Some(all) => (all, &back[..0]),
            None => (front, back.get(..len - front.len()).unwrap_or(back)),
        };
        buffer.extend_from_slice(from_front);
        buffer.extend_from_slice(from_back);
        self.bytes.drain(..len);
        Some(len)
    }

    /// Takes what fits of `buffers`.
    fn write(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.reader_is_gone || self.writer_is_done {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut written = 0;
        let mut has_more = false;
        for buffer in buffers.iter().filter(|buffer| !buffer.is_empty()) {
            let room = self.capacity - self.bytes.len();
            let fitting = buffer.get(..room).unwrap_or(buffer);
            self.reserve(fitting.len());
            self.bytes.extend(fitting);
            written += fitting.len();
            if fitting.len() < buffer.len() {
                has_more = true;
                break;
            }
        }
        if written == 0 && has_more { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(written) }
    }

    /// Makes room for `additional` bytes: by doubling, as a collection would, but never beyond the capacity.
    fn reserve(&mut self, additional: usize) {
        let needed = self.bytes.len() + additional;
        if needed > self.bytes.capacity() {
            let target = needed.saturating_mul(2).min(self.capacity);
            self.bytes.reserve_exact(target - self.bytes.len());
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Leaves the task's waker in `place`; the one that stood there belongs to a task that no longer waits.
fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

struct PipeReader {
    pipe: SharedPipe,
}

impl StreamReader for PipeReader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        len_max: usize,
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.pipe.lock();
        let Some(len) = pipe.read(buffer, len_max) else {
            register(&mut pipe.reader, cx);
            if pipe.bytes.capacity() > IDLE_CAPACITY_MAX {
                pipe.bytes = VecDeque::new();
            }
            return Poll::Pending;
        };
        let writer = if len > 0 { pipe.writer.take() } else { None };
        drop(pipe);
        wake(writer);
        Poll::Ready(Ok(len))
    }

    fn try_read(&mut self, buffer: &mut Vec<u8>, len_max: usize) -> io::Result<usize> {
        let mut pipe = self.pipe.lock();
        let len = pipe.read(buffer, len_max).ok_or(io::ErrorKind::WouldBlock)?;
        let writer = if len > 0 { pipe.writer.take() } else { None };
        drop(pipe);
        wake(writer);
        Ok(len)
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        pipe.reader_is_gone = true;
        let unread = std::mem::take(&mut pipe.bytes);
        let (own, writer) = (pipe.reader.take(), pipe.writer.take());
        drop(pipe);
        drop((unread, own));
        wake(writer);
    }
}

struct PipeWriter {
    pipe: SharedPipe,
}

impl StreamWriter for PipeWriter {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = self.pipe.lock();
        let written = pipe.write(buffers)?;
        let reader = if written > 0 { pipe.reader.take() } else { None };
        drop(pipe);
        wake(reader);
        Ok(written)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe.lock();
        // At an end, writing makes progress in that it fails.
        if pipe.bytes.len() < pipe.capacity || pipe.reader_is_gone || pipe.writer_is_done {
            return Poll::Ready(Ok(()));
        }
        register(&mut pipe.writer, cx);
        Poll::Pending
    }

    fn shutdown(&self) -> io::Result<()> {
        let mut pipe = self.pipe.lock();
        pipe.writer_is_done = true;
        let (reader, writer) = (pipe.reader.take(), pipe.writer.take());
        drop(pipe);
        wake(reader);
        wake(writer);
        Ok(())
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        let _ = self.shutdown();
    }
}

impl fmt::Debug for PipeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeReader").finish_non_exhaustive()
    }
}

impl fmt::Debug for PipeWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeWriter").finish_non_exhaustive()
    }
}

/// Streams that wait to be accepted: what a socket listener's backlog holds.
const BACKLOG: usize = 1024;
/// Memory that an empty pipe keeps while its reader waits; an idle link has 24 KiB in all.
const IDLE_CAPACITY_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_takes_what_fits_across_slices_and_the_ring_wraps() {
        let (ours, mut theirs) = pair_with_capacity(8);
        let write = |text: &[&[u8]]| {
            let slices: Vec<_> = text.iter().map(|slice| IoSlice::new(slice)).collect();
            ours.writer.try_write(&slices)
        };
        let mut buffer = Vec::new();
        assert_eq!(write(&[b"abc", b"", b"def"]).unwrap(), 6);
        assert_eq!(theirs.reader.try_read(&mut buffer, 4).unwrap(), 4);
        assert_eq!(write(&[b"ghijklmn", b"o"]).unwrap(), 6);
        assert_eq!(write(&[b"x"]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(write(&[]).unwrap(), 0);
        assert_eq!(theirs.reader.try_read(&mut buffer, 64).unwrap(), 8);
        assert_eq!(buffer, b"abcdefghijkl");
        assert_eq!(theirs.reader.try_read(&mut buffer, 64).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn an_idle_pipe_gives_its_memory_back() {
        let pipe = Pipe::shared(CAPACITY);
        let writer = PipeWriter { pipe: Arc::clone(&pipe) };
        let mut reader = PipeReader { pipe: Arc::clone(&pipe) };
        writer.try_write(&[IoSlice::new(&[0; CAPACITY])]).unwrap();
        let mut buffer = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(reader.poll_read(&mut cx, &mut buffer, usize::MAX), Poll::Ready(Ok(CAPACITY))));
        assert!(reader.poll_read(&mut cx, &mut buffer, 1).is_pending());
        assert!(pipe.lock().bytes.capacity() <= IDLE_CAPACITY_MAX);
    }

    #[tokio::test]
    async fn streams_that_nobody_accepted_end_with_their_listener() {
        let endpoint: Endpoint = "inproc://unaccepted".parse().unwrap();
        let listener = InprocTransport::new().listen(&endpoint).await.unwrap();
        let mut stream = InprocTransport::new().dial(&endpoint).await.unwrap();
        drop(listener);
        assert_eq!(stream.reader.try_read(&mut Vec::new(), 1).unwrap(), 0);
        let error = stream.writer.try_write(&[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
