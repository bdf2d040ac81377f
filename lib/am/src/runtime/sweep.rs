//! The only clock of a node: a task that every 10 ms, while anything goes on, expires calls, returns credit,
//! writes what was left over, and looks for links that have fallen silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::heap::HeapWatch;
use super::node::Node;
use crate::clock;
use crate::transport::link::LinkEnd;

/// One tick.
const TICK: Duration = Duration::from_millis(10);
/// The pace while there is nothing to watch but silence.
const IDLE_TICK: Duration = Duration::from_millis(100);
/// Ticks without work before the pace drops.
const IDLE_AFTER_TICKS: u32 = 100;
/// A tick so late means that the process was stopped: what waited in the sockets is read before silence and
/// deadlines are judged.
const LATE: Duration = Duration::from_millis(500);
/// Silence is looked at so often at least: it is noticed late by as much.
const SILENCE_INTERVAL_MAX: Duration = Duration::from_millis(100);

/// The sweep's sleep while there is nothing to do. Senders hold it rather than the node, whose count they would all
/// move with each call.
#[derive(Debug, Default)]
pub(crate) struct Sleep {
    wake: Notify,
    is_idle: AtomicBool,
}

impl Sleep {
    /// The sweep must look sooner than it meant to.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.is_idle.load(Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }
}

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut last = clock::now();
    let mut silence_checked = last;
    let mut idle_ticks = 0;
    let mut rest = Duration::ZERO;
    let silence_interval = silence_interval(&node);
    let mut heap = HeapWatch::default();
    loop {
        let is_idle = idle_ticks >= IDLE_AFTER_TICKS;
        let pace = if is_idle { IDLE_TICK.min(silence_interval) } else { TICK };
        node.sweep.is_idle.store(is_idle, Ordering::Relaxed);
        let woken = tokio::time::timeout(pace, node.sweep.wake.notified()).await.is_ok();
        if woken {
            idle_ticks = 0;
            node.sweep.is_idle.store(false, Ordering::Relaxed);
        }
        let now = clock::now();
        let elapsed = now.duration_since(last);
        last = now;
        let was_stopped = elapsed > LATE + pace;
        // While this process did not run, others could not be heard: that is no silence of theirs.
        rest += if was_stopped { TICK } else { elapsed };
        let ticks = rest.as_millis() / TICK.as_millis();
        rest -= TICK * u32::try_from(ticks).unwrap_or(0);
        node.ticks.advance(u64::try_from(ticks).unwrap_or(0));
        if was_stopped {
            // Every reader gets a turn; its octets are signs of life with the new tick.
            tokio::task::yield_now().await;
            tokio::time::sleep(TICK).await;
            continue;
        }
        let links = node.links.lock().clone();
        let was_short = node.budget.was_short();
        if was_short {
            node.counters.limits.reached("budget_len_max");
        }
        let mut busy = was_short || !node.handler_waiters.is_empty();
        for entry in &links {
            if entry.link.needs_sweep() {
                busy = true;
                let expired = entry.link.sweep(now);
                node.counters.calls_expired.increment(expired as u64);
            }
            if was_short {
                entry.link.retry_for_memory();
            }
            let (messages, octets) = entry.link.take_sent();
            if messages + octets > 0 {
                busy = true;
                node.counters.messages_sent.increment(messages);
                node.counters.bytes_sent.increment(octets);
            }
        }
        heap.look(&node.spawner, busy);
        node.handler_waiters.expire(now);
        idle_ticks = if busy { 0 } else { idle_ticks.saturating_add(1) };
        if now.duration_since(silence_checked) >= silence_interval {
            silence_checked = now;
            look_for_silence(&node, now);
            node.counters.budget_used.set(node.budget.used() as f64);
            node.counters.links.set(links.len() as f64);
        }
    }
}

fn silence_interval(node: &Node) -> Duration {
    let limits = &node.limits;
    let shortest = limits.ping_after.min(limits.silence_max / 3).min(limits.foreign_silence_max / 3);
    shortest.clamp(TICK, SILENCE_INTERVAL_MAX)
}

fn look_for_silence(node: &Node, now: Instant) {
    let limits = &node.limits;
    let in_ticks = |time: Duration| u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
    let links = node.links.lock().clone();
    for entry in links {
        let link = &entry.link;
        // A peer that we do not read is not silent, nor in the moment in which we begin to read it again.
        if link.is_held() {
            link.excuse_silence();
        }
        let silent = link.silent_ticks();
        let own = link.settings().own_peer;
        let longest = if own { limits.silence_max } else { limits.foreign_silence_max };
        let allowed = match link.ttl_ticks() {
            Some(ttl) if !own => ttl.min(in_ticks(longest)),
            _ => in_ticks(longest),
        };
        let pinged = entry.takes_ping || link.ttl_ticks().is_some();
        // Who only receives must be heard as well: its peer may be at a long write, with no PING before its end.
        let quiet = if own { silent.max(link.unsent_ticks()) } else { silent };
        // Again after half of that, so that a lost PING or two do no harm.
        if quiet >= in_ticks(limits.ping_after) && silent < allowed && entry.takes_ping {
            link.ping_after(in_ticks(limits.ping_after / 2));
        }
        // A peer that cannot be pinged may well have nothing to say.
        if pinged && silent >= allowed {
            link.end(LinkEnd::Silent(silent * 10));
        }
        // Its first PING may be among what is not read.
        if link.is_held() && (own || entry.takes_ping || link.was_pinged()) {
            link.pong_unasked();
        }
        if link.is_slow_consumer(now, limits.slow_consumer_timeout) {
            link.end(LinkEnd::SlowConsumer);
        }
        if silent > RELEASE_TICKS {
            link.release_buffers();
        }
    }
}

/// A link with nothing received for so many ticks gives its buffers back.
const RELEASE_TICKS: u64 = 100;
