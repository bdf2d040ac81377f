//! `concurrent` over a raw socket: many tasks share one connection.
//!
//! A caller puts a oneshot into a slot and its frame into a shared buffer, under one lock. The writer
//! task swaps that buffer for an empty one and writes it whole, so whatever was asked during one write
//! leaves with the next. The reader task takes a chunk's replies to their callers, with one lock a chunk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use super::frame::{self, FrameReader};
use crate::error::RoleError;
use crate::sample::{Latencies, Recorder, Sample};
use crate::spec::{Amount, Case};

type Waiter = oneshot::Sender<Vec<u8>>;

/// One connection, its two socket tasks, and how many callers share it. Dropping it ends the tasks.
#[derive(Debug)]
pub(crate) struct Client {
    shared: Arc<Shared>,
    payload: Arc<[u8]>,
    callers: usize,
    _socket_tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    output: Notify,
}

#[derive(Debug, Default)]
struct State {
    output: Vec<u8>,
    /// A call's id is the index of its slot.
    slots: Vec<Option<Waiter>>,
    free: Vec<usize>,
    closed: bool,
}

impl Client {
    /// Takes over a connected socket and starts its reader and writer.
    pub(super) fn new(socket: TcpStream, case: Case) -> Self {
        let shared = Arc::new(Shared::default());
        let (read_half, write_half) = socket.into_split();
        let mut tasks = JoinSet::new();
        tasks.spawn(close_after(shared.clone(), read(read_half, shared.clone())));
        tasks.spawn(close_after(shared.clone(), write(write_half, shared.clone())));
        let payload = vec![0x5a; case.payload_bytes].into();
        Self { shared, payload, callers: case.outstanding, _socket_tasks: tasks }
    }

    /// Lets every caller call, one call at a time, until their shares of the amount are reached.
    pub(super) async fn run(&mut self, amount: Amount) -> Result<Sample, RoleError> {
        let latencies = Arc::new(Mutex::new(Latencies::new()));
        let mut callers = JoinSet::new();
        let began = Instant::now();
        for index in 0..self.callers {
            let (shared, payload) = (self.shared.clone(), self.payload.clone());
            let (share, recorder) = (amount.share(index, self.callers), Recorder::new(latencies.clone()));
            callers.spawn(call_repeatedly(shared, payload, share, began, recorder));
        }
        let mut done = 0;
        while let Some(ended) = callers.join_next().await {
            done += ended.map_err(|_| RoleError::TaskPanicked)??;
        }
        let elapsed = began.elapsed();
        let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Sample { sent: done, done, elapsed, latencies: Some(latencies) })
    }
}

/// One caller. Its time runs from the phase's beginning, so all stop together.
async fn call_repeatedly(
    shared: Arc<Shared>,
    payload: Arc<[u8]>,
    amount: Amount,
    began: Instant,
    mut recorder: Recorder,
) -> Result<u64, RoleError> {
    let (mut done, mut last) = (0, Instant::now());
    while !amount.is_over(done, last - began) {
        let reply = shared.call(&payload).await?;
        if reply.len() != payload.len() {
            return Err(RoleError::Unexpected("a reply of another length"));
        }
        done += 1;
        let now = Instant::now();
        recorder.record(now - last);
        last = now;
    }
    Ok(done)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can panic half-way, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, payload: &[u8]) -> Result<Vec<u8>, RoleError> {
        let (waiter, reply) = oneshot::channel();
        let was_empty = {
            let mut state = self.lock();
            if state.closed {
                return Err(RoleError::PeerClosed);
            }
            let id = state.insert(waiter);
            let was_empty = state.output.is_empty();
            frame::push(&mut state.output, id, payload);
            was_empty
        };
        if was_empty {
            self.output.notify_one();
        }
        reply.await.map_err(|_| RoleError::PeerClosed)
    }
}

impl State {
    fn insert(&mut self, waiter: Waiter) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(waiter);
        }
        index as u64
    }

    fn remove(&mut self, id: u64) -> Option<Waiter> {
        let index = usize::try_from(id).ok()?;
        let waiter = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(waiter)
    }
}

/// Runs a socket task and then fails all calls that wait and all to come.
async fn close_after(shared: Arc<Shared>, task: impl Future<Output = Result<(), RoleError>>) {
    // The callers' error says that the connection ended; the socket's own reason adds nothing on loopback.
    let _ = task.await;
    let waiting = {
        let mut state = shared.lock();
        state.closed = true;
        std::mem::take(&mut state.slots)
    };
    drop(waiting);
}

async fn write(mut socket: OwnedWriteHalf, shared: Arc<Shared>) -> Result<(), RoleError> {
    let mut batch = Vec::new();
    loop {
        shared.output.notified().await;
        loop {
            tokio::task::yield_now().await;
            std::mem::swap(&mut batch, &mut shared.lock().output);
            if batch.is_empty() {
                break;
            }
            socket.write_all(&batch).await.map_err(RoleError::io("writing requests"))?;
            batch.clear();
        }
    }
}

async fn read(mut socket: OwnedReadHalf, shared: Arc<Shared>) -> Result<(), RoleError> {
    let mut reader = FrameReader::new();
    let mut replies: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut waiters: Vec<Option<Waiter>> = Vec::new();
    while reader.fill(&mut socket).await? {
        while let Some((id, payload)) = reader.next()? {
            replies.push((id, payload.to_vec()));
        }
        {
            let mut state = shared.lock();
            waiters.extend(replies.iter().map(|(id, _)| state.remove(*id)));
        }
        for (waiter, (_, reply)) in waiters.drain(..).zip(replies.drain(..)) {
            let waiter = waiter.ok_or(RoleError::Unexpected("a reply that nobody waits for"))?;
            // A caller that is gone has ended its phase by an error of its own.
            let _ = waiter.send(reply);
        }
    }
    Err(RoleError::PeerClosed)
}
