//! `kill -9` of a server with many calls pending.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, Limits};

use super::server::{Place, Server};
use super::{Ends, begin_forever, ms, until_running};
use crate::failure::{Failure, Result};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};
use crate::scenarios::PATIENCE;

const CALLS: u64 = 10_000;

/// When the calls of one round ended, counted from two moments; sorted.
struct Round {
    from_notice: Vec<Duration>,
    from_kill: Vec<Duration>,
    ends: Ends,
}

pub(super) fn run(form: Form) -> Result<Figures> {
    // The short form runs without optimisation, beside whatever else a test machine does.
    let limit_ms = form.pick(200.0, 50.0);
    let mut figures = Figures::new();
    for (way, with_ipc) in [("tcp: ", false), ("ipc: ", true)] {
        let (mut worst_notice, mut worst_kill, mut ends) = (Duration::ZERO, Duration::ZERO, Ends::default());
        let rounds = form.pick(1, 20);
        for _ in 0..rounds {
            let round = block_on(2, play_round(with_ipc))?;
            worst_notice = worst_notice.max(p99(&round.from_notice)?);
            worst_kill = worst_kill.max(p99(&round.from_kill)?);
            ends.add(round.ends);
        }
        let mut of_way = Figures::new();
        ends.report(&mut of_way, CALLS * rounds)?;
        let notice_limit = Limit::AtMost(limit_ms);
        of_way.add("p99 after the kernel's notice, worst round", ms(worst_notice), "ms", notice_limit);
        of_way.add("p99 after the kill, worst round", ms(worst_kill), "ms", Limit::Free);
        figures.append(way, of_way);
    }
    Ok(figures)
}

async fn play_round(with_ipc: bool) -> Result<Round> {
    let (mut process, place) = Server::default().start().await?;
    let limits = Limits { pending_calls_max: 16_384, ..Limits::default() };
    let builder = ActiveMessageManager::builder().limits(limits);
    let node = if with_ipc { builder } else { builder.no_ipc() }.start().await?;
    let peer = node.client().connect(&place.endpoint).await?;
    let canary = watch_canary(&place)?;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let status = begin_forever(&peer).await?;
        calls.push(tokio::spawn(async move {
            let end = status.response().await;
            (end, Instant::now())
        }));
    }
    until_running(&peer, CALLS).await?;

    let killed = Instant::now();
    process.kill()?;
    let mut ended = Vec::new();
    let mut ends = Ends::default();
    let all = async {
        for call in calls {
            let (end, at) = call.await?;
            ends.take(&end);
            ended.push(at);
        }
        Ok::<_, Failure>(())
    };
    tokio::time::timeout(PATIENCE, all).await.map_err(|_| Failure::new("calls are pending for ever"))??;
    let noticed = canary.join().map_err(|_| Failure::new("the canary's thread has panicked"))??;
    let since = |from: Instant| {
        let mut times: Vec<_> = ended.iter().map(|at| at.saturating_duration_since(from)).collect();
        times.sort_unstable();
        times
    };
    Ok(Round { from_notice: since(noticed), from_kill: since(killed), ends })
}

/// When a plain connection to the process reads its end.
fn watch_canary(place: &Place) -> Result<std::thread::JoinHandle<Result<Instant>>> {
    let mut canary = TcpStream::connect((Ipv4Addr::LOCALHOST, place.canary_port))?;
    canary.set_read_timeout(Some(PATIENCE * 3))?;
    Ok(std::thread::spawn(move || {
        match canary.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => return Err(Failure::new(format!("the canary read {other:?}"))),
        }
        Ok(Instant::now())
    }))
}

fn p99(sorted: &[Duration]) -> Result<Duration> {
    let place = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().ok_or_else(|| Failure::new("nothing was timed"))
}
