//! What all parts of a led cohort share: its book of members, who they are as peers, and whether it still stands.
//!
//! **Invariants**
//! 1. The book is changed by [`Core::update`] alone, which tells events in the order of the changes.
//! 2. No user code runs while the book is locked, and the lock is never held across an await.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use parking_lot::Mutex;
use rand::RngCore;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::error::{CohortError, StartCohortError};
use super::events::CohortEvent;
use super::ledger::CallNumbers;
use super::settings::{CohortBuilder, FailurePolicy};
use super::words::{Control, EndWord, Order, check_cohort_name, control_name, join_name, leave_name};
use super::{forming, shutdown};
use crate::api::call_error::{CallError, Refusal};
use crate::api::client::{Client, Peer};
use crate::clock;
use crate::id::InstanceId;
use crate::proto::membership::{Assignment, Membership, MembershipEvent};

/// Leads workers, each with a rank. Cheap to clone; when the last clone is dropped, the workers are let go.
///
/// [`within`](Self::within), [`idempotent`](Self::idempotent), [`flat`](Self::flat) and [`ranks`](Self::ranks) give a
/// clone whose calls differ in that.
#[derive(Debug, Clone)]
pub struct LeaderWorkerCohort {
    pub(crate) core: Arc<Core>,
    pub(crate) view: View,
    _owner: Arc<Owner>,
}

/// How the calls of one handle are made.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) deadline: Duration,
    pub(crate) is_idempotent: bool,
    pub(crate) is_flat: bool,
    pub(crate) ranks: Option<std::ops::Range<usize>>,
}

impl LeaderWorkerCohort {
    /// Begins a cohort.
    #[must_use]
    pub fn builder() -> CohortBuilder {
        CohortBuilder::default()
    }

    /// The same cohort, each of whose calls may take so long in all, waiting for an absent worker included.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        let mut cohort = self.clone();
        cohort.view.deadline = deadline;
        cohort
    }

    /// The same cohort, whose calls may run twice without harm: one that was lost with its worker is made again at
    /// whoever takes the rank.
    #[must_use]
    pub fn idempotent(&self) -> Self {
        let mut cohort = self.clone();
        cohort.view.is_idempotent = true;
        cohort
    }

    /// The same cohort, whose calls go from the leader to each worker, never down the tree.
    #[must_use]
    pub fn flat(&self) -> Self {
        let mut cohort = self.clone();
        cohort.view.is_flat = true;
        cohort
    }

    /// The same cohort, whose calls to all go to these ranks alone.
    #[must_use]
    pub fn ranks(&self, ranks: std::ops::Range<usize>) -> Self {
        let mut cohort = self.clone();
        cohort.view.ranks = Some(ranks);
        cohort
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.settings.name
    }
}

/// Ends the cohort with the last handle.
#[derive(Debug)]
struct Owner(Arc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        shutdown::dropped(&self.0);
    }
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) client: Client,
    pub(crate) settings: CohortBuilder,
    /// Known to the members alone.
    pub(crate) token: String,
    book: Mutex<Book>,
    /// Moves with each change of the book.
    version: watch::Sender<u64>,
    pub(crate) events: Mutex<Option<broadcast::Sender<CohortEvent>>>,
    /// Of calls that go down the tree.
    pub(crate) numbers: Arc<CallNumbers>,
    /// Fires at the cohort's end.
    pub(crate) stop: CancellationToken,
}

/// A member as somebody to call.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) peer: Peer,
    /// Its own number for its membership; none if it was named by its endpoint.
    pub(crate) membership: Option<u64>,
    /// It hands on what is meant for others.
    pub(crate) relays: bool,
    /// The leader named it by its endpoint: it knows nothing of the cohort.
    pub(crate) is_named: bool,
    /// Where it listens, as those are told who hand on: endpoints with spaces between; empty when nowhere.
    pub(crate) endpoints: Arc<str>,
}

impl Worker {
    /// A worker that has joined by itself.
    pub(crate) fn joined(peer: Peer, membership: u64, relays: bool) -> Self {
        Self { membership: Some(membership), relays, is_named: false, ..Self::named(peer) }
    }

    /// A worker that was named by its endpoint.
    pub(crate) fn named(peer: Peer) -> Self {
        let endpoints: Vec<_> = peer.endpoints().iter().map(ToString::to_string).collect();
        let endpoints = endpoints.join(" ").into();
        Self { peer, membership: None, relays: false, is_named: true, endpoints }
    }
}

#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) membership: Membership,
    pub(crate) workers: HashMap<InstanceId, Worker>,
    pub(crate) phase: Phase,
    /// Barriers that were passed, or failed.
    pub(crate) barriers: u64,
}

/// Whether the cohort stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Of this loss.
    Failed(String),
    /// Its workers are being let go.
    Ending,
    Ended,
}

/// Starts to lead.
pub(crate) fn start(
    settings: CohortBuilder,
    client: &Client,
) -> Result<LeaderWorkerCohort, StartCohortError> {
    check_cohort_name(&settings.name).map_err(|reason| StartCohortError::Name {
        name: settings.name.chars().take(64).collect(),
        reason,
    })?;
    let limit = settings.limits.ranks_max;
    if let Some(size) = settings.size.filter(|size| *size == 0 || *size > limit) {
        return Err(StartCohortError::Size { size, limit });
    }
    let core = Arc::new(Core {
        // A cohort outlives the call that it may be started in.
        client: client.root(),
        token: random_token(),
        book: Mutex::new(Book {
            membership: Membership::new(settings.rules()),
            workers: HashMap::new(),
            phase: Phase::Running,
            barriers: 0,
        }),
        version: watch::channel(0).0,
        events: Mutex::new(Some(broadcast::channel(settings.limits.events_kept.max(1)).0)),
        numbers: Arc::default(),
        stop: CancellationToken::new(),
        settings,
    });
    // From here on, so that no loss falls in a gap.
    let events = client.link_events();
    let register = |handler| {
        client
            .register(handler)
            .map_err(|source| StartCohortError::Register { cohort: core.settings.name.clone(), source })
    };
    register(forming::join_handler(&core))?;
    register(forming::leave_handler(&core)).inspect_err(|_| {
        client.unregister(&join_name(&core.settings.name));
    })?;
    client.spawn(forming::watch_links(core.clone(), events));
    let view =
        View { deadline: core.settings.call_timeout, is_idempotent: false, is_flat: false, ranks: None };
    let owner = Arc::new(Owner(core.clone()));
    Ok(LeaderWorkerCohort { core, view, _owner: owner })
}

fn random_token() -> String {
    let mut octets = [0u8; 16];
    rand::rng().fill_bytes(&mut octets);
    format!("{:032x}", u128::from_be_bytes(octets))
}

impl Core {
    /// Looks something up.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.lock())
    }

    /// Changes the book, and does what follows: events, failing as a whole, spares told their ranks.
    pub(crate) fn update<T>(self: &Arc<Self>, change: impl FnOnce(&mut Book) -> T) -> T {
        let mut assignments = Vec::new();
        let mut has_failed = None;
        let members;
        let result = {
            let mut book = self.book.lock();
            let result = change(&mut book);
            while let Some(event) = book.membership.poll_event() {
                if let Some(reason) = self.failure(&book, &event) {
                    book.phase = Phase::Failed(reason.clone());
                    has_failed = Some(reason);
                }
                self.emit(CohortEvent::Membership(event));
            }
            while let Some(assignment) = book.membership.poll_assignment() {
                assignments.push(assignment);
            }
            let Book { membership, workers, .. } = &mut *book;
            workers.retain(|worker, _| membership.is_member(*worker));
            members = workers.len();
            result
        };
        self.version.send_modify(|version| *version += 1);
        gauge!("dynamo_am_cohort_members", "cohort" => self.settings.name.clone()).set(members as f64);
        for assignment in assignments {
            self.client.spawn(assign(self.clone(), assignment));
        }
        if let Some(reason) = has_failed {
            self.emit(CohortEvent::Failed { reason: reason.clone() });
            if self.settings.ends_workers {
                self.client.spawn(shutdown::end_all(self.clone(), EndWord::Failed(reason)));
            }
        }
        result
    }

    /// The reason, if this event is the end of the cohort.
    fn failure(&self, book: &Book, event: &MembershipEvent) -> Option<String> {
        match event {
            MembershipEvent::Lost { rank: Some(rank), worker }
                if self.settings.policy == FailurePolicy::FailAll && book.phase == Phase::Running =>
            {
                Some(format!("rank {rank} was lost (worker {worker})"))
            }
            _ => None,
        }
    }

    pub(crate) fn emit(&self, event: CohortEvent) {
        if let Some(events) = &*self.events.lock() {
            let _ = events.send(event);
        }
    }

    /// Moves with each change of the book.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Counts that a limit was reached.
    pub(crate) fn reached(&self, limit: &'static str) {
        counter!("dynamo_am_cohort_limit_reached_total", "limit" => limit).increment(1);
    }

    /// The error of calls to a cohort that stands no more.
    pub(crate) fn over(&self, book: &Book) -> Result<(), CohortError> {
        let cohort = || self.settings.name.clone();
        match &book.phase {
            Phase::Running => Ok(()),
            Phase::Failed(reason) => {
                Err(CohortError::Failed { cohort: cohort(), reason: reason.clone(), maybe_executed: false })
            }
            Phase::Ending | Phase::Ended => Err(CohortError::Ended { cohort: cohort() }),
        }
    }

    /// Resolves when the cohort has failed as a whole.
    pub(crate) async fn failed(&self) -> String {
        let mut changes = self.changes();
        loop {
            if let Phase::Failed(reason) = self.read(|book| book.phase.clone()) {
                return reason;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// An order to a worker.
    pub(crate) async fn order(&self, worker: &Worker, order: Order, timeout: Duration) -> bool {
        if worker.is_named {
            return true;
        }
        let name = control_name(&self.settings.name, self.client.instance_id());
        let control = Control { token: self.token.clone(), order };
        let message = self.client.active_message(&name).payload(&control).deadline(timeout).confirmed();
        let is_end = matches!(control.order, Order::End(_));
        let answer = match message.send(&worker.peer).await {
            Ok(status) => status.ack().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) => true,
            // It is no member any more.
            Err(CallError::Refused { reason: Refusal::NoHandler, .. }) => is_end,
            Err(_) => false,
        }
    }

    pub(crate) fn end_phase(&self) {
        self.book.lock().phase = Phase::Ended;
        self.version.send_modify(|version| *version += 1);
    }

    pub(crate) fn unregister(&self) {
        self.client.unregister(&join_name(&self.settings.name));
        self.client.unregister(&leave_name(&self.settings.name));
    }

    /// Whether a member's link is gone; it is lost then.
    pub(crate) fn check_link(self: &Arc<Self>, worker: InstanceId) {
        let Some(start) = self.read(|book| book.membership.start_of(worker)) else { return };
        let is_linked = self.client.peer(worker).is_some_and(|peer| peer.incarnation() == start);
        if !is_linked {
            self.update(|book| match book.phase {
                // Whoever is let go has gone.
                Phase::Ending | Phase::Ended => drop(book.membership.handle_leave(worker)),
                Phase::Running | Phase::Failed(_) => book.membership.handle_lost(clock::now(), worker),
            });
        }
    }
}

/// Tells a spare its rank.
async fn assign(core: Arc<Core>, assignment: Assignment) {
    let (worker, barriers) = core.read(|book| (book.workers.get(&assignment.spare).cloned(), book.barriers));
    let is_told = match worker {
        Some(worker) => {
            let order = Order::Assign { rank: assignment.rank, barriers };
            core.order(&worker, order, core.settings.limits.order_timeout).await
        }
        None => false,
    };
    if !is_told {
        core.reached("order_timeout");
    }
    core.update(|book| book.membership.handle_assigned(assignment, is_told));
}
