//! Spawned handlers: messages of one turn share a task, which polls each once; those that are not done by then go
//! on in tasks of their own.
//!
//! Spawning costs about a microsecond, more than most handlers do, so it is paid once for up to 16 messages.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use super::job::{Caught, Job, start};
use crate::api::handler_call::{Answered, Failure, HandlerCall};
use crate::proto::credit::Charge;
use crate::runtime::node::Node;
use crate::wire::codes::NackCode;

/// Messages that share a task.
pub(crate) const GROUP_LEN: usize = 16;

/// Runs jobs that have entered their gates.
pub(crate) fn spawn_group(node: &Arc<Node>, jobs: Vec<Job>) {
    let owner = node.clone();
    node.spawner.spawn_handler(async move { run_group(owner, jobs).await });
}

async fn run_group(node: Arc<Node>, jobs: Vec<Job>) {
    let Some(link) = jobs.first().map(|job| job.link.clone()) else { return };
    let mut done = Charge::default();
    let count = jobs.len();
    for (index, job) in jobs.into_iter().enumerate() {
        let mut next = Some(job);
        // A job that ends lets the next of its handler in, which runs in its place.
        while let Some(mut job) = next.take() {
            let entry = job.entry.clone();
            let mut future = begin(&mut job);
            let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await;
            match polled {
                Poll::Ready(answered) if !job.needs_room() => {
                    // Only what came by this link is given back with the rest of the group.
                    if Arc::ptr_eq(&job.link, &link) {
                        job.complete(answered, &mut done);
                    } else {
                        job.complete_alone(answered);
                    }
                    next = entry.gate.leave();
                }
                Poll::Ready(answered) => {
                    complete_soon(&node, job, answered);
                    next = entry.gate.leave();
                }
                // The last one goes on right here.
                Poll::Pending if index + 1 == count => {
                    if !done.is_zero() {
                        link.finish_messages(std::mem::take(&mut done));
                    }
                    finish(&node, future, job).await;
                }
                Poll::Pending => {
                    let owner = node.clone();
                    node.spawner.spawn_handler(async move { finish(&owner, future, job).await });
                }
            }
        }
    }
    if !done.is_zero() {
        link.finish_messages(done);
    }
}

/// Sees a job to its end, then those that waited for its place.
async fn finish(node: &Arc<Node>, future: impl Future<Output = Answered>, job: Job) {
    let entry = job.entry.clone();
    let answered = future.await;
    if let Some(next) = entry.gate.leave() {
        spawn_group(node, vec![next]);
    }
    complete_with_room(job, answered).await;
}

/// Runs one job in the current task, without its gate; [`complete_with_room`] is owed.
pub(crate) async fn run_one(job: &mut Job) -> Answered {
    begin(job).await
}

/// A response waits for room in the send buffer until its caller stops waiting for it; meanwhile it is charged to
/// the node's memory, and when there is none, its caller is told so instead. Its handler's place is free by then,
/// else peers that read no answers would take all places from those that do.
pub(crate) async fn complete_with_room(job: Job, mut answered: Answered) {
    let deadline = tokio::time::Instant::from_std(job.request.deadline);
    let mut hold = None;
    while job.needs_room() {
        if hold.is_none() {
            hold = job.hold_answer(&answered);
        }
        let text = if hold.is_none() {
            "there was no memory to keep the answer until it can be sent"
        } else if tokio::time::timeout_at(deadline, job.link.room()).await.is_err() {
            "the answer could not be sent before the deadline: the link took no more"
        } else {
            continue;
        };
        tracing::debug!(id = %job.request.id(), "dropped an answer: {text}");
        // A failure is short, and what it says of the handler must stay true.
        if answered.is_ok() {
            answered = Err(Failure { code: NackCode::HandlerError, text: text.to_owned() });
        }
        break;
    }
    job.complete_alone(answered);
}

/// Ends a job where nobody may wait.
pub(crate) fn complete_soon(node: &Arc<Node>, job: Job, answered: Answered) {
    if job.needs_room() {
        node.spawner.spawn_handler(complete_with_room(job, answered));
    } else {
        job.complete_alone(answered);
    }
}

fn begin(job: &mut Job) -> Caught {
    if let Some(failure) = job.too_late() {
        return Caught(Box::pin(std::future::ready(Err(failure))));
    }
    let context = job.context();
    let payload = job.take_payload();
    match &job.entry.call {
        HandlerCall::Spawned { call, .. } => start(|| call(context, payload)),
        // Only spawned handlers come here; see the dispatcher.
        HandlerCall::Inline(_)
        | HandlerCall::Blocking(_)
        | HandlerCall::Batched { .. }
        | HandlerCall::Deferred(_) => {
            let text = format!("`{}` is no spawned handler", job.entry.name);
            let failure = Failure { code: NackCode::HandlerError, text };
            Caught(Box::pin(std::future::ready(Err(failure))))
        }
    }
}
