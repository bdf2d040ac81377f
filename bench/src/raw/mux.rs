//! Many callers on one connection, each with a oneshot that its reply is sent to.
//!
//! A caller puts its oneshot into a slot and its frame into a shared buffer, under one lock. The writer
//! task swaps that buffer for an empty one and writes it whole, so whatever was asked during one write
//! leaves with the next. The reader task takes a chunk's replies to their callers, with one lock a chunk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use super::frame::{self, CHUNK_LEN, FLAGS, FrameReader};
use super::stream::{Reader, Stream, Writer};
use crate::drive::Call;
use crate::error::RoleError;

type Waiter = oneshot::Sender<Vec<u8>>;

/// One connection that any number of tasks may use. Its two socket tasks end with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Mux {
    shared: Arc<Shared>,
    _socket_tasks: Arc<JoinSet<()>>,
}

/// One caller, who echoes a payload.
#[derive(Debug, Clone)]
pub(crate) struct MuxCall {
    mux: Mux,
    payload: Arc<[u8]>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    output: Notify,
    /// The writer has taken all output.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    output: Vec<u8>,
    /// A call's id is the index of its slot.
    slots: Vec<Option<Waiter>>,
    free: Vec<usize>,
    closed: bool,
}

impl Mux {
    /// Takes over a connection and starts its reader and writer.
    pub(crate) fn new(stream: Stream, chunk_len: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(close_after(shared.clone(), read(stream.reader, shared.clone(), chunk_len)));
        tasks.spawn(close_after(shared.clone(), write(stream.writer, shared.clone())));
        Self { shared, _socket_tasks: Arc::new(tasks) }
    }

    /// A caller on it.
    pub(crate) fn caller(&self, payload: &Arc<[u8]>) -> MuxCall {
        MuxCall { mux: self.clone(), payload: payload.clone() }
    }

    /// Asks, with `flag` set in the id, and waits for the answer.
    pub(crate) async fn ask(&self, flag: u64, payload: &[u8]) -> Result<Vec<u8>, RoleError> {
        self.shared.ask(flag, payload).await
    }

    /// Appends whole frames that nobody answers, once less than a chunk waits to be written.
    pub(crate) async fn push(&self, frames: &[u8]) -> Result<(), RoleError> {
        loop {
            {
                let mut state = self.shared.lock();
                if state.closed {
                    return Err(RoleError::PeerClosed);
                }
                if state.output.len() < CHUNK_LEN {
                    state.output.extend_from_slice(frames);
                    break;
                }
            }
            self.shared.room.notified().await;
        }
        self.shared.output.notify_one();
        Ok(())
    }
}

impl Call for MuxCall {
    async fn call(&mut self) -> Result<(), RoleError> {
        let reply = self.mux.ask(0, &self.payload).await?;
        if reply.len() == self.payload.len() {
            Ok(())
        } else {
            Err(RoleError::Unexpected("a reply of another length"))
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can panic half-way, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, flag: u64, payload: &[u8]) -> Result<Vec<u8>, RoleError> {
        let (waiter, reply) = oneshot::channel();
        let was_empty = {
            let mut state = self.lock();
            if state.closed {
                return Err(RoleError::PeerClosed);
            }
            let id = state.insert(waiter);
            let was_empty = state.output.is_empty();
            frame::push(&mut state.output, id | flag, payload);
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
        let index = usize::try_from(id & !FLAGS).ok()?;
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
    shared.room.notify_one();
    drop(waiting);
}

async fn write(mut socket: Writer, shared: Arc<Shared>) -> Result<(), RoleError> {
    let mut batch = Vec::new();
    loop {
        shared.output.notified().await;
        loop {
            tokio::task::yield_now().await;
            std::mem::swap(&mut batch, &mut shared.lock().output);
            if batch.is_empty() {
                break;
            }
            shared.room.notify_one();
            socket.write_all(&batch).await.map_err(RoleError::io("writing requests"))?;
            batch.clear();
        }
    }
}

async fn read(mut socket: Reader, shared: Arc<Shared>, chunk_len: usize) -> Result<(), RoleError> {
    let mut reader = FrameReader::new(chunk_len);
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
