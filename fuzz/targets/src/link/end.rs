//! One end of the two: its link and tasks, and an account of what it has sent, received and answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use dynamo_am::proto::credit::{Charge, MESSAGE_OVERHEAD_LEN};
use dynamo_am::proto::outgoing::{Outgoing, PayloadSource};
use dynamo_am::proto::pending::Outcome;
use dynamo_am::transport::ByteStream;
use dynamo_am::transport::link::{Answer, AnswerBody, Link, LinkEnd, LinkSettings, SendError, Ticks, reader};
use dynamo_am::wire::codes::{Codec, DeliveryMode, NackCode};
use dynamo_am::wire::header::Trace;

use super::ear::{Ear, Inbox, Request, Told, locked};

/// The deadline of every call; a late sweep comes after it.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// What the shortest message is charged: its header, its handler's name, its tag.
pub(super) const CHARGE_MIN: u64 = MESSAGE_OVERHEAD_LEN + 16 + 7 + 8;

/// A message to send; its tag stands at the front of its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub(super) tag: u64,
    pub(super) mode: DeliveryMode,
    pub(super) is_system: bool,
    pub(super) len: usize,
    pub(super) has_trace: bool,
}

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub(super) enum Answering {
    Good,
    Bad,
    /// A receipt first, where it is wanted, and the rest later.
    ReceiptOnly,
}

/// Rings when its task would have been woken. Rings from the start: who has not asked yet has to.
#[derive(Debug)]
struct Alarm(AtomicBool);

impl Alarm {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    fn has_rung(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// A waker of this alarm, which is quiet from now on.
    fn set(self: &Arc<Self>) -> Waker {
        self.0.store(false, Ordering::SeqCst);
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A call that this end has made.
#[derive(Debug)]
struct Call {
    id: u64,
    message: Message,
    is_receipt_taken: bool,
    alarm: Arc<Alarm>,
}

/// A sender that waits for credit.
#[derive(Debug)]
struct Waiting {
    message: Message,
    ticket: Option<u64>,
    alarm: Arc<Alarm>,
}

#[derive(Debug)]
pub(super) struct End {
    pub(super) link: Arc<Link>,
    inbox: Arc<Mutex<Inbox>>,
    calls: Vec<Call>,
    waiting: Vec<Waiting>,
    /// Tags of what the link has taken, in order.
    sent: Vec<u64>,
    /// A sweep has come after all deadlines; a call was given up.
    is_late: bool,
    has_abandoned: bool,
    has_stopped: Arc<AtomicBool>,
}

impl End {
    /// Starts both tasks of a link, as a node does.
    pub(super) fn new(stream: ByteStream, settings: LinkSettings, ticks: &Arc<Ticks>) -> Self {
        let link = Link::new(1, settings, stream.writer, Arc::clone(ticks));
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let has_stopped = Arc::new(AtomicBool::new(false));
        tokio::spawn(Arc::clone(&link).flush_loop());
        let mut ear = Ear::new(&link, &inbox);
        let (read, stopped) = (Arc::clone(&link), Arc::clone(&has_stopped));
        tokio::spawn(async move {
            let end = reader::read_loop(&read, stream.reader, Vec::new(), &mut ear, Duration::ZERO).await;
            assert!(!matches!(end, LinkEnd::Protocol(_)), "an honest peer broke the protocol: {end:?}");
            read.end(end);
            read.finish();
            stopped.store(true, Ordering::SeqCst);
        });
        Self {
            link,
            inbox,
            calls: Vec::new(),
            waiting: Vec::new(),
            sent: Vec::new(),
            is_late: false,
            has_abandoned: false,
            has_stopped,
        }
    }

    pub(super) fn try_send(&mut self, message: Message) -> Result<(), SendError> {
        let link = Arc::clone(&self.link);
        let sent = with_outgoing(message, |outgoing| link.try_send(outgoing, None));
        if let Ok(id) = sent {
            self.note_sent(id, message);
        }
        sent.map(drop).inspect_err(|error| self.explains(*error))
    }

    pub(super) fn begin_send(&mut self, message: Message) {
        self.waiting.push(Waiting { message, ticket: None, alarm: Alarm::new() });
        self.ask_waiting(self.waiting.len() - 1);
    }

    pub(super) fn ask_waiting(&mut self, which: usize) {
        let Some(which) = which.checked_rem(self.waiting.len()) else { return };
        let (link, waiting) = (Arc::clone(&self.link), &mut self.waiting[which]);
        let waker = waiting.alarm.set();
        let cx = Context::from_waker(&waker);
        let message = waiting.message;
        let polled = with_outgoing(message, |outgoing| link.poll_send(outgoing, &mut waiting.ticket, &cx));
        let Poll::Ready(sent) = polled else {
            return assert!(self.waiting[which].ticket.is_some(), "who waits has a place");
        };
        let ticket = self.waiting.remove(which).ticket;
        assert_eq!(ticket, None, "who has sent or failed gives its place back");
        match sent {
            Ok(id) => self.note_sent(id, message),
            Err(SendError::Full) => panic!("a sender that waits was sent away"),
            Err(error) => self.explains(error),
        }
    }

    pub(super) fn leave_waiting(&mut self, which: usize) {
        let Some(which) = which.checked_rem(self.waiting.len()) else { return };
        let mut waiting = self.waiting.remove(which);
        self.link.leave_queue(&mut waiting.ticket);
        assert_eq!(waiting.ticket, None);
    }

    /// A refusal must have its reason.
    fn explains(&self, error: SendError) {
        match error {
            SendError::Full => {}
            SendError::PendingFull { limit } => {
                assert_eq!(
                    (limit, self.link.pending_calls()),
                    (self.link.settings().pending_calls_max, limit)
                );
            }
            // A failed write ends sending before the reader has found the end.
            SendError::Ended | SendError::Retired => assert!(!self.link.is_usable()),
            SendError::TooLarge { limit } => assert_eq!(limit, self.link.settings().peer_payload_len_max),
            SendError::NeverAnswers | SendError::TakesNoMessages => panic!("{error:?} of our own kind"),
        }
    }

    fn note_sent(&mut self, id: u64, message: Message) {
        self.sent.push(message.tag);
        if message.mode.is_answered() {
            let is_new = self.calls.iter().all(|call| call.id != id);
            assert!(is_new, "an id names one call");
            self.calls.push(Call { id, message, is_receipt_taken: false, alarm: Alarm::new() });
        }
    }

    /// Answers one of the requests that wait here.
    pub(super) fn answer(&mut self, which: usize, how: Answering, len: usize) {
        let mut inbox = locked(&self.inbox);
        let Some(which) = which.checked_rem(inbox.waiting.len()) else { return };
        let request = &mut inbox.waiting[which];
        let wants_receipt = request.mode.wants_receipt() && !request.has_receipt;
        if how == Answering::ReceiptOnly && request.mode == DeliveryMode::WithReceiptAndResponse {
            if std::mem::replace(&mut request.has_receipt, true) {
                return;
            }
            let (id, tag) = (request.id, request.tag);
            inbox.seen.entry(tag).or_default().receipt = true;
            drop(inbox);
            return self.send_receipt(id, tag, Charge::default());
        }
        let Request { id, tag, mode, charge, .. } = inbox.waiting.swap_remove(which);
        let told = inbox.seen.entry(tag).or_default();
        let is_good = how != Answering::Bad;
        told.receipt |= wants_receipt && is_good;
        told.good |= is_good && mode != DeliveryMode::WithReceipt;
        told.bad |= !is_good;
        drop(inbox);
        if wants_receipt && is_good {
            let is_all = mode == DeliveryMode::WithReceipt;
            self.send_receipt(id, tag, if is_all { charge } else { Charge::default() });
            if is_all {
                return;
            }
        }
        let payload = tagged(tag, len.max(8));
        let text = tag.to_string();
        let body = match (mode, is_good) {
            (DeliveryMode::FireAndForget, _) => return self.link.finish_messages(charge),
            (_, false) => AnswerBody::Nack { code: NackCode::HandlerError, text: &text },
            (DeliveryMode::Confirmed, true) => AnswerBody::Ack,
            (_, true) => {
                AnswerBody::Response { payload: PayloadSource::Borrowed(&payload), codec: Codec::Raw }
            }
        };
        let is_counted = mode != DeliveryMode::WithReceipt;
        self.link.send_answer(&Answer { id, envelope: &[], body, is_counted, finishes: charge });
    }

    fn send_receipt(&self, id: u64, tag: u64, finishes: Charge) {
        let payload = tag.to_be_bytes();
        let body = AnswerBody::Receipt { payload: &payload, codec: Codec::MessagePack };
        self.link.send_answer(&Answer { id, envelope: &[], body, is_counted: false, finishes });
    }

    pub(super) fn answer_all(&mut self) {
        while !locked(&self.inbox).waiting.is_empty() {
            self.answer(0, Answering::Good, 8);
        }
    }

    pub(super) fn ask_outcome(&mut self, which: usize, other: &Self) {
        let Some(which) = which.checked_rem(self.calls.len()) else { return };
        let waker = self.calls[which].alarm.set();
        let cx = Context::from_waker(&waker);
        if let Poll::Ready(outcome) = self.link.poll_outcome(self.calls[which].id, &cx) {
            let call = self.calls.remove(which);
            self.is_true(&call, &outcome, other);
        }
    }

    pub(super) fn ask_receipt(&mut self, which: usize, other: &Self) {
        let Some(which) = which.checked_rem(self.calls.len()) else { return };
        if !self.calls[which].message.mode.wants_receipt() {
            return;
        }
        let waker = self.calls[which].alarm.set();
        let cx = Context::from_waker(&waker);
        match self.link.poll_receipt(self.calls[which].id, &cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(receipt)) => {
                let call = &mut self.calls[which];
                assert!(!std::mem::replace(&mut call.is_receipt_taken, true), "a receipt is told once");
                assert_eq!(*receipt.payload, call.message.tag.to_be_bytes());
                // Whoever has a receipt goes on to wait for the answer.
                call.alarm.wake_by_ref();
                assert!(other.told(call.message.tag).is_some_and(|told| told.receipt));
            }
            Poll::Ready(Err(outcome)) => {
                let call = self.calls.remove(which);
                self.is_true(&call, &outcome, other);
            }
        }
    }

    pub(super) fn abandon(&mut self, which: usize) {
        let Some(which) = which.checked_rem(self.calls.len()) else { return };
        self.has_abandoned = true;
        self.link.abandon(self.calls.remove(which).id);
    }

    /// Asks for all that has been woken, and for nothing else: a wake-up that is lost is never made good.
    pub(super) fn ask_all(&mut self, other: &Self) {
        for which in (0..self.waiting.len()).rev() {
            if self.waiting[which].alarm.has_rung() {
                self.ask_waiting(which);
            }
        }
        for which in (0..self.calls.len()).rev() {
            if self.calls[which].alarm.has_rung() {
                self.ask_outcome(which, other);
            }
        }
    }

    /// `later` lies after all deadlines, or not at all.
    pub(super) fn sweep(&mut self, later: Duration) {
        self.is_late |= !later.is_zero();
        self.link.sweep(Instant::now() + later);
    }

    fn told(&self, tag: u64) -> Option<Told> {
        locked(&self.inbox).seen.get(&tag).copied()
    }

    /// What a caller is told is what has happened.
    fn is_true(&self, call: &Call, outcome: &Outcome, other: &Self) {
        let Message { tag, mode, .. } = call.message;
        let told = other.told(tag);
        match outcome {
            Outcome::Done if mode == DeliveryMode::WithReceipt => {
                assert!(told.is_some_and(|told| told.receipt));
            }
            Outcome::Done => assert!(mode == DeliveryMode::Confirmed && told.is_some_and(|told| told.good)),
            Outcome::Response { payload, .. } => {
                assert!(mode.wants_response() && told.is_some_and(|told| told.good));
                assert_eq!(payload[..8], tag.to_be_bytes(), "the answer of another call");
            }
            Outcome::Nack { code, text } => {
                // An answer that is too long for its caller becomes an error.
                assert!(told.is_some_and(|told| told.bad || told.good));
                assert_eq!(*code, NackCode::HandlerError);
                let is_its_own = **text == *tag.to_string().as_bytes() || told.is_some_and(|told| told.good);
                assert!(is_its_own, "the error of another call");
            }
            Outcome::Lost { sent } => {
                assert!(!self.link.is_usable(), "a call was lost on a link that lives");
                assert!(*sent || told.is_none(), "what arrived was said not to have been sent");
            }
            Outcome::Expired => assert!(self.is_late, "a call expired before its deadline"),
            Outcome::NoRoom | Outcome::Unexpected(_) => panic!("{outcome:?} for {call:?}, told {told:?}"),
        }
    }

    pub(super) fn check(&self, other: &Self) {
        assert!(self.link.pending_calls() >= self.calls.len() || self.link.end_reason().is_some());
        assert!(self.link.pending_calls() <= self.link.settings().pending_calls_max);
        let came = locked(&other.inbox);
        assert!(self.sent.starts_with(&came.arrived), "messages come once, in order, and none is left out");
        assert!(came.cancelled == 0 || self.has_abandoned || self.is_late, "a Cancel that nobody sent");
        drop(came);
        let is_late = locked(&self.inbox).late > 0;
        assert!(!is_late || self.has_abandoned || self.is_late || self.has_ended(), "an answer found nobody");
    }

    /// Whether all that was sent has come.
    fn has_delivered_to(&self, other: &Self) -> bool {
        self.sent.len() == locked(&other.inbox).arrived.len()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.link.end_reason().is_some() || self.has_stopped()
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.has_stopped.load(Ordering::SeqCst)
    }

    /// Nobody waits here, and nothing is owed or on its way.
    pub(super) fn is_at_rest(&self, other: &Self) -> bool {
        let is_idle =
            self.calls.is_empty() && self.waiting.is_empty() && locked(&self.inbox).waiting.is_empty();
        let is_quiet =
            self.link.pending_calls() == 0 && self.link.waiting_len() == 0 && self.link.owes_nothing();
        let has_delivered = self.has_delivered_to(other) && self.link.answering() == 0;
        is_idle && (self.has_ended() || other.has_ended() || (is_quiet && has_delivered))
    }

    pub(super) fn describe(&self) -> String {
        let Self { link, calls, waiting, .. } = self;
        format!(
            "{calls:?} {waiting:?} {:?}: pending {}, waiting {}, owes nothing {}, sweep {}, answering {}, end {:?}",
            locked(&self.inbox),
            link.pending_calls(),
            link.waiting_len(),
            link.owes_nothing(),
            link.needs_sweep(),
            link.answering(),
            link.end_reason(),
        )
    }
}

fn tagged(tag: u64, len: usize) -> Vec<u8> {
    let mut payload = tag.to_be_bytes().to_vec();
    payload.resize(len, 7);
    payload
}

fn with_outgoing<T>(message: Message, send: impl FnOnce(&Outgoing<'_>) -> T) -> T {
    let payload = tagged(message.tag, message.len);
    send(&Outgoing {
        handler: if message.is_system { "_system" } else { "handler" },
        mode: message.mode,
        codec: Codec::Raw,
        depth: 0,
        deadline: Some(Instant::now() + DEADLINE / 2),
        time_left_ms: message.mode.is_answered().then_some(30_000),
        trace: message.has_trace.then_some(Trace { trace_id: [1; 16], span_id: [2; 8], flags: 0 }),
        extras: None,
        payload: PayloadSource::Borrowed(&payload),
    })
}
