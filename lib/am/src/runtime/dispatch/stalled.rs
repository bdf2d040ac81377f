//! Inline messages that wait for room in the send buffer, because their peer does not read its answers.
//!
//! They are run in order by a task of their own, each when there is room, so that the reading task waits for
//! nobody and answers are bounded.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::job::{Job, panicked};
use crate::api::context::InlineContext;
use crate::api::handler_call::{Answered, HandlerCall, InlineReply, ReplyValue};
use crate::proto::outgoing::PayloadSource;
use crate::proto::payload::Payload;
use crate::runtime::node::Node;
use crate::wire::header::Header;

/// The waiting inline messages of one link; bounded by its peer's credit.
#[derive(Debug, Default)]
pub(crate) struct Stalled {
    waiting: Mutex<VecDeque<Job>>,
    is_active: AtomicBool,
}

impl Stalled {
    /// Whether any wait: those that come after them wait behind them.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    pub(crate) fn push(self: &Arc<Self>, node: &Arc<Node>, job: Job) {
        let start = {
            let mut waiting = self.waiting.lock();
            waiting.push_back(job);
            !self.is_active.swap(true, Ordering::AcqRel)
        };
        if start {
            let stalled = self.clone();
            node.spawner.spawn_handler(async move { stalled.run().await });
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let job = {
                let mut waiting = self.waiting.lock();
                match waiting.pop_front() {
                    Some(job) => job,
                    None => {
                        self.is_active.store(false, Ordering::Release);
                        return;
                    }
                }
            };
            while job.needs_room() {
                job.link.room().await;
            }
            run_inline(job);
            tokio::task::yield_now().await;
        }
    }
}

fn run_inline(mut job: Job) {
    if let Some(failure) = job.too_late() {
        return job.complete_alone(Err(failure));
    }
    let payload = job.take_payload();
    let answered = call_inline(&job, &payload);
    job.complete_alone(answered);
}

fn call_inline(job: &Job, payload: &Payload) -> Answered {
    let HandlerCall::Inline(call) = &job.entry.call else { return Ok(None) };
    let request = &job.request;
    let mut header = Header::message(request.mode, request.number, job.entry.name.as_bytes());
    header.codec = request.codec;
    header.depth = request.depth;
    header.extras = request.extras.as_deref();
    let context = InlineContext {
        header: &header,
        sender: &request.sender,
        node: &request.node,
        deadline: Some(request.deadline),
    };
    let mut scratch = Vec::new();
    let is_wanted = request.mode.wants_response();
    let mut reply = InlineReply { is_wanted, codec: request.codec, scratch: &mut scratch, shared: None };
    catch_unwind(AssertUnwindSafe(|| call(&context, payload, &mut reply)))
        .unwrap_or_else(|panic| Err(panicked(&*panic)))?;
    if !is_wanted {
        return Ok(None);
    }
    let payload = match reply.source() {
        PayloadSource::Shared(bytes) => Payload::from(bytes.clone()),
        PayloadSource::Borrowed(octets) => Payload::copy_from(octets),
    };
    Ok(Some(ReplyValue { codec: reply.codec, payload }))
}
