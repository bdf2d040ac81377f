//! From a message to the send buffer: requests that draw on credit, and answers that do not.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::state::{LARGE, LargeOut, ORDINARY, SYSTEM, Shared, WaitingSender};
use super::{Link, LinkEnd, PART_LEN, account_of};
use crate::clock;
use crate::proto::credit::{Charge, ReceiveCredit, Totals};
use crate::proto::outgoing::{Outgoing, PayloadSource, SHARED_LEN_MIN};
use crate::proto::pending::{SYSTEM_ID_BIT, UNTRACKED_ID_BIT};
use crate::wire::codes::{ChunkOf, Codec, DeliveryMode, Kind, NackCode};
use crate::wire::header::{Header, PlainMessage};
use crate::wire::zmtp::frame;

/// One-way messages that their sender writes itself within a tick; beyond that they are batched. A system call
/// each is the fastest way for a few, and by far the slowest for many.
const BURST_COUNT: u8 = 16;
/// A sender writes the buffer itself from this length on, in octets, so that a flood does not wait for the
/// flusher's turn: a receive chunk.
const WRITE_LEN: usize = 64 * 1024;
/// Calls in flight up to which a call is written at once by its caller; more are batched by the flusher.
const DIRECT_CALLS: usize = 2;

/// Why a message did not enter the send buffer. Nothing of it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The peer grants no more right now.
    Full,
    /// Too many calls wait for an answer.
    PendingFull {
        /// The limit.
        limit: usize,
    },
    /// The peer's kind of socket answers nothing.
    NeverAnswers,
    /// The peer's kind of socket takes no messages.
    TakesNoMessages,
    /// The link has ended.
    Ended,
    /// One end said Bye: no new messages on this link.
    Retired,
    /// The peer takes no payload of this length.
    TooLarge {
        /// The peer's limit, in octets.
        limit: u64,
    },
}

/// What an answer says.
#[derive(Debug, Clone, Copy)]
pub enum AnswerBody<'a> {
    /// The handler has finished without error.
    Ack,
    /// The message is accepted for its handler.
    Receipt {
        /// What is known of the handler.
        payload: &'a [u8],
        /// Its codec.
        codec: Codec,
    },
    /// The handler's value.
    Response {
        /// The value.
        payload: PayloadSource<'a>,
        /// Its codec.
        codec: Codec,
    },
    /// It did not work out.
    Nack {
        /// Error code.
        code: NackCode,
        /// Why, and what to do about it.
        text: &'a str,
    },
}

/// An answer to one of the peer's messages.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The id as it came.
    pub id: u64,
    /// Frames of the request's envelope, as encoded, to stand before the answer.
    pub envelope: &'a [u8],
    /// What it says.
    pub body: AnswerBody<'a>,
    /// Whether it was announced as owed by [`Link::end_turn`].
    pub is_counted: bool,
    /// What is finished once the answer has been written.
    pub finishes: Charge,
}

impl Link {
    /// Puts a message into the send buffer, if credit allows, and sees that it is written. Gives its id. `watcher` is
    /// woken by the answer as if [`poll_outcome`](Self::poll_outcome) had asked for it.
    ///
    /// # Errors
    ///
    /// Nothing was sent; [`SendError`] says why.
    #[inline]
    pub fn try_send(&self, message: &Outgoing<'_>, watcher: Option<&Waker>) -> Result<u64, SendError> {
        self.send_in_turn(message, None, watcher)
    }

    /// The short way of a one-way message to one of our own nodes: whether it was sent. If not, nothing was, and
    /// [`try_send`](Self::try_send) says why, or sends what is longer.
    #[inline]
    pub fn try_notify(&self, handler: &str, codec: Codec, payload: &[u8]) -> bool {
        let len_max = self.settings.peer_payload_len_max.min(SHARED_LEN_MIN as u64);
        if !self.settings.own_peer || payload.len() as u64 >= len_max {
            return false;
        }
        let mut shared = self.shared.lock();
        if self.admit(&mut shared, ORDINARY, None, payload.len()).is_err() {
            return false;
        }
        let before = shared.out.len();
        let message = PlainMessage {
            mode: DeliveryMode::FireAndForget,
            codec,
            depth: 0,
            id: UNTRACKED_ID_BIT | (shared.one_way_queued + 1),
            handler: handler.as_bytes(),
            deadline_ms: None,
        };
        if !message.encode_frames(payload, shared.out.octets()) {
            return false;
        }
        shared.one_way_queued += 1;
        shared.out.one_way += 1;
        let charge = Charge::ordinary(message.header_len(), payload.len());
        shared.send_credit[ORDINARY].start(charge.accounts[ORDINARY].bytes);
        shared.note_message(before);
        self.flush_message(shared, false, false);
        true
    }

    /// As [`try_send`](Self::try_send), in turn with other waiting senders: `Pending` when the message has to
    /// wait for credit, and `ticket` is its place in the queue, kept until [`leave_queue`](Self::leave_queue).
    pub fn poll_send(
        &self,
        message: &Outgoing<'_>,
        ticket: &mut Option<u64>,
        cx: &Context<'_>,
    ) -> Poll<Result<u64, SendError>> {
        match self.send_in_turn(message, *ticket, None) {
            Err(SendError::Full) => {}
            sent => {
                self.leave_queue(ticket);
                return Poll::Ready(sent);
            }
        }
        let mut shared = self.shared.lock();
        if shared.closed || shared.retired {
            return Poll::Ready(Err(if shared.closed { SendError::Ended } else { SendError::Retired }));
        }
        let queue = self.queue_of(message);
        match ticket.and_then(|own| shared.senders[queue].iter_mut().find(|sender| sender.ticket == own)) {
            Some(sender) => sender.waker.clone_from(cx.waker()),
            None => {
                let own = shared.next_ticket;
                shared.next_ticket += 1;
                shared.senders[queue].push_back(WaitingSender { ticket: own, waker: cx.waker().clone() });
                *ticket = Some(own);
                // Credit may have come between the two locks, and its wake-up gone to nobody.
                if shared.senders[queue].len() == 1 {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    }

    /// Gives up a place in the queue of waiting senders, and lets the next one try.
    pub fn leave_queue(&self, ticket: &mut Option<u64>) {
        let Some(own) = ticket.take() else { return };
        let next = {
            let mut shared = self.shared.lock();
            for queue in &mut shared.senders {
                queue.retain(|sender| sender.ticket != own);
            }
            shared.first_waiting()
        };
        next.for_each(Waker::wake);
    }

    #[inline]
    fn send_in_turn(
        &self,
        message: &Outgoing<'_>,
        ticket: Option<u64>,
        watcher: Option<&Waker>,
    ) -> Result<u64, SendError> {
        let payload_len = message.payload.as_slice().len();
        if payload_len as u64 > self.settings.peer_payload_len_max {
            return Err(SendError::TooLarge { limit: self.settings.peer_payload_len_max });
        }
        if self.settings.takes_no_messages {
            return Err(SendError::TakesNoMessages);
        }
        let is_call = message.mode.is_answered();
        if is_call && self.settings.never_answers {
            return Err(SendError::NeverAnswers);
        }
        let queue = self.queue_of(message);
        let is_system = queue == SYSTEM;
        let account = if queue == LARGE { LARGE } else { ORDINARY };
        let mut shared = self.shared.lock();
        self.admit(&mut shared, queue, ticket, payload_len)?;
        let id = self.track(&mut shared, message, is_system, watcher)?;
        let before = shared.out.len();
        if self.settings.wants_envelope {
            frame::encode_header(true, 0, shared.out.octets());
        }
        let is_copied = payload_len < SHARED_LEN_MIN || matches!(message.payload, PayloadSource::Borrowed(_));
        let header_len = if is_copied && account == ORDINARY && message.is_plain() {
            push_plain(&mut shared, message, id)
        } else {
            push_message(&mut shared, message, id, account == LARGE)
        };
        shared.out.one_way += u64::from(!is_call);
        if is_system {
            shared.system_sent += 1;
        } else if account == LARGE {
            let charge = Charge::large(header_len, payload_len as u64);
            shared.send_credit[ORDINARY].start(charge.accounts[ORDINARY].bytes);
            shared.send_credit[LARGE].start(charge.accounts[LARGE].bytes);
        } else {
            let charge = Charge::ordinary(header_len, payload_len);
            shared.send_credit[ORDINARY].start(charge.accounts[ORDINARY].bytes);
        }
        shared.note_message(before);
        let direct = is_call && shared.pending.len() <= DIRECT_CALLS;
        self.flush_message(shared, direct, is_call);
        Ok(id)
    }

    /// What a message waits for when it has to wait. The receiver charges by the same rule.
    #[inline]
    fn queue_of(&self, message: &Outgoing<'_>) -> usize {
        let is_system = message.mode.is_answered()
            && message.handler.starts_with('_')
            && message.mode != DeliveryMode::WithReceipt;
        match account_of(message.payload.as_slice().len() as u64) {
            _ if !self.settings.own_peer => ORDINARY,
            LARGE => LARGE,
            _ if is_system => SYSTEM,
            _ => ORDINARY,
        }
    }

    // Always, since with `queue` known most of it falls away.
    #[inline(always)]
    fn admit(
        &self,
        shared: &mut Shared,
        queue: usize,
        ticket: Option<u64>,
        payload_len: usize,
    ) -> Result<(), SendError> {
        if shared.closed {
            return Err(SendError::Ended);
        }
        if shared.retired {
            return Err(SendError::Retired);
        }
        if shared.waits_to_send {
            return Err(SendError::Full);
        }
        // Waiting senders go first, in order.
        if let Some(first) = shared.senders[queue].front()
            && ticket != Some(first.ticket)
        {
            return Err(SendError::Full);
        }
        let open = match queue {
            _ if !self.settings.own_peer => shared.waiting_len() < self.settings.send_buffer_len_max,
            SYSTEM => shared.system_sent < self.settings.system_calls_max,
            LARGE => shared.send_credit[ORDINARY].can_start() && shared.send_credit[LARGE].can_start(),
            // However much a peer grants, no more waits for it than it could have unfinished with us.
            _ => {
                shared.send_credit[ORDINARY].can_start() && shared.queued_len() < self.settings.output_len_max
            }
        };
        if open && shared.covers(payload_len) { Ok(()) } else { Err(SendError::Full) }
    }

    #[inline]
    fn track(
        &self,
        shared: &mut Shared,
        message: &Outgoing<'_>,
        is_system: bool,
        watcher: Option<&Waker>,
    ) -> Result<u64, SendError> {
        if !message.mode.is_answered() {
            shared.one_way_queued += 1;
            return Ok(UNTRACKED_ID_BIT | shared.one_way_queued);
        }
        let offset = shared.queued;
        // A call always has a deadline; see `MessageBuilder`.
        let deadline = message.deadline.unwrap_or_else(clock::now);
        let id = shared
            .pending
            .insert(message.mode, deadline, offset, watcher.cloned())
            .map_err(|full| SendError::PendingFull { limit: full.limit })?;
        Ok(if is_system { id | SYSTEM_ID_BIT } else { id })
    }

    /// Sees that what was just queued is written: by its sender, by whoever is writing, or by the flusher.
    #[inline]
    fn flush_message<'a>(&'a self, mut shared: MutexGuard<'a, Shared>, direct: bool, is_call: bool) {
        if shared.writing {
            return;
        }
        if direct || shared.out.len() >= WRITE_LEN {
            return self.write_now(shared, false);
        }
        if shared.scheduled {
            return;
        }
        if !is_call {
            let tick = self.ticks.now();
            if shared.burst_tick != tick {
                shared.burst_tick = tick;
                shared.burst_left = BURST_COUNT;
            }
            if shared.burst_left > 0 {
                shared.burst_left -= 1;
                return self.write_now(shared, false);
            }
        }
        self.flush_soon(shared);
    }

    /// Queues an answer; nothing is written yet. Answers need no credit.
    pub fn push_answer(&self, answer: &Answer<'_>) {
        let mut shared = self.shared.lock();
        self.encode_answer(&mut shared, answer);
    }

    /// Queues an answer of a handler that ran in a task of its own, and sees that it is written.
    pub fn send_answer(&self, answer: &Answer<'_>) {
        let mut shared = self.shared.lock();
        self.encode_answer(&mut shared, answer);
        if shared.answering == 0 || shared.out.len() >= WRITE_LEN {
            self.flush_now(shared);
        } else {
            self.flush_soon(shared);
        }
    }

    fn encode_answer(&self, shared: &mut Shared, answer: &Answer<'_>) {
        if answer.is_counted {
            shared.answering -= 1;
        }
        if shared.closed {
            return;
        }
        if let AnswerBody::Response { payload, .. } = answer.body
            && payload.as_slice().len() as u64 > self.settings.peer_payload_len_max
        {
            return self.refuse_long_answer(shared, answer, payload.as_slice().len());
        }
        // Now, not when it is written: the peer may call again before we hear that its answer has left.
        let mut finishes = answer.finishes;
        shared.system_unfinished = shared.system_unfinished.saturating_sub(finishes.system_calls);
        finishes.system_calls = 0;
        let before = shared.out.len();
        let (mut header, payload) = match answer.body {
            AnswerBody::Ack => (Header::reply(Kind::Ack, answer.id), PayloadSource::Borrowed(&[])),
            AnswerBody::Receipt { payload, codec } => (
                Header { codec, ..Header::reply(Kind::Receipt, answer.id) },
                PayloadSource::Borrowed(payload),
            ),
            AnswerBody::Response { payload, codec } => {
                (Header { codec, ..Header::reply(Kind::Response, answer.id) }, payload)
            }
            AnswerBody::Nack { code, text } => {
                (Header::nack(code, answer.id), PayloadSource::Borrowed(text.as_bytes()))
            }
        };
        let len = payload.as_slice().len();
        let parts = self.settings.own_peer && len > PART_LEN;
        if parts {
            header.total_len = Some(len as u64);
        }
        let octets = shared.out.octets();
        octets.extend_from_slice(answer.envelope);
        frame::encode_header(len > 0, header.encoded_len(), octets);
        header.encode(octets);
        if parts {
            let mut rest: Bytes = payload.to_bytes();
            let first = rest.split_to(PART_LEN);
            frame::encode_header(false, first.len(), octets);
            shared.out.push_shared(first);
            shared.push_large(LargeOut { of: ChunkOf::Response, id: answer.id, rest, finishes });
        } else {
            if len > 0 {
                frame::encode_header(false, len, octets);
                shared.out.push_payload(payload);
            }
            shared.out.finishes.add(finishes);
        }
        shared.queued += (shared.out.len() - before) as u64;
        shared.charge_answer();
    }

    /// The caller takes no value of this length; that is told instead, and the handler has run all the same.
    #[cold]
    fn refuse_long_answer(&self, shared: &mut Shared, answer: &Answer<'_>, len: usize) {
        let limit = self.settings.peer_payload_len_max;
        let text = format!("the answer has {len} octets, and the caller takes {limit}");
        let body = AnswerBody::Nack { code: NackCode::HandlerError, text: &text };
        self.encode_answer(shared, &Answer { body, is_counted: false, ..*answer });
    }

    /// Ends a turn of the reader: counts what has come (`received`, since the link began), what of it is finished
    /// and what still owes an answer, and writes what the turn has queued.
    /// `true` when the peer uses up what it was granted.
    pub fn end_turn(&self, finished: Charge, answering: i32, received: [Totals; 2]) -> bool {
        let mut shared = self.shared.lock();
        shared.answering += answering;
        shared.received = received;
        let is_used_up = shared.receive_credit[ORDINARY].is_used_up_by(received[ORDINARY]);
        shared.finish(finished, self.ticks.now());
        if !shared.writing && !shared.closed && shared.has_work() {
            self.write_now(shared, false);
        }
        is_used_up
    }

    /// Messages without an answer are finished: their credit goes back.
    pub fn finish_messages(&self, done: Charge) {
        let mut shared = self.shared.lock();
        shared.finish(done, self.ticks.now());
        let held = shared.held.take();
        if shared.receive_credit.iter().any(ReceiveCredit::is_urgent) && self.settings.own_peer {
            self.flush_soon(shared);
        } else {
            drop(shared);
        }
        held.into_iter().for_each(Waker::wake);
    }

    /// Ready while the peer has less than `limit` unfinished here, `received` being what came in all: how a peer
    /// that knows no credit is held back.
    pub fn poll_unfinished_below(&self, received: Totals, limit: Totals, cx: &Context<'_>) -> Poll<()> {
        let mut shared = self.shared.lock();
        let unfinished = received.since(shared.receive_credit[ORDINARY].finished());
        // What it is owed without having asked for work (errors, receipts) counts as well: it may not read.
        let is_read = shared.waiting_len() <= self.settings.send_buffer_len_max;
        let is_within = unfinished.messages < limit.messages && unfinished.bytes < limit.bytes;
        if shared.closed || (is_within && is_read) {
            return Poll::Ready(());
        }
        shared.held = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether nothing is owed to the peer: all its messages are finished, and all answers taken by the socket.
    pub fn owes_nothing(&self) -> bool {
        let shared = self.shared.lock();
        let all_finished = shared
            .received
            .iter()
            .zip(&shared.receive_credit)
            .all(|(received, credit)| received.since(credit.finished()).is_zero());
        shared.closed
            || (all_finished
                && shared.system_unfinished == 0
                && shared.waiting_len() == 0
                && shared.large.is_empty())
    }

    /// Whether a call of that id waits for its answer.
    pub fn is_pending(&self, id: u64) -> bool {
        self.shared.lock().pending.is_waiting(id & !SYSTEM_ID_BIT)
    }

    /// Counts a call of a system handler that has come; `false` when the peer has too many unfinished.
    pub fn receive_system_call(&self) -> bool {
        let mut shared = self.shared.lock();
        let free = shared.system_unfinished < self.settings.system_calls_max;
        shared.system_unfinished += u32::from(free);
        free
    }

    /// Whether an answer of `len` octets may be queued: the buffer is within its limit. One that goes in parts waits
    /// for others that do, and short ones pass between them.
    pub fn has_room(&self, len: usize) -> bool {
        self.shared.lock().has_room(len > PART_LEN, self.settings.send_buffer_len_max)
    }

    /// Resolves when an answer of `len` octets may be queued, or the link has ended.
    pub async fn room(&self, len: usize) {
        let limit = self.settings.send_buffer_len_max;
        self.wait_until(|shared| shared.has_room(len > PART_LEN, limit)).await;
    }

    /// Resolves when all that was queued has been taken by the socket, or the link has ended.
    pub async fn drained(&self) {
        self.wait_until(|shared| shared.closed || (shared.waiting_len() == 0 && shared.large.is_empty()))
            .await;
    }

    async fn wait_until(&self, is_so: impl Fn(&Shared) -> bool) {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.lock();
            if is_so(&shared) {
                return Poll::Ready(());
            }
            shared.room.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the sending direction once nothing is owed any more; the peer reads the end of the stream.
    pub fn shutdown_write(&self) {
        let writer = self.shared.lock().writer.clone();
        // It may be gone already, and the peer knows then.
        let _ = writer.map(|writer| writer.shutdown());
    }

    /// A message that could not be sent as the link is over: how, in the words of the link's end.
    pub fn why_ended(self: &Arc<Self>) -> LinkEnd {
        self.end_reason().cloned().unwrap_or(LinkEnd::Closed)
    }
}

/// Queues a message without optional fields whose payload is copied; gives the length of its header.
#[inline]
fn push_plain(shared: &mut Shared, message: &Outgoing<'_>, id: u64) -> usize {
    let plain = PlainMessage {
        mode: message.mode,
        codec: message.codec,
        depth: message.depth,
        id,
        handler: message.handler.as_bytes(),
        deadline_ms: message.time_left_ms,
    };
    if plain.encode_frames(message.payload.as_slice(), shared.out.octets()) {
        return plain.header_len();
    }
    push_message(shared, message, id, false)
}

/// Queues any message; the payload in parts if asked for. Gives the length of its header.
#[inline(never)]
fn push_message(shared: &mut Shared, message: &Outgoing<'_>, id: u64, in_parts: bool) -> usize {
    let payload_len = message.payload.as_slice().len();
    let header = Header {
        codec: message.codec,
        depth: message.depth,
        deadline_ms: message.time_left_ms,
        trace: message.trace,
        extras: message.extras,
        total_len: in_parts.then_some(payload_len as u64),
        ..Header::message(message.mode, id, message.handler.as_bytes())
    };
    let octets = shared.out.octets();
    frame::encode_header(payload_len > 0, header.encoded_len(), octets);
    header.encode(octets);
    if in_parts {
        let mut rest = message.payload.to_bytes();
        let first = rest.split_to(PART_LEN);
        frame::encode_header(false, first.len(), octets);
        shared.out.push_shared(first);
        let finishes = Charge::default();
        shared.push_large(LargeOut { of: ChunkOf::Message, id, rest, finishes });
    } else if payload_len > 0 {
        frame::encode_header(false, payload_len, octets);
        shared.out.push_payload(message.payload);
    }
    header.encoded_len()
}
