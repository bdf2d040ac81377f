//! Peers that fall silent without a word from the kernel: stopped, or behind a link that was cut.

use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, Peer};
use rustix::process::Signal;

use super::namespaces;
use super::server::Server;
use super::silent_proxy::SilentProxy;
use super::{Ends, begin_forever, ms, until_running};
use crate::failure::{Failure, Result};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};
use crate::scenarios::PATIENCE;

const CALLS: u64 = 200;
/// A node may look for silence now and then only: harm is done in several phases of that, so far apart.
const PHASE: Duration = Duration::from_millis(50);

pub(super) fn run(form: Form) -> Result<Figures> {
    let limit = Limit::AtMost(form.pick(5000.0, 3500.0));
    let phases = form.pick(2, 10);
    let mut figures = Figures::new();
    for (name, with_traffic) in [("stopped, idle: ", false), ("stopped, busy: ", true)] {
        let all = (0..phases).map(|phase| stopped(with_traffic, PHASE * phase));
        figures.append(name, block_on(2, slowest(all, limit))?);
    }
    let all = (0..phases).map(|phase| behind_proxy(PHASE * phase));
    figures.append("proxy falls silent: ", block_on(2, slowest(all, limit))?);
    if form == Form::Full {
        figures.append("link set down: ", block_on(1, namespaces::cut(CALLS, limit))?);
    }
    Ok(figures)
}

/// How calls ended, and how long after the harm the last of them did.
type Lost = (Ends, Duration);

/// Does all at once, and reports the slowest.
async fn slowest(
    all: impl Iterator<Item = impl Future<Output = Result<Lost>>>,
    limit: Limit,
) -> Result<Figures> {
    let (mut ends, mut slowest, mut calls) = (Ends::default(), Duration::ZERO, 0);
    for (ended, took) in futures::future::try_join_all(all).await? {
        ends.add(ended);
        slowest = slowest.max(took);
        calls += CALLS;
    }
    let mut figures = Figures::new();
    ends.report(&mut figures, calls)?;
    figures.add("last call ended after", ms(slowest), "ms", limit);
    Ok(figures)
}

async fn stopped(with_traffic: bool, phase: Duration) -> Result<Lost> {
    let (process, place) = Server::default().start().await?;
    let node = ActiveMessageManager::builder().no_ipc().start().await?;
    let peer = node.client().connect(&place.endpoint).await?;
    let traffic = with_traffic.then(|| tokio::spawn(keep_busy(peer.clone())));
    let lost = until_lost(&peer, phase, || process.signal(Signal::STOP)).await;
    if let Some(traffic) = traffic {
        traffic.abort();
    }
    lost
}

async fn behind_proxy(phase: Duration) -> Result<Lost> {
    let (_process, place) = Server::default().start().await?;
    let proxy = SilentProxy::start(place.port).await?;
    let node = ActiveMessageManager::builder().no_ipc().start().await?;
    let peer = node.client().connect(proxy.endpoint()).await?;
    until_lost(&peer, phase, || {
        proxy.fall_silent();
        Ok(())
    })
    .await
}

/// Calls without a pause until the link is gone.
async fn keep_busy(peer: Peer) {
    while peer.call::<i64>("square", &3).await.is_ok() {}
}

/// Has calls pending, does `harm`, and sees how they end, and when.
async fn until_lost(peer: &Peer, phase: Duration, harm: impl FnOnce() -> Result<()>) -> Result<Lost> {
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(begin_forever(peer).await?);
    }
    until_running(peer, CALLS).await?;
    tokio::time::sleep(phase).await;
    let began = Instant::now();
    harm()?;
    let mut last = Duration::ZERO;
    let mut ends = Ends::default();
    let all = async {
        for call in calls {
            ends.take(&call.response().await);
            last = began.elapsed();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.map_err(|_| Failure::new("calls are pending for ever"))?;
    Ok((ends, last))
}
