//! The slab of calls that wait for an answer, in any order of replies, questions, deadlines and farewells: each
//! call ends exactly once, and as the first thing that happened to it says. Held against a plain map by id.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use dynamo_am::proto::payload::Payload;
use dynamo_am::proto::pending::{
    Outcome, Pending, PendingFull, Polled, ReceiptReply, Reply, UNTRACKED_ID_BIT,
};
use dynamo_am::wire::codes::{Codec, DeliveryMode, Kind, NackCode};

/// Most operations of one input.
const OPERATIONS_MAX: usize = 512;
/// So many ids make a payload that is kept on the heap.
const LONG_COUNT: usize = 16;

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Operation {
    Insert { mode: u8, deadline: u8, offset: u8 },
    Reply { call: Which, kind: ReplyKind, is_long: bool },
    AskOutcome { call: Which, waiter: u8 },
    AskReceipt { call: Which, waiter: u8 },
    AskWaiting { call: Which },
    Abandon { call: Which },
    Expire { now: u8 },
    End { written: u8 },
}

/// A call: one of those there have been, or an id that a peer has made up.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Which {
    Known(u8),
    Forged(u64),
    /// One that nobody waits for by its nature.
    OneWay(u8),
    /// A known one in an earlier or later life of its slot.
    Shifted(u8, i8),
}

#[derive(Debug, Clone, Copy, Arbitrary, PartialEq, Eq)]
enum ReplyKind {
    Ack,
    Receipt,
    Response,
    Nack,
    /// The answer came, and there was no memory for it.
    NoRoom,
}

/// How a call ended, without its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Response,
    Nack,
    Lost { sent: bool },
    Expired,
    NoRoom,
    Unexpected(Kind),
}

struct Call {
    mode: DeliveryMode,
    deadline: u8,
    offset: u8,
    waiter: Option<u8>,
    has_receipt: bool,
    end: Option<End>,
    /// Octets on the heap of a receipt, and of an answer, that were not taken.
    receipt_len: usize,
    answer_len: usize,
}

/// Runs the operations that the input stands for.
pub fn pending(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(limit) = input.arbitrary::<u8>() else { return };
    let limit = usize::from(limit % 32);
    let mut world = World {
        table: Pending::new(limit),
        began: Instant::now(),
        limit,
        calls: HashMap::new(),
        ids: Vec::new(),
        is_over: false,
    };
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(operation) = input.arbitrary() else { break };
        world.apply(operation);
        world.check();
    }
    world.settle();
}

struct World {
    table: Pending<u8>,
    began: Instant,
    limit: usize,
    calls: HashMap<u64, Call>,
    /// Every id there has been, in order.
    ids: Vec<u64>,
    /// The link has ended: nothing is inserted any more.
    is_over: bool,
}

impl World {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Insert { mode, deadline, offset } => self.insert(mode, deadline, offset),
            Operation::Reply { call, kind, is_long } => self.reply(self.id_of(call), kind, is_long),
            Operation::AskOutcome { call, waiter } => self.ask_outcome(self.id_of(call), waiter),
            Operation::AskReceipt { call, waiter } => self.ask_receipt(self.id_of(call), waiter),
            Operation::AskWaiting { call } => {
                let id = self.id_of(call);
                let expected = self.calls.get(&id).is_some_and(|call| call.end.is_none());
                assert_eq!(self.table.is_waiting(id), expected);
            }
            Operation::Abandon { call } => {
                let id = self.id_of(call);
                let expected = self.calls.remove(&id).is_some_and(|call| call.end.is_none());
                assert_eq!(
                    self.table.abandon(id),
                    expected,
                    "a Cancel is worth sending while no answer is there"
                );
            }
            Operation::Expire { now } => self.expire(now),
            Operation::End { written } => self.end(written),
        }
    }

    fn id_of(&self, which: Which) -> u64 {
        let known = |at: u8| self.ids.get(usize::from(at) % self.ids.len().max(1)).copied().unwrap_or(0);
        match which {
            Which::Known(at) => known(at),
            Which::Forged(id) => id,
            Which::OneWay(id) => UNTRACKED_ID_BIT | u64::from(id),
            Which::Shifted(at, lives) => known(at).wrapping_add_signed(i64::from(lives) << 32),
        }
    }

    fn at(&self, time: u8) -> Instant {
        self.began + Duration::from_millis(time.into())
    }

    fn insert(&mut self, mode: u8, deadline: u8, offset: u8) {
        let answered: Vec<_> = DeliveryMode::ALL.iter().copied().filter(|mode| mode.is_answered()).collect();
        let mode = answered[usize::from(mode) % answered.len()];
        if self.is_over {
            return;
        }
        match self.table.insert(mode, self.at(deadline), offset.into(), None) {
            Ok(id) => {
                assert!(self.calls.len() < self.limit);
                assert_eq!(id & UNTRACKED_ID_BIT, 0);
                assert!(!self.ids.contains(&id), "an id names one call");
                let (waiter, end, has_receipt) = (None, None, false);
                let (receipt_len, answer_len) = (0, 0);
                let call = Call { mode, deadline, offset, waiter, has_receipt, end, receipt_len, answer_len };
                self.calls.insert(id, call);
                self.ids.push(id);
            }
            Err(PendingFull { limit }) => assert_eq!((limit, self.calls.len()), (self.limit, self.limit)),
        }
    }

    fn reply(&mut self, id: u64, kind: ReplyKind, is_long: bool) {
        let octets = id.to_be_bytes().repeat(if is_long { LONG_COUNT } else { 1 });
        let payload = Payload::copy_from(&octets);
        let heap_len = if is_long { octets.len() } else { 0 };
        let codec = Codec::Raw;
        let reply = match kind {
            ReplyKind::Ack => Reply::Ack,
            ReplyKind::Receipt => Reply::Receipt(ReceiptReply { status: 0, codec, payload }),
            ReplyKind::Response => Reply::Response { codec, payload },
            ReplyKind::Nack => Reply::Nack { code: NackCode::HandlerError, text: payload },
            ReplyKind::NoRoom => Reply::NoRoom,
        };
        let found = self.table.handle_reply(id, reply);
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.end.is_none()) else {
            assert_eq!(found, None, "a reply that nobody waits for found somebody");
            return;
        };
        assert_eq!(found, Some(call.waiter.take()), "the call's own waiter is woken");
        use DeliveryMode::{Confirmed, WithReceipt, WithReceiptAndResponse, WithResponse};
        let receipt_fits = !call.has_receipt;
        match (kind, call.mode) {
            (ReplyKind::Nack, _) => call.end = Some(End::Nack),
            (ReplyKind::NoRoom, _) => call.end = Some(End::NoRoom),
            (ReplyKind::Ack, Confirmed) => call.end = Some(End::Done),
            (ReplyKind::Ack, _) => call.end = Some(End::Unexpected(Kind::Ack)),
            (ReplyKind::Response, WithResponse | WithReceiptAndResponse) => call.end = Some(End::Response),
            (ReplyKind::Response, _) => call.end = Some(End::Unexpected(Kind::Response)),
            (ReplyKind::Receipt, WithReceipt) if receipt_fits => {
                call.has_receipt = true;
                call.end = Some(End::Done);
            }
            (ReplyKind::Receipt, WithReceiptAndResponse) if receipt_fits => call.has_receipt = true,
            (ReplyKind::Receipt, _) => call.end = Some(End::Unexpected(Kind::Receipt)),
        }
        if kind == ReplyKind::Receipt && receipt_fits && call.has_receipt {
            call.receipt_len = heap_len;
        }
        if matches!(call.end, Some(End::Response | End::Nack)) {
            call.answer_len = heap_len;
        }
    }

    fn ask_outcome(&mut self, id: u64, waiter: u8) {
        let mut old = None;
        let polled = self.table.poll_outcome(id, |there| {
            old = there;
            waiter
        });
        match (polled, self.calls.get_mut(&id)) {
            (Polled::Gone, None) => {}
            (Polled::Waiting, Some(call)) => {
                assert_eq!(call.end, None, "an end that has come is told");
                assert_eq!(old, call.waiter.replace(waiter));
            }
            (Polled::Ready(outcome), Some(call)) => {
                assert_eq!(Some(end_of(&outcome, id)), call.end);
                self.calls.remove(&id);
            }
            (polled, call) => panic!("{polled:?} for a call that is there: {}", call.is_some()),
        }
    }

    fn ask_receipt(&mut self, id: u64, waiter: u8) {
        let mut old = None;
        let polled = self.table.poll_receipt(id, |there| {
            old = there;
            waiter
        });
        match (polled, self.calls.get_mut(&id)) {
            (Polled::Gone, None) => {}
            (Polled::Ready(Ok(receipt)), Some(call)) => {
                assert!(std::mem::take(&mut call.has_receipt), "a receipt is told once");
                assert_is_of(&receipt.payload, id);
                call.receipt_len = 0;
            }
            (Polled::Ready(Err(outcome)), Some(call)) => {
                assert_eq!((Some(end_of(&outcome, id)), call.has_receipt), (call.end, false));
                self.calls.remove(&id);
            }
            (Polled::Waiting, Some(call)) => {
                assert_eq!((call.end, call.has_receipt), (None, false));
                assert_eq!(old, call.waiter.replace(waiter));
            }
            (polled, call) => panic!("{polled:?} for a call that is there: {}", call.is_some()),
        }
    }

    fn expire(&mut self, now: u8) {
        let (mut woken, mut cancelled) = (Vec::new(), Vec::new());
        self.table.expire(self.at(now), &mut woken, &mut cancelled);
        let (mut waiters, mut ids) = (Vec::new(), HashSet::new());
        for (id, call) in &mut self.calls {
            if call.end.is_none() && call.deadline <= now {
                call.end = Some(End::Expired);
                waiters.extend(call.waiter.take());
                ids.insert(*id);
            }
        }
        woken.sort_unstable();
        waiters.sort_unstable();
        assert_eq!(woken, waiters, "those whose time is up are woken, and nobody else");
        assert_eq!(cancelled.len(), ids.len());
        assert_eq!(cancelled.into_iter().collect::<HashSet<_>>(), ids);
    }

    fn end(&mut self, written: u8) {
        let (mut woken, mut waiters) = (Vec::new(), Vec::new());
        self.table.fail_all(written.into(), &mut woken);
        self.is_over = true;
        for call in self.calls.values_mut().filter(|call| call.end.is_none()) {
            call.end = Some(End::Lost { sent: call.offset < written });
            waiters.extend(call.waiter.take());
        }
        woken.sort_unstable();
        waiters.sort_unstable();
        assert_eq!(woken, waiters);
    }

    fn check(&self) {
        let held = self.calls.values().map(|call| call.receipt_len + call.answer_len).sum::<usize>();
        assert_eq!(self.table.held_len(), held);
        assert_eq!(self.table.len(), self.calls.len());
        assert_eq!(self.table.is_empty(), self.calls.is_empty());
        let is_watched = self.table.has_deadlines();
        assert!(
            is_watched || self.calls.values().all(|call| call.end.is_some()),
            "a deadline is not watched"
        );
    }

    /// The link ends: every caller that asks is told, and the table is empty.
    fn settle(&mut self) {
        self.end(0);
        for id in self.ids.clone() {
            self.ask_outcome(id, 0);
        }
        self.check();
        assert!(self.table.is_empty());
    }
}

fn assert_is_of(payload: &[u8], id: u64) {
    assert!(payload.chunks(8).all(|octets| octets == id.to_be_bytes()), "the octets of another call");
}

/// Checks that an outcome's octets are those of its own call.
fn end_of(outcome: &Outcome, id: u64) -> End {
    match outcome {
        Outcome::Done => End::Done,
        Outcome::Response { payload, .. } => {
            assert_is_of(payload, id);
            End::Response
        }
        Outcome::Nack { text, code } => {
            assert_is_of(text, id);
            assert_eq!(*code, NackCode::HandlerError);
            End::Nack
        }
        Outcome::Lost { sent } => End::Lost { sent: *sent },
        Outcome::Expired => End::Expired,
        Outcome::NoRoom => End::NoRoom,
        Outcome::Unexpected(kind) => End::Unexpected(*kind),
    }
}
