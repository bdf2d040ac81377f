//! One message that outlives the reader's turn: [`Job`], from acceptance to its answer.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::api::context::{ActiveMessageContext, Request};
use crate::api::handler_call::{Answered, Failure};
use crate::api::port::BoxFuture;
use crate::clock;
use crate::proto::budget::Hold;
use crate::proto::credit::Charge;
use crate::proto::outgoing::PayloadSource;
use crate::proto::payload::Payload;
use crate::runtime::registry::Entry;
use crate::runtime::running::Running;
use crate::transport::link::{Answer, AnswerBody, Link};
use crate::wire::codes::{DeliveryMode, NackCode};

/// What all jobs of a link share. One count for both: where jobs begin and end on different cores, counting costs more
/// than most else about them.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) link: Arc<Link>,
    pub(crate) running: Arc<Running>,
}

/// An accepted message, its handler, and what is owed for it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) entry: Arc<Entry>,
    pub(crate) request: Arc<Request>,
    pub(crate) payload: Payload,
    /// What the payload holds of the node's memory.
    #[expect(dead_code, reason = "kept until the job ends: its drop gives the memory back")]
    pub(crate) hold: Option<Hold>,
    pub(crate) envelope: Box<[u8]>,
    pub(crate) place: Arc<Place>,
    pub(crate) charge: Charge,
}

impl Job {
    /// Why it should not start any more, if so.
    pub(crate) fn too_late(&self) -> Option<Failure> {
        if self.request.is_cancelled() {
            return Some(Failure { code: NackCode::Cancelled, text: "cancelled before it ran".to_owned() });
        }
        let is_late = self.request.mode.is_answered() && self.request.deadline <= clock::now();
        is_late.then(|| Failure {
            code: NackCode::Expired,
            text: format!("the deadline passed before `{}` could start", self.entry.name),
        })
    }

    pub(crate) fn context(&self) -> ActiveMessageContext {
        ActiveMessageContext(self.request.clone())
    }

    pub(crate) fn take_payload(&mut self) -> Payload {
        self.payload.take()
    }

    /// Whether that answer has to wait for room in the send buffer.
    pub(crate) fn needs_room(&self, answered: &Answered) -> bool {
        self.request.mode.wants_response() && !self.place.link.has_room(answer_len(answered))
    }

    /// Whether an answer of usual length would have to wait for room in the send buffer.
    pub(crate) fn would_need_room(&self) -> bool {
        self.request.mode.wants_response() && !self.place.link.has_room(0)
    }

    /// Memory for an answer that has to wait; `None` when there is none.
    pub(crate) fn hold_answer(&self, answered: &Answered) -> Option<Hold> {
        self.place.link.settings().budget.hold(answer_len(answered) as u64)
    }

    /// Ends the job. What is finished without an answer is added to `done`, for the caller to give back at once
    /// for many.
    pub(crate) fn complete(&self, answered: Answered, done: &mut Charge) {
        let failed = answered.is_err();
        self.entry.counters.handled.increment(1);
        if failed {
            self.entry.counters.failed.increment(1);
        }
        match self.request.mode {
            DeliveryMode::FireAndForget | DeliveryMode::WithReceipt => {
                if let Err(failure) = answered {
                    log_one_way_failure(&self.entry.name, &self.request, &failure);
                }
                done.add(self.charge);
            }
            mode => {
                self.place.running.remove(&self.request);
                let cancelled = Failure { code: NackCode::Cancelled, text: "cancelled".to_owned() };
                let answered = if self.request.is_cancelled() { Err(cancelled) } else { answered };
                let body = match &answered {
                    Err(failure) => AnswerBody::Nack { code: failure.code, text: &failure.text },
                    Ok(_) if mode == DeliveryMode::Confirmed => AnswerBody::Ack,
                    Ok(None) => AnswerBody::Response {
                        payload: PayloadSource::Borrowed(&[]),
                        codec: self.request.codec,
                    },
                    Ok(Some(value)) => {
                        AnswerBody::Response { payload: value.payload.as_source(), codec: value.codec }
                    }
                };
                self.place.link.send_answer(&Answer {
                    id: self.request.number,
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
        if self.request.mode != DeliveryMode::WithReceipt {
            return self.complete(Err(failure), done);
        }
        self.place.link.send_answer(&Answer {
            id: self.request.number,
            envelope: &self.envelope,
            body: AnswerBody::Nack { code: failure.code, text: &failure.text },
            is_counted: false,
            finishes: self.charge,
        });
    }

    /// As [`complete`](Self::complete), for one job alone.
    pub(crate) fn complete_alone(&self, answered: Answered) {
        let mut done = Charge::default();
        self.complete(answered, &mut done);
        if !done.is_zero() {
            self.place.link.finish_messages(done);
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

pub(crate) fn log_one_way_failure(handler: &str, request: &Request, failure: &Failure) {
    tracing::debug!(handler, id = %request.id(), code = %failure.code, "a one-way message failed: {}", failure.text);
}

/// A handler's future that gives a panic as a failure.
pub(crate) struct Caught(pub(crate) BoxFuture<'static, Answered>);

impl Future for Caught {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => Poll::Ready(Err(panicked(&*panic))),
        }
    }
}

/// Starts an asynchronous handler; a panic before its first await is a failure too.
pub(crate) fn start(call: impl FnOnce() -> BoxFuture<'static, Answered>) -> Caught {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(future) => Caught(future),
        Err(panic) => {
            let failure = panicked(&*panic);
            Caught(Box::pin(std::future::ready(Err(failure))))
        }
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
