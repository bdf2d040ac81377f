//! One message that outlives the reader's turn: [`Job`], from acceptance to its answer.

use std::any::Any;
use std::sync::Arc;

use crate::api::context::{ActiveMessageContext, Facts, Origin, Request};
use crate::api::control::MessageId;
use crate::api::handler_call::{Answered, Failure};
use crate::clock;
use crate::proto::budget::Hold;
use crate::proto::credit::Charge;
use crate::proto::outgoing::PayloadSource;
use crate::proto::payload::Payload;
use crate::runtime::registry::Entry;
use crate::runtime::running::Running;
use crate::transport::link::{Answer, AnswerBody, Link};
use crate::wire::codes::{DeliveryMode, NackCode};

/// What all jobs of a link share.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) link: Arc<Link>,
    pub(crate) running: Arc<Running>,
    pub(crate) origin: Arc<Origin>,
}

/// From a link to a handler. Made anew for each group of jobs: a count that all jobs of a link or a handler share
/// travels from core to core with each, which costs more than most else about them.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) entry: Arc<Entry>,
    pub(crate) place: Arc<Place>,
}

/// What a job's message says of itself.
#[derive(Debug)]
enum Message {
    /// Nobody can cancel it, so its request is made when its handler starts.
    Plain(Facts),
    Cancellable(Arc<Request>),
}

/// Whether a message is found by its number while it is unfinished here; its link counts it as answering meanwhile.
pub(crate) fn is_cancellable(mode: DeliveryMode) -> bool {
    mode.is_answered() && mode != DeliveryMode::WithReceipt
}

/// An accepted message, its handler, and what is owed for it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) route: Arc<Route>,
    message: Message,
    pub(crate) payload: Payload,
    /// What the payload holds of the node's memory.
    #[expect(dead_code, reason = "kept until the job ends: its drop gives the memory back")]
    pub(crate) hold: Option<Hold>,
    pub(crate) envelope: Box<[u8]>,
    pub(crate) charge: Charge,
}

impl Job {
    /// Accepts a message. One that its sender may cancel is found by its number until it is complete.
    pub(crate) fn new(
        route: &Arc<Route>,
        facts: Facts,
        (payload, hold): (Payload, Option<Hold>),
        envelope: &[u8],
        charge: Charge,
    ) -> Self {
        let message = if is_cancellable(facts.mode) {
            let request = Arc::new(Request::new(facts, &route.entry.name, &route.place.origin));
            route.place.running.insert(&request);
            Message::Cancellable(request)
        } else {
            Message::Plain(facts)
        };
        Self { route: route.clone(), message, payload, hold, envelope: envelope.into(), charge }
    }

    /// What its message says of itself.
    #[inline]
    pub(crate) fn facts(&self) -> &Facts {
        match &self.message {
            Message::Plain(facts) => facts,
            Message::Cancellable(request) => &request.facts,
        }
    }

    pub(crate) fn mode(&self) -> DeliveryMode {
        self.facts().mode
    }

    fn is_cancelled(&self) -> bool {
        matches!(&self.message, Message::Cancellable(request) if request.is_cancelled())
    }

    /// Why it should not start any more, if so.
    pub(crate) fn too_late(&self) -> Option<Failure> {
        if self.is_cancelled() {
            return Some(Failure { code: NackCode::Cancelled, text: "cancelled before it ran".to_owned() });
        }
        let is_late = self.mode().is_answered() && self.facts().deadline <= clock::now();
        is_late.then(|| Failure {
            code: NackCode::Expired,
            text: format!("the deadline passed before `{}` could start", self.route.entry.name),
        })
    }

    /// For its handler, once: the extras go with it.
    pub(crate) fn context(&mut self) -> ActiveMessageContext {
        self.context_in(&mut None)
    }

    /// The same, where a request is to be made, in the memory of the `last`, if nobody has that any more.
    #[inline]
    pub(crate) fn context_in(&mut self, last: &mut Option<Arc<Request>>) -> ActiveMessageContext {
        let request = match &mut self.message {
            Message::Cancellable(request) => return ActiveMessageContext(request.clone()),
            Message::Plain(facts) => {
                Request::made_of(last.take(), facts.take(), &self.route.entry.name, &self.route.place.origin)
            }
        };
        *last = Some(request.clone());
        ActiveMessageContext(request)
    }

    pub(crate) fn take_payload(&mut self) -> Payload {
        self.payload.take()
    }

    /// Whether that answer has to wait for room in the send buffer.
    pub(crate) fn needs_room(&self, answered: &Answered) -> bool {
        self.mode().wants_response() && !self.route.place.link.has_room(answer_len(answered))
    }

    /// Whether an answer of usual length would have to wait for room in the send buffer.
    pub(crate) fn would_need_room(&self) -> bool {
        self.mode().wants_response() && !self.route.place.link.has_room(0)
    }

    /// Memory for an answer that has to wait; `None` when there is none.
    pub(crate) fn hold_answer(&self, answered: &Answered) -> Option<Hold> {
        self.route.place.link.settings().budget.hold(answer_len(answered) as u64)
    }

    /// Ends the job. What is finished without an answer is added to `done`, for the caller to give back at once
    /// for many.
    pub(crate) fn complete(&self, answered: Answered, done: &mut Charge) {
        self.route.entry.counters.handled.increment(1);
        self.complete_uncounted(answered, done);
    }

    /// The same for a caller that counts what was handled at once for many.
    pub(crate) fn complete_uncounted(&self, answered: Answered, done: &mut Charge) {
        if answered.is_err() {
            self.route.entry.counters.failed.increment(1);
        }
        match self.mode() {
            DeliveryMode::FireAndForget | DeliveryMode::WithReceipt => {
                if let Err(failure) = answered {
                    self.log_one_way_failure(&failure);
                }
                done.add(self.charge);
            }
            mode => {
                if let Message::Cancellable(request) = &self.message {
                    self.route.place.running.remove(request);
                }
                let answered = match self.is_cancelled() {
                    true => Err(Failure { code: NackCode::Cancelled, text: "cancelled".to_owned() }),
                    false => answered,
                };
                let body = match &answered {
                    Err(failure) => AnswerBody::Nack { code: failure.code, text: &failure.text },
                    Ok(_) if mode == DeliveryMode::Confirmed => AnswerBody::Ack,
                    Ok(None) => AnswerBody::Response {
                        payload: PayloadSource::Borrowed(&[]),
                        codec: self.facts().codec,
                    },
                    Ok(Some(value)) => {
                        AnswerBody::Response { payload: value.payload.as_source(), codec: value.codec }
                    }
                };
                self.route.place.link.send_answer(&Answer {
                    id: self.facts().number,
                    envelope: &self.envelope,
                    body,
                    is_counted: true,
                    finishes: self.charge,
                });
            }
        }
    }

    /// The job was not accepted: whatever its sender waits for, it gets a Nack.
    pub(crate) fn refuse(self, failure: Failure, done: &mut Charge) {
        if self.mode() != DeliveryMode::WithReceipt {
            return self.complete(Err(failure), done);
        }
        self.route.place.link.send_answer(&Answer {
            id: self.facts().number,
            envelope: &self.envelope,
            body: AnswerBody::Nack { code: failure.code, text: &failure.text },
            is_counted: false,
            finishes: self.charge,
        });
    }

    fn log_one_way_failure(&self, failure: &Failure) {
        let (handler, id) = (&*self.route.entry.name, self.id());
        tracing::debug!(handler, %id, code = %failure.code, "a one-way message failed: {}", failure.text);
    }

    pub(crate) fn id(&self) -> MessageId {
        self.route.place.origin.message_id(self.facts().number)
    }

    /// As [`complete`](Self::complete), for one job alone.
    pub(crate) fn complete_alone(&self, answered: Answered) {
        let mut done = Charge::default();
        self.complete(answered, &mut done);
        if !done.is_zero() {
            self.route.place.link.finish_messages(done);
        }
    }
}

/// Octets of an answer.
pub(crate) fn answer_len(answered: &Answered) -> usize {
    match answered {
        Ok(Some(value)) => value.payload.len(),
        Ok(None) | Err(_) => 0,
    }
}

/// What a caught panic is answered with.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the handler panicked".to_owned());
    Failure { code: NackCode::Panicked, text }
}
