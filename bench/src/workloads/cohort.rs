//! `cohort`: a leader's `par_map` over all its workers, one after the other. The workers are nodes of the server's
//! process; the baseline calls the same nodes by a `FuturesUnordered` of plain calls, and so shows what a cohort costs
//! beyond its messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dynamo_am::cohort::{JoinOptions, LeaderWorkerCohort, WorkerMembership};
use dynamo_am::{ActiveMessageManager, Handler, HandlerError, Peer, Raw};
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use crate::case::{Case, Route};
use crate::drive::{Call, Driver, OneAtATime};
use crate::error::RoleError;
use crate::node::{self, CONNECTING_MAX};
use crate::role::Listening;

/// How long all workers may take to join; a phase's own limit ends it earlier where that is shorter.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// An order to a node of the server: whose worker to be.
#[derive(Debug, Serialize, Deserialize)]
struct Join {
    leader: String,
    rank: usize,
}

/// The workers, which join nothing before they are told to, and the count of their calls.
pub(crate) async fn serve(case: Case) -> Result<(Vec<ActiveMessageManager>, Listening), RoleError> {
    let calls = Arc::new(AtomicU64::new(0));
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..case.links() {
        let node = node::builder(&case).listen(node::endpoint(case.transport)).start().await;
        let node = node.map_err(RoleError::system("starting a worker"))?;
        for handler in [echo(calls.clone()), is_relayed(&node), join(&node)] {
            node.register(handler).map_err(RoleError::system("registering a handler"))?;
        }
        addresses.extend(node.endpoints().first().map(ToString::to_string));
        nodes.push(node);
    }
    Ok((nodes, Listening { addresses, counters: vec![calls] }))
}

fn echo(calls: Arc<AtomicU64>) -> Handler {
    Handler::inline_raw("echo", move |_cx, payload| {
        calls.fetch_add(1, Ordering::Relaxed);
        Ok(payload.to_raw())
    })
}

/// Whether the call came by another worker: who hands a call on makes it to itself as well.
fn is_relayed(node: &ActiveMessageManager) -> Handler {
    let own = node.instance_id();
    Handler::inline("is_relayed", move |cx, (): ()| Ok(cx.sender().instance_id() == own))
}

fn join(node: &ActiveMessageManager) -> Handler {
    let client = node.client();
    // A membership ends when it is dropped.
    let held: Arc<Mutex<Vec<WorkerMembership>>> = Arc::default();
    Handler::unary("join", move |_cx, order: Join| {
        let (client, held) = (client.clone(), held.clone());
        async move {
            let options = JoinOptions { rank: Some(order.rank), ..JoinOptions::default() };
            let joined = client.join_cohort_with(order.leader.as_str(), options).await;
            let membership = joined.map_err(|error| HandlerError::msg(error.to_string()))?;
            held.lock().unwrap_or_else(PoisonError::into_inner).push(membership);
            Ok(())
        }
    })
}

/// A leader with all workers in its cohort.
pub(super) async fn ours(
    case: Case,
    ranks: usize,
    route: Route,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let leader = node::builder(&case).listen(node::endpoint(case.transport)).start().await;
    let leader = leader.map_err(RoleError::system("starting the leader"))?;
    // Beyond one rank, all calls go down the tree.
    let cohort = LeaderWorkerCohort::builder().size(ranks).fan_out_width(1).start(&leader.client());
    let cohort = cohort.map_err(RoleError::system("starting the cohort"))?;
    // By a node of its own: the workers are to have one link to their leader, that of their joining.
    let starter = node::start(&case).await?;
    let at = leader.endpoints().first().map(ToString::to_string).unwrap_or_default();
    let workers = peers(&starter, addresses).await?;
    let orders = workers.iter().enumerate().map(|(rank, worker)| {
        let order = Join { leader: at.clone(), rank };
        async move { worker.call::<()>("join", &order).await }
    });
    let orders: FuturesUnordered<_> = orders.collect();
    orders.try_collect::<Vec<()>>().await.map_err(RoleError::system("joining"))?;
    cohort.wait_ready(READY_TIMEOUT).await.map_err(RoleError::system("waiting for the workers"))?;
    let cohort = if route == Route::Flat { cohort.flat() } else { cohort };
    check_route(&cohort, route, ranks).await?;
    let payload = Raw::from(vec![0x5a; case.payload_bytes]);
    Ok(Box::new(OneAtATime(ParMap { cohort, ranks, payload, _leader: leader })))
}

/// Sees that calls go the way whose name the row has.
async fn check_route(cohort: &LeaderWorkerCohort, route: Route, ranks: usize) -> Result<(), RoleError> {
    let relayed = cohort.par_map::<(), bool>("is_relayed", |_| ()).await.into_iter();
    let relayed = relayed.collect::<Result<Vec<_>, _>>().map_err(RoleError::system("calling all workers"))?;
    if relayed.contains(&true) == (route == Route::Tree && ranks > 2) {
        return Ok(());
    }
    Err(RoleError::Unexpected("calls by another route than this row's"))
}

/// The same workers, each called by itself.
pub(super) async fn plain(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    let node = node::start(&case).await?;
    let workers = peers(&node, addresses).await?;
    let payload = Raw::from(vec![0x5a; case.payload_bytes]);
    Ok(Box::new(OneAtATime(PlainCalls { workers, payload, _node: node })))
}

/// Links to all addresses, in their order.
async fn peers(node: &ActiveMessageManager, addresses: &[String]) -> Result<Vec<Peer>, RoleError> {
    let client = node.client();
    let connecting = addresses.iter().map(|address| client.connect(address.as_str()));
    let peers = futures::stream::iter(connecting).buffered(CONNECTING_MAX).try_collect().await;
    peers.map_err(RoleError::system("connecting"))
}

struct ParMap {
    cohort: LeaderWorkerCohort,
    ranks: usize,
    payload: Raw,
    _leader: ActiveMessageManager,
}

impl Call for ParMap {
    async fn call(&mut self) -> Result<(), RoleError> {
        let answers = self.cohort.par_map::<Raw, Raw>("echo", |_| self.payload.clone()).await;
        let mut count = 0;
        for answer in answers {
            check(&answer.map_err(RoleError::system("calling a rank"))?, &self.payload)?;
            count += 1;
        }
        if count == self.ranks { Ok(()) } else { Err(RoleError::Unexpected("fewer answers than ranks")) }
    }
}

struct PlainCalls {
    workers: Vec<Peer>,
    payload: Raw,
    _node: Arc<ActiveMessageManager>,
}

impl Call for PlainCalls {
    async fn call(&mut self) -> Result<(), RoleError> {
        let payload = &self.payload;
        let calls = self.workers.iter().enumerate();
        let calls =
            calls.map(|(rank, worker)| async move { (rank, worker.call::<Raw>("echo", payload).await) });
        let mut calls: FuturesUnordered<_> = calls.collect();
        // In rank order, as a cohort gives them.
        let mut answers = vec![None; self.workers.len()];
        while let Some((rank, answer)) = calls.next().await {
            if let Some(slot) = answers.get_mut(rank) {
                *slot = Some(answer.map_err(RoleError::system("calling a worker"))?);
            }
        }
        answers.iter().try_for_each(|answer| match answer {
            Some(answer) => check(answer, payload),
            None => Err(RoleError::Unexpected("fewer answers than ranks")),
        })
    }
}

fn check(answer: &Raw, payload: &Raw) -> Result<(), RoleError> {
    if answer.len() == payload.len() {
        Ok(())
    } else {
        Err(RoleError::Unexpected("a reply of another length"))
    }
}
