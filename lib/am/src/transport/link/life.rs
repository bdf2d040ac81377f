//! Signs of life: what tells a live peer from a dead one, and a slow one from both.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Link;
use crate::wire::zmtp::command;

impl Link {
    /// Counts silence from now on.
    pub fn excuse_silence(&self) {
        self.reading.received_tick.store(self.ticks.now(), Ordering::Relaxed);
    }

    /// Ticks since the last octet of the peer.
    pub fn silent_ticks(&self) -> u64 {
        self.ticks.now().saturating_sub(self.reading.received_tick.load(Ordering::Relaxed))
    }

    /// How many silent ticks the peer's own PINGs allow it, if they say so.
    pub fn ttl_ticks(&self) -> Option<u64> {
        Some(self.ttl_ticks.load(Ordering::Relaxed)).filter(|ticks| *ticks > 0)
    }

    /// Ticks since the socket last took an octet of ours, as far as this was asked before.
    pub fn unsent_ticks(&self) -> u64 {
        let now = self.ticks.now();
        let mut shared = self.shared.lock();
        if shared.sent_mark.0 != shared.written {
            shared.sent_mark = (shared.written, now);
        }
        now.saturating_sub(shared.sent_mark.1)
    }

    /// Octets received so far.
    pub fn received_len(&self) -> u64 {
        self.reading.received_len.load(Ordering::Relaxed)
    }

    /// Owes the peer a PING, unless the last is younger than so many ticks.
    pub fn ping_after(&self, ticks: u64) {
        let now = self.ticks.now();
        if now.saturating_sub(self.pinged_tick.load(Ordering::Relaxed)) >= ticks.max(1) {
            self.pinged_tick.store(now, Ordering::Relaxed);
            self.ping();
        }
    }

    /// Owes the peer a PING; it leaves at once if nothing is being written.
    pub fn ping(&self) {
        let mut shared = self.shared.lock();
        shared.ping_due = true;
        self.flush_now(shared);
    }

    /// Whether the peer has sent a PING: it watches us.
    pub fn was_pinged(&self) -> bool {
        self.pinged.load(Ordering::Relaxed)
    }

    /// Owes a PONG without a PING to a foreign peer that we do not read: it must not take back-pressure for death.
    pub fn pong_unasked(&self) {
        let mut shared = self.shared.lock();
        if shared.pong.is_none() {
            let mut pong = Vec::new();
            command::encode_pong(&[], &mut pong);
            shared.pong = Some(pong);
        }
        self.flush_now(shared);
    }

    /// Whether the peer has taken next to nothing for `patience` of what waits for it.
    pub fn is_slow_consumer(&self, now: Instant, patience: Duration) -> bool {
        let mut shared = self.shared.lock();
        let (since, written) = shared.slow_mark;
        let slow_len = self.settings.slow_consumer_len;
        let moves = shared.written - written >= slow_len as u64;
        match since {
            Some(since) if !moves && shared.waiting_len() > slow_len => now.duration_since(since) >= patience,
            _ => {
                shared.slow_mark = (Some(now), shared.written);
                false
            }
        }
    }

    /// Whether we are the ones who do not read, because the peer has too much unfinished here.
    pub fn is_held(&self) -> bool {
        self.waits_for_turn() || self.waits_for_room()
    }

    /// Whether it is not read because the peer has too much unfinished here.
    pub fn waits_for_room(&self) -> bool {
        self.shared.lock().held.is_some()
    }

    /// Whether something waits for the socket, a PING as well.
    pub fn is_writing(&self) -> bool {
        let shared = self.shared.lock();
        shared.writing || shared.ping_due
    }

    pub(super) fn note_received(&self, len: usize) {
        self.reading.received_len.fetch_add(len as u64, Ordering::Relaxed);
        self.reading.received_tick.store(self.ticks.now(), Ordering::Relaxed);
    }

    /// Owes the peer a PONG, instead of the one owed before. `ttl_ds` is how long, in tenths of a second, the
    /// peer wants to be waited for when it falls silent; 0 when it does not say.
    pub(super) fn owe_pong(&self, encoded: Vec<u8>, ttl_ds: u16) {
        if ttl_ds > 0 {
            self.ttl_ticks.store(u64::from(ttl_ds) * 10, Ordering::Relaxed);
        }
        self.pinged.store(true, Ordering::Relaxed);
        self.shared.lock().pong = Some(encoded);
    }
}
