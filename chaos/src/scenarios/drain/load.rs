//! What callers do to a worker while it is restarted, and what they were told.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamo_am::{CallError, Peer, Raw};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::worker::{BLOB_LEN, blob};
use crate::failure::Result;

/// Callers of `fetch` at each worker.
const FETCHERS: usize = 3;
/// Senders of one-way messages with a receipt, and without, at each worker.
const NOTIFIERS: usize = 2;
/// Between two one-way messages of a sender: so that what is counted fits in memory.
const NOTIFY_INTERVAL: Duration = Duration::from_micros(500);
/// Before trying again what was safe to try again.
const RETRY_WAIT: Duration = Duration::from_millis(2);

/// What the callers of one worker were told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) fetched: u64,
    /// Failures after which a call could safely be made again.
    pub(super) retried: u64,
    /// Failures after which it could not, or a wrong answer; the first in words.
    pub(super) unsafe_failures: u64,
    pub(super) first_unsafe: Option<String>,
    /// One-way messages with a receipt that said that they are accepted.
    pub(super) accepted: HashSet<u64>,
    /// One-way messages that went into the send buffer, without a receipt.
    pub(super) sent: HashSet<u64>,
}

impl Told {
    pub(super) fn add(&mut self, other: Self) {
        self.fetched += other.fetched;
        self.retried += other.retried;
        self.unsafe_failures += other.unsafe_failures;
        self.first_unsafe = self.first_unsafe.take().or(other.first_unsafe);
        self.accepted.extend(other.accepted);
        self.sent.extend(other.sent);
    }

    async fn failed(&mut self, error: &CallError) {
        if error.is_retry_safe() && error.is_transient() {
            self.retried += 1;
            tokio::time::sleep(RETRY_WAIT).await;
        } else {
            self.fail(error.to_string());
        }
    }

    fn fail(&mut self, what: String) {
        self.unsafe_failures += 1;
        self.first_unsafe.get_or_insert(what);
    }
}

/// The callers of one worker.
#[derive(Debug)]
pub(super) struct Load {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Told>,
}

impl Load {
    /// Begins. Each one-way message carries a number that no other has, from `ids`.
    pub(super) fn start(peer: &Peer, ids: &Arc<AtomicU64>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for _ in 0..FETCHERS {
            tasks.spawn(fetch(peer.clone(), ids.clone(), stopped.clone()));
        }
        for handler in ["note", "work"].into_iter().cycle().take(NOTIFIERS) {
            tasks.spawn(send_with_receipt(peer.clone(), handler, ids.clone(), stopped.clone()));
            tasks.spawn(send(peer.clone(), handler, ids.clone(), stopped.clone()));
        }
        Self { stop, tasks }
    }

    /// Ends in good order: what was begun is waited for.
    pub(super) async fn finish(mut self) -> Result<Told> {
        self.stop.send_replace(true);
        let mut told = Told::default();
        while let Some(ended) = self.tasks.join_next().await {
            told.add(ended?);
        }
        Ok(told)
    }
}

async fn fetch(peer: Peer, ids: Arc<AtomicU64>, stopped: watch::Receiver<bool>) -> Told {
    let mut told = Told::default();
    while !*stopped.borrow() {
        let n = ids.fetch_add(1, Ordering::Relaxed);
        match peer.call::<Raw>("fetch", &n).await {
            Ok(answer) if answer.len() == BLOB_LEN && answer[..] == blob(n)[..] => told.fetched += 1,
            Ok(answer) => {
                told.fail(format!("call {n} got an answer of another, {} octets long", answer.len()));
            }
            Err(error) => told.failed(&error).await,
        }
    }
    told
}

async fn send_with_receipt(
    peer: Peer,
    handler: &'static str,
    ids: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
) -> Told {
    let mut told = Told::default();
    let mut ticks = tokio::time::interval(NOTIFY_INTERVAL);
    while !*stopped.borrow() {
        ticks.tick().await;
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let message = peer.client().active_message(handler);
        let receipt = match message.payload(&id).with_receipt().send(&peer).await {
            Ok(status) => status.receipt().await,
            Err(error) => Err(error),
        };
        match receipt {
            Ok(_) => {
                told.accepted.insert(id);
            }
            Err(error) => told.failed(&error).await,
        }
    }
    told
}

async fn send(
    peer: Peer,
    handler: &'static str,
    ids: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
) -> Told {
    let mut told = Told::default();
    let mut ticks = tokio::time::interval(NOTIFY_INTERVAL);
    while !*stopped.borrow() {
        ticks.tick().await;
        let id = ids.fetch_add(1, Ordering::Relaxed);
        match peer.notify(handler, &id).await {
            Ok(()) => {
                told.sent.insert(id);
            }
            Err(error) => told.failed(&error).await,
        }
    }
    told
}
