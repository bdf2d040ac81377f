//! What a worker does with calls for others: it runs its own part, hands the rest of the branch on, and answers for
//! all of it.
//!
//! It calls its own handler through the link to itself, so all that holds for a call holds there as well; handlers see
//! their own node as the sender.
//!
//! **Invariant**: a call runs at most once here, however often and by whomever it comes. If the one who handed it on is
//! lost it runs on, since the leader will ask for its answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join, join_all};

use super::answer::{Answer, Call, Done, RelayMode, Sent, Undecoded, Value};
use super::ledger::Entry;
use super::relay_words::{ErrorWord, Relay, RelayAnswer, RequestWord, SlotWord, Target, send_relay};
use super::tree::branches;
use super::words::Octets;
use super::worker::Inner;
use crate::api::call_error::{CallError, CallInfo, HandlerError, Refusal};
use crate::api::client::Peer;
use crate::api::context::ActiveMessageContext;
use crate::api::handler::Handler;
use crate::clock;
use crate::id::InstanceId;

/// The handler that hands on.
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
            let work = hand_on(&inner, &name, &relay, left);
            if relay.mode == RelayMode::OneWay {
                return Ok(work.await);
            }
            tokio::select! {
                biased;
                answer = work => Ok(answer),
                () = given_up(&inner, &cx, relay.call) => Err(HandlerError::msg("the leader has given it up")),
            }
        }
    })
}

async fn hand_on(inner: &Arc<Inner>, name: &str, relay: &Relay<'_>, left: Duration) -> RelayAnswer {
    let Some((mine, rest)) = relay.targets.split_first() else { return RelayAnswer { slots: Vec::new() } };
    let others = branches(rest).into_iter().map(|branch| pass(inner, name, relay, branch, left).boxed());
    let (mine, others) = join(own(inner, relay, mine, left), join_all(others)).await;
    RelayAnswer { slots: std::iter::once(mine).chain(others.into_iter().flatten()).collect() }
}

/// Resolves when nobody will ask for a call's answer any more. Its sender's end is not that: the leader will.
async fn given_up(inner: &Inner, cx: &ActiveMessageContext, call: u64) {
    cx.cancelled().await;
    // A link's end cancels what came by it before the peer is known to be gone.
    tokio::time::sleep(CANCEL_GRACE).await;
    let sender = cx.sender();
    let peer = inner.client.peer(sender.instance_id());
    if peer.is_some_and(|peer| peer.incarnation() == sender.incarnation()) {
        return;
    }
    tokio::time::sleep(ASKED_AGAIN_WITHIN).await;
    if inner.ledger.was_asked_again(call) {
        std::future::pending::<()>().await;
    }
}

/// This worker's own part: run, or, if it came before by another way, the answer of that.
async fn own(inner: &Inner, relay: &Relay<'_>, target: &Target<'_>, left: Duration) -> SlotWord {
    if relay.mode == RelayMode::OneWay {
        return run_own(inner, relay, target, left).await;
    }
    let failed = |error: &CallError| {
        let error = Some(ErrorWord::new(error, true));
        SlotWord { rank: target.rank, value: None, error }
    };
    let info = || {
        let peer = inner.client.instance_id();
        Box::new(CallInfo { handler: relay.handler.to_string(), peer, id: String::new() })
    };
    match inner.ledger.enter(relay.call, relay.done_before) {
        Entry::Run(runner) => {
            let slot = run_own(inner, relay, target, left).await;
            runner.finish(slot.clone());
            slot
        }
        Entry::Wait(waiter) => {
            let answer = waiter.answer().await;
            let cancelled = || failed(&CallError::Cancelled { call: info(), maybe_executed: true });
            answer.unwrap_or_else(cancelled)
        }
        Entry::Refuse => failed(&CallError::Refused {
            call: info(),
            reason: Refusal::Overloaded,
            message: "too many calls of the cohort are under way here".to_owned(),
        }),
    }
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

/// After a cancellation it is seen so much later whether its sender is there.
const CANCEL_GRACE: Duration = Duration::from_millis(50);
/// A leader that has lost a worker asks for what came through it within this time: it notices the loss as soon as those
/// who lost it with it.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(5);

/// Each who hands on keeps this part of the time that is left, to answer with what there is.
const MARGIN_PART: u32 = 10;
/// And no more than this.
const MARGIN_MAX: Duration = Duration::from_millis(200);

/// A member is tried at so many of its endpoints.
const ENDPOINTS_MAX: usize = 8;
