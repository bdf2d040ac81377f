//! From a request to its handler: [`Dispatcher`], one for each link, called by its router.
//!
//! Inline handlers run here, on the reading task; for all others the message becomes a
//! [`Job`](super::dispatch::job::Job) and goes where its handler's kind says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::dispatch::admit::{Admitted, admit, push_receipt, refuse, start};
use super::dispatch::group::{GROUP_LEN, spawn_group};
use super::dispatch::job::{Job, Place, Route, is_cancellable, panicked};
use super::dispatch::stalled::Stalled;
use super::message_router::Turn;
use super::node::Node;
use super::peer::PeerCore;
use super::registry::Entry;
use super::running::Running;
use crate::api::context::{Facts, InlineContext, Origin, Sender};
use crate::api::control::{EXTRA_KIND, EXTRA_REQUEST, EXTRA_RESPONSE, ResponseType};
use crate::api::handler_call::{Failure, HandlerCall, InlineFn, InlineReply};
use crate::proto::credit::Charge;
use crate::transport::link::{Answer, AnswerBody, Link, Received};
use crate::wire::answer::PeerClass;
use crate::wire::codes::{Codec, DeliveryMode, NackCode};
use crate::wire::extras::Extras;
use crate::wire::header::Header;

/// Runs the handlers of what one link receives.
pub(crate) struct Dispatcher {
    node: Arc<Node>,
    place: Arc<Place>,
    peer: Arc<PeerCore>,
    class: PeerClass,
    last: Option<Known>,
    group: Vec<Job>,
    /// One-way messages of this turn for one ordered handler.
    ordered: Vec<Job>,
    scratch: Vec<u8>,
    /// Octets of answers queued by inline handlers since the send buffer was last looked at.
    answered_len: usize,
    /// Requests that wait for room in the send buffer, and all messages behind them.
    stalled: Arc<Stalled>,
}

/// Inline answers queued before the send buffer is looked at again, in octets.
const ROOM_CHECK_LEN: usize = 64 * 1024;

impl Dispatcher {
    pub(crate) fn new(
        node: &Arc<Node>,
        link: &Arc<Link>,
        peer: &Arc<PeerCore>,
        sender: Arc<Sender>,
        class: PeerClass,
        running: &Arc<Running>,
    ) -> Self {
        let origin = Arc::new(Origin { sender, node: node.port() });
        Self {
            node: node.clone(),
            place: Arc::new(Place { link: link.clone(), running: running.clone(), origin }),
            peer: peer.clone(),
            class,
            last: None,
            group: Vec::new(),
            ordered: Vec::new(),
            scratch: Vec::new(),
            answered_len: ROOM_CHECK_LEN,
            stalled: Arc::new(Stalled::new(link, &peer.lanes)),
        }
    }

    /// Takes one request.
    #[inline]
    pub(crate) fn dispatch(
        &mut self,
        header: &Header<'_>,
        envelope: &[u8],
        payload: Received<'_>,
        charge: &Charge,
        turn: &mut Turn,
    ) {
        if header.mode() == Some(DeliveryMode::FireAndForget)
            && self.class != PeerClass::ForeignReq
            && self.remembers(header.handler)
            && !self.stalled.is_active()
            && let Some(Known { entry, .. }) = &self.last
            && let HandlerCall::Inline(call) = &entry.call
        {
            let here = Here { link: &self.place.link, origin: &self.place.origin };
            let run = InlineRun { here, entry, call: &**call, payload: payload.as_slice() };
            let mut reply = reply_to(header, DeliveryMode::FireAndForget, &mut self.scratch);
            let _ = run.call(header, DeliveryMode::FireAndForget, &mut reply, turn);
            turn.finished.add(*charge);
            return;
        }
        self.dispatch_any(header, envelope, payload, charge, turn);
    }

    /// All but one-way messages to the handler looked up last, if it is an inline one.
    #[inline(never)]
    fn dispatch_any(
        &mut self,
        header: &Header<'_>,
        envelope: &[u8],
        payload: Received<'_>,
        charge: &Charge,
        turn: &mut Turn,
    ) {
        // A REQ cannot go on without a reply: its one-way message is acked.
        let mode = match header.mode() {
            Some(DeliveryMode::FireAndForget) if self.class == PeerClass::ForeignReq => {
                DeliveryMode::Confirmed
            }
            Some(mode) => mode,
            None => return,
        };
        let message = Incoming { header, mode, envelope, charge };
        if !self.remembers(header.handler) && !self.look_up(header.handler) {
            return self.refuse_unknown(&message, turn);
        }
        let must_stall = self.must_stall(mode);
        let Some(known) = &mut self.last else { return };
        let entry = &known.entry;
        if mode.is_answered()
            && let Err((code, text)) = check(&self.node, header, mode, entry, payload.as_slice().is_empty())
        {
            return self.refuse(&message, code, &text, turn);
        }
        match &entry.call {
            HandlerCall::Inline(call) if !must_stall => {
                let here = Here { link: &self.place.link, origin: &self.place.origin };
                let run = InlineRun { here, entry, call: &**call, payload: payload.as_slice() };
                self.answered_len += run.run(&message, &mut self.scratch, turn);
            }
            // Nearly all are these, and go to their group the shortest way.
            HandlerCall::Spawned { is_ordered: false, .. }
                if !must_stall && !mode.wants_receipt() && entry.gate.try_enter() =>
            {
                let job = known.job(&self.node, &self.place, &message, payload, turn);
                self.group.push(job);
                self.spawn_full_group();
            }
            // They go to their lane together; nothing refuses them.
            HandlerCall::Spawned { is_ordered: true, .. }
                if !must_stall && mode == DeliveryMode::FireAndForget && header.depth == 0 =>
            {
                if self.ordered.last().is_some_and(|last| !Arc::ptr_eq(&last.route.entry, entry)) {
                    push_ordered(&self.node, &self.peer, &mut self.ordered);
                }
                let job = known.job(&self.node, &self.place, &message, payload, turn);
                self.ordered.push(job);
                if self.ordered.len() >= GROUP_LEN {
                    self.push_ordered();
                }
            }
            _ => {
                let job = known.job(&self.node, &self.place, &message, payload, turn);
                known.is_handed_over = true;
                self.push_ordered();
                // What comes behind a message that waits, waits behind it.
                if must_stall {
                    self.stalled.push(&self.node, job);
                } else {
                    self.admit(job, turn);
                }
            }
        }
    }

    /// Hands the group over when it is full.
    fn spawn_full_group(&mut self) {
        if self.group.len() >= GROUP_LEN {
            // More of them are likely to come.
            let full = std::mem::replace(&mut self.group, Vec::with_capacity(GROUP_LEN));
            self.spawn(full);
        }
    }

    fn spawn(&mut self, group: Vec<Job>) {
        if let Some(known) = &mut self.last {
            known.is_handed_over = true;
        }
        spawn_group(&self.node, group);
    }

    /// Hands the ordered messages over to their lane; owed before any other can get there.
    fn push_ordered(&mut self) {
        push_ordered(&self.node, &self.peer, &mut self.ordered);
        if let Some(known) = &mut self.last {
            known.is_handed_over = true;
        }
    }

    /// The peer has said Bye: all that it sent before counts as read once none of it is stalled.
    pub(crate) fn note_bye(&mut self) {
        self.push_ordered();
        self.stalled.note_bye();
    }

    /// All requests of a turn have been dispatched.
    pub(crate) fn end_turn(&mut self) {
        self.push_ordered();
        if !self.group.is_empty() {
            let group = std::mem::take(&mut self.group);
            self.spawn(group);
        }
        self.answered_len = ROOM_CHECK_LEN;
    }

    /// Whether the handler looked up last is the one of that name, and still stands.
    #[inline]
    fn remembers(&self, name: &[u8]) -> bool {
        let generation = self.node.registry.generation();
        self.last
            .as_ref()
            .is_some_and(|last| last.generation == generation && last.entry.name.as_bytes() == name)
    }

    fn look_up(&mut self, name: &[u8]) -> bool {
        let generation = self.node.registry.generation();
        let found = self.node.registry.find(name);
        let is_found = found.is_some();
        self.last = found
            .map(|entry| Known { generation, entry, route: None, is_handed_over: false })
            .or_else(|| self.last.take());
        is_found
    }

    #[cold]
    fn refuse_unknown(&self, message: &Incoming<'_>, turn: &mut Turn) {
        let name = String::from_utf8_lossy(message.header.handler);
        let text = format!("no handler `{name}` is registered here");
        self.refuse(message, NackCode::NoHandler, &text, turn);
    }

    /// Whether messages have to wait: the peer does not take the answers it has already.
    #[inline]
    fn must_stall(&mut self, mode: DeliveryMode) -> bool {
        if self.stalled.is_active() {
            return true;
        }
        if !mode.wants_response() || self.answered_len < ROOM_CHECK_LEN {
            return false;
        }
        self.answered_len = 0;
        !self.place.link.has_room(0)
    }

    fn admit(&mut self, job: Job, turn: &mut Turn) {
        match admit(&self.node, &self.peer.lanes, job) {
            Admitted::Run(job) => {
                start(&self.node, job, &mut self.group);
                self.spawn_full_group();
            }
            Admitted::Taken => {}
            Admitted::Refused(job) => refuse(&self.node, job, &mut turn.finished),
        }
    }

    fn refuse(&self, message: &Incoming<'_>, code: NackCode, text: &str, turn: &mut Turn) {
        let &Incoming { header, mode, envelope, charge } = message;
        if mode.is_answered() && self.class != PeerClass::ForeignPush {
            self.node.counters.refused.increment(1);
            let body = AnswerBody::Nack { code, text };
            self.place.link.push_answer(&Answer {
                id: header.id,
                envelope,
                body,
                is_counted: false,
                finishes: *charge,
            });
        } else {
            self.node.counters.one_way_dropped.increment(1);
            tracing::debug!(code = %code, "dropped a one-way message: {text}");
            turn.finished.add(*charge);
        }
    }
}

fn push_ordered(node: &Arc<Node>, peer: &PeerCore, jobs: &mut Vec<Job>) {
    if let Some(last) = jobs.last() {
        let lane = peer.lanes.of(last.route.entry.id);
        lane.push_all(&peer.lanes, node, jobs);
    }
}

/// The handler looked up last.
struct Known {
    /// The state of the table that it was found in.
    generation: u64,
    entry: Arc<Entry>,
    /// That of the last job.
    route: Option<Arc<Route>>,
    /// The jobs of that route may be running by now.
    is_handed_over: bool,
}

impl Known {
    fn job(
        &mut self,
        node: &Node,
        place: &Arc<Place>,
        message: &Incoming<'_>,
        payload: Received<'_>,
        turn: &mut Turn,
    ) -> Job {
        let &Incoming { header, mode, envelope, charge } = message;
        let time_left =
            header.deadline_ms.map_or(node.limits.request_timeout, |left| Duration::from_millis(left.into()));
        let facts = Facts::new(header, mode, turn.now() + time_left);
        turn.answering += i32::from(is_cancellable(mode));
        Job::new(self.route(place), facts, payload.into_payload(), envelope, *charge)
    }

    fn route(&mut self, place: &Arc<Place>) -> &Arc<Route> {
        if std::mem::take(&mut self.is_handed_over) {
            self.route = self.route.take().filter(|route| Arc::strong_count(route) == 1);
        }
        self.route.get_or_insert_with(|| Arc::new(Route { entry: self.entry.clone(), place: place.clone() }))
    }
}

/// What an inline handler's context and answer need of its link.
struct Here<'a> {
    link: &'a Link,
    origin: &'a Origin,
}

/// A request, as far as everything that handles it needs it.
struct Incoming<'a> {
    header: &'a Header<'a>,
    mode: DeliveryMode,
    envelope: &'a [u8],
    charge: &'a Charge,
}

/// One run of an inline handler.
struct InlineRun<'a> {
    here: Here<'a>,
    entry: &'a Entry,
    call: &'a InlineFn,
    payload: &'a [u8],
}

impl InlineRun<'_> {
    /// Runs the handler and queues its answer; gives the answer's length.
    #[inline]
    fn run(self, message: &Incoming<'_>, scratch: &mut Vec<u8>, turn: &mut Turn) -> usize {
        let &Incoming { header, mode, envelope, charge } = message;
        let link = self.here.link;
        if mode.wants_receipt() {
            push_receipt(link, header.id, header.codec, envelope, self.entry);
        }
        let mut reply = reply_to(header, mode, scratch);
        let result = self.call(header, mode, &mut reply, turn);
        if matches!(mode, DeliveryMode::FireAndForget | DeliveryMode::WithReceipt) {
            turn.finished.add(*charge);
            return 0;
        }
        let (body, len) = match &result {
            Err(failure) => {
                (AnswerBody::Nack { code: failure.code, text: &failure.text }, failure.text.len())
            }
            Ok(()) if mode == DeliveryMode::Confirmed => (AnswerBody::Ack, 0),
            Ok(()) => {
                let payload = reply.source();
                (AnswerBody::Response { payload, codec: reply.codec }, payload.as_slice().len())
            }
        };
        link.push_answer(&Answer { id: header.id, envelope, body, is_counted: false, finishes: *charge });
        len
    }

    /// Runs the handler, and keeps its panics from the link.
    #[inline(always)]
    fn call(
        &self,
        header: &Header<'_>,
        mode: DeliveryMode,
        reply: &mut InlineReply<'_>,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        let deadline = header.deadline_ms.map(|left| turn.now() + Duration::from_millis(left.into()));
        let context = InlineContext { header, origin: self.here.origin, deadline };
        let result = catch_unwind(AssertUnwindSafe(|| (self.call)(&context, self.payload, reply)))
            .unwrap_or_else(|panic| Err(panicked(&*panic)));
        self.entry.counters.handled.increment(1);
        if let Err(failure) = &result {
            note_failure(self.entry, &context, failure, mode);
        }
        result
    }
}

/// Where an inline handler puts its answer.
#[inline]
fn reply_to<'a>(header: &Header<'_>, mode: DeliveryMode, scratch: &'a mut Vec<u8>) -> InlineReply<'a> {
    scratch.clear();
    InlineReply { is_wanted: mode.wants_response(), codec: header.codec, scratch, shared: None }
}

#[cold]
fn note_failure(entry: &Entry, context: &InlineContext<'_>, failure: &Failure, mode: DeliveryMode) {
    entry.counters.failed.increment(1);
    if !mode.is_answered() {
        let id = context.id();
        tracing::debug!(handler = %entry.name, %id, "a one-way message failed: {}", failure.text);
    }
}

/// What keeps a message that wants an answer from its handler.
#[inline]
fn check(
    node: &Node,
    header: &Header<'_>,
    mode: DeliveryMode,
    entry: &Entry,
    is_empty: bool,
) -> Result<(), (NackCode, String)> {
    if node.is_draining() && !entry.is_system {
        return Err((NackCode::Draining, "this node is shutting down".to_owned()));
    }
    if header.deadline_ms == Some(0) {
        node.counters.expired.increment(1);
        return Err((NackCode::Expired, "the deadline had passed when the message was sent".to_owned()));
    }
    if mode.wants_response() && entry.contract.kind == ResponseType::Message {
        let text = format!("`{}` has no response; send it one-way, confirmed or with a receipt", entry.name);
        return Err((NackCode::ContractMismatch, text));
    }
    if !mode.wants_receipt() {
        return Ok(());
    }
    // Others learn of it when the payload is decoded; a receipt would have been said by then.
    if entry.is_typed && header.codec == Codec::Raw && !is_empty {
        let text =
            format!("`{}` takes a typed value, in JSON or MessagePack, and this one is raw", entry.name);
        return Err((NackCode::ContractMismatch, text));
    }
    header.extras.map_or(Ok(()), |extras| check_contract(extras, entry))
}

/// What a caller expects of the handler, where it says so; what is absent on either side is not checked, and raw
/// fits typed.
fn check_contract(extras: &[u8], entry: &Entry) -> Result<(), (NackCode, String)> {
    let extras = Extras::decode(extras)
        .map_err(|error| (NackCode::Protocol, format!("the message's extras do not decode: {error}")))?;
    let contract = &entry.contract;
    let pairs = [
        ("kind", extras.get(EXTRA_KIND), Some(contract.kind.as_str())),
        ("request", extras.get(EXTRA_REQUEST), contract.req.as_deref()),
        ("response", extras.get(EXTRA_RESPONSE), contract.resp.as_deref()),
    ];
    for (what, expected, offered) in pairs {
        if let (Some(expected), Some(offered)) = (expected, offered)
            && expected != offered
        {
            let text = format!("`{}` has the {what} `{offered}`, and `{expected}` is expected", entry.name);
            return Err((NackCode::ContractMismatch, text));
        }
    }
    Ok(())
}
