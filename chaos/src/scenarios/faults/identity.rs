//! Peers with a fixed identity: restarted, replaced by another, and impersonated.

use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, CallError, InstanceId, LinkEvent, LinkEvents, Peer};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::server::Server;
use super::{Ends, begin_forever, ms, until_running};
use crate::failure::{Failure, Result};
use crate::process::{Orders, Process, say_json};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};
use crate::scenarios::PATIENCE;

const IDENTITY: &str = "c0ffee00-0000-4000-8000-000000000001";
const OTHER_IDENTITY: &str = "c0ffee00-0000-4000-8000-000000000002";
const CALLS: u64 = 100;
/// Service is back so long after the fault is over.
const BACK_MS: f64 = 5000.0;
/// What "at once" is.
const AT_ONCE_MS: f64 = 50.0;

pub(super) fn run_restart(form: Form) -> Result<Figures> {
    let rounds = form.pick(1, 10);
    let at_once = Limit::AtMost(form.pick(4.0 * AT_ONCE_MS, AT_ONCE_MS));
    block_on(2, async {
        let mut figures = Figures::new();
        let mut ends = Ends::default();
        let mut slowest = Duration::ZERO;
        for _ in 0..rounds {
            let (ended, back) = restart().await?;
            ends.add(ended);
            slowest = slowest.max(back);
        }
        figures.append("restarted: ", {
            let mut restarted = Figures::new();
            ends.report(&mut restarted, rounds * CALLS)?;
            restarted.add("answers again after, slowest", ms(slowest), "ms", Limit::AtMost(BACK_MS));
            restarted
        });
        figures.append("replaced: ", replace(at_once).await?);
        Ok(figures)
    })
}

/// Kills a server and starts it again where it was, as who it was. Gives how calls in flight ended, and how long
/// after its return it answered again.
async fn restart() -> Result<(Ends, Duration)> {
    let mut server = Server { identity: Some(IDENTITY.to_owned()), ..Server::default() };
    let (mut process, place) = server.start().await?;
    server.port = place.port;
    let node = ActiveMessageManager::builder().no_ipc().start().await?;
    let peer = node.client().connect(&place.endpoint).await?;
    let ends = kill_with_calls(&peer, &mut process).await?;
    // This one is begun while nobody is there, and waits for the link.
    let waiting = tokio::spawn(call_square(peer.clone()));
    let (_process, _) = server.start().await?;
    let returned = Instant::now();
    let answered = tokio::time::timeout(PATIENCE, waiting);
    answered.await.map_err(|_| Failure::new("a call waits for ever for a peer that is back"))???;
    let back = returned.elapsed();
    call_square(peer.clone()).await?;
    Ok((ends, back))
}

async fn call_square(peer: Peer) -> Result<()> {
    let answer: i64 = peer.call("square", &12).await?;
    crate::ensure!(answer == 144, "the square of 12 came back as {answer}");
    Ok(())
}

async fn kill_with_calls(peer: &Peer, process: &mut Process) -> Result<Ends> {
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(begin_forever(peer).await?);
    }
    until_running(peer, CALLS).await?;
    process.kill()?;
    let mut ends = Ends::default();
    for call in calls {
        let end = tokio::time::timeout(PATIENCE, call.response());
        ends.take(&end.await.map_err(|_| Failure::new("calls at a killed peer are pending for ever"))?);
    }
    Ok(ends)
}

/// Kills a server, and lets another instance take its port.
async fn replace(at_once: Limit) -> Result<Figures> {
    let mut server = Server { identity: Some(IDENTITY.to_owned()), ..Server::default() };
    let (mut process, place) = server.start().await?;
    let node = ActiveMessageManager::builder().no_ipc().start().await?;
    let mut events = node.client().link_events();
    let peer = node.client().connect(&place.endpoint).await?;
    let ends = kill_with_calls(&peer, &mut process).await?;
    let waiting: Vec<_> = (0..CALLS).map(|_| tokio::spawn(call_at(peer.clone()))).collect();
    server.port = place.port;
    server.identity = None;
    let (_process, _) = server.start().await?;

    let new = replaced(&mut events, peer.instance_id()).await?;
    let replaced_at = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut not_sent = 0;
    for call in waiting {
        let end = tokio::time::timeout(PATIENCE, call);
        let (end, at) =
            end.await.map_err(|_| Failure::new("a call waits for ever for a replaced peer"))??;
        slowest = slowest.max(at.saturating_duration_since(replaced_at));
        not_sent += u64::from(is_not_sent(&end)?);
    }
    let asked = Instant::now();
    not_sent += u64::from(is_not_sent(&call_at(peer.clone()).await.0)?);
    let later = asked.elapsed();
    crate::ensure!(new != peer.instance_id(), "the new instance is the old one");

    let mut figures = Figures::new();
    ends.report(&mut figures, CALLS)?;
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    figures.count("calls for the old one ended by NotSent", not_sent, Limit::Exactly((CALLS + 1) as f64));
    figures.add("waiting calls ended after the event", ms(slowest), "ms", at_once);
    figures.add("a later call ended after", ms(later), "ms", at_once);
    Ok(figures)
}

async fn call_at(peer: Peer) -> (std::result::Result<i64, CallError>, Instant) {
    let end = peer.call::<i64>("square", &3).await;
    (end, Instant::now())
}

fn is_not_sent(end: &std::result::Result<i64, CallError>) -> Result<bool> {
    match end {
        Err(CallError::NotSent { .. }) => Ok(true),
        other => Err(Failure::new(format!("a call for a replaced peer ended so: {other:?}"))),
    }
}

/// Waits for the event that says that `old` was replaced; gives who is there now.
async fn replaced(events: &mut LinkEvents, old: InstanceId) -> Result<InstanceId> {
    let event = async {
        loop {
            match events.next().await {
                Some(LinkEvent::Replaced { old: found, new }) if found == old => return Ok(new),
                Some(_) => {}
                None => return Err(Failure::new("the node has ended")),
            }
        }
    };
    let event = tokio::time::timeout(PATIENCE, event).await;
    event.map_err(|_| Failure::new("no event says that the peer was replaced"))?
}

#[derive(Debug, Serialize, Deserialize)]
struct ClaimantArguments {
    endpoint: String,
    identity: String,
}

/// What became of a dial under a claimed identity.
#[derive(Debug, Serialize, Deserialize)]
struct Claimed {
    connected: bool,
    took_ms: f64,
}

pub(super) fn play_claimant(arguments: &str) -> Result<()> {
    let ClaimantArguments { endpoint, identity } = serde_json::from_str(arguments)?;
    let mut orders = Orders::listen();
    block_on(1, async {
        let node = ActiveMessageManager::builder().no_ipc().identity(identity.parse()?).start().await?;
        let began = Instant::now();
        let connected = node.client().connect(endpoint).await;
        say_json(&Claimed { connected: connected.is_ok(), took_ms: ms(began.elapsed()) })?;
        orders.expect("end").await
    })
}

async fn claim(endpoint: &str, identity: &str) -> Result<(Process, Claimed)> {
    let arguments = ClaimantArguments { endpoint: endpoint.to_owned(), identity: identity.to_owned() };
    let mut claimant = Process::start("faults_claimant", &arguments)?;
    let claimed = claimant.json("what became of its dial", PATIENCE).await?;
    Ok((claimant, claimed))
}

pub(super) fn run_theft(form: Form) -> Result<Figures> {
    let attempts = form.pick(3, 20);
    block_on(2, async {
        let (_server, place) = Server::default().start().await?;
        let node = ActiveMessageManager::builder().no_ipc().identity(IDENTITY.parse()?).start().await?;
        let peer = node.client().connect(&place.endpoint).await?;
        let mut events = node.client().link_events();
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            calls.push(tokio::spawn(begin_forever(&peer).await?.response()));
        }
        until_running(&peer, CALLS).await?;
        let mut refused = 0;
        for _ in 0..attempts {
            let (_thief, claimed) = claim(&place.endpoint, IDENTITY).await?;
            refused += u64::from(!claimed.connected);
            call_square(peer.clone()).await?;
        }
        let ended = calls.iter().filter(|call| call.is_finished()).count();
        let mut figures = Figures::new();
        figures.append("honest one alive: ", {
            let mut alive = Figures::new();
            alive.count("thieves refused", refused, Limit::Exactly(f64::from(attempts)));
            alive.count("calls of the honest one ended", ended as u64, Limit::Exactly(0.0));
            alive.count("links of the honest one lost", downs(&mut events).await, Limit::Exactly(0.0));
            alive
        });
        figures.append("old one stopped: ", succeed(&place.endpoint).await?);
        Ok(figures)
    })
}

/// Who does not answer any more is succeeded by who claims its identity.
async fn succeed(endpoint: &str) -> Result<Figures> {
    let (old, claimed) = claim(endpoint, OTHER_IDENTITY).await?;
    crate::ensure!(claimed.connected, "an honest peer could not connect");
    old.signal(Signal::STOP)?;
    let (_new, claimed) = claim(endpoint, OTHER_IDENTITY).await?;
    let mut figures = Figures::new();
    figures.count("successors accepted", claimed.connected.into(), Limit::Exactly(1.0));
    // 1 s for the old one's sign of life, and the dial's own time.
    figures.add("accepted after", claimed.took_ms, "ms", Limit::AtMost(2000.0));
    Ok(figures)
}

async fn downs(events: &mut LinkEvents) -> u64 {
    let mut downs = 0;
    // Zero: only what has happened already.
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        downs += u64::from(matches!(event, LinkEvent::Down { .. }));
    }
    downs
}
