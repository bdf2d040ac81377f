//! What all users of a link share under its one lock: [`Shared`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;

use super::super::StreamWriter;
use super::buffer::{Progress, SendBuffer};
use super::{Link, LinkSettings, OneWayLosses, PART_LEN};
use crate::proto::budget::{Account, COVERED_LEN_MIN};
use crate::proto::credit::{Charge, ReceiveCredit, SendCredit, Totals};
use crate::proto::outgoing::PayloadSource;
use crate::proto::pending::{Pending, Reply};
use crate::wire::codes::{ChunkOf, CreditAccount, Kind};
use crate::wire::credit_frame::CreditTotals;
use crate::wire::header::Header;
use crate::wire::zmtp::{command, frame};

/// Index of the account for messages of ordinary size.
pub(super) const ORDINARY: usize = 0;
/// Index of the account for payloads over 1 MiB.
pub(super) const LARGE: usize = 1;

/// Index of the queue of those who wait to call system handlers, behind those for the two accounts.
pub(super) const SYSTEM: usize = 2;
/// Queues of waiting senders.
pub(super) const QUEUES: usize = 3;

/// The rest of a payload over 1 MiB, sent part by part.
#[derive(Debug)]
pub(super) struct LargeOut {
    pub(super) of: ChunkOf,
    pub(super) id: u64,
    pub(super) rest: Bytes,
    /// What is finished at the receiver of a reply once the last part has been written.
    pub(super) finishes: Charge,
}

/// A sender that waits for credit, in the order in which they came.
#[derive(Debug)]
pub(super) struct WaitingSender {
    pub(super) ticket: u64,
    pub(super) waker: Waker,
}

/// Everything that sending touches.
pub(super) struct Shared {
    // What every message touches comes first, and what few do last: a link that had no message for a while is cold.
    /// Filled by senders.
    pub(super) out: SendBuffer,
    /// Octets of the stream so far: queued, and taken by the socket.
    pub(super) queued: u64,
    pub(super) written: u64,
    /// What is held for this link: queued output, and answers that their callers have not taken.
    account: Account,
    pub(super) send_credit: [SendCredit; 2],
    /// Senders that wait for credit, by what they wait for, so that none waits for another's account.
    pub(super) senders: [VecDeque<WaitingSender>; QUEUES],
    pub(super) pending: Pending<Waker>,
    /// Messages sent, and one-way ones among them, whose ids count on.
    pub(super) messages_sent: u64,
    pub(super) one_way_queued: u64,
    pub(super) receive_credit: [ReceiveCredit; 2],
    /// What has come of the peer's requests, by account.
    pub(super) received: [Totals; 2],
    /// Where batches are written; `None` when the link is over.
    pub(super) writer: Option<Arc<dyn StreamWriter>>,
    /// Empty, swapped in when `out` is taken for writing.
    pub(super) spare: SendBuffer,
    /// The newest PONG owed, as an encoded command.
    pub(super) pong: Option<Vec<u8>>,
    /// Those who wait for room in the buffer, or for it to be empty.
    pub(super) room: Vec<Waker>,
    /// The reader, when it waits for messages to be finished.
    pub(super) held: Option<Waker>,
    /// Payloads over 1 MiB that are under way.
    pub(super) large: VecDeque<LargeOut>,
    /// Octets of them that are not queued yet.
    large_len: usize,
    pub(super) flusher: Option<Waker>,
    /// Since when credit is owed.
    pub(super) owed_since_tick: u64,
    pub(super) burst_tick: u64,
    /// How many one-way messages may still be written by their sender in this tick.
    pub(super) burst_left: u8,
    /// Somebody is writing, or a batch is handed to the flusher.
    pub(super) writing: bool,
    /// The flusher has been woken and has not run yet.
    pub(super) scheduled: bool,
    /// A batch is with the socket at this moment: how much of it is taken is not known.
    pub(super) in_socket: bool,
    /// Sending is over: the link ended, or a write failed.
    pub(super) closed: bool,
    /// No new Messages: we or the peer said Bye.
    pub(super) retired: bool,
    /// This end said that another link takes its place.
    pub(super) moved: bool,
    /// New Messages wait until the peer knows of the link that this one takes the place of.
    pub(super) waits_to_send: bool,
    pub(super) ping_due: bool,
    pub(super) peer_said_bye: bool,
    /// Requests that are running here and owe an answer.
    pub(super) answering: i32,
    /// Calls of system handlers that the peer has not answered.
    pub(super) system_sent: u32,
    /// The peer's calls of system handlers that are unfinished here.
    pub(super) system_unfinished: u32,
    /// What of `messages_sent` and of `written` the metrics know.
    pub(super) told_messages: u64,
    pub(super) told_written: u64,
    /// A batch that the socket did not take whole, left to the flusher.
    pub(super) handed: Option<(SendBuffer, Progress)>,
    /// The readers of links that are read after this one.
    pub(super) bye_waiters: Vec<Waker>,
    /// Links that send after this one.
    pub(super) followers: Vec<Arc<Link>>,
    pub(super) next_ticket: u64,
    /// When the peer was last seen to take what is sent, and how much it had taken then.
    pub(super) slow_mark: (Option<Instant>, u64),
    /// What had been written when this was last looked at, and the tick in which it was seen to change.
    pub(super) sent_mark: (u64, u64),
}

impl Shared {
    pub(super) fn new(settings: &LinkSettings, writer: Arc<dyn StreamWriter>) -> Self {
        Self {
            out: SendBuffer::default(),
            spare: SendBuffer::default(),
            handed: None,
            large: VecDeque::new(),
            large_len: 0,
            account: Account::new(settings.budget.clone()),
            writing: false,
            in_socket: false,
            scheduled: false,
            flusher: None,
            writer: Some(writer),
            queued: 0,
            written: 0,
            one_way_queued: 0,
            messages_sent: 0,
            told_messages: 0,
            told_written: 0,
            closed: false,
            retired: false,
            moved: false,
            pending: Pending::new(settings.pending_calls_max),
            send_credit: settings.granted_by_peer.map(SendCredit::new),
            receive_credit: settings.granted_to_peer.map(ReceiveCredit::new),
            system_sent: 0,
            system_unfinished: 0,
            answering: 0,
            received: [Totals::default(); 2],
            held: None,
            peer_said_bye: false,
            bye_waiters: Vec::new(),
            waits_to_send: false,
            followers: Vec::new(),
            senders: Default::default(),
            next_ticket: 0,
            room: Vec::new(),
            pong: None,
            ping_due: false,
            slow_mark: (None, 0),
            sent_mark: (0, 0),
            owed_since_tick: 0,
            burst_left: 0,
            burst_tick: 0,
        }
    }

    /// A message has been queued; `before` octets were queued until then.
    #[inline]
    pub(super) fn note_message(&mut self, before: usize) {
        self.queued += (self.out.len() - before) as u64;
        self.messages_sent += 1;
    }

    /// The socket has taken `len` octets more of the batch that was with it.
    pub(super) fn note_written(&mut self, len: u64) {
        self.in_socket = false;
        self.written += len;
        // The link may have been finished meanwhile, and what was queued forgotten.
        self.queued = self.queued.max(self.written);
    }

    /// What becomes of one-way messages if the link ends now.
    pub(super) fn one_way_losses(&self, own_peer: bool) -> OneWayLosses {
        let unsent = self.out.one_way;
        let left = self.one_way_queued - unsent;
        let maybe_lost = own_peer.then(|| {
            // Answered calls may not have been told as finished yet, so that this is no less than the truth.
            let unfinished = self.send_credit[ORDINARY].unfinished().messages;
            unfinished.saturating_sub(unsent + self.pending.len() as u64).min(left)
        });
        OneWayLosses { unsent, maybe_lost }
    }

    /// How far the stream may have been taken by the socket.
    pub(super) fn sent_to(&self) -> u64 {
        if self.in_socket { self.queued - self.out.len() as u64 } else { self.written }
    }

    /// Octets queued, the batch under way included: what a message of ordinary size waits for.
    pub(super) fn queued_len(&self) -> usize {
        (self.queued - self.written) as usize
    }

    /// Octets waiting, the batch under way and the rest of large payloads included.
    pub(super) fn waiting_len(&self) -> usize {
        self.queued_len() + self.large_len
    }

    /// Octets that have surely not left: all that waits, but for what the socket may be taking at this moment.
    pub(super) fn unsent_len(&self) -> u64 {
        self.queued - self.sent_to() + self.large_len as u64
    }

    /// Whether a write would have something to send that is worth it.
    pub(super) fn has_work(&self) -> bool {
        !self.out.is_empty()
            || !self.large.is_empty()
            || self.pong.is_some()
            || self.ping_due
            || self.receive_credit.iter().any(ReceiveCredit::is_urgent)
    }

    /// Takes what is to be written next: newest state first, then what is queued, then one part of a large
    /// payload. `with_credit` also sends credit that is not urgent.
    pub(super) fn take_batch(&mut self, own_peer: bool, with_credit: bool) -> Option<SendBuffer> {
        self.push_part();
        if self.out.is_empty() && !with_credit && !self.has_work() {
            return None;
        }
        self.push_state(own_peer, with_credit);
        if self.out.is_empty() {
            return None;
        }
        Some(std::mem::replace(&mut self.out, std::mem::take(&mut self.spare)))
    }

    /// PONG, PING and Credit are state, not queue: the newest of each leaves at the head of a write. Credit for a few
    /// messages does not: a frame for each answer would cost both ends more than the answer.
    fn push_state(&mut self, own_peer: bool, with_credit: bool) {
        let leaves = if with_credit { ReceiveCredit::is_owed } else { ReceiveCredit::is_due };
        let owes_credit = own_peer && self.receive_credit.iter().any(leaves);
        if !owes_credit && self.pong.is_none() && !self.ping_due {
            return;
        }
        let mut state = self.pong.take().unwrap_or_default();
        if std::mem::take(&mut self.ping_due) {
            command::encode_ping(0, &[], &mut state);
        }
        if owes_credit {
            for account in [CreditAccount::Ordinary, CreditAccount::Large] {
                let credit = &mut self.receive_credit[usize::from(account.as_u8())];
                if credit.is_owed() {
                    let (finished, granted) = credit.take_frame();
                    encode_credit(account, finished, granted, &mut state);
                }
            }
        }
        self.queued += state.len() as u64;
        self.out.push_front(&state);
    }

    /// Queues the next part of the payload at the front of the large ones, unless enough is queued already:
    /// other messages pass between two parts.
    fn push_part(&mut self) {
        if self.out.len() >= PART_LEN {
            return;
        }
        let Some(mut large) = self.large.pop_front() else { return };
        let before = self.out.len();
        let part = large.rest.split_to(large.rest.len().min(PART_LEN));
        self.large_len -= part.len();
        let header = Header::chunk(large.of, large.id);
        let octets = self.out.octets();
        frame::encode_header(true, header.encoded_len(), octets);
        header.encode(octets);
        frame::encode_header(false, part.len(), octets);
        self.out.push_payload(PayloadSource::Shared(&part));
        if large.rest.is_empty() {
            self.out.finishes.add(large.finishes);
        } else {
            self.large.push_back(large);
        }
        self.queued += (self.out.len() - before) as u64;
    }

    /// A batch is written whole: what it finished is finished, and its room serves the next swap.
    pub(super) fn finish_batch(&mut self, mut batch: SendBuffer, tick: u64) {
        // Some wait for this room rather than for credit.
        if self.senders.iter().any(|queue| !queue.is_empty()) {
            self.room.extend(self.first_waiting());
        }
        self.finish(batch.finishes, tick);
        self.room.extend(self.held.take());
        batch.clear(SPARE_CAPACITY_MAX);
        self.spare = batch;
        self.settle_account();
    }

    /// Queues the rest of a large payload.
    pub(super) fn push_large(&mut self, large: LargeOut) {
        self.large_len += large.rest.len();
        self.large.push_back(large);
    }

    /// Sends no further part of those payloads.
    pub(super) fn drop_large(&mut self, which: impl Fn(&LargeOut) -> bool) {
        let large_len = &mut self.large_len;
        self.large.retain(|large| {
            let is_dropped = which(large);
            *large_len -= if is_dropped { large.rest.len() } else { 0 };
            !is_dropped
        });
    }

    /// Bytes held for this link.
    #[inline]
    fn held_len(&self) -> u64 {
        (self.waiting_len() + self.pending.held_len()) as u64
    }

    /// Whether `len` more bytes may be held. A link that holds nothing may begin with any length while the node
    /// has any memory left, so that what is longer than that still gets through.
    #[inline]
    pub(super) fn covers(&mut self, len: usize) -> bool {
        let held = self.held_len();
        if self.account.covers(held + len as u64) {
            return true;
        }
        // Nor does what is large on its way use up what a link may hold without asking.
        let is_little = (self.queued_len() + self.pending.held_len() + len) as u64 <= COVERED_LEN_MIN;
        if !is_little && (held > 0 || self.account.budget().is_exhausted()) {
            return false;
        }
        self.account.cover_anyway(held + len as u64);
        true
    }

    /// An answer has been queued: it was let in by [`has_room`](Self::has_room).
    #[inline]
    pub(super) fn charge_answer(&mut self) {
        let held = self.held_len();
        self.account.cover_anyway(held);
    }

    /// Whether an answer may be queued, `in_parts` or at once.
    pub(super) fn has_room(&self, in_parts: bool, limit: usize) -> bool {
        let waiting = if in_parts { self.waiting_len() } else { self.queued_len() };
        self.closed
            || (waiting <= limit
                && (waiting as u64 <= COVERED_LEN_MIN || !self.account.budget().is_exhausted()))
    }

    /// What a caller gets for `reply`: itself, if there is memory to keep it until it is taken.
    #[inline]
    pub(super) fn charge_reply(&mut self, id: u64, reply: Reply) -> Reply {
        let len = reply.heap_len();
        if len == 0 || self.covers(len) || !self.pending.is_waiting(id) { reply } else { Reply::NoRoom }
    }

    /// Gives back what is no longer needed, in steps.
    #[inline]
    pub(super) fn settle_account(&mut self) {
        let held = self.held_len();
        self.account.settle(held);
    }

    /// Gives back all that is not needed.
    pub(super) fn release_account(&mut self) {
        let held = self.held_len();
        self.account.release(held);
    }

    /// The first sender of each queue.
    pub(super) fn first_waiting(&self) -> impl Iterator<Item = Waker> + use<> {
        self.senders
            .each_ref()
            .map(|queue| queue.front().map(|sender| sender.waker.clone()))
            .into_iter()
            .flatten()
    }

    /// Takes all waiting senders out.
    pub(super) fn take_senders(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.senders).into_iter().flatten().map(|sender| sender.waker)
    }

    /// Messages of the peer are finished: their credit is owed.
    pub(super) fn finish(&mut self, charge: Charge, tick: u64) {
        for (credit, done) in self.receive_credit.iter_mut().zip(charge.accounts) {
            if !done.is_zero() {
                if !credit.is_owed() {
                    self.owed_since_tick = tick;
                }
                credit.finish(done);
            }
        }
        self.system_unfinished = self.system_unfinished.saturating_sub(charge.system_calls);
    }

    /// Encodes a message without payload, or with one that is copied.
    pub(super) fn push_control(&mut self, header: &Header<'_>, payload: &[u8]) {
        let before = self.out.len();
        let octets = self.out.octets();
        frame::encode_header(!payload.is_empty(), header.encoded_len(), octets);
        header.encode(octets);
        if !payload.is_empty() {
            frame::encode_header(false, payload.len(), octets);
            octets.extend_from_slice(payload);
        }
        self.queued += (self.out.len() - before) as u64;
    }

    /// The calls whose time is up: gives their wakers, and sends a Cancel for each.
    pub(super) fn expire_calls(&mut self, now: Instant, woken: &mut Vec<Waker>) -> usize {
        if !self.pending.has_deadlines() {
            return 0;
        }
        let mut cancelled = Vec::new();
        self.pending.expire(now, woken, &mut cancelled);
        let count = cancelled.len();
        for id in cancelled {
            self.push_cancel(id);
        }
        count
    }

    /// Tells the peer that nobody waits for `id` any more, and sends no further part of its payload.
    pub(super) fn push_cancel(&mut self, id: u64) {
        if self.closed {
            return;
        }
        let half_sent = self.large.iter().any(|large| large.id == id && large.of == ChunkOf::Message);
        self.drop_large(|large| large.id == id && large.of == ChunkOf::Message);
        let header = match half_sent {
            true => Header::cancel_rest(ChunkOf::Message, id),
            false => Header::reply(Kind::Cancel, id),
        };
        self.push_control(&header, &[]);
    }
}

/// The most room that a send buffer keeps between two writes; a burst's worth of short messages.
const SPARE_CAPACITY_MAX: usize = 256 * 1024;

fn encode_credit(account: CreditAccount, finished: Totals, granted: Totals, out: &mut Vec<u8>) {
    let header = Header::credit(account);
    let totals = CreditTotals {
        messages_finished: finished.messages,
        bytes_finished: finished.bytes,
        messages_granted: granted.messages,
        bytes_granted: granted.bytes,
    }
    .encode();
    frame::encode_header(true, header.encoded_len(), out);
    header.encode(out);
    frame::encode_header(false, totals.len(), out);
    out.extend_from_slice(&totals);
}
