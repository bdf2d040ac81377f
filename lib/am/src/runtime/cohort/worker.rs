//! A worker's side: joining a leader's cohort, and what it is told until its membership ends.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngCore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::{BarrierError, JoinError};
use super::hand_on::relay_handler;
use super::ledger::Ledger;
use super::relay_words::SlotWord;
use super::words::{
    Control, EndWord, Join, JoinAnswer, Joined, Leave, Order, check_cohort_name, control_name, join_name,
    leave_name, relay_name,
};
use crate::api::call_error::HandlerError;
use crate::api::client::{Client, IntoEndpoint, Peer};
use crate::api::handler::Handler;
use crate::api::link_event::{LinkEvent, LinkEvents};
use crate::clock;
use crate::id::InstanceId;
use crate::proto::membership::JoinRefusal;

/// How a worker joins; see `Client::join_cohort_with`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct JoinOptions {
    /// The cohort's name. Default `default`.
    pub cohort: String,
    /// The rank to ask for; none: the next one that is free.
    pub rank: Option<usize>,
    /// To stand by, and take the rank of a worker that is lost.
    pub is_spare: bool,
    /// Whether this worker hands calls on to others in a wide cohort; for that it dials members that its leader
    /// names, under the node's own dial policy. Default true.
    pub relays: bool,
    /// How long a leader is waited for that is there and does not lead this cohort yet. Default 5 s.
    pub wait_for_cohort: Duration,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self {
            cohort: super::DEFAULT_NAME.to_owned(),
            rank: None,
            is_spare: false,
            relays: true,
            wait_for_cohort: Duration::from_secs(5),
        }
    }
}

/// How a membership ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembershipEnd {
    /// The leader has shut the cohort down, or dropped it.
    ShutDown,
    /// The leader let this worker go.
    Removed,
    /// The cohort has failed, of this reason.
    CohortFailed(String),
    /// The leader was lost, and did not come back within the grace period.
    LeaderLost,
    /// The link was lost, and the leader did not take this worker back.
    NotTakenBack(JoinRefusal),
    /// This worker left.
    Left,
}

/// A worker's part in a cohort. Dropped before it has ended, this worker counts as lost; [`leave`](Self::leave) is
/// how to go.
#[derive(Debug)]
pub struct WorkerMembership {
    owner: Arc<Owner>,
}

/// What the handles of one membership share: the last one tells the leader. Tasks and handlers hold only what is
/// inside.
#[derive(Debug)]
struct Owner {
    inner: Arc<Inner>,
    /// The leader knows that this worker is no member.
    is_told: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    /// Tells it from other memberships of this node.
    number: u64,
    pub(crate) client: Client,
    leader: Peer,
    options: JoinOptions,
    standing: watch::Sender<Standing>,
    stop: CancellationToken,
    /// Held while the leader is asked: joining and leaving do not cross.
    asking: tokio::sync::Mutex<()>,
    /// Calls that came down the tree.
    pub(crate) ledger: Ledger<SlotWord>,
    /// Members that calls were handed on to, and that were dialled for it.
    pub(crate) dialled: Mutex<Vec<Peer>>,
}

#[derive(Debug, Clone, Default)]
struct Standing {
    rank: Option<usize>,
    size: Option<usize>,
    token: String,
    grace: Duration,
    /// The last barrier that this worker has come to.
    arrived: u64,
    /// The last barrier that is over.
    released: u64,
    /// Why the last one did not open.
    error: Option<String>,
    end: Option<MembershipEnd>,
}

impl Client {
    /// Joins the cohort `default` of the leader at an endpoint, with this rank, or as the next one. The handlers that
    /// the leader will call should be registered before.
    ///
    /// # Errors
    ///
    /// When the leader cannot be reached, leads no such cohort, or refuses, saying why.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the leader may have taken this worker in, and then finds it lost.
    pub async fn join_cohort(
        &self,
        leader: impl IntoEndpoint,
        rank: Option<usize>,
    ) -> Result<WorkerMembership, JoinError> {
        self.join_cohort_with(leader, JoinOptions { rank, ..JoinOptions::default() }).await
    }

    /// As [`join_cohort`](Self::join_cohort), with more to say.
    ///
    /// # Errors
    ///
    /// As [`join_cohort`](Self::join_cohort).
    pub async fn join_cohort_with(
        &self,
        leader: impl IntoEndpoint,
        options: JoinOptions,
    ) -> Result<WorkerMembership, JoinError> {
        check_cohort_name(&options.cohort)
            .map_err(|reason| JoinError::Name { name: options.cohort.chars().take(64).collect(), reason })?;
        // A membership outlives the call that it may be joined in.
        let client = self.root();
        let leader = client.connect(leader).await?;
        join(&client, leader, options).await
    }
}

async fn join(client: &Client, leader: Peer, options: JoinOptions) -> Result<WorkerMembership, JoinError> {
    let (cohort, leader_id) = (options.cohort.clone(), leader.instance_id());
    let waited = options.wait_for_cohort;
    if !leader.wait_for_handler(&join_name(&cohort), waited).await? {
        return Err(JoinError::NoSuchCohort { cohort, leader: leader_id, waited });
    }
    let inner = Arc::new(Inner {
        number: rand::rng().next_u64(),
        client: client.clone(),
        leader,
        options,
        standing: watch::channel(Standing::default()).0,
        stop: CancellationToken::new(),
        asking: tokio::sync::Mutex::default(),
        ledger: Ledger::default(),
        dialled: Mutex::default(),
    });
    // From here on, so that no loss of the leader falls in a gap.
    let events = client.link_events();
    let key = control_name(&cohort, leader_id);
    let known = client.shared(&key).and_then(|known| known.downcast::<Owner>().ok());
    if let Some(known) = known.filter(|known| known.inner.standing.borrow().end.is_none()) {
        // Joining twice is for the leader to judge.
        known.inner.ask(&inner.options).await?;
        return Ok(WorkerMembership { owner: known });
    }
    client.register(control_handler(&inner))?;
    // Dropped from here on, it takes the handlers back.
    let owner = Arc::new(Owner { inner: inner.clone(), is_told: AtomicBool::new(false) });
    client.register(relay_handler(&relay_name(&cohort, leader_id), &inner))?;
    if let Err(error) = inner.join_again().await {
        owner.is_told.store(matches!(error, JoinError::Refused(_)), Ordering::Relaxed);
        return Err(error);
    }
    let shared: Arc<dyn Any + Send + Sync> = owner.clone();
    client.share(key, &shared);
    client.spawn(watch_leader(Arc::downgrade(&inner), events, leader_id, inner.stop.clone()));
    Ok(WorkerMembership { owner })
}

impl Inner {
    /// Asks the leader to be taken in, or back; nothing if the membership is over.
    async fn join_again(&self) -> Result<(), JoinError> {
        let _turn = self.asking.lock().await;
        if self.has_ended() {
            return Ok(());
        }
        let Joined { rank, size, token, grace_ms, barriers } = self.ask(&self.options).await?;
        if self.has_ended() {
            // The last handle was dropped meanwhile, and its word may have come first.
            let leave = Leave { membership: self.number, is_failure: false };
            let _ = self.leader.confirm(&leave_name(&self.options.cohort), &leave).await;
            return Ok(());
        }
        self.standing.send_modify(|standing| {
            standing.rank = rank;
            standing.size = size;
            // A leader that has started anew counts anew.
            if standing.token != token {
                self.ledger.clear();
                (standing.arrived, standing.released) = (barriers, barriers);
            }
            standing.token = token;
            standing.grace = Duration::from_millis(grace_ms);
        });
        Ok(())
    }

    async fn ask(&self, options: &JoinOptions) -> Result<Joined, JoinError> {
        let JoinOptions { rank, is_spare, relays, .. } = *options;
        let join = Join { membership: self.number, rank, is_spare, relays };
        match self.leader.call::<JoinAnswer>(&join_name(&options.cohort), &join).await? {
            JoinAnswer::Joined(joined) => Ok(joined),
            JoinAnswer::Refused(refusal) => Err(JoinError::Refused(refusal.into())),
        }
    }

    fn has_ended(&self) -> bool {
        self.standing.borrow().end.is_some()
    }

    /// Whether the leader has this worker back, if it is there.
    async fn go_back(&self) -> Result<bool, JoinRefusal> {
        if !self.leader.is_connected() {
            return Ok(false);
        }
        match self.join_again().await {
            Ok(()) => Ok(true),
            Err(JoinError::Refused(refusal)) => Err(refusal),
            // It is gone again, or does not lead yet.
            Err(_) => Ok(false),
        }
    }

    /// Whether a message comes from the cohort. It may be here before the leader's answer to the join is.
    pub(crate) async fn knows(&self, token: &str) -> bool {
        let mut standing = self.standing.subscribe();
        let now = standing.wait_for(|now| !now.token.is_empty() || now.end.is_some()).await;
        now.is_ok_and(|now| now.token == token && now.end.is_none())
    }

    /// Nothing more happens to this membership.
    fn end(&self, end: MembershipEnd) {
        let is_first = self.standing.send_if_modified(|standing| {
            let is_first = standing.end.is_none();
            standing.end.get_or_insert(end);
            is_first
        });
        if !is_first {
            // The handlers may be those of the next membership by now.
            return;
        }
        self.stop.cancel();
        let leader = self.leader.instance_id();
        self.client.unregister(&control_name(&self.options.cohort, leader));
        self.client.unregister(&relay_name(&self.options.cohort, leader));
        for peer in std::mem::take(&mut *self.dialled.lock()) {
            let client = self.client.clone();
            self.client.spawn(async move { client.disconnect(&peer).await });
        }
    }

    async fn obey(&self, order: Order) -> Result<(), HandlerError> {
        match order {
            Order::End(word) => self.end(match word {
                EndWord::ShutDown => MembershipEnd::ShutDown,
                EndWord::Removed => MembershipEnd::Removed,
                EndWord::Failed(reason) => MembershipEnd::CohortFailed(reason),
            }),
            Order::Assign { rank, barriers } => self.standing.send_modify(|standing| {
                standing.rank = Some(rank);
                (standing.arrived, standing.released) = (barriers, barriers);
            }),
            Order::Arrive { barrier } => {
                let mut standing = self.standing.subscribe();
                let come = standing.wait_for(|now| now.arrived >= barrier || now.end.is_some()).await?;
                if come.arrived < barrier {
                    return Err(HandlerError::msg("the worker's membership has ended"));
                }
            }
            Order::Release { barrier, error } => self.standing.send_modify(|standing| {
                standing.released = standing.released.max(barrier);
                standing.error = error;
            }),
        }
        Ok(())
    }
}

fn control_handler(inner: &Arc<Inner>) -> Handler {
    let name = control_name(&inner.options.cohort, inner.leader.instance_id());
    let weak = Arc::downgrade(inner);
    Handler::unary(name, move |_cx, control: Control| {
        let inner = weak.upgrade();
        async move {
            let inner = inner.ok_or_else(|| HandlerError::msg("the worker's membership has ended"))?;
            if !inner.knows(&control.token).await {
                return Err(HandlerError::msg("this order is not from the worker's leader"));
            }
            inner.obey(control.order).await
        }
    })
}

/// Notices that the leader is lost, and goes back to it when it is there again.
async fn watch_leader(
    weak: Weak<Inner>,
    mut events: LinkEvents,
    leader: InstanceId,
    stop: CancellationToken,
) {
    let mut lost_at: Option<Instant> = None;
    // The link may have been lost before this began.
    let mut look = weak.upgrade().is_some_and(|inner| !inner.leader.is_connected());
    loop {
        let Some(inner) = weak.upgrade() else { return };
        if std::mem::take(&mut look) {
            lost_at = match inner.go_back().await {
                Ok(true) => None,
                Ok(false) => lost_at.or_else(|| Some(clock::now())),
                Err(refusal) => return inner.end(MembershipEnd::NotTakenBack(refusal)),
            };
        }
        let given_up_at = lost_at.map(|at| at + inner.standing.borrow().grace);
        drop(inner);
        // A leader that is linked and gave no answer is asked again; of a new link there is an event.
        let wakes_at = given_up_at.map(|at| at.min(clock::now() + ASK_AGAIN));
        let timer = clock::sleep_until(wakes_at);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(LinkEvent::Down { peer, .. } | LinkEvent::Up { peer, .. }) if peer == leader => look = true,
                Some(LinkEvent::Down { peer, .. }) => forget_dialled(&weak, peer),
                Some(LinkEvent::Missed(_)) => look = true,
                Some(LinkEvent::Replaced { old, .. }) if old == leader => break,
                Some(_) => {}
                None => break,
            },
            () = timer => {
                if given_up_at.is_some_and(|at| at <= clock::now()) {
                    break;
                }
                look = true;
            }
        }
    }
    if let Some(inner) = weak.upgrade() {
        inner.end(MembershipEnd::LeaderLost);
    }
}

/// A member that was dialled to hand on to it is lost: whether it comes back is for the leader to see.
fn forget_dialled(weak: &Weak<Inner>, lost: InstanceId) {
    let Some(inner) = weak.upgrade() else { return };
    let mut dialled = inner.dialled.lock();
    let Some(peer) = dialled.iter().find(|peer| peer.instance_id() == lost).cloned() else { return };
    // Two calls at once may both have dialled it.
    dialled.retain(|peer| peer.instance_id() != lost);
    let client = inner.client.clone();
    inner.client.spawn(async move { client.disconnect(&peer).await });
}

/// A worker that was not taken back, and not refused, asks again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(100);

impl WorkerMembership {
    /// The cohort's name.
    #[must_use]
    pub fn cohort(&self) -> &str {
        &self.owner.inner.options.cohort
    }

    /// This worker's rank; `None` while it stands by.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        self.owner.inner.standing.borrow().rank
    }

    /// How many ranks the cohort has; `None` if it is open.
    #[must_use]
    pub fn size(&self) -> Option<usize> {
        self.owner.inner.standing.borrow().size
    }

    /// The leader.
    #[must_use]
    pub fn leader(&self) -> &Peer {
        &self.owner.inner.leader
    }

    /// Waits until this worker has a rank: for those that stand by.
    ///
    /// # Errors
    ///
    /// When the membership ends first.
    pub async fn ranked(&self) -> Result<usize, MembershipEnd> {
        let mut standing = self.owner.inner.standing.subscribe();
        let now = standing.wait_for(|now| now.rank.is_some() || now.end.is_some()).await;
        // The sender is our own.
        let now = now.map(|now| now.clone()).unwrap_or_default();
        match (now.end, now.rank) {
            (None, Some(rank)) => Ok(rank),
            (end, _) => Err(end.unwrap_or(MembershipEnd::LeaderLost)),
        }
    }

    /// Waits for the end of the membership: the leader lets this worker go, or is lost.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn ended(&self) -> MembershipEnd {
        let mut standing = self.owner.inner.standing.subscribe();
        let now = standing.wait_for(|now| now.end.is_some()).await;
        now.ok().and_then(|now| now.end.clone()).unwrap_or(MembershipEnd::LeaderLost)
    }

    /// Leaves the cohort: the rank is free, and no policy counts that as a failure. Calls that run here still get
    /// their answers. Resolves when the leader knows, or cannot be told.
    pub async fn leave(self) {
        let inner = &self.owner.inner;
        inner.end(MembershipEnd::Left);
        let _turn = inner.asking.lock().await;
        let leave = Leave { membership: inner.number, is_failure: false };
        let told = inner.leader.confirm(&leave_name(&inner.options.cohort), &leave).await;
        self.owner.is_told.store(told.is_ok(), Ordering::Relaxed);
    }

    /// Comes to the next barrier, and waits until the leader and all other ranks have.
    ///
    /// # Errors
    ///
    /// When not all came within the leader's deadline, or the membership ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped, this worker has come to the barrier all the same.
    pub async fn barrier(&self) -> Result<(), BarrierError> {
        let inner = &self.owner.inner;
        let mut barrier = 0;
        inner.standing.send_modify(|standing| {
            standing.arrived = standing.arrived.max(standing.released) + 1;
            barrier = standing.arrived;
        });
        let mut standing = inner.standing.subscribe();
        let now = standing.wait_for(|now| now.released >= barrier || now.end.is_some()).await;
        let now = now.map_err(|_| BarrierError::Ended)?;
        match &now.error {
            _ if now.released < barrier => Err(BarrierError::Ended),
            Some(error) if now.released == barrier => Err(BarrierError::NotAll(error.clone())),
            _ => Ok(()),
        }
    }
}

impl Drop for Owner {
    /// The last handle is gone: says so as far as that needs no waiting.
    fn drop(&mut self) {
        let inner = &self.inner;
        let is_failure = inner.standing.borrow().end.is_none();
        inner.end(MembershipEnd::Left);
        if !self.is_told.load(Ordering::Relaxed) {
            let name = leave_name(&inner.options.cohort);
            let leave = Leave { membership: inner.number, is_failure };
            let _ = inner.client.active_message(&name).payload(&leave).try_send(&inner.leader);
        }
    }
}

/// Why the environment names no rank.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {variable} is `{value}`, which is no rank")]
pub struct RankError {
    /// Which variable.
    pub variable: &'static str,
    /// What it is.
    pub value: String,
}

/// Where launchers tell a process its rank, in the order in which they are looked at.
const RANK_VARIABLES: [&str; 4] = ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"];

/// The rank that a launcher gave this process: the first of `RANK`, `OMPI_COMM_WORLD_RANK`, `PMI_RANK` and
/// `SLURM_PROCID` that is set; `None` if none is.
///
/// # Errors
///
/// When it is set to something that is no number from 0.
pub fn rank_from_env() -> Result<Option<usize>, RankError> {
    rank_from(|variable| std::env::var_os(variable).map(|value| value.to_string_lossy().into_owned()))
}

fn rank_from(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<usize>, RankError> {
    let found = RANK_VARIABLES.into_iter().find_map(|variable| Some((variable, lookup(variable)?)));
    let Some((variable, value)) = found else { return Ok(None) };
    value.trim().parse().map(Some).map_err(|_| RankError { variable, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_names_the_rank() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<_> =
                set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            rank_from(|name| set.iter().find(|(set, _)| set == name).map(|(_, value)| value.clone()))
        };
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&[("SLURM_PROCID", "7"), ("PMI_RANK", "3")]), Ok(Some(3)));
        assert_eq!(with(&[("SLURM_PROCID", "7")]), Ok(Some(7)));
        assert_eq!(with(&[("RANK", "0"), ("OMPI_COMM_WORLD_RANK", "9")]), Ok(Some(0)));
        let wrong = with(&[("RANK", "-1"), ("PMI_RANK", "3")]).unwrap_err();
        assert_eq!(wrong.to_string(), "the environment variable RANK is `-1`, which is no rank");
    }
}
