//! Calls that go down a tree of workers, as the leader makes them: to the first of each branch, for all of it.
//!
//! **Invariant**: a rank's request runs at most once. When a worker fails that others depend on, the leader asks those
//! others for the answer to the same call; only if a rank's worker is another one now is the call made anew, and only
//! if that is safe.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join, join_all};
use futures_util::stream::FuturesUnordered;

use super::answer::{Answer, Call, Encoded};
use super::call::{Terms, on_rank};
use super::collective::{Calls, Slots, all_unless_failed, flat};
use super::core::{Core, Worker};
use super::error::CohortError;
use super::ledger::CallNumber;
use super::relay_words::{Relay, RelayAnswer, RequestWord, SlotWord, Target, send_relay};
use super::tree::branches;
use super::words::{Octets, relay_name};
use crate::api::call_error::{CallError, CallInfo};
use crate::clock;
use crate::id::{Incarnation, InstanceId};
use crate::proto::membership::Holder;
use crate::wire::codes::Codec;

/// Calls each of these ranks, most of them through others. As [`flat`], but for the messages it takes.
pub(crate) async fn down_the_tree<A: Answer>(core: &Arc<Core>, calls: Calls, terms: &Terms) -> Slots<A> {
    let (handed_on, direct) = split(core, calls);
    // Until all have their answers: workers remember it as long.
    let number = core.numbers.begin();
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
        running.push(down_branch(core, &number, branch, shared.as_ref(), terms).boxed());
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
    start: Incarnation,
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
                let start = worker.peer.incarnation();
                handed_on.push(Leg { rank, id, start, worker, call });
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

/// Calls a branch through its first.
async fn down_branch<A: Answer>(
    core: &Arc<Core>,
    number: &CallNumber,
    branch: &[Leg],
    shared: Option<&Encoded>,
    terms: &Terms,
) -> Slots<A> {
    let [first, rest @ ..] = branch else { return Vec::new() };
    if rest.is_empty() {
        return flat(core, vec![(first.rank, first.call.clone())], terms).await;
    }
    let sent = send_branch::<A>(core, number, branch, shared, terms).map(|answer| (0, Ok(answer)));
    let sent = all_unless_failed(core, vec![0], FuturesUnordered::from_iter([sent])).await;
    match sent.into_iter().next() {
        Some((_, Ok(answer))) => sort_out(core, number, branch, answer, terms).await,
        Some((_, Err(failed))) => branch.iter().map(|leg| (leg.rank, Err(failed.clone()))).collect(),
        None => Vec::new(),
    }
}

async fn send_branch<A: Answer>(
    core: &Core,
    number: &CallNumber,
    branch: &[Leg],
    shared: Option<&Encoded>,
    terms: &Terms,
) -> Result<RelayAnswer, CallError> {
    let Some(first) = branch.first() else { return Ok(RelayAnswer { slots: Vec::new() }) };
    let relay = Relay {
        token: core.token.as_str().into(),
        handler: (*first.call.handler).into(),
        mode: A::MODE,
        call: number.number,
        done_before: number.done_before(),
        shared: shared.map(RequestWord::from),
        targets: branch.iter().map(|leg| leg.target(shared.is_none())).collect(),
    };
    let name = relay_name(&core.settings.name, core.client.instance_id());
    let left = terms.until.saturating_duration_since(clock::now());
    send_relay(&first.worker.peer, &name, &relay, left).await
}

impl Leg {
    fn target(&self, with_request: bool) -> Target<'_> {
        let request = with_request.then(|| RequestWord::from(&self.call.request));
        let worker = Octets(Bytes::copy_from_slice(self.id.as_bytes()));
        Target { rank: self.rank, worker, endpoints: (*self.worker.endpoints).into(), request }
    }
}

/// Makes results of a branch's answer; what went wrong on the way is asked for again.
async fn sort_out<A: Answer>(
    core: &Arc<Core>,
    number: &CallNumber,
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
            (Err(CohortError::Call { source, .. }), true) => {
                // It cannot be reached through others.
                core.update(|book| {
                    book.workers.entry(leg.id).and_modify(|worker| worker.relays = false);
                });
                again.push((leg, source));
            }
            (result, _) => slots.push((leg.rank, result)),
        }
    }
    for leg in branch.iter().filter(|leg| !answered.contains(&leg.rank)) {
        let source = lost.clone().unwrap_or_else(|| CallError::Protocol {
            call: leg.info(),
            reason: "the worker that handed it on said nothing of this rank".to_owned(),
        });
        again.push((leg, source));
    }
    let ranks = again.iter().map(|(leg, _)| leg.rank).collect();
    let asked = again.into_iter().map(|(leg, source)| async move {
        (leg.rank, ask_again::<A>(core, number, leg, source, terms).await)
    });
    slots.extend(all_unless_failed(core, ranks, asked.collect()).await);
    slots
}

/// Gets the answer of a rank whose way was lost.
async fn ask_again<A: Answer>(
    core: &Arc<Core>,
    number: &CallNumber,
    leg: &Leg,
    source: CallError,
    terms: &Terms,
) -> Result<A, CohortError> {
    if source.is_retry_safe() || terms.is_idempotent {
        return on_rank(core.clone(), leg.rank, leg.call.clone(), terms.clone()).await;
    }
    let is_of_the_way = matches!(
        source,
        CallError::PeerLost { .. } | CallError::Cancelled { .. } | CallError::Protocol { .. }
    );
    // A process that was started anew does not know what the old one has run.
    let is_there = core.client.peer(leg.id).is_some_and(|peer| peer.incarnation() == leg.start);
    if !is_of_the_way || !is_there {
        return Err(leg.error(source));
    }
    let answer = send_branch::<A>(core, number, std::slice::from_ref(leg), None, terms).await;
    match answer.map(|answer| answer.slots.into_iter().find(|word| word.rank == leg.rank)) {
        Ok(Some(word)) => leg.result(word).0,
        Ok(None) => Err(leg.error(source)),
        Err(error) => Err(leg.error(error)),
    }
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
