//! One link to a peer: a send buffer with its flusher, a reader, and what both ends may still send.
//!
//! A message's way out: the sender encodes it into the send buffer under the link's one lock, which
//! also covers credit and the slab of pending calls. Whoever then finds no write going on writes; otherwise the
//! one who writes takes it along. A message's way in: [`reader`] reads chunks and hands each message to an
//! [`Inbound`], which is the runtime's router.
//!
//! **Invariants**
//! 1. No user code, waker or system call runs under the lock.
//! 2. `writing` is true exactly while one task or caller owns a batch: writes never interleave.
//! 3. After [`Link::finish`] no call is pending and nothing is queued any more.
//!
//! Lock order: `after`, then a link's lock, which is the innermost; nothing else is locked while it is held.

mod buffer;
mod flush;
mod inspect;
mod large;
mod life;
mod order;
mod pool;
pub mod reader;
mod send;
mod state;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use inspect::LinkTables;
pub use large::{LargeBuffer, Skipped};
pub use reader::{Inbound, Received};
pub use send::{Answer, AnswerBody, SendError};

use super::StreamWriter;
use crate::proto::budget::Budget;
use crate::proto::credit::{CreditViolation, ReceiveCredit, Totals};
use crate::proto::pending::{Outcome, Polled, ReceiptReply, Reply, SYSTEM_ID_BIT};
use crate::wire::codes::{ChunkOf, CreditAccount};
use crate::wire::credit_frame::CreditTotals;
use state::{LARGE, ORDINARY, SYSTEM, Shared};

/// Between own nodes a frame carries at most so many octets of payload; what is longer goes in parts.
pub const PART_LEN: usize = 1 << 20;

/// What a link needs to know of its two ends.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// The peer is one of our own nodes: it has credit, and takes payloads in parts.
    pub own_peer: bool,
    /// We dialled it.
    pub dialled: bool,
    /// The peer is a foreign REP: it takes nothing without an envelope.
    pub wants_envelope: bool,
    /// The peer is a foreign PULL: it answers nothing.
    pub never_answers: bool,
    /// The peer is a foreign REQ or PUSH: it takes answers to its own messages at most, and libzmq's REQ leaves
    /// for good when anything else comes.
    pub takes_no_messages: bool,
    /// The longest payload that the peer takes, in octets.
    pub peer_payload_len_max: u64,
    /// The longest payload that we take, in octets.
    pub payload_len_max: u64,
    /// First grant of the peer to us, ordinary and large account.
    pub granted_by_peer: [Totals; 2],
    /// Our first grant to the peer.
    pub granted_to_peer: [Totals; 2],
    /// Calls of system handlers that may be unfinished, each way.
    pub system_calls_max: u32,
    /// Calls that may wait for an answer.
    pub pending_calls_max: usize,
    /// Replies wait while more than this is queued, in octets.
    pub send_buffer_len_max: usize,
    /// A foreign peer's payload that is too long is skipped up to this length, in octets.
    pub skipped_len_max: u64,
    /// PINGs of the peer within a second.
    pub pings_per_second_max: u32,
    /// Commands of the peer within a second that mean nothing to us.
    pub unknown_commands_per_second_max: u32,
    /// Messages of the peer within a second that are empty or malformed.
    pub useless_messages_per_second_max: u32,
    /// A peer is slow that takes less than so many octets in a while, with more than that waiting for it.
    pub slow_consumer_len: usize,
    /// Messages wait while more than this is queued, in octets.
    pub output_len_max: usize,
    /// What the node may hold for all its links.
    pub budget: Arc<Budget>,
}

/// Credit that nothing takes along is sent after so many ticks. It is less than a quarter of a grant, so that nobody
/// waits for it; and a busy link that takes its turn every few ticks must not pay for two writes instead of one.
const OWED_TICKS_MAX: u64 = 10;

/// The process's coarse clock: ticks of 10 ms, counted by the runtime's sweep while anything goes on.
#[derive(Debug, Default)]
pub struct Ticks(AtomicU64);

impl Ticks {
    /// Ticks so far.
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts on; the runtime's sweep alone calls this.
    pub fn advance(&self, ticks: u64) {
        self.0.fetch_add(ticks, Ordering::Relaxed);
    }
}

/// What became of one-way messages at the end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OneWayLosses {
    /// Messages of which nothing has left.
    pub unsent: u64,
    /// Messages that have left and that the peer has not said to be finished, at most; `None` when the peer says
    /// nothing of that kind.
    pub maybe_lost: Option<u64>,
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The peer closed it, or its process ended.
    #[error("the peer closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The peer passed a limit.
    #[error("the peer sends more than `{0}` allows")]
    OverLimit(&'static str),
    /// Nothing was heard of the peer for too long.
    #[error("the peer has been silent for {0} ms")]
    Silent(u64),
    /// The peer does not read what it is sent.
    #[error("the peer does not read what it is sent")]
    SlowConsumer,
    /// Another start of the peer has taken its place.
    #[error("the peer has started anew")]
    Replaced,
    /// `disconnect` was called.
    #[error("disconnected on request")]
    Disconnected,
    /// Both ends have said Bye and owe nothing.
    #[error("both ends said goodbye")]
    Bye,
    /// This node was shut down or dropped.
    #[error("this node has shut down")]
    NodeStopped,
}

/// What each read looks at, on one cache line: with a thousand busy links every line is a miss.
#[derive(Debug)]
#[repr(align(64))]
struct Reading {
    /// Octets received, for silence: bytes, not frames, are signs of life.
    received_len: AtomicU64,
    received_tick: AtomicU64,
    /// There may be something in `after`.
    is_second: AtomicBool,
    end: OnceLock<LinkEnd>,
}

/// One end of a connection to a peer.
pub struct Link {
    number: u64,
    settings: LinkSettings,
    ticks: Arc<Ticks>,
    shared: Mutex<Shared>,
    reading: Reading,
    ended: CancellationToken,
    /// Links of the same peer that must be read to their Byes before this one is read, so that order survives.
    after: Mutex<Vec<Arc<Link>>>,
    /// What the peer's PINGs ask for; 0 when they do not.
    ttl_ticks: AtomicU64,
    /// The peer has sent a PING: it watches us.
    pinged: AtomicBool,
    /// When we sent it the last one because it was silent.
    pinged_tick: AtomicU64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("number", &self.number)
            .field("end", &self.reading.end.get())
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A link over a stream whose handshake is done. The caller runs [`flush_loop`](Self::flush_loop) and
    /// [`reader::read_loop`], then calls [`finish`](Self::finish).
    pub fn new(
        number: u64,
        settings: LinkSettings,
        writer: Box<dyn StreamWriter>,
        ticks: Arc<Ticks>,
    ) -> Arc<Self> {
        let shared = Mutex::new(Shared::new(&settings, writer.into()));
        let reading = Reading {
            received_len: AtomicU64::new(0),
            received_tick: AtomicU64::new(ticks.now()),
            is_second: AtomicBool::new(false),
            end: OnceLock::new(),
        };
        Arc::new(Self {
            number,
            settings,
            ticks,
            shared,
            reading,
            ended: CancellationToken::new(),
            after: Mutex::default(),
            ttl_ticks: AtomicU64::new(0),
            pinged: AtomicBool::new(false),
            pinged_tick: AtomicU64::new(0),
        })
    }

    /// Its number in this process; never used twice.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// What it was made with.
    pub const fn settings(&self) -> &LinkSettings {
        &self.settings
    }

    /// Why it ended, once it has.
    pub fn end_reason(&self) -> Option<&LinkEnd> {
        self.reading.end.get()
    }

    /// Resolves when the link is to end; its tasks then stop.
    pub async fn ending(&self) {
        self.ended.cancelled().await;
    }

    /// Ends the link: nothing more is sent, and the reader stops. The first reason stays.
    pub fn end(&self, reason: LinkEnd) {
        let _ = self.reading.end.set(reason);
        let (senders, room, flusher, followers) = {
            let mut shared = self.shared.lock();
            shared.closed = true;
            let held = shared.held.take();
            let waits_for_bye = std::mem::take(&mut shared.bye_waiters);
            shared.room.extend(held.into_iter().chain(waits_for_bye));
            let followers = std::mem::take(&mut shared.followers);
            (shared.take_senders(), std::mem::take(&mut shared.room), shared.flusher.take(), followers)
        };
        followers.iter().for_each(|link| link.open_sends());
        self.ended.cancel();
        // A peer that waits for our end of stream must see it, whoever still holds this link.
        self.shutdown_write();
        senders.chain(room).chain(flusher).for_each(Waker::wake);
    }

    /// The reader has stopped, so no more replies come: fails what is pending, and lets go of the stream, however
    /// long handlers and callers still hold the link.
    pub fn finish(&self) -> OneWayLosses {
        let mut woken = Vec::new();
        let (writer, losses);
        {
            let mut shared = self.shared.lock();
            shared.closed = true;
            losses = shared.one_way_losses(self.settings.own_peer);
            let sent_to = shared.sent_to();
            shared.pending.fail_all(sent_to, &mut woken);
            shared.drop_large(|_| true);
            shared.out.clear(0);
            shared.spare.clear(0);
            shared.queued = shared.written;
            shared.release_account();
            writer = shared.writer.take();
        }
        drop(writer);
        woken.into_iter().for_each(Waker::wake);
        losses
    }

    /// What becomes of one-way messages if the link ends now.
    pub fn one_way_losses(&self) -> OneWayLosses {
        self.shared.lock().one_way_losses(self.settings.own_peer)
    }

    /// Octets queued and not yet taken by the socket.
    pub fn waiting_len(&self) -> usize {
        self.shared.lock().waiting_len()
    }

    /// Octets that have surely not left.
    pub fn unsent_len(&self) -> u64 {
        self.shared.lock().unsent_len()
    }

    /// Calls waiting for an answer from the peer.
    pub fn pending_calls(&self) -> usize {
        self.shared.lock().pending.len()
    }

    /// The peer's requests that are running here and owe an answer.
    pub fn answering(&self) -> i32 {
        self.shared.lock().answering
    }

    /// Whether new Messages are no longer sent on it: one end said Bye.
    pub fn is_retired(&self) -> bool {
        self.shared.lock().retired
    }

    /// Whether it has not made room for another link, nor has the peer said Bye: of a node that is going, this is the
    /// link by which its peers reach it still.
    pub fn stands(&self) -> bool {
        let shared = self.shared.lock();
        !shared.closed && !shared.moved && !shared.peer_said_bye
    }

    /// Whether it can carry new Messages.
    pub fn is_usable(&self) -> bool {
        let shared = self.shared.lock();
        !shared.closed && !shared.retired
    }

    /// Takes a reply of the peer; `false` when nobody waits for it any more.
    #[inline]
    pub fn handle_reply(&self, id: u64, reply: Reply) -> bool {
        let is_final = !matches!(reply, Reply::Receipt(_));
        let is_nack = matches!(reply, Reply::Nack { .. });
        let mut next_system = None;
        let waiter = {
            let mut shared = self.shared.lock();
            if is_final && id & SYSTEM_ID_BIT != 0 {
                shared.system_sent = shared.system_sent.saturating_sub(1);
                next_system = shared.senders[SYSTEM].front().map(|sender| sender.waker.clone());
            }
            if is_nack && !shared.large.is_empty() {
                shared.drop_large(|large| large.id == id && large.of == ChunkOf::Message);
            }
            let reply = shared.charge_reply(id & !SYSTEM_ID_BIT, reply);
            shared.pending.handle_reply(id & !SYSTEM_ID_BIT, reply)
        };
        next_system.into_iter().for_each(Waker::wake);
        match waiter {
            Some(Some(waiter)) => waiter.wake(),
            Some(None) => {}
            None => return false,
        }
        true
    }

    /// Takes a Credit frame of the peer.
    ///
    /// # Errors
    ///
    /// When its totals cannot be true; the link must then end.
    pub fn handle_credit(
        &self,
        account: CreditAccount,
        totals: &CreditTotals,
    ) -> Result<(), CreditViolation> {
        let finished = Totals { messages: totals.messages_finished, bytes: totals.bytes_finished };
        let granted = Totals { messages: totals.messages_granted, bytes: totals.bytes_granted };
        let first = {
            let mut shared = self.shared.lock();
            let opened = shared.send_credit[usize::from(account.as_u8())].handle_grant(finished, granted)?;
            opened.then(|| shared.first_waiting())
        };
        first.into_iter().flatten().for_each(Waker::wake);
        Ok(())
    }

    /// Asks for the end of a call.
    #[inline]
    pub fn poll_outcome(&self, id: u64, cx: &Context<'_>) -> Poll<Outcome> {
        let polled = {
            let mut shared = self.shared.lock();
            let polled = shared.pending.poll_outcome(id & !SYSTEM_ID_BIT, |old| waiter(old, cx));
            shared.settle_account();
            polled
        };
        match polled {
            Polled::Waiting => Poll::Pending,
            Polled::Ready(outcome) => Poll::Ready(outcome),
            Polled::Gone => Poll::Ready(Outcome::Lost { sent: true }),
        }
    }

    /// Asks for the receipt of a call.
    pub fn poll_receipt(&self, id: u64, cx: &Context<'_>) -> Poll<Result<ReceiptReply, Outcome>> {
        let polled = self.shared.lock().pending.poll_receipt(id & !SYSTEM_ID_BIT, |old| waiter(old, cx));
        match polled {
            Polled::Waiting => Poll::Pending,
            Polled::Ready(receipt) => Poll::Ready(receipt),
            Polled::Gone => Poll::Ready(Err(Outcome::Lost { sent: true })),
        }
    }

    /// The caller gives up on a call: its slot is free at once, and the peer is told if it may still be at it.
    pub fn abandon(&self, id: u64) {
        let mut shared = self.shared.lock();
        if shared.pending.abandon(id & !SYSTEM_ID_BIT) && !shared.closed {
            shared.push_cancel(id);
            self.flush_soon(shared);
        }
    }

    /// What the runtime's sweep does for each link: expires calls, sends credit that has been owed for long,
    /// and writes what its sender has left to a flusher that had no turn.
    /// Gives how many calls have expired.
    pub fn sweep(self: &Arc<Self>, now: Instant) -> usize {
        let mut woken = Vec::new();
        let mut shared = self.shared.lock();
        let expired = shared.expire_calls(now, &mut woken);
        let owed = self.settings.own_peer
            && shared.receive_credit.iter().any(ReceiveCredit::is_owed)
            && self.ticks.now().saturating_sub(shared.owed_since_tick) >= OWED_TICKS_MAX;
        if !shared.closed && !shared.writing && (owed || shared.has_work()) {
            self.write_now(shared, owed);
        } else {
            drop(shared);
        }
        woken.into_iter().for_each(Waker::wake);
        expired
    }

    /// Whether a sweep has anything to watch here.
    pub fn needs_sweep(&self) -> bool {
        let shared = self.shared.lock();
        shared.pending.has_deadlines()
            || shared.has_work()
            || shared.receive_credit.iter().any(ReceiveCredit::is_owed)
    }

    /// Gives back the buffers of a link on which nothing happens.
    pub fn release_buffers(&self) {
        let mut shared = self.shared.lock();
        if shared.out.is_empty() && !shared.writing && shared.out.capacity() + shared.spare.capacity() > 0 {
            shared.out.clear(0);
            shared.spare.clear(0);
        }
        shared.release_account();
    }

    /// Lets all try again who wait for memory, now that the budget may have some.
    pub fn retry_for_memory(&self) {
        let (senders, room) = {
            let mut shared = self.shared.lock();
            (shared.first_waiting(), std::mem::take(&mut shared.room))
        };
        senders.chain(room).for_each(Waker::wake);
    }

    /// The peer may have `window` unfinished here from now on; it is told at once.
    pub fn grow_window(&self, window: Totals) {
        let mut shared = self.shared.lock();
        shared.receive_credit[ORDINARY].grow(window);
        self.flush_now(shared);
    }

    /// Messages sent, and octets of any kind taken by the socket, since the last time this was asked.
    pub fn take_sent(&self) -> (u64, u64) {
        let mut shared = self.shared.lock();
        let sent = (shared.messages_sent - shared.told_messages, shared.written - shared.told_written);
        shared.told_messages = shared.messages_sent;
        shared.told_written = shared.written;
        sent
    }

    /// Grants known to the peer, for the reader's meter.
    pub fn granted(&self, account: usize) -> Totals {
        self.shared.lock().receive_credit[account].granted()
    }
}

/// Keeps the waker that is there if it wakes the same task.
#[inline]
fn waiter(old: Option<Waker>, cx: &Context<'_>) -> Waker {
    match old {
        Some(old) if old.will_wake(cx.waker()) => old,
        _ => cx.waker().clone(),
    }
}

/// Which account a payload draws on.
#[must_use]
pub const fn account_of(payload_len: u64) -> usize {
    if payload_len > PART_LEN as u64 { LARGE } else { ORDINARY }
}
