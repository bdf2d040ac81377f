//! A node with budgets of 1, as a helper process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dynamo_am::{
    ActiveMessageContext, ActiveMessageManager, CallError, Handler, HandlerError, InstanceId, Peer, Refusal,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{DEADLINE, Pattern, Tick, budgets_of_one};
use crate::failure::{Failure, Result};
use crate::process::{Orders, say, say_json};
use crate::scenario::block_on;
use crate::scenarios::PATIENCE;

/// A call that is there so long after its deadline hangs.
const HANG_AFTER: Duration = Duration::from_secs(1);
const PULSE: Duration = Duration::from_millis(10);
/// A refused nested call tries again after a random time up to this, which doubles with each refusal in a row:
/// without that, callers that all hold what another needs refuse each other for ever, though nothing is stuck.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(800);

/// Where a node is, and who.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    endpoint: String,
    instance: String,
}

/// A call that goes through several nodes: those that are still to come.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Route(Vec<String>);

/// How a call through several nodes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Relayed {
    Answered,
    /// Some node on the way was refused.
    Refused,
}

/// What this node has done since its last word.
#[derive(Debug, Clone, Default)]
struct Meter(Arc<Mutex<Tick>>);

impl Meter {
    fn with(&self, change: impl FnOnce(&mut Tick)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn take(&self) -> Tick {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits again and again, for as long as the process lives, and notes how late it wakes.
    fn feel_the_machine(&self) {
        loop {
            let began = Instant::now();
            std::thread::sleep(PULSE);
            let late = began.elapsed().saturating_sub(PULSE);
            self.with(|tick| tick.thread_late_ms = tick.thread_late_ms.max(ms(late)));
        }
    }

    /// How a call that this node began by itself has ended; whether it was answered.
    fn ended(&self, route: &Route, end: &std::result::Result<Relayed, CallError>, took: Duration) -> bool {
        self.with(|tick| {
            tick.call_ms = tick.call_ms.max(ms(took));
            tick.hung += u64::from(took > DEADLINE + HANG_AFTER);
            match end {
                Ok(Relayed::Answered) => {
                    tick.answered += 1;
                    tick.nested_answered += u64::from(!route.0.is_empty());
                }
                Ok(Relayed::Refused) | Err(CallError::Refused { reason: Refusal::Overloaded, .. }) => {
                    tick.refused += 1;
                }
                Err(CallError::DeadlineExceeded { .. }) => tick.expired += 1,
                Err(error) => {
                    tick.wrong.get_or_insert_with(|| error.to_string());
                }
            }
        });
        matches!(end, Ok(Relayed::Answered))
    }
}

pub(super) fn play(arguments: &str) -> Result<()> {
    let (pattern, index): (Pattern, usize) = serde_json::from_str(arguments)?;
    let mut orders = Orders::listen();
    block_on(1, async {
        let builder = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").limits(budgets_of_one());
        let node = builder.start().await?;
        let meter = Meter::default();
        let pulse = meter.clone();
        std::thread::spawn(move || pulse.feel_the_machine());
        register(&node, &meter)?;
        let place =
            Place { endpoint: node.endpoints()[0].to_string(), instance: node.instance_id().to_string() };
        say_json(&place)?;
        let roster: Vec<Place> = serde_json::from_str(&orders.next().await)?;
        let peers = link(&node, pattern, index, &roster).await?;
        say("linked")?;
        orders.expect("go").await?;
        let (stop, stopped) = watch::channel(false);
        let mut work = begin(pattern, index, &roster, &peers, &meter, &stopped);
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.tick().await;
        loop {
            tokio::select! {
                _ = seconds.tick() => say_json(&meter.take())?,
                order = orders.next() => {
                    crate::ensure!(order == "stop", "was told `{order}` instead of `stop`");
                    break;
                }
            }
        }
        stop.send_replace(true);
        while let Some(ended) = work.join_next().await {
            ended?;
        }
        say("stopped")?;
        orders.expect("end").await?;
        node.shutdown().await?;
        Ok(())
    })
}

fn register(node: &ActiveMessageManager, meter: &Meter) -> Result<()> {
    let (sunk, relayed) = (meter.clone(), meter.clone());
    node.register(Handler::message("sink", move |_cx, (): ()| {
        sunk.with(|tick| tick.handled += 1);
        async { Ok(()) }
    }))?;
    node.register(Handler::unary("relay", move |cx, route: Route| {
        let meter = relayed.clone();
        async move { relay(&cx, route, &meter).await }
    }))?;
    Ok(())
}

/// Calls the next node of the route, if there is one.
async fn relay(
    cx: &ActiveMessageContext,
    Route(mut route): Route,
    meter: &Meter,
) -> std::result::Result<Relayed, HandlerError> {
    if route.is_empty() {
        return Ok(Relayed::Answered);
    }
    let next: InstanceId = route.remove(0).parse()?;
    let peer = cx.client().peer(next).ok_or_else(|| HandlerError::msg("the next node has no link"))?;
    let client = peer.client();
    let route = Route(route);
    let began = Instant::now();
    let sent = client.active_message("relay").payload(&route).expect_response::<Relayed>().send(&peer).await;
    let sent_at = Instant::now();
    let end = match sent {
        Ok(status) => status.response().await.map_err(|error| (error, sent_at, false)),
        Err(error) => Err((error, began, true)),
    };
    match end {
        Err((CallError::Refused { reason: Refusal::Overloaded, .. }, since, for_credit)) => {
            let took = ms(since.elapsed());
            meter.with(|tick| {
                let refusals = if for_credit { &mut tick.for_credit } else { &mut tick.by_peer };
                refusals.take(took);
            });
            Ok(Relayed::Refused)
        }
        Err((error, ..)) => Err(error.into()),
        Ok(relayed) => Ok(relayed),
    }
}

/// Dials those that the pattern wants dialled by this node, and waits for those that dial it.
async fn link(
    node: &ActiveMessageManager,
    pattern: Pattern,
    index: usize,
    roster: &[Place],
) -> Result<Vec<Peer>> {
    let count = roster.len();
    let is_dialled = |other: usize| match pattern {
        Pattern::Ring => other == (index + 1) % count,
        Pattern::Flood | Pattern::AllToAll => other > index,
    };
    let is_needed = |other: usize| match pattern {
        Pattern::Ring => is_dialled(other),
        Pattern::Flood | Pattern::AllToAll => other != index,
    };
    let linked = async {
        let mut peers = Vec::new();
        for (other, place) in roster.iter().enumerate().filter(|(other, _)| is_needed(*other)) {
            if is_dialled(other) {
                peers.push(node.client().connect(&place.endpoint).await?);
                continue;
            }
            let instance: InstanceId = place.instance.parse()?;
            let mut looks = tokio::time::interval(Duration::from_millis(5));
            let peer = loop {
                looks.tick().await;
                if let Some(peer) = node.client().peer(instance) {
                    break peer;
                }
            };
            peers.push(peer);
        }
        Ok(peers)
    };
    let linked = tokio::time::timeout(PATIENCE, linked).await;
    linked.map_err(|_| Failure::new("the other nodes do not link"))?
}

/// Whom a call goes through, from this node's first peer on.
fn routes(pattern: Pattern, index: usize, roster: &[Place], to: &Peer) -> Vec<Route> {
    let instance = |other: usize| roster[other % roster.len()].instance.clone();
    let (me, there) = (instance(index), to.instance_id().to_string());
    // The plain call is the bystander, who shares credit and handler with the others.
    let plain = Route(vec![]);
    match pattern {
        Pattern::Flood => {
            vec![plain.clone(), plain, Route(vec![me.clone()]), Route(vec![me.clone(), there, me])]
        }
        // Once around: all others, and back to this node.
        Pattern::Ring => vec![plain, Route((2..=roster.len()).map(|step| instance(index + step)).collect())],
        Pattern::AllToAll => {
            let third = (index..).map(instance).find(|third| *third != me && *third != there);
            vec![plain, Route(vec![me]), Route(third.into_iter().collect())]
        }
    }
}

/// Starts what this node does to its peers until it is stopped.
fn begin(
    pattern: Pattern,
    index: usize,
    roster: &[Place],
    peers: &[Peer],
    meter: &Meter,
    stopped: &watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut work = JoinSet::new();
    for peer in peers {
        for route in routes(pattern, index, roster, peer) {
            work.spawn(keep_calling(peer.clone(), route, meter.clone(), stopped.clone()));
        }
        if pattern != Pattern::Ring {
            work.spawn(keep_notifying(peer.clone(), meter.clone(), stopped.clone()));
        }
    }
    work
}

async fn keep_calling(peer: Peer, route: Route, meter: Meter, stopped: watch::Receiver<bool>) {
    let mut retry = RETRY_MIN;
    while !*stopped.borrow() {
        let began = Instant::now();
        let message = peer.client().active_message("relay");
        let message = message.payload(&route).deadline(DEADLINE).expect_response::<Relayed>();
        let end = match message.send(&peer).await {
            Ok(status) => status.response().await,
            Err(error) => Err(error),
        };
        if meter.ended(&route, &end, began.elapsed()) {
            retry = RETRY_MIN;
            continue;
        }
        tokio::time::sleep(rand::random_range(Duration::ZERO..retry)).await;
        // The plain ones stay: each node must have calls that end in each second.
        if !route.0.is_empty() {
            retry = (retry * 2).min(RETRY_MAX);
        }
    }
}

async fn keep_notifying(peer: Peer, meter: Meter, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        if let Err(error) = peer.notify("sink", &()).await {
            meter.with(|tick| {
                tick.wrong.get_or_insert_with(|| error.to_string());
            });
            return;
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
