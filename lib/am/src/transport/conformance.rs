//! The conformance suite: the [contract](super) of a transport, one function for each of its bullets.
//!
//! It runs over the transports of this crate, and other crates can run it over their own. It stands outside of
//! a message's way: it drives streams as the link does, but with nothing in between.
//!
//! [`run`] runs all of it; each function can also be a test of its own. They take a transport and an endpoint to
//! listen on (its port may be 0, its path private), on which nobody else listens. They need a tokio runtime with
//! time and I/O enabled, panic with what was violated, and never sleep: the only timeouts are safety nets against
//! a transport that hangs.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use std::sync::Arc;
//! use dynamo_am::transport::{ThinTransport, conformance, inproc::InprocTransport};
//! let endpoint: dynamo_am::Endpoint = "inproc://my-own".parse().unwrap();
//! conformance::dialling(&InprocTransport::new(), &endpoint).await;
//! # }
//! ```

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use super::{ByteStream, Listener, StreamReader, StreamWriter, ThinTransport};
use crate::endpoint::Endpoint;
use crate::error::BindError;

/// Runs the whole suite; `make` gives a transport and a free endpoint to listen on for each part.
///
/// # Panics
/// With a sentence that names what the transport violates.
pub async fn run(make: impl Fn() -> (Arc<dyn ThinTransport>, Endpoint)) {
    macro_rules! each {
        ($($part:ident),*) => {
            $({
                let (transport, endpoint) = make();
                $part(&*transport, &endpoint).await;
            })*
        };
    }
    each!(
        order,
        reads_within_limits,
        duplex,
        bounded,
        wakes,
        wakes_under_load,
        end,
        writes_to_a_gone_peer,
        dialling,
        listening,
        one_listener,
        dropped_listener,
        accepting
    );
}

/// **Order**: bytes arrive unchanged, in the order written, each exactly once.
pub async fn order(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let (ours, theirs) = connected(transport, endpoint).await;
    let sent = pattern(BULK_LEN, 1);
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        // Writes of all lengths, in one to four slices, some of them empty.
        let mut rest = &sent[..];
        let mut len = 1;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(len.min(rest.len()));
            let (a, b) = now.split_at(now.len() / 3);
            write_all(&*ours.writer, &[a, &[], b]).await;
            rest = later;
            len = (len * 5 + 3) % 70_001 + 1;
        }
        ours.writer.shutdown().expect("shutdown failed");
        ours
    });
    let mut reader = theirs.reader;
    let received = within("all bytes", read_to_end(&mut *reader, 7919)).await;
    drop(within("the sender", sending).await.expect("the sending task panicked"));
    assert!(received == expected, "bytes were changed, lost, repeated or reordered");
}

/// **Reads** append at most what was asked and grow the buffer no further; direct ones say `WouldBlock`.
pub async fn reads_within_limits(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let (ours, mut theirs) = connected(transport, endpoint).await;
    let mut buffer = b"kept".to_vec();
    let nothing = theirs.reader.try_read(&mut buffer, 16).expect_err("a direct read of nothing succeeded");
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "a direct read of nothing must be WouldBlock");
    write_all(&*ours.writer, &[&[7; 300]]).await;
    for len_max in [1, 3, 64] {
        let mut buffer = b"kept".to_vec();
        buffer.shrink_to_fit();
        let len = within("bytes", read_some(&mut *theirs.reader, &mut buffer, len_max)).await;
        assert!((1..=len_max).contains(&len), "a read gave {len} of {len_max} bytes");
        assert_eq!(buffer.len(), 4 + len, "a read reported another number than it appended");
        assert!(buffer.capacity() <= 4 + len_max, "a read grew the buffer beyond what was asked");
        assert!(buffer.starts_with(b"kept"), "a read must append");
        let mut roomy = Vec::with_capacity(4096);
        roomy.extend_from_slice(b"kept");
        let len = theirs.reader.try_read(&mut roomy, len_max).expect("a direct read found no bytes");
        assert!((1..=len_max).contains(&len), "a direct read gave more than was asked");
        assert!(roomy.len() == 4 + len && roomy.capacity() == 4096, "a direct read must only append");
    }
    ours.writer.shutdown().expect("shutdown failed");
    within("the end", read_to_end(&mut *theirs.reader, 4096)).await;
    assert_eq!(theirs.reader.try_read(&mut buffer, 16).expect("a direct read at the end failed"), 0);
}

/// **Duplex**: both ends write and read independently; neither waits for the other.
pub async fn duplex(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let (ours, theirs) = connected(transport, endpoint).await;
    let mut tasks = Vec::new();
    for (stream, own, other) in [(ours, 1, 2), (theirs, 2, 1)] {
        let ByteStream { mut reader, writer, .. } = stream;
        tasks.push(tokio::spawn(async move {
            write_all(&*writer, &[&pattern(BULK_LEN, own)]).await;
            writer.shutdown().expect("shutdown failed");
            Some(writer)
        }));
        tasks.push(tokio::spawn(async move {
            let received = read_to_end(&mut *reader, 64 * 1024).await;
            assert!(received == pattern(BULK_LEN, other), "the two directions got mixed up");
            None
        }));
    }
    for task in tasks {
        within("both directions", task).await.expect("a task panicked");
    }
}

/// **Bounded**: `try_write` takes what fits and then answers `WouldBlock`; nothing is queued without bound.
pub async fn bounded(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let (ours, mut theirs) = connected(transport, endpoint).await;
    let block = pattern(64 * 1024, 3);
    within("room", writable(&*ours.writer)).await;
    let mut written = 0;
    loop {
        match ours.writer.try_write(&[IoSlice::new(&block)]) {
            Ok(len) => written += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("a write to a peer that does not read failed: {error}"),
        }
        assert!(written < QUEUED_MAX, "{written} bytes were queued for a peer that does not read");
    }
    assert!(written > 0, "nothing at all could be written");
    ours.writer.shutdown().expect("shutdown failed");
    let received = within("what was written", read_to_end(&mut *theirs.reader, 64 * 1024)).await;
    assert_eq!(received.len(), written, "a write reported another number of bytes than arrived");
}

/// **Wakes**: each event wakes the task that waits for it, the one that asked last.
pub async fn wakes(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let mut listener = listen(transport, endpoint).await;
    let (ours, mut theirs) = connect_to(transport, &mut *listener).await;

    let reader_waits = |theirs: &mut ByteStream, signal: &Arc<Signal>| {
        let (mut buffer, waker) = (Vec::new(), Waker::from(Arc::clone(signal)));
        let poll = theirs.reader.poll_read(&mut Context::from_waker(&waker), &mut buffer, 64);
        assert!(poll.is_pending(), "a read with nothing to read did not wait: {poll:?}");
    };
    let (earlier, signal) = (Arc::<Signal>::default(), Arc::<Signal>::default());
    reader_waits(&mut theirs, &earlier);
    reader_waits(&mut theirs, &signal);
    write_all(&*ours.writer, &[b"x"]).await;
    within("bytes to wake the reader that asked last", signal.fired.notified()).await;
    let mut buffer = Vec::new();
    assert_eq!(within("a byte", read_some(&mut *theirs.reader, &mut buffer, 64)).await, 1);

    fill(&*ours.writer).await;
    let signal = Arc::<Signal>::default();
    writer_waits(&*ours.writer, &signal).await;
    let draining = async {
        let mut buffer = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = signal.fired.notified() => break,
                _ = read_some(&mut *theirs.reader, &mut buffer, 64 * 1024) => buffer.clear(),
            }
        }
    };
    within("room to wake the writer", draining).await;

    let (ours, mut theirs) = connect_to(transport, &mut *listener).await;
    let signal = Arc::<Signal>::default();
    reader_waits(&mut theirs, &signal);
    ours.writer.shutdown().expect("shutdown failed");
    within("the end to wake the reader", signal.fired.notified()).await;

    let (ours, theirs) = connect_to(transport, &mut *listener).await;
    fill(&*ours.writer).await;
    let signal = Arc::<Signal>::default();
    writer_waits(&*ours.writer, &signal).await;
    drop(theirs);
    within("the peer's death to wake the writer", signal.fired.notified()).await;
}

/// **Wakes** again: many rounds between tasks of their own; one lost wake-up and they stand still.
pub async fn wakes_under_load(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let (ours, theirs) = connected(transport, endpoint).await;
    let echo = tokio::spawn(async move {
        let ByteStream { mut reader, writer, .. } = theirs;
        let mut buffer = Vec::new();
        while read_some(&mut *reader, &mut buffer, 4096).await > 0 {
            write_all(&*writer, &[&buffer]).await;
            buffer.clear();
        }
    });
    let asking = tokio::spawn(async move {
        let ByteStream { mut reader, writer, .. } = ours;
        for round in 0..ROUNDS {
            let question = pattern(1 + round * 13 % 500, 5);
            write_all(&*writer, &[&question]).await;
            let mut answer = Vec::new();
            while answer.len() < question.len() {
                let missing = question.len() - answer.len();
                assert!(read_some(&mut *reader, &mut answer, missing).await > 0, "the stream ended early");
            }
            assert!(answer == question, "an echo came back changed");
        }
    });
    within("all rounds", asking).await.expect("the asking task panicked");
    within("the echo's end", echo).await.expect("the echoing task panicked");
}

/// **End**: what was written before `shutdown`, or before the stream's drop, is still read; then reads give 0
/// for ever. After our own `shutdown`, which is idempotent, we can still read, and no longer write.
pub async fn end(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let mut listener = listen(transport, endpoint).await;
    let (mut ours, mut theirs) = connect_to(transport, &mut *listener).await;
    write_all(&*ours.writer, &[b"last words"]).await;
    ours.writer.shutdown().expect("shutdown failed");
    ours.writer.shutdown().expect("a second shutdown failed");
    let received = within("the end", read_to_end(&mut *theirs.reader, 4)).await;
    assert_eq!(received, b"last words", "what was written before the shutdown must arrive");
    let mut buffer = Vec::new();
    for _ in 0..3 {
        assert_eq!(within("the end again", read_some(&mut *theirs.reader, &mut buffer, 8)).await, 0);
    }
    let error = write_until_error(&*ours.writer, 1).await;
    assert!(error.is_some(), "a write after one's own shutdown did not fail");
    write_all(&*theirs.writer, &[b"answer"]).await;
    theirs.writer.shutdown().expect("shutdown failed");
    let received = within("the other direction", read_to_end(&mut *ours.reader, 64)).await;
    assert_eq!(received, b"answer", "after one's own shutdown, reading must go on");
    ours.writer.shutdown().expect("a shutdown after both ends failed");

    let (ours, mut theirs) = connect_to(transport, &mut *listener).await;
    write_all(&*ours.writer, &[b"dropped"]).await;
    drop(ours);
    let received = within("the end", read_to_end(&mut *theirs.reader, 64)).await;
    assert_eq!(received, b"dropped", "what was written before the drop must arrive");
}

/// **Writes to a peer that is gone** fail with an error and never panic or raise a signal.
pub async fn writes_to_a_gone_peer(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let mut listener = listen(transport, endpoint).await;
    let (ours, theirs) = connect_to(transport, &mut *listener).await;
    drop(theirs);
    assert!(write_until_error(&*ours.writer, usize::MAX).await.is_some());
    let (ours, theirs) = connect_to(transport, &mut *listener).await;
    drop(ours);
    assert!(write_until_error(&*theirs.writer, usize::MAX).await.is_some());
}

/// **Dialling** resolves only when the stream is usable, and fails at once when nobody listens.
pub async fn dialling(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let mut listener = listen(transport, endpoint).await;
    let bound = listener.endpoint().clone();
    assert!(transport.serves(endpoint) && transport.serves(&bound), "a transport must serve what it binds");
    let dialled = within("a dial before anybody accepts", transport.dial(&bound));
    let ours = dialled.await.unwrap_or_else(|error| panic!("a dial to a listener failed: {error}"));
    within("room in a fresh stream", writable(&*ours.writer)).await;
    write_all(&*ours.writer, &[b"hello"]).await;
    let mut theirs = within("the stream", listener.accept()).await.expect("accept failed");
    let mut buffer = Vec::new();
    assert!(within("the first bytes", read_some(&mut *theirs.reader, &mut buffer, 8)).await > 0);
    drop((ours, theirs, listener));
    let refused = within("a refused dial", transport.dial(&bound)).await;
    assert!(refused.is_err(), "a dial to {bound} succeeded though nobody listens there");
}

/// **Listening** is usable when `listen` resolves; [`Listener::endpoint`] then names what was really bound.
pub async fn listening(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let mut listener = listen(transport, endpoint).await;
    let bound = listener.endpoint().clone();
    assert!(!bound.is_wildcard(), "a listener on {endpoint} says {bound}, which nobody can dial");
    let (ours, mut theirs) = connect_to(transport, &mut *listener).await;
    write_all(&*ours.writer, &[b"x"]).await;
    let mut buffer = Vec::new();
    assert_eq!(within("a byte", read_some(&mut *theirs.reader, &mut buffer, 8)).await, 1);
}

/// **One listener** for an endpoint: a second one, while the first lives, is an error that says so.
pub async fn one_listener(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let mut listener = listen(transport, endpoint).await;
    let bound = listener.endpoint().clone();
    match within("the second listener", transport.listen(&bound)).await {
        Ok(_) => panic!("two listeners on {bound} at the same time"),
        Err(BindError::InUse { endpoint }) => assert_eq!(endpoint, bound, "the error names another endpoint"),
        Err(error) => panic!("a second listener must be BindError::InUse, this is {error:?}"),
    }
    // The failed attempt took nothing from the first.
    let _streams = connect_to(transport, &mut *listener).await;
}

/// **A dropped listener** frees its endpoint (and its socket file) at once; its streams live on.
pub async fn dropped_listener(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let mut listener = listen(transport, endpoint).await;
    let bound = listener.endpoint().clone();
    let (ours, mut theirs) = connect_to(transport, &mut *listener).await;
    drop(listener);
    if let Some(path) = bound.ipc_path() {
        assert!(!path.exists(), "{} is still there", path.display());
    }
    let mut successor = listen(transport, &bound).await;
    assert_eq!(successor.endpoint(), &bound);
    let _fresh = connect_to(transport, &mut *successor).await;
    write_all(&*ours.writer, &[b"still here"]).await;
    let mut buffer = Vec::new();
    assert!(within("bytes of an old stream", read_some(&mut *theirs.reader, &mut buffer, 64)).await > 0);
}

/// **Accepting** is cancel safe: a dropped `accept` loses no stream. (That it survives a lack of descriptors
/// needs a process of its own, and is for the transport's own tests.)
pub async fn accepting(transport: &dyn ThinTransport, endpoint: &Endpoint) {
    let mut listener = listen(transport, endpoint).await;
    let bound = listener.endpoint().clone();
    let mut dialled = Vec::new();
    let mut seen = HashSet::new();
    for number in 0..STREAMS {
        // One that finds nothing, and perhaps one that is dropped just when a stream arrives.
        accept_once(&mut *listener);
        let ours = within("a dial", transport.dial(&bound)).await.expect("a dial failed");
        write_all(&*ours.writer, &[&[number]]).await;
        dialled.push(ours);
        if let Some(stream) = accept_once(&mut *listener) {
            seen.insert(first_byte(stream).await);
        }
    }
    while seen.len() < usize::from(STREAMS) {
        let stream = within("every dialled stream", listener.accept()).await.expect("accept failed");
        assert!(seen.insert(first_byte(stream).await), "a stream was accepted twice");
    }
    assert!(accept_once(&mut *listener).is_none(), "a stream was accepted that nobody dialled");
}

/// Polls one `accept` once and drops it.
fn accept_once(listener: &mut dyn Listener) -> Option<ByteStream> {
    match listener.accept().as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(accepted) => Some(accepted.expect("accept failed")),
        Poll::Pending => None,
    }
}

async fn first_byte(mut stream: ByteStream) -> u8 {
    let mut buffer = Vec::new();
    within("a stream's first byte", read_some(&mut *stream.reader, &mut buffer, 1)).await;
    *buffer.first().expect("an accepted stream ended at once")
}

async fn listen(transport: &dyn ThinTransport, endpoint: &Endpoint) -> Box<dyn Listener> {
    let listening = within("listening", transport.listen(endpoint)).await;
    listening.unwrap_or_else(|error| panic!("{error} ({error:?})"))
}

/// A listener's stream at both ends: the dialler's first.
async fn connect_to(transport: &dyn ThinTransport, listener: &mut dyn Listener) -> (ByteStream, ByteStream) {
    let bound = listener.endpoint().clone();
    let (ours, theirs) =
        within("a connection", async { tokio::join!(transport.dial(&bound), listener.accept()) }).await;
    let ours = ours.unwrap_or_else(|error| panic!("a dial to {bound} failed: {error}"));
    (ours, theirs.unwrap_or_else(|error| panic!("accept on {bound} failed: {error}")))
}

async fn connected(transport: &dyn ThinTransport, endpoint: &Endpoint) -> (ByteStream, ByteStream) {
    let mut listener = listen(transport, endpoint).await;
    connect_to(transport, &mut *listener).await
}

async fn read_some(reader: &mut dyn StreamReader, buffer: &mut Vec<u8>, len_max: usize) -> usize {
    let read = poll_fn(|cx| reader.poll_read(cx, buffer, len_max)).await;
    read.unwrap_or_else(|error| panic!("a read failed: {error}"))
}

async fn read_to_end(reader: &mut dyn StreamReader, len_max: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while read_some(reader, &mut received, len_max).await > 0 {}
    received
}

async fn writable(writer: &dyn StreamWriter) {
    let ready = poll_fn(|cx| writer.poll_writable(cx)).await;
    ready.unwrap_or_else(|error| panic!("waiting for room failed: {error}"));
}

/// Writes all of `slices`, as one vectored write where it fits.
async fn write_all(writer: &dyn StreamWriter, slices: &[&[u8]]) {
    let mut slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match writer.try_write(rest) {
            Ok(0) => panic!("a write of something wrote nothing and said neither WouldBlock nor error"),
            Ok(len) => IoSlice::advance_slices(&mut rest, len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                within("room", writable(writer)).await;
            }
            Err(error) => panic!("a write failed: {error}"),
        }
    }
}

/// Writes until nothing fits any more and that stays so.
async fn fill(writer: &dyn StreamWriter) {
    let block = pattern(64 * 1024, 4);
    within("room", writable(writer)).await;
    let mut written = 0;
    loop {
        match writer.try_write(&[IoSlice::new(&block)]) {
            Ok(len) => written += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The kernel may still be moving bytes to the other end, which makes room again.
                match poll_fn(|cx| Poll::Ready(writer.poll_writable(cx))).await {
                    Poll::Pending => return,
                    Poll::Ready(_) => tokio::task::yield_now().await,
                }
            }
            Err(error) => panic!("a write to a peer that does not read failed: {error}"),
        }
        assert!(written < QUEUED_MAX, "{written} bytes were queued for a peer that does not read");
    }
}

async fn writer_waits(writer: &dyn StreamWriter, signal: &Arc<Signal>) {
    // A task that has used up its turn is told to wait by the runtime, not by the stream: begin a fresh one.
    tokio::task::yield_now().await;
    let waker = Waker::from(Arc::clone(signal));
    let mut cx = Context::from_waker(&waker);
    // Room that came meanwhile is room again: take it, until the writer really waits.
    while writer.poll_writable(&mut cx).is_ready() {
        let _ = writer.try_write(&[IoSlice::new(&[0; 4096])]);
    }
}

/// Writes a byte at a time until that fails, at most `tries` times.
async fn write_until_error(writer: &dyn StreamWriter, tries: usize) -> Option<io::Error> {
    let trying = async {
        for _ in 0..tries {
            let _ = poll_fn(|cx| writer.poll_writable(cx)).await;
            match writer.try_write(&[IoSlice::new(b"x")]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Some(error),
                Ok(_) => tokio::task::yield_now().await,
            }
        }
        None
    };
    within("an error of writing", trying).await
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// A waker that tells whether it was called.
#[derive(Default)]
struct Signal {
    fired: Notify,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.fired.notify_one();
    }
}

/// Bytes in which every displacement shows, different for each `seed`.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..len).map(|_| step()).collect()
}

/// Far more than a stream holds, so that bulk transfers block and resume many times.
const BULK_LEN: usize = 3 * 1024 * 1024 + 17;
/// What a stream may at most hold: kernels grow socket buffers to some MiB, none that we know to this.
const QUEUED_MAX: usize = 128 * 1024 * 1024;
/// Rounds of the echo: enough for a race of one in a thousand to show.
const ROUNDS: usize = 3000;
/// Streams dialled while accepts are cancelled.
const STREAMS: u8 = 24;
/// A safety net only: no step that works comes near it.
const PATIENCE: Duration = Duration::from_secs(30);
