//! Runs the handlers of jobs in one task, one after the other: [`Runner`], used by groups and lanes.
//!
//! What one job leaves behind is used by the next: the memory of its future and, for one-way messages, of its request.
//! Credit goes back once for many.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};

use super::job::{Job, Route, panicked};
use crate::api::context::Request;
use crate::api::handler_call::{Answered, Failure, FuturePlace, HandlerCall, empty_place};
use crate::proto::credit::Charge;
use crate::wire::codes::NackCode;

/// Runs one job at a time.
pub(crate) struct Runner {
    future: FuturePlace,
    is_running: bool,
    request: Option<Arc<Request>>,
    /// What has ended and is not told yet: how many, and those without an answer. All of it came by `route`.
    handled: u64,
    done: Charge,
    route: Option<Arc<Route>>,
}

impl Runner {
    pub(crate) fn new() -> Self {
        Self {
            future: empty_place(),
            is_running: false,
            request: None,
            handled: 0,
            done: Charge::default(),
            route: None,
        }
    }

    /// Runs a job's handler on, or starts it. Until it is ready, it must be polled for no other job.
    pub(crate) fn poll(&mut self, job: &mut Job, cx: &mut Context<'_>) -> Poll<Answered> {
        if !self.is_running {
            if let Err(failure) = self.begin(job) {
                return Poll::Ready(Err(failure));
            }
            self.is_running = true;
        }
        let answered = match catch_unwind(AssertUnwindSafe(|| self.future.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answered)) => answered,
            Err(panic) => Err(panicked(&*panic)),
        };
        self.is_running = false;
        Poll::Ready(answered)
    }

    fn begin(&mut self, job: &mut Job) -> Result<(), Failure> {
        if let Some(failure) = job.too_late() {
            return Err(failure);
        }
        let (context, payload) = (job.context_in(&mut self.request), job.take_payload());
        match &job.route.entry.call {
            // A panic before the first await is a failure too.
            HandlerCall::Spawned { call, .. } => {
                catch_unwind(AssertUnwindSafe(|| call(context, payload, &mut self.future)))
                    .unwrap_or_else(|panic| Err(panicked(&*panic)))
            }
            // Only spawned handlers come here; see the dispatcher.
            HandlerCall::Inline(_)
            | HandlerCall::Blocking(_)
            | HandlerCall::Batched { .. }
            | HandlerCall::Deferred(_) => {
                let text = format!("`{}` is no spawned handler", job.route.entry.name);
                Err(Failure { code: NackCode::HandlerError, text })
            }
        }
    }

    /// Ends a job, or gives the answer back when it has to wait for room in the send buffer.
    pub(crate) fn end(&mut self, job: &Job, answered: Answered) -> Option<Answered> {
        if job.needs_room(&answered) {
            return Some(answered);
        }
        match &self.route {
            Some(route) if Arc::ptr_eq(route, &job.route) => {}
            // Handlers that take turns: the credit is that of one link all the same.
            Some(route) if Arc::ptr_eq(&route.place, &job.route.place) => {
                route.entry.counters.handled.increment(std::mem::take(&mut self.handled));
                self.route = Some(job.route.clone());
            }
            _ => {
                self.give_back();
                self.route = Some(job.route.clone());
            }
        }
        if job.mode().is_answered() {
            // Whoever gets the answer may look at the counter.
            job.complete(answered, &mut self.done);
        } else {
            self.handled += 1;
            job.complete_uncounted(answered, &mut self.done);
        }
        None
    }

    /// Counts what has ended, and gives its credit back; owed before the task waits or ends.
    pub(crate) fn give_back(&mut self) {
        let Some(route) = self.route.take() else { return };
        route.entry.counters.handled.increment(std::mem::take(&mut self.handled));
        if !self.done.is_zero() {
            route.place.link.finish_messages(std::mem::take(&mut self.done));
        }
    }

    /// Leaves the job that is running to another, which is given.
    pub(crate) fn split(&mut self) -> Self {
        Self {
            future: std::mem::replace(&mut self.future, empty_place()),
            is_running: std::mem::take(&mut self.is_running),
            request: self.request.take(),
            ..Self::new()
        }
    }
}
