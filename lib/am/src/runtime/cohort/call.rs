//! One rank's call: finding its worker, waiting for one that is away, calling again where that is safe.

use std::sync::Arc;
use std::time::Instant;

use super::answer::{Answer, Call};
use super::core::{Core, Worker};
use super::error::CohortError;
use super::settings::FailurePolicy;
use crate::api::call_error::{CallError, Refusal};
use crate::clock;
use crate::id::InstanceId;
use crate::proto::membership::Holder;

/// A rank's worker, as long as it holds the rank.
#[derive(Debug)]
struct Held {
    id: InstanceId,
    worker: Worker,
    generation: u64,
}

/// Who answers for a rank, if that can be said.
enum Found {
    Here(Held),
    /// It, or somebody else, may be there soon.
    Soon,
}

/// What the calls of one operation have in common.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) deadline: std::time::Duration,
    pub(crate) until: Instant,
    pub(crate) is_idempotent: bool,
}

/// Calls the worker of a rank. While the rank's worker is away, it waits for it, or for who takes its place; under
/// `FailurePolicy::Replace` it calls again there if that is safe.
pub(crate) async fn on_rank<A: Answer>(
    core: Arc<Core>,
    rank: usize,
    call: Call,
    terms: Terms,
) -> Result<A, CohortError> {
    let mut after = None;
    let mut last = None;
    loop {
        let held = match worker_of(&core, rank, after, &terms).await {
            Ok(held) => held,
            // What went wrong first says more than that nobody came instead.
            Err(error) => return Err(last.unwrap_or(error)),
        };
        let (worker, generation) = (held.id, held.generation);
        let called = call_once::<A>(&core, rank, &held, &call, &terms).await;
        let source = match called {
            Ok(answer) => return Ok(answer),
            Err(source) => source,
        };
        let calls_again = core.settings.policy == FailurePolicy::Replace
            && is_loss(&source, &held.worker)
            && (source.is_retry_safe() || terms.is_idempotent);
        let error = CohortError::Call { rank, worker, source };
        if !calls_again {
            return Err(error);
        }
        last = Some(error);
        after = Some(generation);
    }
}

/// Calls the worker of a rank if it is there, once.
pub(crate) async fn on_holder<A: Answer>(
    core: &Core,
    rank: usize,
    call: &Call,
    terms: &Terms,
) -> Result<A, CohortError> {
    match find(core, rank, None)? {
        Found::Soon => Err(CohortError::Vacant { rank, reason: "its worker is away".to_owned() }),
        Found::Here(held) => {
            let called = call_once::<A>(core, rank, &held, call, terms).await;
            called.map_err(|source| CohortError::Call { rank, worker: held.id, source })
        }
    }
}

/// One call to one worker. One that the leader dials waits for its link in vain when it has lost the rank.
async fn call_once<A: Answer>(
    core: &Core,
    rank: usize,
    held: &Held,
    call: &Call,
    terms: &Terms,
) -> Result<A, CallError> {
    let left = terms.until.saturating_duration_since(clock::now());
    let called = A::call(&held.worker.peer, call, left);
    if !held.worker.is_named {
        return called.await;
    }
    tokio::select! {
        biased;
        result = called => result,
        () = lost(core, rank, held.generation) => Err(CallError::PeerLost {
            call: Box::new(crate::api::call_error::CallInfo {
                handler: call.handler.to_string(),
                peer: held.id,
                id: String::new(),
            }),
            maybe_executed: true,
        }),
    }
}

/// Resolves when a rank is held by others, or by nobody.
async fn lost(core: &Core, rank: usize, generation: u64) {
    let mut changes = core.changes();
    loop {
        let holder = core.read(|book| book.membership.holder(rank));
        if !matches!(holder, Holder::Present { generation: now, .. } if now == generation) {
            return;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether the call failed because its worker is gone or going, so that the rank's next one may do better.
fn is_loss(error: &CallError, worker: &Worker) -> bool {
    match error {
        CallError::PeerLost { .. } => true,
        CallError::Refused { reason, .. } => *reason == Refusal::Draining,
        CallError::NotSent { transient, .. } => *transient && !worker.peer.is_connected(),
        _ => false,
    }
}

/// The worker of a rank, waiting for one that is away. `after`: not that one, which has failed.
async fn worker_of(core: &Core, rank: usize, after: Option<u64>, terms: &Terms) -> Result<Held, CohortError> {
    if let Found::Here(held) = find(core, rank, after)? {
        return Ok(held);
    }
    let mut changes = core.changes();
    loop {
        if let Found::Here(held) = find(core, rank, after)? {
            return Ok(held);
        }
        let changed = tokio::time::timeout_at(terms.until.into(), changes.changed()).await;
        if !matches!(changed, Ok(Ok(()))) {
            return Err(CohortError::Away { rank, deadline: terms.deadline });
        }
    }
}

fn find(core: &Core, rank: usize, after: Option<u64>) -> Result<Found, CohortError> {
    let vacant = |reason: String| Err(CohortError::Vacant { rank, reason });
    core.read(|book| {
        core.over(book)?;
        match book.membership.holder(rank) {
            Holder::Present { generation, .. } if Some(generation) == after => Ok(Found::Soon),
            Holder::Present { worker: id, generation } => match book.workers.get(&id) {
                Some(worker) => Ok(Found::Here(Held { id, worker: worker.clone(), generation })),
                None => Ok(Found::Soon),
            },
            Holder::Awaited(_) => Ok(Found::Soon),
            Holder::Lost(worker) => {
                vacant(format!("worker {worker} was lost, and nobody has taken its place"))
            }
            Holder::GivenBack => vacant("its worker has left".to_owned()),
            Holder::NeverTaken if core.settings.size.is_some_and(|size| rank >= size) => {
                vacant("the cohort has no such rank".to_owned())
            }
            Holder::NeverTaken => vacant("nobody has joined with it".to_owned()),
        }
    })
}
