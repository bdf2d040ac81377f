//! `oneway`: fire and forget, until the receiver has *handled* all: the clock stops when it has said so, not when
//! the kernel has taken them. The baseline sends frames in writes of 64 KiB.
//!
//! Its receiver does what one would write by hand for each kind of handler: inline it handles a frame where it was
//! read; ordered, one read's frames go as one piece through a bounded channel to a task; spawned, each message is
//! copied into a task of its own, at most [`SPAWNED_MAX`] at once.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};

use crate::case::{Case, Dispatch};
use crate::drive::{Driver, OneWay, Sending};
use crate::error::RoleError;
use crate::node::{Link, Ticks};
use crate::raw;
use crate::raw::frame::{self, CHUNK_LEN, COUNT, FrameReader, HEAD_LEN, TICK};
use crate::raw::stream::Stream;

/// Reads whose frames may wait for the ordered handler.
const READS_MAX: usize = 16;
/// Spawned handlers at once: what our own credit allows.
const SPAWNED_MAX: u32 = 8192;

pub(super) async fn ours(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    Ok(Box::new(Sending(Ticks(Link::first(&case, addresses).await?))))
}

pub(super) async fn raw(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    Ok(Box::new(Sending(RawTicks::new(raw::dial(case, addresses).await?, &case))))
}

/// A connection that only sends, but for the question how many have come.
#[derive(Debug)]
pub(super) struct RawTicks {
    stream: Stream,
    frames: FrameReader,
    batch: Vec<u8>,
    payload: Vec<u8>,
    sent: u64,
}

impl RawTicks {
    /// Takes over a connection.
    pub(super) fn new(stream: Stream, case: &Case) -> Self {
        let batch = Vec::with_capacity(CHUNK_LEN + HEAD_LEN + case.payload_bytes);
        let payload = vec![0x5a; case.payload_bytes];
        Self { stream, frames: FrameReader::new(CHUNK_LEN), batch, payload, sent: 0 }
    }

    async fn write(&mut self) -> Result<(), RoleError> {
        self.stream.writer.write_all(&self.batch).await.map_err(RoleError::io("writing a batch"))?;
        self.batch.clear();
        Ok(())
    }
}

impl OneWay for RawTicks {
    async fn send(&mut self, count: u64) -> Result<(), RoleError> {
        for _ in 0..count {
            frame::push(&mut self.batch, TICK | self.sent, &self.payload);
            self.sent += 1;
            if self.batch.len() >= CHUNK_LEN {
                self.write().await?;
            }
        }
        Ok(())
    }

    async fn handled(&mut self) -> Result<u64, RoleError> {
        frame::push(&mut self.batch, COUNT, &[]);
        self.write().await?;
        loop {
            if let Some((id, answer)) = self.frames.next()? {
                return match answer.try_into() {
                    Ok(count) if id == COUNT => Ok(u64::from_be_bytes(count)),
                    _ => Err(RoleError::Unexpected("an answer that is no count")),
                };
            }
            if !self.frames.fill(&mut self.stream.reader).await? {
                return Err(RoleError::PeerClosed);
            }
        }
    }
}

/// Counts frames until the client closes.
pub(super) async fn serve(
    dispatch: Dispatch,
    stream: Stream,
    handled: &Arc<AtomicU64>,
) -> Result<(), RoleError> {
    match dispatch {
        Dispatch::Inline => raw::serve::mixed(stream, handled, CHUNK_LEN).await,
        Dispatch::Ordered => serve_ordered(stream, handled).await,
        Dispatch::Spawned => serve_spawned(stream, handled).await,
    }
}

async fn serve_ordered(mut stream: Stream, handled: &Arc<AtomicU64>) -> Result<(), RoleError> {
    let (reads, to_handle) = mpsc::channel::<Vec<Vec<u8>>>(READS_MAX);
    let handler = tokio::spawn(handle_in_order(to_handle, handled.clone()));
    let mut frames = FrameReader::new(CHUNK_LEN);
    while frames.fill(&mut stream.reader).await? {
        let (mut payloads, mut asked) = (Vec::new(), false);
        while let Some((id, payload)) = frames.next()? {
            if id & COUNT != 0 {
                asked = true;
            } else {
                payloads.push(payload.to_vec());
            }
        }
        if !payloads.is_empty() && reads.send(payloads).await.is_err() {
            return Err(RoleError::TaskPanicked);
        }
        if asked {
            answer(&mut stream, handled.load(Ordering::Relaxed)).await?;
        }
    }
    drop(reads);
    handler.await.map_err(|_| RoleError::TaskPanicked)
}

async fn handle_in_order(mut reads: mpsc::Receiver<Vec<Vec<u8>>>, handled: Arc<AtomicU64>) {
    while let Some(payloads) = reads.recv().await {
        for payload in payloads {
            handle(&payload, &handled).await;
        }
    }
}

async fn serve_spawned(mut stream: Stream, handled: &Arc<AtomicU64>) -> Result<(), RoleError> {
    let places = Arc::new(Semaphore::new(SPAWNED_MAX as usize));
    let mut frames = FrameReader::new(CHUNK_LEN);
    while frames.fill(&mut stream.reader).await? {
        let mut asked = false;
        while let Some((id, payload)) = frames.next()? {
            if id & COUNT != 0 {
                asked = true;
                continue;
            }
            let Ok(place) = places.clone().acquire_owned().await else { return Err(RoleError::TaskPanicked) };
            let (payload, handled) = (payload.to_vec(), handled.clone());
            tokio::spawn(async move {
                handle(&payload, &handled).await;
                drop(place);
            });
        }
        if asked {
            answer(&mut stream, handled.load(Ordering::Relaxed)).await?;
        }
    }
    Ok(())
}

/// The handler. It is a future, since that is what one has a task for, though it has nothing to wait for.
async fn handle(payload: &[u8], handled: &AtomicU64) {
    black_box(payload);
    handled.fetch_add(1, Ordering::Relaxed);
}

async fn answer(stream: &mut Stream, count: u64) -> Result<(), RoleError> {
    let mut answer = Vec::with_capacity(HEAD_LEN + 8);
    frame::push(&mut answer, COUNT, &count.to_be_bytes());
    stream.writer.write_all(&answer).await.map_err(RoleError::io("answering the count"))
}
