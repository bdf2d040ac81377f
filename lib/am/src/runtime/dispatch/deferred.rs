//! Deferred handlers: started on the reading task, answered later from anywhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::job::Job;
use crate::api::context::ActiveMessageContext;
use crate::api::handler_call::{Answer, Answered, DeferredFn, HandlerCall};
use crate::proto::payload::Payload;
use crate::runtime::node::Node;

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
    let answer: Answer = Box::new(move |answered| end(&owner, job, answered));
    // A panic drops the reply, which answers for it.
    let _ = catch_unwind(AssertUnwindSafe(|| call(context, payload, answer)));
}

fn end(node: &Arc<Node>, job: Job, answered: Answered) {
    let entry = job.entry.clone();
    job.complete_alone(answered);
    if let Some(mut next) = entry.gate.leave() {
        let HandlerCall::Deferred(call) = &entry.call else { return };
        let (context, payload) = (next.context(), next.take_payload());
        run(node, next, || (call.clone(), context, payload));
    }
}
