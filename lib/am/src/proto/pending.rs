//! Calls that wait for their answer: [`Pending`], a slab per link.
//!
//! The message id *is* the slot and its generation, so a reply finds its caller without a map, a reply of an
//! earlier use of the slot finds nobody, and no other peer can answer: each link has its own slab. Replies are
//! kept here until their caller takes them.
//!
//! **Invariants.** Each call gets exactly one [`Outcome`]. A slot is freed by its caller alone: when it takes
//! the outcome, or when it gives up. After [`Pending::fail_all`] nothing is inserted.

use std::time::Instant;

use super::payload::Payload;
use crate::wire::codes::{Codec, DeliveryMode, Kind, NackCode};

/// Ids of messages that nobody waits for have this bit, so that they never look like a slot.
pub const UNTRACKED_ID_BIT: u64 = 1 << 62;
/// Ids of calls that were charged to the credit of system handlers.
pub const SYSTEM_ID_BIT: u64 = 1 << 63;
/// 30 bits of generation above 32 bits of index.
const GENERATION_MASK: u32 = (1 << 30) - 1;

/// How a call ended.
#[derive(Debug)]
pub enum Outcome {
    /// The handler has finished without error (mode confirmed), or the receipt was all that was asked for.
    Done,
    /// The handler's answer.
    Response {
        /// The payload's codec.
        codec: Codec,
        /// The payload.
        payload: Payload,
    },
    /// The peer says why not.
    Nack {
        /// Error code.
        code: NackCode,
        /// Its text.
        text: Payload,
    },
    /// The link ended first. `sent` tells whether the first octet of the message may have left.
    Lost {
        /// Whether the handler may have run.
        sent: bool,
    },
    /// The deadline passed first.
    Expired,
    /// The handler has answered, and there was no memory for its answer.
    NoRoom,
    /// A reply of a kind that was not asked for.
    Unexpected(Kind),
}

/// A receipt's status octet and payload.
#[derive(Debug)]
pub struct ReceiptReply {
    /// 0 is accepted.
    pub status: u8,
    /// How the payload is encoded.
    pub codec: Codec,
    /// What the receiver says of its handler.
    pub payload: Payload,
}

/// Where a call stands when its caller asks.
#[derive(Debug)]
pub enum Polled<T> {
    /// Not yet; the waiter is kept.
    Waiting,
    /// Here it is.
    Ready(T),
    /// The slot is somebody else's by now.
    Gone,
}

/// The table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} calls are waiting on this link already")]
pub struct PendingFull {
    /// The limit.
    pub limit: usize,
}

/// Calls in flight on one link. `W` wakes a caller.
#[derive(Debug)]
pub struct Pending<W> {
    slots: Vec<Slot<W>>,
    free: Vec<u32>,
    limit: usize,
    /// No call's deadline is earlier, so a sweep before it has nothing to do.
    earliest: Option<Instant>,
    /// Octets on the heap of answers that their callers have not taken.
    held_len: usize,
}

#[derive(Debug)]
struct Slot<W> {
    generation: u32,
    call: Option<Call<W>>,
}

#[derive(Debug)]
struct Call<W> {
    mode: DeliveryMode,
    deadline: Instant,
    /// Where in the link's stream its first octet lies.
    offset: u64,
    waiter: Option<W>,
    receipt: Option<ReceiptReply>,
    outcome: Option<Outcome>,
}

impl<W> Call<W> {
    /// Octets on the heap of its answers.
    #[inline]
    fn heap_len(&self) -> usize {
        self.receipt.as_ref().map_or(0, |receipt| receipt.payload.heap_len())
            + self.outcome.as_ref().map_or(0, Outcome::heap_len)
    }
}

impl Outcome {
    /// Octets on the heap that come with it.
    #[inline]
    #[must_use]
    fn heap_len(&self) -> usize {
        match self {
            Self::Response { payload, .. } | Self::Nack { text: payload, .. } => payload.heap_len(),
            Self::Done | Self::Lost { .. } | Self::Expired | Self::NoRoom | Self::Unexpected(_) => 0,
        }
    }
}

impl<W> Pending<W> {
    /// An empty table for at most `limit` calls; slots are made as they are needed.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit, earliest: None, held_len: 0 }
    }

    /// Calls in the table, answered ones that were not yet taken included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no call is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes a call of the message whose first octet will be at `offset`, and gives its id. `waiter` is who asks for
    /// its end, where that is known already.
    ///
    /// # Errors
    ///
    /// When the table is full.
    #[inline]
    pub fn insert(
        &mut self,
        mode: DeliveryMode,
        deadline: Instant,
        offset: u64,
        waiter: Option<W>,
    ) -> Result<u64, PendingFull> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.limit => {
                self.slots.push(Slot { generation: 0, call: None });
                (self.slots.len() - 1) as u32
            }
            None => return Err(PendingFull { limit: self.limit }),
        };
        if self.earliest.is_none_or(|earliest| deadline < earliest) {
            self.earliest = Some(deadline);
        }
        let slot = &mut self.slots[index as usize];
        slot.call = Some(Call { mode, deadline, offset, waiter, receipt: None, outcome: None });
        Ok(u64::from(slot.generation) << 32 | u64::from(index))
    }

    /// Octets on the heap of answers that their callers have not taken.
    #[must_use]
    pub const fn held_len(&self) -> usize {
        self.held_len
    }

    /// Takes a reply. `None` when nobody waits for it any more; else the waiter to wake, if one is there yet.
    #[inline]
    pub fn handle_reply(&mut self, id: u64, reply: Reply) -> Option<Option<W>> {
        let call = self.find(id)?;
        let held_before = call.heap_len();
        if call.outcome.is_some() {
            return None;
        }
        match (reply, call.mode) {
            (Reply::Receipt(receipt), DeliveryMode::WithReceipt) if call.receipt.is_none() => {
                call.receipt = Some(receipt);
                call.outcome = Some(Outcome::Done);
            }
            (Reply::Receipt(receipt), DeliveryMode::WithReceiptAndResponse) if call.receipt.is_none() => {
                call.receipt = Some(receipt);
            }
            (Reply::Receipt(_), _) => call.outcome = Some(Outcome::Unexpected(Kind::Receipt)),
            (Reply::Ack, DeliveryMode::Confirmed) => call.outcome = Some(Outcome::Done),
            (Reply::Ack, _) => call.outcome = Some(Outcome::Unexpected(Kind::Ack)),
            (Reply::Response { codec, payload }, mode) if mode.wants_response() => {
                call.outcome = Some(Outcome::Response { codec, payload });
            }
            (Reply::Response { .. }, _) => call.outcome = Some(Outcome::Unexpected(Kind::Response)),
            (Reply::Nack { code, text }, _) => call.outcome = Some(Outcome::Nack { code, text }),
            (Reply::NoRoom, _) => call.outcome = Some(Outcome::NoRoom),
        }
        let more = call.heap_len() - held_before;
        let waiter = call.waiter.take();
        self.held_len += more;
        Some(waiter)
    }

    /// Whether a call of that id has no end yet.
    #[must_use]
    pub fn is_waiting(&mut self, id: u64) -> bool {
        self.find(id).is_some_and(|call| call.outcome.is_none())
    }

    /// Asks for the end of a call. When it is there, the slot is freed.
    #[inline]
    pub fn poll_outcome(&mut self, id: u64, waiter: impl FnOnce(Option<W>) -> W) -> Polled<Outcome> {
        let Some(call) = self.find(id) else { return Polled::Gone };
        match call.outcome.take() {
            Some(outcome) => {
                self.held_len -= outcome.heap_len();
                self.free(id);
                Polled::Ready(outcome)
            }
            None => {
                call.waiter = Some(waiter(call.waiter.take()));
                Polled::Waiting
            }
        }
    }

    /// Asks for the receipt of a call; `Err` is the call's end, when that came instead, and frees the slot.
    pub fn poll_receipt(
        &mut self,
        id: u64,
        waiter: impl FnOnce(Option<W>) -> W,
    ) -> Polled<Result<ReceiptReply, Outcome>> {
        let Some(call) = self.find(id) else { return Polled::Gone };
        if let Some(receipt) = call.receipt.take() {
            self.held_len -= receipt.payload.heap_len();
            return Polled::Ready(Ok(receipt));
        }
        match call.outcome.take() {
            Some(outcome) => {
                self.held_len -= outcome.heap_len();
                self.free(id);
                Polled::Ready(Err(outcome))
            }
            None => {
                call.waiter = Some(waiter(call.waiter.take()));
                Polled::Waiting
            }
        }
    }

    /// The caller gives up: its slot is free at once. `true` when the peer may still be at it, so that a Cancel
    /// is worth sending.
    pub fn abandon(&mut self, id: u64) -> bool {
        let Some(call) = self.find(id) else { return false };
        let unanswered = call.outcome.is_none();
        self.free(id);
        unanswered
    }

    /// The link has ended with `written` octets of its stream taken by the socket: ends every call that has no
    /// answer yet and gives the waiters to wake.
    pub fn fail_all(&mut self, written: u64, woken: &mut Vec<W>) {
        for call in self.slots.iter_mut().filter_map(|slot| slot.call.as_mut()) {
            if call.outcome.is_none() {
                call.outcome = Some(Outcome::Lost { sent: call.offset < written });
                woken.extend(call.waiter.take());
            }
        }
        self.earliest = None;
    }

    /// Ends the calls whose deadline has passed. Gives the waiters to wake and the ids to cancel.
    pub fn expire(&mut self, now: Instant, woken: &mut Vec<W>, cancelled: &mut Vec<u64>) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        self.earliest = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(call) = slot.call.as_mut().filter(|call| call.outcome.is_none()) else { continue };
            if call.deadline <= now {
                call.outcome = Some(Outcome::Expired);
                woken.extend(call.waiter.take());
                cancelled.push(u64::from(slot.generation) << 32 | index as u64);
            } else if self.earliest.is_none_or(|earliest| call.deadline < earliest) {
                self.earliest = Some(call.deadline);
            }
        }
    }

    /// Whether a deadline must be watched.
    #[must_use]
    pub fn has_deadlines(&self) -> bool {
        self.earliest.is_some()
    }

    #[inline]
    fn find(&mut self, id: u64) -> Option<&mut Call<W>> {
        let slot = self.slots.get_mut(id as u32 as usize)?;
        if u64::from(slot.generation) != id >> 32 {
            return None;
        }
        slot.call.as_mut()
    }

    #[inline]
    fn free(&mut self, id: u64) {
        let index = id as u32;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            self.held_len -= slot.call.take().map_or(0, |call| call.heap_len());
            slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
            self.free.push(index);
        }
    }
}

/// What a peer sent in answer.
#[derive(Debug)]
pub enum Reply {
    /// The handler has finished without error.
    Ack,
    /// The handler was found and the message accepted.
    Receipt(ReceiptReply),
    /// The handler's value.
    Response {
        /// The payload's codec.
        codec: Codec,
        /// The payload.
        payload: Payload,
    },
    /// It did not work out.
    Nack {
        /// Error code.
        code: NackCode,
        /// Its text.
        text: Payload,
    },
    /// An answer came, and there was no memory for it.
    NoRoom,
}

impl Reply {
    /// Octets on the heap that come with it.
    #[inline]
    #[must_use]
    pub fn heap_len(&self) -> usize {
        match self {
            Self::Receipt(ReceiptReply { payload, .. })
            | Self::Response { payload, .. }
            | Self::Nack { text: payload, .. } => payload.heap_len(),
            Self::Ack | Self::NoRoom => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Table = Pending<u32>;

    #[test]
    fn answers_are_counted_until_they_are_taken() {
        let mut table = Table::new(8);
        let payload = || Payload::copy_from(&[7; 1000]);
        let response = || Reply::Response { codec: Codec::Raw, payload: payload() };
        let receipt = || Reply::Receipt(ReceiptReply { status: 0, codec: Codec::Raw, payload: payload() });
        let both = table.insert(DeliveryMode::WithReceiptAndResponse, later(), 0, None).unwrap();
        let one = table.insert(DeliveryMode::WithResponse, later(), 0, None).unwrap();
        let wrong = table.insert(DeliveryMode::Confirmed, later(), 0, None).unwrap();
        table.handle_reply(both, receipt());
        table.handle_reply(both, response());
        table.handle_reply(both, response());
        table.handle_reply(one, response());
        table.handle_reply(wrong, response());
        assert_eq!(table.held_len(), 3000);
        assert!(matches!(table.poll_receipt(both, |_| 0), Polled::Ready(Ok(_))));
        assert_eq!(table.held_len(), 2000);
        assert!(matches!(table.poll_outcome(both, |_| 0), Polled::Ready(Outcome::Response { .. })));
        table.abandon(one);
        assert_eq!(table.held_len(), 0);
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn response() -> Reply {
        Reply::Response { codec: Codec::Raw, payload: Payload::empty() }
    }

    #[test]
    fn a_reply_wakes_its_caller_and_frees_the_slot_when_taken() {
        let mut table = Table::new(2);
        let id = table.insert(DeliveryMode::WithResponse, later(), 0, None).unwrap();
        assert!(matches!(table.poll_outcome(id, |_| 7), Polled::Waiting));
        assert_eq!(table.handle_reply(id, response()), Some(Some(7)));
        assert_eq!(table.handle_reply(id, response()), None, "a second reply finds nobody");
        assert!(matches!(table.poll_outcome(id, |_| 7), Polled::Ready(Outcome::Response { .. })));
        assert!(table.is_empty());
    }

    #[test]
    fn a_reply_for_an_earlier_use_of_the_slot_is_not_accepted() {
        let mut table = Table::new(1);
        let old = table.insert(DeliveryMode::Confirmed, later(), 0, None).unwrap();
        assert!(table.abandon(old));
        let new = table.insert(DeliveryMode::Confirmed, later(), 0, None).unwrap();
        assert_ne!(old, new);
        assert_eq!(table.handle_reply(old, Reply::Ack), None);
        assert_eq!(table.handle_reply(new, Reply::Ack), Some(None));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Table::new(1);
        table.insert(DeliveryMode::Confirmed, later(), 0, None).unwrap();
        assert_eq!(table.insert(DeliveryMode::Confirmed, later(), 0, None), Err(PendingFull { limit: 1 }));
    }

    #[test]
    fn a_lost_link_tells_what_can_have_left_by_the_offset() {
        let mut table = Table::new(4);
        let left = table.insert(DeliveryMode::Confirmed, later(), 10, None).unwrap();
        let stayed = table.insert(DeliveryMode::Confirmed, later(), 20, None).unwrap();
        let answered = table.insert(DeliveryMode::Confirmed, later(), 0, None).unwrap();
        table.handle_reply(answered, Reply::Ack);
        assert!(matches!(table.poll_outcome(left, |_| 1), Polled::Waiting));
        let mut woken = Vec::new();
        table.fail_all(20, &mut woken);
        assert_eq!(woken, [1]);
        assert!(matches!(table.poll_outcome(left, |_| 1), Polled::Ready(Outcome::Lost { sent: true })));
        assert!(matches!(table.poll_outcome(stayed, |_| 1), Polled::Ready(Outcome::Lost { sent: false })));
        assert!(matches!(table.poll_outcome(answered, |_| 1), Polled::Ready(Outcome::Done)));
    }

    #[test]
    fn one_deadline_covers_receipt_and_response() {
        let mut table = Table::new(4);
        let now = Instant::now();
        let id = table.insert(DeliveryMode::WithReceiptAndResponse, now, 0, None).unwrap();
        let receipt = ReceiptReply { status: 0, codec: Codec::Raw, payload: Payload::empty() };
        table.handle_reply(id, Reply::Receipt(receipt));
        assert!(matches!(table.poll_receipt(id, |_| 1), Polled::Ready(Ok(_))));
        assert!(matches!(table.poll_outcome(id, |_| 1), Polled::Waiting));
        let (mut woken, mut cancelled) = (Vec::new(), Vec::new());
        table.expire(now, &mut woken, &mut cancelled);
        assert_eq!((woken, cancelled), (vec![1], vec![id]));
        assert!(matches!(table.poll_outcome(id, |_| 1), Polled::Ready(Outcome::Expired)));
        assert!(!table.has_deadlines());
    }

    #[test]
    fn a_reply_of_the_wrong_kind_is_told_as_such() {
        for (mode, reply) in [(DeliveryMode::Confirmed, response()), (DeliveryMode::WithResponse, Reply::Ack)]
        {
            let mut table = Table::new(1);
            let id = table.insert(mode, later(), 0, None).unwrap();
            table.handle_reply(id, reply);
            assert!(matches!(table.poll_outcome(id, |_| 1), Polled::Ready(Outcome::Unexpected(_))));
        }
    }
}
