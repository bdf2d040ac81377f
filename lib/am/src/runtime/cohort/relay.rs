//! Calls that go down a tree of workers: what the leader sends to the first of each branch, and what that one does.
//!
//! A worker calls its own handler through the link to itself, so all that holds for a call holds there as well;
//! handlers see their own node as the sender. It hands the rest of its branch on, and answers for all of it.
//!
//! **Invariant**: a rank's request runs at most once. When a worker fails that others depend on, the leader calls
//! those ranks itself if their requests cannot have run, or are declared idempotent.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join, join_all};
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Call, Done, Encoded, RelayMode, Sent, Undecoded, Value};
use super::call::{Terms, on_rank};
use super::collective::{Calls, Slots, all_unless_failed, flat};
use super::core::{Core, Worker};
use super::error::CohortError;
use super::tree::branches;
use super::words::{Octets, relay_name};
use super::worker::Inner;
use crate::api::call_error::{CallError, CallInfo, HandlerError, Refusal};
use crate::api::client::Peer;
use crate::api::codec::Raw;
use crate::api::handler::Handler;
use crate::clock;
use crate::id::InstanceId;
use crate::proto::membership::Holder;
use crate::wire::codes::{Codec, NackCode};

/// A call for several ranks. The first target is the receiver.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Relay<'a> {
    token: Cow<'a, str>,
    handler: Cow<'a, str>,
    mode: RelayMode,
    /// The request of all, where all have the same.
    shared: Option<RequestWord>,
    targets: Vec<Target<'a>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RequestWord {
    codec: u8,
    octets: Octets,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Target<'a> {
    rank: usize,
    /// The octets of its instance id.
    worker: Octets,
    /// With spaces between.
    endpoints: Cow<'a, str>,
    request: Option<RequestWord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RelayAnswer {
    slots: Vec<SlotWord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SlotWord {
    rank: usize,
    /// The value and its codec.
    value: Option<RequestWord>,
    error: Option<ErrorWord>,
}

/// A [`CallError`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ErrorWord {
    kind: String,
    text: String,
    code: u8,
    flag: bool,
    /// The target was not reached because of those who hand on.
    is_of_the_way: bool,
}

impl ErrorWord {
    fn new(error: &CallError, is_of_the_way: bool) -> Self {
        let (kind, text, code, flag) = match error {
            CallError::NotSent { reason, transient, .. } => ("not_sent", reason.clone(), 0, *transient),
            CallError::Refused { reason, message, .. } => {
                ("refused", message.clone(), code_of(*reason), false)
            }
            CallError::HandlerError { message, .. } => ("handler", message.clone(), 0, false),
            CallError::HandlerPanicked { message, .. } => ("panicked", message.clone(), 0, false),
            CallError::BadResponse { reason, .. } => ("bad_response", reason.clone(), 0, false),
            CallError::PeerLost { maybe_executed, .. } => ("lost", String::new(), 0, *maybe_executed),
            CallError::DeadlineExceeded { maybe_executed, .. } => ("late", String::new(), 0, *maybe_executed),
            CallError::Overloaded { maybe_executed, .. } => ("no_room", String::new(), 0, *maybe_executed),
            CallError::Cancelled { maybe_executed, .. } => ("cancelled", String::new(), 0, *maybe_executed),
            CallError::Protocol { reason, .. } => ("protocol", reason.clone(), 0, false),
        };
        Self { kind: kind.to_owned(), text, code, flag, is_of_the_way }
    }

    fn into_error(self, call: Box<CallInfo>) -> CallError {
        let maybe_executed = self.flag;
        match self.kind.as_str() {
            "not_sent" => CallError::NotSent { call, reason: self.text, transient: self.flag },
            "refused" => {
                let reason =
                    Refusal::from_code(NackCode::from_u8(self.code)).unwrap_or(Refusal::Other(self.code));
                CallError::Refused { call, reason, message: self.text }
            }
            "handler" => CallError::HandlerError { call, message: self.text },
            "panicked" => CallError::HandlerPanicked { call, message: self.text },
            "bad_response" => CallError::BadResponse { call, expected: "a response", reason: self.text },
            "lost" => CallError::PeerLost { call, maybe_executed },
            "late" => CallError::DeadlineExceeded { call, maybe_executed },
            "no_room" => CallError::Overloaded { call, maybe_executed },
            "cancelled" => CallError::Cancelled { call, maybe_executed },
            _ => CallError::Protocol { call, reason: self.text },
        }
    }
}

fn code_of(refusal: Refusal) -> u8 {
    let known = (1..=31).map(NackCode::from_u8).find(|code| Refusal::from_code(*code) == Some(refusal));
    known.map_or(NackCode::Protocol.as_u8(), NackCode::as_u8)
}

impl From<&Encoded> for RequestWord {
    fn from(request: &Encoded) -> Self {
        Self { codec: request.codec.as_u8(), octets: Octets(request.payload.0.clone()) }
    }
}

impl RequestWord {
    fn decoded(&self) -> Option<Encoded> {
        Some(Encoded { payload: Raw(self.octets.0.clone()), codec: Codec::from_u8(self.codec)? })
    }
}

/// Calls each of these ranks, most of them through others. As [`flat`], but for the messages it takes.
pub(crate) async fn down_the_tree<A: Answer>(core: &Arc<Core>, calls: Calls, terms: &Terms) -> Slots<A> {
    let (handed_on, direct) = split(core, calls);
    let shared = shared_request(&handed_on);
    let mut running: Vec<BoxFuture<'_, Slots<A>>> = Vec::new();
    let mut direct = direct;
    for branch in branches(&handed_on) {
        let len: usize = match &shared {
            Some(shared) => shared.payload.len(),
            None => branch.iter().map(|leg| leg.call.request.payload.len()).sum(),
        };
        if len > core.settings.limits.branch_len_max {
            core.reached("branch_len_max");
            direct.extend(branch.iter().map(|leg| (leg.rank, leg.call.clone())));
            continue;
        }
        running.push(down_branch(core, branch, shared.as_ref(), terms).boxed());
    }
    let direct = flat(core, direct, terms);
    let (direct, branches) = join(direct, join_all(running)).await;
    direct.into_iter().chain(branches.into_iter().flatten()).collect()
}

/// A rank's way down the tree.
#[derive(Debug, Clone)]
struct Leg {
    rank: usize,
    id: InstanceId,
    worker: Worker,
    call: Call,
}

/// Who can be reached through others, and who cannot.
fn split(core: &Core, calls: Calls) -> (Vec<Leg>, Calls) {
    let (mut handed_on, mut direct) = (Vec::new(), Vec::new());
    for (rank, call) in calls {
        let worker = core.read(|book| match book.membership.holder(rank) {
            Holder::Present { worker, .. } => book.workers.get(&worker).map(|known| (worker, known.clone())),
            _ => None,
        });
        match worker {
            Some((id, worker)) if worker.relays && !worker.endpoints.is_empty() => {
                handed_on.push(Leg { rank, id, worker, call });
            }
            _ => direct.push((rank, call)),
        }
    }
    (handed_on, direct)
}

/// The request that all have, if they have the same octets in memory.
fn shared_request(legs: &[Leg]) -> Option<Encoded> {
    let first = &legs.first()?.call.request;
    let is_same = |leg: &Leg| {
        let (one, other) = (&leg.call.request.payload.0, &first.payload.0);
        leg.call.request.codec == first.codec
            && one.len() == other.len()
            && (one.is_empty() || one.as_ptr() == other.as_ptr())
    };
    legs.iter().all(is_same).then(|| first.clone())
}

/// Calls a branch through its first; what went wrong on the way is tried directly where that is safe.
async fn down_branch<A: Answer>(
    core: &Arc<Core>,
    branch: &[Leg],
    shared: Option<&Encoded>,
    terms: &Terms,
) -> Slots<A> {
    let [first, rest @ ..] = branch else { return Vec::new() };
    if rest.is_empty() {
        return flat(core, vec![(first.rank, first.call.clone())], terms).await;
    }
    let relay = Relay {
        token: core.token.as_str().into(),
        handler: (*first.call.handler).into(),
        mode: A::MODE,
        shared: shared.map(RequestWord::from),
        targets: branch.iter().map(|leg| leg.target(shared.is_none())).collect(),
    };
    let name = relay_name(&core.settings.name, core.client.instance_id());
    let left = terms.until.saturating_duration_since(clock::now());
    let sent = send_relay(&first.worker.peer, &name, &relay, left).map(|answer| (0, Ok(answer)));
    let sent = all_unless_failed(core, vec![0], FuturesUnordered::from_iter([sent])).await;
    let answer = match sent.into_iter().next() {
        Some((_, Ok(answer))) => answer,
        Some((_, Err(failed))) => {
            return branch.iter().map(|leg| (leg.rank, Err(failed.clone()))).collect();
        }
        None => return Vec::new(),
    };
    sort_out(core, branch, answer, terms).await
}

impl Leg {
    fn target(&self, with_request: bool) -> Target<'_> {
        let request = with_request.then(|| RequestWord::from(&self.call.request));
        let worker = Octets(Bytes::copy_from_slice(self.id.as_bytes()));
        Target { rank: self.rank, worker, endpoints: (*self.worker.endpoints).into(), request }
    }
}

/// Sends it as its mode has it; one-way ones have no answers to wait for.
async fn send_relay(
    peer: &Peer,
    name: &str,
    relay: &Relay<'_>,
    left: Duration,
) -> Result<RelayAnswer, CallError> {
    let client = peer.client();
    let message = client.active_message(name).payload(relay).deadline(left);
    match relay.mode {
        RelayMode::OneWay => message.send(peer).await.map(|_| {
            let slot = |target: &Target<'_>| SlotWord { rank: target.rank, value: None, error: None };
            RelayAnswer { slots: relay.targets.iter().map(slot).collect() }
        }),
        RelayMode::Confirmed | RelayMode::Response => {
            let answer = message.expect_response::<RelayAnswer>().send(peer).await?.response().await;
            answer.map_err(|error| match error {
                // The relay's own error: it has run nobody's handler.
                CallError::HandlerError { call, message } => {
                    CallError::Refused { call, reason: Refusal::Unauthorized, message }
                }
                other => other,
            })
        }
    }
}

/// Makes results of a branch's answer.
async fn sort_out<A: Answer>(
    core: &Arc<Core>,
    branch: &[Leg],
    answer: Result<RelayAnswer, CallError>,
    terms: &Terms,
) -> Slots<A> {
    let mut slots = Vec::with_capacity(branch.len());
    let mut again = Vec::new();
    let mut answered = HashSet::new();
    let (words, lost) = match answer {
        Ok(answer) => (answer.slots, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    for word in words {
        let Some(leg) = branch.iter().find(|leg| leg.rank == word.rank) else { continue };
        if !answered.insert(word.rank) {
            continue;
        }
        match leg.result::<A>(word) {
            (Err(error), true) if error.is_retry_safe() || terms.is_idempotent => {
                core.update(|book| {
                    // It cannot be reached through others.
                    book.workers.entry(leg.id).and_modify(|worker| worker.relays = false);
                });
                again.push((leg.rank, leg.call.clone()));
            }
            (result, _) => slots.push((leg.rank, result)),
        }
    }
    for leg in branch.iter().filter(|leg| !answered.contains(&leg.rank)) {
        let source = lost.clone().unwrap_or_else(|| CallError::Protocol {
            call: leg.info(),
            reason: "the worker that handed it on said nothing of this rank".to_owned(),
        });
        if source.is_retry_safe() || terms.is_idempotent {
            again.push((leg.rank, leg.call.clone()));
        } else {
            slots.push((leg.rank, Err(leg.error(source))));
        }
    }
    let calls = again.into_iter().map(|(rank, call)| {
        let running = on_rank::<A>(core.clone(), rank, call, terms.clone());
        async move { (rank, running.await) }
    });
    let calls: FuturesUnordered<_> = calls.collect();
    let ranks = branch.iter().map(|leg| leg.rank).filter(|rank| slots.iter().all(|(done, _)| done != rank));
    slots.extend(all_unless_failed(core, ranks.collect(), calls).await);
    slots
}

impl Leg {
    fn info(&self) -> Box<CallInfo> {
        Box::new(CallInfo { handler: self.call.handler.to_string(), peer: self.id, id: String::new() })
    }

    fn error(&self, source: CallError) -> CohortError {
        CohortError::Call { rank: self.rank, worker: self.id, source }
    }

    /// The rank's result, and whether it is the way's fault.
    fn result<A: Answer>(&self, word: SlotWord) -> (Result<A, CohortError>, bool) {
        if let Some(error) = word.error {
            let is_of_the_way = error.is_of_the_way;
            return (Err(self.error(error.into_error(self.info()))), is_of_the_way);
        }
        let (codec, octets) = match word.value {
            Some(value) => (Codec::from_u8(value.codec).unwrap_or(Codec::Raw), value.octets.0),
            None => (Codec::MessagePack, Bytes::new()),
        };
        let decoded = A::from_relay(codec, octets).map_err(|error| {
            self.error(CallError::BadResponse {
                call: self.info(),
                expected: "the type asked for",
                reason: error.to_string(),
            })
        });
        (decoded, false)
    }
}

/// The worker's part.
pub(crate) fn relay_handler(name: &str, inner: &Arc<Inner>) -> Handler {
    let weak = Arc::downgrade(inner);
    let name: Arc<str> = name.into();
    Handler::unary(name.to_string(), move |cx, relay: Relay<'static>| {
        let (inner, name) = (weak.upgrade(), name.clone());
        async move {
            let stranger = || HandlerError::msg("this is not from the worker's cohort");
            let inner = inner.ok_or_else(stranger)?;
            if !inner.knows(&relay.token).await {
                return Err(stranger());
            }
            if relay.handler.starts_with('_') {
                return Err(HandlerError::msg("handlers of the runtime are not called for others"));
            }
            // One-way messages carry the leader's deadline as well.
            let left = cx.time_left();
            // Who waits for others must answer in time for those who were fast.
            let left = left.saturating_sub((left / MARGIN_PART).min(MARGIN_MAX));
            Ok(hand_on(&inner, &name, &relay, left).await)
        }
    })
}

async fn hand_on(inner: &Arc<Inner>, name: &str, relay: &Relay<'_>, left: Duration) -> RelayAnswer {
    let Some((mine, rest)) = relay.targets.split_first() else { return RelayAnswer { slots: Vec::new() } };
    let others = branches(rest).into_iter().map(|branch| pass(inner, name, relay, branch, left).boxed());
    let (mine, others) = join(run_own(inner, relay, mine, left), join_all(others)).await;
    RelayAnswer { slots: std::iter::once(mine).chain(others.into_iter().flatten()).collect() }
}

/// Calls this worker's own handler.
async fn run_own(inner: &Inner, relay: &Relay<'_>, target: &Target<'_>, left: Duration) -> SlotWord {
    let myself = inner.client.myself();
    let request = relay.shared.as_ref().or(target.request.as_ref()).and_then(RequestWord::decoded);
    let result = match request {
        Some(request) => {
            let call = Call { handler: (*relay.handler).into(), request };
            match relay.mode {
                RelayMode::OneWay => Sent::call(&myself, &call, left).await.map(|Sent| None),
                RelayMode::Confirmed => Done::call(&myself, &call, left).await.map(|Done| None),
                RelayMode::Response => Value::<Undecoded>::call(&myself, &call, left).await.map(|value| {
                    let Undecoded { codec, octets } = value.0;
                    Some(RequestWord { codec: codec.as_u8(), octets: Octets(octets) })
                }),
            }
        }
        None => Err(CallError::Refused {
            call: Box::new(CallInfo {
                handler: relay.handler.to_string(),
                peer: inner.client.instance_id(),
                id: String::new(),
            }),
            reason: Refusal::Protocol,
            message: "it was handed on without a request".to_owned(),
        }),
    };
    let (value, error) = match result {
        Ok(value) => (value, None),
        Err(error) => (None, Some(ErrorWord::new(&error, false))),
    };
    SlotWord { rank: target.rank, value, error }
}

/// Gives a branch to its first.
async fn pass(
    inner: &Arc<Inner>,
    name: &str,
    relay: &Relay<'_>,
    branch: &[Target<'_>],
    left: Duration,
) -> Vec<SlotWord> {
    let Some(first) = branch.first() else { return Vec::new() };
    let until = clock::now() + left;
    let answer = match reach(inner, first).await {
        Ok(peer) => {
            let part = Relay { targets: branch.to_vec(), ..relay.clone() };
            send_relay(&peer, name, &part, until.saturating_duration_since(clock::now())).await
        }
        Err(reason) => Err(CallError::NotSent {
            call: Box::new(CallInfo {
                handler: name.to_owned(),
                peer: InstanceId::UNKNOWN,
                id: String::new(),
            }),
            reason,
            transient: true,
        }),
    };
    match answer {
        Ok(answer) => answer.slots,
        Err(error) => {
            let lost = |target: &Target<'_>| SlotWord {
                rank: target.rank,
                value: None,
                error: Some(ErrorWord::new(&error, true)),
            };
            branch.iter().map(lost).collect()
        }
    }
}

/// Another member: linked already, or dialled. The id that it proves must be the one that the leader named.
async fn reach(inner: &Arc<Inner>, target: &Target<'_>) -> Result<Peer, String> {
    let id = <[u8; 16]>::try_from(&*target.worker.0).ok().and_then(InstanceId::from_bytes);
    let worker = id.ok_or("the leader named no instance")?;
    if let Some(peer) = inner.client.peer(worker) {
        return Ok(peer);
    }
    let mut last = "the leader named no endpoint".to_owned();
    for endpoint in target.endpoints.split(' ').take(ENDPOINTS_MAX) {
        match inner.client.connect_as(worker, endpoint).await {
            Ok(peer) => {
                inner.dialled.lock().push(peer.clone());
                return Ok(peer);
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// Each who hands on keeps this part of the time that is left, to answer with what there is.
const MARGIN_PART: u32 = 10;
/// And no more than this.
const MARGIN_MAX: Duration = Duration::from_millis(50);

/// A member is tried at so many of its endpoints.
const ENDPOINTS_MAX: usize = 8;
