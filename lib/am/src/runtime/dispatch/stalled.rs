//! Messages of one link that wait for room in its send buffer, because their peer does not read its answers.
//!
//! They are run in order by a task of their own, each when there is room, so that the reading task waits for nobody,
//! answers are bounded, and a peer that reads nothing takes no handler's places from those that do.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::admit::{Admitted, admit, push_receipt, refuse, start_alone};
use super::job::{Job, panicked};
use super::lane::Lanes;
use crate::api::context::InlineContext;
use crate::api::handler_call::{Answered, HandlerCall, InlineReply, ReplyValue};
use crate::proto::credit::Charge;
use crate::proto::outgoing::PayloadSource;
use crate::proto::payload::Payload;
use crate::runtime::node::Node;
use crate::transport::link::Link;
use crate::wire::header::Header;

/// The waiting messages of one link; bounded by its peer's credit.
#[derive(Debug)]
pub(crate) struct Stalled {
    link: Arc<Link>,
    lanes: Arc<Lanes>,
    state: Mutex<State>,
    is_active: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// The peer's Bye was read behind them.
    bye_is_owed: bool,
}

impl Stalled {
    pub(crate) fn new(link: &Arc<Link>, lanes: &Arc<Lanes>) -> Self {
        Self {
            link: link.clone(),
            lanes: lanes.clone(),
            state: Mutex::default(),
            is_active: AtomicBool::new(false),
        }
    }

    /// Whether any wait: those that come after them wait behind them.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    pub(crate) fn push(self: &Arc<Self>, node: &Arc<Node>, job: Job) {
        let start = {
            let mut state = self.state.lock();
            state.waiting.push_back(job);
            !self.is_active.swap(true, Ordering::AcqRel)
        };
        if start {
            node.counters.limits.reached("send_buffer_len_max");
            let (stalled, owner) = (self.clone(), node.clone());
            node.spawner.spawn_handler(async move { stalled.run(&owner).await });
        }
    }

    /// The peer has said Bye. Another link of the same peer may be read only when nothing waits here.
    pub(crate) fn note_bye(&self) {
        let mut state = self.state.lock();
        if self.is_active() {
            state.bye_is_owed = true;
        } else {
            drop(state);
            self.link.note_bye();
        }
    }

    async fn run(self: Arc<Self>, node: &Arc<Node>) {
        while let Some(job) = self.next() {
            while job.would_need_room() {
                job.route.place.link.room(0).await;
            }
            self.run_job(node, job);
            tokio::task::yield_now().await;
        }
    }

    /// The next job; at the end nothing is stalled any more.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            self.is_active.store(false, Ordering::Release);
            if std::mem::take(&mut state.bye_is_owed) {
                drop(state);
                self.link.note_bye();
            }
        }
        next
    }

    fn run_job(&self, node: &Arc<Node>, job: Job) {
        if matches!(job.route.entry.call, HandlerCall::Inline(_)) {
            if job.mode().wants_receipt() {
                push_receipt(
                    &job.route.place.link,
                    job.facts().number,
                    job.facts().codec,
                    &job.envelope,
                    &job.route.entry,
                );
            }
            return run_inline(job);
        }
        match admit(node, &self.lanes, job) {
            Admitted::Run(job) => start_alone(node, job),
            Admitted::Taken => {}
            Admitted::Refused(job) => {
                let mut done = Charge::default();
                refuse(node, job, &mut done);
                if !done.is_zero() {
                    self.link.finish_messages(done);
                }
            }
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
    let HandlerCall::Inline(call) = &job.route.entry.call else { return Ok(None) };
    let request = job.facts();
    let mut header = Header::message(request.mode, request.number, job.route.entry.name.as_bytes());
    header.codec = request.codec;
    header.depth = request.depth;
    header.extras = request.extras.as_deref();
    let context =
        InlineContext { header: &header, origin: &job.route.place.origin, deadline: Some(request.deadline) };
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
