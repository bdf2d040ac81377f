//! Which of two links to one peer is read and written first, so that order survives the change from one to the other;
//! and the Bye that ends one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::Link;
use crate::wire::header::Header;

impl Link {
    /// Reads this link only when the peer has said Bye on `other`, or that has ended.
    pub fn read_after(&self, other: Arc<Self>) {
        let mut after = self.after.lock();
        after.push(other);
        self.reading.is_second.store(true, Ordering::Release);
    }

    /// Waits for `other` no longer.
    pub fn stop_waiting_for(&self, other: &Arc<Self>) {
        self.after.lock().retain(|known| !Arc::ptr_eq(known, other));
        let waiters = std::mem::take(&mut other.shared.lock().bye_waiters);
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Sends no new Message on this link before the peer has said Bye on `other`, or that has ended: by then the peer
    /// knows of `other`, and reads it first. Before that it may not have ended its handshake there.
    pub fn send_after(self: &Arc<Self>, other: &Self) {
        self.shared.lock().waits_to_send = true;
        let mut shared = other.shared.lock();
        if shared.peer_said_bye || other.end_reason().is_some() {
            drop(shared);
            self.open_sends();
        } else {
            shared.followers.push(self.clone());
        }
    }

    /// The peer knows of the link that this one takes the place of.
    pub(super) fn open_sends(&self) {
        let first = {
            let mut shared = self.shared.lock();
            shared.waits_to_send = false;
            shared.first_waiting()
        };
        first.for_each(Waker::wake);
    }

    /// Ready when this link may be read; see [`read_after`](Self::read_after).
    #[inline]
    pub fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        if self.reading.is_second.load(Ordering::Acquire) { self.poll_second(cx) } else { Poll::Ready(()) }
    }

    #[cold]
    fn poll_second(&self, cx: &Context<'_>) -> Poll<()> {
        let mut after = self.after.lock();
        while let Some(other) = after.last() {
            let mut shared = other.shared.lock();
            if !shared.peer_said_bye && other.end_reason().is_none() {
                if !shared.bye_waiters.iter().any(|known| known.will_wake(cx.waker())) {
                    shared.bye_waiters.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            drop(shared);
            after.pop();
        }
        self.reading.is_second.store(false, Ordering::Release);
        Poll::Ready(())
    }

    /// Whether another link is read first.
    pub fn waits_for_turn(&self) -> bool {
        let after = self.after.lock();
        after.iter().any(|other| !other.peer_said_bye() && other.end_reason().is_none())
    }

    /// From now on no new Messages are sent on this link. Senders that wait for credit learn of it.
    pub fn retire(&self) {
        let senders = {
            let mut shared = self.shared.lock();
            shared.retired = true;
            shared.take_senders()
        };
        senders.for_each(Waker::wake);
    }

    /// Says Bye and sends no new Messages from now on. `moved`: another link takes the place of this one.
    pub fn say_bye(&self, moved: bool) {
        let mut shared = self.shared.lock();
        shared.retired = true;
        shared.moved |= moved;
        if !shared.closed && !self.settings.takes_no_messages {
            shared.push_control(&Header::bye(moved), &[]);
        }
        let senders = shared.take_senders();
        self.flush_now(shared);
        senders.for_each(Waker::wake);
    }

    /// The peer has said Bye.
    pub fn note_bye(&self) {
        let (waiter, followers) = {
            let mut shared = self.shared.lock();
            shared.peer_said_bye = true;
            (std::mem::take(&mut shared.bye_waiters), std::mem::take(&mut shared.followers))
        };
        waiter.into_iter().for_each(Waker::wake);
        followers.iter().for_each(|link| link.open_sends());
    }

    /// Whether the peer has said Bye.
    pub fn peer_said_bye(&self) -> bool {
        self.shared.lock().peer_said_bye
    }
}
