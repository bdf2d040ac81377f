//! `bulk`: big payloads, each acknowledged, a fixed number outstanding. Ours confirms each; the baseline answers
//! with the 8 octets of its id.
//!
//! Neither side of the baseline copies a payload in user space: the sender writes head and payload vectored, the
//! receiver reads straight into one buffer that it keeps.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Buf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::Semaphore;

use crate::case::Case;
use crate::drive::{ByTasks, Call, Driver, Phase};
use crate::error::RoleError;
use crate::node::Link;
use crate::raw;
use crate::raw::frame::{self, HEAD_LEN, ID_LEN};
use crate::raw::stream::{Reader, Stream, Writer};
use crate::sample::{Latencies, Sample};
use crate::spec::Amount;

/// A payload sent to a handler that only looks at it.
struct Confirmed(Link);

impl Call for Confirmed {
    async fn call(&mut self) -> Result<(), RoleError> {
        self.0.confirm().await
    }
}

pub(super) async fn ours(
    case: Case,
    outstanding: usize,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let link = Link::first(&case, addresses).await?;
    Ok(Box::new(ByTasks((0..outstanding).map(|_| Confirmed(link.clone())).collect())))
}

pub(super) async fn raw(
    case: Case,
    outstanding: usize,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let stream = raw::dial(case, addresses).await?;
    let acks = BufReader::with_capacity(ID_LEN * 64, stream.reader);
    let payload = vec![0x5a; case.payload_bytes];
    Ok(Box::new(RawSender { acks, output: stream.writer, payload, outstanding, next_id: 0 }))
}

/// Takes payloads whole and acknowledges each, until the client closes.
pub(super) async fn serve(mut stream: Stream, handled: &AtomicU64) -> Result<(), RoleError> {
    let mut payload = Vec::new();
    while let Some((payload_len, id)) = read_head(&mut stream.reader).await? {
        payload.resize(payload_len, 0);
        stream.reader.read_exact(&mut payload).await.map_err(RoleError::io("reading a payload"))?;
        black_box(payload.as_slice());
        handled.fetch_add(1, Ordering::Relaxed);
        stream.writer.write_all(&id.to_be_bytes()).await.map_err(RoleError::io("acknowledging a payload"))?;
    }
    Ok(())
}

/// The next frame's head; nothing when the stream ended, which it may only do between frames.
async fn read_head(socket: &mut Reader) -> Result<Option<(usize, u64)>, RoleError> {
    let mut head = [0; HEAD_LEN];
    let mut unread = head.as_mut_slice();
    while !unread.is_empty() {
        let missing = unread.len();
        match socket.read_buf(&mut unread).await.map_err(RoleError::io("reading a frame's head"))? {
            0 if missing == HEAD_LEN => return Ok(None),
            0 => return Err(RoleError::PeerClosed),
            _ => {}
        }
    }
    frame::parse_head(&head).map(Some)
}

/// One connection with a window of unacknowledged payloads.
#[derive(Debug)]
struct RawSender {
    acks: BufReader<Reader>,
    output: Writer,
    payload: Vec<u8>,
    outstanding: usize,
    next_id: u64,
}

/// What the sending and the acknowledged half of one phase share. Both run in one task.
#[derive(Debug)]
struct Window {
    room: Semaphore,
    /// When each unacknowledged payload's write began, oldest first; the server acknowledges in order.
    begun: Mutex<VecDeque<Instant>>,
    /// How many payloads were sent, once none follows.
    all_sent: OnceLock<u64>,
}

impl RawSender {
    /// Sends until the amount is reached and all is acknowledged.
    async fn send_all(&mut self, amount: Amount) -> Result<Sample, RoleError> {
        let first_id = self.next_id;
        let window = Window {
            room: Semaphore::new(self.outstanding),
            begun: Mutex::default(),
            all_sent: OnceLock::new(),
        };
        let began = Instant::now();
        let (sent, (done, latencies)) = tokio::try_join!(
            send(&mut self.output, &self.payload, first_id, amount, &window),
            acknowledge(&mut self.acks, first_id, &window),
        )?;
        self.next_id += sent;
        Ok(Sample { sent, done, elapsed: began.elapsed(), latencies: Some(latencies) })
    }
}

impl Driver for RawSender {
    fn run(&mut self, amount: Amount) -> Phase<'_> {
        Box::pin(self.send_all(amount))
    }
}

/// Sends at least one payload, so that the other half always has an acknowledgement to wait for.
async fn send(
    socket: &mut Writer,
    payload: &[u8],
    first_id: u64,
    amount: Amount,
    window: &Window,
) -> Result<u64, RoleError> {
    let (mut sent, began) = (0, Instant::now());
    loop {
        let Ok(room) = window.room.acquire().await else { return Err(RoleError::PeerClosed) };
        room.forget();
        window.begun.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
        let head = frame::head(first_id + sent, payload.len());
        let mut whole = Buf::chain(head.as_slice(), payload);
        socket.write_all_buf(&mut whole).await.map_err(RoleError::io("writing a payload"))?;
        sent += 1;
        // No await between the last write and this, so the other half learns it before the last ack.
        if amount.is_over(sent, began.elapsed()) {
            window.all_sent.get_or_init(|| sent);
            return Ok(sent);
        }
    }
}

/// Takes acknowledgements, in order, and opens the window for each, until all that was sent has its own.
async fn acknowledge(
    socket: &mut BufReader<Reader>,
    first_id: u64,
    window: &Window,
) -> Result<(u64, Latencies), RoleError> {
    let (mut done, mut latencies) = (0, Latencies::new());
    while window.all_sent.get() != Some(&done) {
        let id = socket.read_u64().await.map_err(RoleError::io("reading an acknowledgement"))?;
        let begun = window.begun.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match begun {
            Some(begun) if id == first_id + done => latencies.record(begun.elapsed()),
            _ => return Err(RoleError::Unexpected("an acknowledgement out of turn")),
        }
        done += 1;
        window.room.add_permits(1);
    }
    Ok((done, latencies))
}
