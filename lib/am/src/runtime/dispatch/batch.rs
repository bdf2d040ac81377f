//! Batched handlers: messages are collected until there are enough, or the first has waited long enough.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::group::complete_soon;
use super::job::{Job, panicked};
use crate::api::handler_call::{BatchedFn, Failure};
use crate::proto::credit::Charge;
use crate::runtime::node::Node;
use crate::runtime::registry::Entry;
use crate::wire::codes::NackCode;

/// The batch that is being collected.
#[derive(Debug, Default)]
pub(crate) struct Batcher(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    jobs: Vec<Job>,
    payload_len: usize,
    /// Messages that have not started, those of full batches that wait for their turn included.
    waiting: usize,
    /// Moves with each batch that is handed over, so that a timer knows whether its batch is still here.
    number: u64,
}

impl State {
    fn take(&mut self) -> Vec<Job> {
        self.number += 1;
        self.payload_len = 0;
        std::mem::take(&mut self.jobs)
    }
}

impl Batcher {
    /// Adds a job, and hands the batch over when it is full; gives the job back when too many wait. `accepted` is
    /// called before the job can start, and only if it is accepted.
    pub(crate) fn push(
        &self,
        node: &Arc<Node>,
        job: Job,
        rule: &BatchRule<'_>,
        accepted: impl FnOnce(),
    ) -> Option<Job> {
        let entry = job.route.entry.clone();
        let (full, timer) = {
            let mut state = self.0.lock();
            let nested_at_limit = job.facts().depth > 0 && entry.permits.available_permits() == 0;
            let waiting_max = node.limits.handler_queue_len.max(rule.count_max);
            if nested_at_limit || (job.mode().is_answered() && state.waiting >= waiting_max) {
                return Some(job);
            }
            accepted();
            state.waiting += 1;
            state.payload_len += job.payload.len();
            state.jobs.push(job);
            if state.jobs.len() >= rule.count_max || state.payload_len >= node.limits.batch_len_max {
                (Some(state.take()), None)
            } else {
                (None, Some(state.number).filter(|_| state.jobs.len() == 1))
            }
        };
        if let Some(jobs) = full {
            let (owner, entry, call) = (node.clone(), entry.clone(), rule.call.clone());
            node.spawner.spawn_handler(async move { run(&owner, &entry, jobs, &call).await });
        }
        if let Some(number) = timer {
            let (call, age_max, draining) = (rule.call.clone(), rule.age_max, node.drain_token.clone());
            let owner = node.clone();
            node.spawner.spawn_handler(async move {
                // A node that goes waits for no more messages.
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(age_max) => {}
                    () = draining.cancelled() => {}
                }
                let jobs = entry.batcher.take_if(number);
                run(&owner, &entry, jobs, &call).await;
            });
        }
        None
    }

    /// Takes out all that waits: nobody will run it.
    pub(crate) fn take_waiting(&self) -> Vec<Job> {
        self.0.lock().take()
    }

    fn take_if(&self, number: u64) -> Vec<Job> {
        let mut state = self.0.lock();
        if state.number == number { state.take() } else { Vec::new() }
    }
}

/// When a batch is handed over, and to what.
pub(crate) struct BatchRule<'a> {
    pub(crate) call: &'a Arc<BatchedFn>,
    pub(crate) count_max: usize,
    pub(crate) age_max: Duration,
}

async fn run(node: &Arc<Node>, entry: &Entry, mut jobs: Vec<Job>, call: &Arc<BatchedFn>) {
    if jobs.is_empty() {
        return;
    }
    // A limit counts batches. The permits are never closed.
    let _permit = entry.permits.acquire().await;
    entry.batcher.0.lock().waiting -= jobs.len();
    let mut late = Vec::new();
    let mut items = Vec::with_capacity(jobs.len());
    let mut kept = Vec::with_capacity(jobs.len());
    for mut job in jobs.drain(..) {
        match job.too_late() {
            Some(failure) => late.push((job, failure)),
            None => {
                let context = job.context();
                items.push((context.clone(), job.take_payload()));
                kept.push((context, job));
            }
        }
    }
    for (job, failure) in late {
        job.complete_alone(Err(failure));
    }
    if items.is_empty() {
        return;
    }
    let answers = match CaughtBatch(call(items)).await {
        Ok(answers) => answers,
        Err(failure) => {
            kept.into_iter().for_each(|(_, job)| job.complete_alone(Err(failure.clone())));
            return;
        }
    };
    let mut answers: std::collections::HashMap<_, _> =
        answers.into_iter().map(|(cx, answered)| (Arc::as_ptr(&cx.0), answered)).collect();
    let mut done = Charge::default();
    let link = kept.first().map(|(_, job)| job.route.place.link.clone());
    for (context, job) in kept {
        let lost = || Failure { code: NackCode::HandlerError, text: "the batch gave no result".to_owned() };
        let answered = answers.remove(&Arc::as_ptr(&context.0)).unwrap_or_else(|| Err(lost()));
        match &link {
            Some(link) if Arc::ptr_eq(link, &job.route.place.link) && !job.needs_room(&answered) => {
                job.complete(answered, &mut done);
            }
            // One peer that does not read holds up no other.
            _ => complete_soon(node, job, answered),
        }
    }
    if let Some(link) = link.filter(|_| !done.is_zero()) {
        link.finish_messages(done);
    }
}

type BatchFuture = crate::api::port::BoxFuture<
    'static,
    Vec<(crate::api::context::ActiveMessageContext, crate::api::handler_call::Answered)>,
>;

/// A batch's future that gives a panic as a failure.
struct CaughtBatch(BatchFuture);

impl Future for CaughtBatch {
    type Output =
        Result<Vec<(crate::api::context::ActiveMessageContext, crate::api::handler_call::Answered)>, Failure>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panicked(&*panic))),
        }
    }
}

/// A blocking handler: each message on a thread that may block.
pub(crate) fn spawn_blocking(node: &Arc<Node>, job: Job) {
    let owner = node.clone();
    node.spawner.spawn_blocking(move || run_blocking(&owner, job));
}

/// Runs a job, and then on the same thread those that wait for its place.
fn run_blocking(node: &Arc<Node>, mut job: Job) {
    loop {
        let entry: Arc<Entry> = job.route.entry.clone();
        let answered = match job.too_late() {
            Some(failure) => Err(failure),
            None => {
                let (context, payload) = (job.context(), job.take_payload());
                let crate::api::handler_call::HandlerCall::Blocking(call) = &entry.call else { return };
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(context, payload)))
                    .unwrap_or_else(|panic| Err(panicked(&*panic)))
            }
        };
        complete_soon(node, job, answered);
        match entry.gate.leave() {
            Some(next) => job = next,
            None => return,
        }
    }
}
