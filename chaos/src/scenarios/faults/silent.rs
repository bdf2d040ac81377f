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

pub(super) fn run(form: Form) -> Result<Figures> {
    let limit = Limit::AtMost(form.pick(5000.0, 3500.0));
    let mut figures = Figures::new();
    for (name, with_traffic) in [("idle: ", false), ("busy: ", true)] {
        figures.append(&format!("stopped, {name}"), block_on(2, stopped(with_traffic, limit))?);
    }
    figures.append("proxy falls silent: ", block_on(2, behind_proxy(limit))?);
    if form == Form::Full {
        figures.append("link set down: ", block_on(1, namespaces::cut(CALLS, limit))?);
    }
    Ok(figures)
}

async fn stopped(with_traffic: bool, limit: Limit) -> Result<Figures> {
    let (process, place) = Server::default().start().await?;
    let node = ActiveMessageManager::builder().no_ipc().start().await?;
    let peer = node.client().connect(&place.endpoint).await?;
    let traffic = with_traffic.then(|| tokio::spawn(keep_busy(peer.clone())));
    let figures = until_lost(&peer, limit, || process.signal(Signal::STOP)).await;
    if let Some(traffic) = traffic {
        traffic.abort();
    }
    figures
}

async fn behind_proxy(limit: Limit) -> Result<Figures> {
    let (_process, place) = Server::default().start().await?;
    let proxy = SilentProxy::start(place.port).await?;
    let node = ActiveMessageManager::builder().no_ipc().start().await?;
    let peer = node.client().connect(proxy.endpoint()).await?;
    until_lost(&peer, limit, || {
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
async fn until_lost(peer: &Peer, limit: Limit, harm: impl FnOnce() -> Result<()>) -> Result<Figures> {
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(begin_forever(peer).await?);
    }
    until_running(peer, CALLS).await?;
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
    let mut figures = Figures::new();
    ends.report(&mut figures, CALLS)?;
    figures.add("last call ended after", ms(last), "ms", limit);
    Ok(figures)
}
