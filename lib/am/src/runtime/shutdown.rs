//! Going in good order: no new requests, running ones finished, every answer read by its caller.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::node::Node;
use crate::transport::link::{Link, LinkEnd};

/// How often a drain looks whether anything is still owed.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// How long a drained link waits for its peer's end of stream.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a shutdown did not go in good order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// When the drain limit passed, handlers were still running, which were cancelled, or peers had not yet sent all
    /// that they had begun, which is lost.
    #[error("{links} links still had work under way after {limit_ms} ms, which was given up")]
    DrainTimeout {
        /// Links with unfinished work.
        links: usize,
        /// The limit in force, in milliseconds.
        limit_ms: u64,
    },
}

/// Drains the node, then stops it. Later callers wait for the first.
pub(crate) async fn shutdown(node: &Arc<Node>) -> Result<(), ShutdownError> {
    if !node.begin_drain() {
        node.spawner.stopped().await;
        return Ok(());
    }
    node.drain_token.cancel();
    node.handler_waiters.end();
    let limit = node.limits.drain_timeout;
    let deadline = Instant::now() + limit;
    let (mut unfinished, mut links) = (0, Vec::new());
    loop {
        // Those that have begun since said Bye at once, and carry what their peers sent before they read it.
        let is_known = |link: &Arc<Link>| links.iter().any(|known| Arc::ptr_eq(known, link));
        let new: Vec<_> = node.links.lock().iter().filter(|entry| !is_known(&entry.link)).cloned().collect();
        let is_over = !node.handshakes.are_becoming() && !node.has_unfinished();
        let is_late = Instant::now() >= deadline;
        if new.is_empty() && (is_over || is_late) {
            unfinished += usize::from(!is_over);
            break;
        }
        for entry in new.iter().filter(|entry| !entry.link.is_retired()) {
            entry.link.say_bye(false);
        }
        for entry in &new {
            if timeout_at(deadline, owes_nothing(&entry.link)).await.is_err() {
                unfinished += 1;
                node.counters.limits.reached("drain_timeout");
                entry.running.cancel_all();
            }
        }
        links.extend(new.into_iter().map(|entry| entry.link));
        sleep_until(Instant::now() + LOOK_INTERVAL).await;
    }
    for link in &links {
        let _ = timeout_at(Instant::now() + LOOK_INTERVAL * 10, link.drained()).await;
        link.shutdown_write();
    }
    // A close with unread octets would reset the connection and destroy answers on their way.
    let last = Instant::now() + LAST_WORDS;
    for link in &links {
        let _ = timeout_at(last, link.ending()).await;
    }
    node.stop();
    node.spawner.stopped().await;
    match unfinished {
        0 => Ok(()),
        links => Err(ShutdownError::DrainTimeout { links, limit_ms: millis(limit) }),
    }
}

/// Closes one link in good order, after both ends have said Bye.
pub(crate) async fn farewell(link: &Arc<Link>, limit: Duration) {
    let deadline = Instant::now() + limit;
    let quiet = async {
        loop {
            if link.peer_said_bye() && link.pending_calls() == 0 && link.owes_nothing() {
                return;
            }
            sleep_until(Instant::now() + LOOK_INTERVAL).await;
        }
    };
    let _ = tokio::select! {
        biased;
        () = link.ending() => return,
        quiet = timeout_at(deadline, quiet) => quiet,
    };
    link.shutdown_write();
    let _ = timeout_at(Instant::now() + LAST_WORDS, link.ending()).await;
    link.end(LinkEnd::Bye);
}

/// All that the peer sent before its Bye has been read, and is finished and answered.
async fn owes_nothing(link: &Link) {
    let heard_all = || link.peer_said_bye() || !link.settings().own_peer;
    while !(heard_all() && link.owes_nothing()) && link.end_reason().is_none() {
        sleep_until(Instant::now() + LOOK_INTERVAL).await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
