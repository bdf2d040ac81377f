//! Deferred handlers: started on the reading task, answered later from anywhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::group::complete_soon;
use super::job::{Job, panicked};
use crate::api::context::ActiveMessageContext;
use crate::api::handler_call::{Answer, Answered, DeferredFn, Failure, HandlerCall};
use crate::proto::payload::Payload;
use crate::runtime::node::Node;
use crate::wire::codes::NackCode;

/// Starts a deferred job; its place at the gate is free again when it is answered.
pub(crate) fn run(
    node: &Arc<Node>,
    job: Job,
    parts: impl FnOnce() -> (Arc<DeferredFn>, ActiveMessageContext, Payload),
) {
    let (call, context, payload) = parts();
    if let Some(failure) = job.too_late() {
        return end(node, job, Err(failure));
    }
    let owner = node.clone();
    // A panic of the handler drops its reply on the way; what it said is known only behind the unwinding.
    let slot = Arc::new(Mutex::new(Slot { job: Some(job), lost_by_panic: None, is_starting: true }));
    let kept = slot.clone();
    let answer: Answer = Box::new(move |answered| {
        let job = {
            let mut slot = kept.lock();
            match answered {
                Err(failure) if failure.code == NackCode::Panicked && slot.is_starting => {
                    slot.lost_by_panic = Some(failure);
                    return;
                }
                answered => slot.job.take().map(|job| (job, answered)),
            }
        };
        if let Some((job, answered)) = job {
            end(&owner, job, answered);
        }
    });
    let started = catch_unwind(AssertUnwindSafe(|| call(context, payload, answer)));
    let lost = {
        let mut slot = slot.lock();
        slot.is_starting = false;
        let failure = match started {
            Err(panic) => Some(panicked(&*panic)),
            Ok(()) => slot.lost_by_panic.take(),
        };
        failure.and_then(|failure| slot.job.take().map(|job| (job, failure)))
    };
    if let Some((job, failure)) = lost {
        end(node, job, Err(failure));
    }
}

/// A deferred job until it is answered.
struct Slot {
    job: Option<Job>,
    lost_by_panic: Option<Failure>,
    /// The handler's function has not returned yet.
    is_starting: bool,
}

fn end(node: &Arc<Node>, job: Job, answered: Answered) {
    let entry = job.route.entry.clone();
    complete_soon(node, job, answered);
    if let Some(mut next) = entry.gate.leave() {
        let HandlerCall::Deferred(call) = &entry.call else { return };
        let (context, payload) = (next.context(), next.take_payload());
        // In a task of its own: a handler that answers at once would else call itself for all that wait.
        let (owner, call) = (node.clone(), call.clone());
        node.spawner.spawn_handler(async move { run(&owner, next, || (call, context, payload)) });
    }
}
