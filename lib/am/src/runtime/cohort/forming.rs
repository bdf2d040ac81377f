//! How a cohort comes to its workers, and keeps them: joining, leaving, links that are lost and come back.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::LeaderWorkerCohort;
use super::core::{Core, Phase, Worker};
use super::error::{AddWorkerError, WaitReadyError};
use super::events::{CohortEvent, CohortEvents};
use super::settings::JoinRequest;
use super::words::{EndWord, Join, JoinAnswer, Joined, Leave, Order, join_name, leave_name};
use crate::api::call_error::HandlerError;
use crate::api::client::IntoEndpoint;
use crate::api::context::ActiveMessageContext;
use crate::api::handler::Handler;
use crate::api::link_event::{LinkEvent, LinkEvents};
use crate::clock;
use crate::id::{Incarnation, InstanceId};
use crate::proto::membership::{Candidate, Holder, JoinRefusal, MemberInfo, Place};

pub(crate) fn join_handler(core: &Arc<Core>) -> Handler {
    let weak = Arc::downgrade(core);
    Handler::unary(join_name(&core.settings.name), move |cx, join: Join| {
        let core = weak.upgrade();
        async move { handle_join(&core.ok_or_else(gone)?, &cx, &join) }
    })
    .limit(core.settings.limits.joins_max)
}

pub(crate) fn leave_handler(core: &Arc<Core>) -> Handler {
    let weak: Weak<Core> = Arc::downgrade(core);
    Handler::unary(leave_name(&core.settings.name), move |cx, leave: Leave| {
        let core = weak.upgrade();
        async move {
            let worker = cx.sender().instance_id();
            core.ok_or_else(gone)?.update(|book| {
                let known = book.workers.get(&worker).and_then(|known| known.membership);
                match leave.is_failure {
                    _ if known != Some(leave.membership) => {}
                    true => book.membership.handle_abandoned(worker),
                    false => drop(book.membership.handle_leave(worker)),
                }
            });
            Ok(())
        }
    })
}

fn gone() -> HandlerError {
    HandlerError::msg("the cohort has ended")
}

fn handle_join(core: &Arc<Core>, cx: &ActiveMessageContext, join: &Join) -> Result<JoinAnswer, HandlerError> {
    let sender = cx.sender();
    let worker = sender.instance_id();
    let request = JoinRequest {
        worker,
        rank: join.rank,
        is_spare: join.is_spare,
        endpoints: sender.endpoints().to_vec(),
        is_local: sender.is_local(),
    };
    let joined = match core.client.peer(worker) {
        _ if sender.is_foreign() => Err(JoinRefusal::NotANode),
        Some(peer) => {
            let known = Worker::joined(peer, join.membership, join.relays);
            take_in(core, &request, sender.incarnation(), known)
        }
        None => return Err(HandlerError::msg("the link was lost; ask again")),
    };
    Ok(match joined {
        Ok(place) => JoinAnswer::Joined(Joined {
            rank: place.rank,
            size: core.settings.size,
            token: core.token.clone(),
            grace_ms: u64::try_from(core.settings.grace.as_millis()).unwrap_or(u64::MAX),
            barriers: core.read(|book| book.barriers),
        }),
        Err(refusal) => JoinAnswer::Refused((&refusal).into()),
    })
}

/// Takes a worker in, or back.
fn take_in(
    core: &Arc<Core>,
    request: &JoinRequest,
    start: Incarnation,
    known: Worker,
) -> Result<Place, JoinRefusal> {
    let worker = request.worker;
    let joined = admitted(core, request).and_then(|assigned| {
        let candidate = Candidate { worker, start, rank: request.rank, is_spare: request.is_spare, assigned };
        core.update(|book| {
            if book.phase != Phase::Running {
                return Err(JoinRefusal::Closed);
            }
            let place = book.membership.join(candidate)?;
            book.workers.insert(worker, known);
            Ok(place)
        })
    });
    match &joined {
        // The link may have been lost before the book knew whom to miss.
        Ok(_) => core.check_link(worker),
        Err(refusal) => {
            match refusal {
                JoinRefusal::TooManySpares { .. } => core.reached("spares_max"),
                JoinRefusal::RankOutOfRange { .. } if core.settings.size.is_none() => {
                    core.reached("ranks_max");
                }
                _ => {}
            }
            tracing::debug!(cohort = core.settings.name, %worker, %refusal, "a worker may not join");
            core.emit(CohortEvent::Refused { worker, refusal: refusal.clone() });
        }
    }
    joined
}

/// Asks the user's functions; gives the rank that the leader gives.
fn admitted(core: &Core, request: &JoinRequest) -> Result<Option<usize>, JoinRefusal> {
    if let Some(admit) = &core.settings.admit {
        admit(request).map_err(|reason| JoinRefusal::NotAdmitted { reason })?;
    }
    Ok(core.settings.assign.as_ref().and_then(|assign| assign(request)))
}

/// Sees to it that lost workers are known to be lost, until the cohort ends.
pub(crate) async fn watch_links(core: Arc<Core>, mut events: LinkEvents) {
    let mut changes = core.changes();
    loop {
        let timeout = core.read(|book| book.membership.poll_timeout());
        let passed = clock::sleep_until(timeout);
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            event = events.next() => match event {
                Some(LinkEvent::Down { peer, .. } | LinkEvent::Replaced { old: peer, .. }) => core.check_link(peer),
                Some(LinkEvent::Up { peer, .. }) => welcome_back(&core, peer),
                Some(LinkEvent::Missed(_)) => {
                    let members = core.read(|book| book.membership.members());
                    members.iter().for_each(|member| core.check_link(member.worker));
                }
                Some(_) => {}
                None => return,
            },
            () = passed => core.update(|book| book.membership.handle_timeout(clock::now())),
            // Timeouts may have come or gone.
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// A worker that the leader named does not join by itself.
fn welcome_back(core: &Arc<Core>, worker: InstanceId) {
    let known = core.read(|book| book.workers.get(&worker).cloned()).filter(|worker| worker.is_named);
    let (Some(_), Some(peer)) = (known, core.client.peer(worker)) else { return };
    let rank = core.read(|book| book.membership.rank_of(worker));
    let candidate =
        Candidate { worker, start: peer.incarnation(), rank, is_spare: rank.is_none(), assigned: None };
    let _ = core.update(|book| {
        book.workers.insert(worker, Worker::named(peer));
        book.membership.join(candidate)
    });
}

/// Whether all workers have a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerPresence {
    /// The ranks that lack it, in order.
    pub missing: Vec<MissingHandler>,
}

/// A rank without the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingHandler {
    /// Which.
    pub rank: usize,
    /// Whether it lacks it, has no worker, or gave no answer.
    pub reason: String,
}

impl HandlerPresence {
    /// Whether no rank lacks it.
    #[must_use]
    pub fn is_on_all(&self) -> bool {
        self.missing.is_empty()
    }
}

impl LeaderWorkerCohort {
    /// Waits until each rank has a worker that is there; an open cohort is ready when it has a worker and its ranks
    /// have no holes.
    ///
    /// # Errors
    ///
    /// At the timeout, naming the missing ranks; at once when the cohort has failed or ended.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), WaitReadyError> {
        let core = &self.core;
        let until = clock::now() + timeout;
        let mut changes = core.changes();
        loop {
            let missing = core.read(|book| {
                core.over(book)?;
                Ok::<_, WaitReadyError>(book.membership.missing())
            })?;
            if missing.is_empty() {
                return Ok(());
            }
            if !matches!(tokio::time::timeout_at(until.into(), changes.changed()).await, Ok(Ok(()))) {
                let cohort = core.settings.name.clone();
                return Err(WaitReadyError::Missing { cohort, missing, waited: timeout });
            }
        }
    }

    /// The members at this moment: by rank, the spares last.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        self.core.read(|book| book.membership.members())
    }

    /// Members from now on: joining, losses, replacements, leaving.
    #[must_use]
    pub fn events(&self) -> CohortEvents {
        match &*self.core.events.lock() {
            Some(events) => CohortEvents(events.subscribe()),
            // Nobody sends any more, so the stream is over at once.
            None => CohortEvents(tokio::sync::broadcast::channel(1).1),
        }
    }

    /// Nobody can join any more. Who is a member stays, and may come back within the grace period.
    pub fn close(&self) {
        self.core.update(|book| book.membership.close());
    }

    /// Lets a worker go: its rank is free, its membership ends. No policy counts that as a failure. `false` when it
    /// is no member.
    pub async fn remove(&self, worker: InstanceId) -> bool {
        let core = &self.core;
        let known = core.read(|book| book.workers.get(&worker).cloned());
        if !core.update(|book| book.membership.remove(worker)) {
            return false;
        }
        if let Some(known) = known {
            let timeout = core.settings.limits.order_timeout;
            core.order(&known, Order::End(EndWord::Removed), timeout).await;
        }
        true
    }

    /// Takes in the node at an endpoint as a worker, with this rank or as the next one. It need not know: no handler
    /// of its own is called but those that calls name. It is dialled again when it is lost, hands nothing on down the
    /// tree, and does not notice the leader's end.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, or may not join.
    pub async fn add_worker(
        &self,
        endpoint: impl IntoEndpoint,
        rank: Option<usize>,
    ) -> Result<MemberInfo, AddWorkerError> {
        let core = &self.core;
        core.read(|book| core.over(book))?;
        let peer = core.client.connect(endpoint).await?;
        let worker = peer.instance_id();
        let endpoints = peer.endpoints();
        let is_local = endpoints.iter().all(crate::endpoint::Endpoint::is_loopback);
        let request = JoinRequest { worker, rank, is_spare: false, endpoints, is_local };
        let start = peer.incarnation();
        let known = Worker::named(peer);
        let place = take_in(core, &request, start, known)?;
        Ok(MemberInfo { rank: place.rank, worker, is_present: true })
    }

    /// Whether each rank's worker has a handler of that name, now or within `timeout`, and which have not.
    pub async fn await_handler_on_all(&self, name: &str, timeout: Duration) -> HandlerPresence {
        let ranks = self.target_ranks();
        let checks = ranks.into_iter().map(|rank| async move {
            let peer = self.core.read(|book| match book.membership.holder(rank) {
                Holder::Present { worker, .. } => book.workers.get(&worker).map(|worker| worker.peer.clone()),
                _ => None,
            });
            let reason = match peer {
                None => "no worker is there".to_owned(),
                Some(peer) => match peer.wait_for_handler(name, timeout).await {
                    Ok(true) => return None,
                    Ok(false) => format!("worker {} has no handler `{name}`", peer.instance_id()),
                    Err(error) => error.to_string(),
                },
            };
            Some(MissingHandler { rank, reason })
        });
        let missing = futures_util::future::join_all(checks).await.into_iter().flatten().collect();
        HandlerPresence { missing }
    }
}
