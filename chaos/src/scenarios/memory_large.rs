//! Small calls beside payloads of 64 MiB on the same link: what the parts of a large one hold up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, Raw};
use serde::{Deserialize, Serialize};

use super::PATIENCE;
use super::memory::Node;
use super::memory_roles::LARGE_LEN;
use crate::failure::Result;
use crate::process::{Orders, Process, say_json};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};

/// Nothing small waits longer over loopback.
const HELD_UP_MAX: Duration = Duration::from_millis(20);
/// In a test run, other programs want the processors too.
const HELD_UP_MAX_SHORT: Duration = Duration::from_millis(200);

#[derive(Debug, Serialize, Deserialize)]
struct Arguments {
    address: SocketAddr,
    /// Large payloads each way.
    count: u64,
}

/// Times of small calls, in ms.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Times {
    median: f64,
    /// Of a hundred, ninety-nine took no longer.
    p99: f64,
    most: f64,
    calls: u64,
}

/// What one direction's large payloads made of small calls on the same link, and on one beside it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Direction {
    same_link: Times,
    other_link: Times,
    large_secs: f64,
}

pub(super) fn run(form: Form) -> Result<Figures> {
    block_on(1, async {
        let node = Node::start().await?;
        let arguments = Arguments { address: node.address, count: form.pick(4, 40) };
        let mut caller = Process::start("memory_large_caller", &arguments)?;
        let mut figures = Figures::new();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let limit = Limit::AtMost(ms(form.pick(HELD_UP_MAX_SHORT, HELD_UP_MAX)));
        for direction in ["requests", "replies"] {
            let Direction { same_link, other_link, large_secs } =
                caller.json("its times", PATIENCE * 3).await?;
            figures.count(
                format!("small calls beside large {direction}"),
                same_link.calls,
                Limit::AtLeast(10.0),
            );
            figures.add(format!("median beside {direction}"), same_link.median, "ms", Limit::Free);
            figures.add(format!("p99 beside {direction}"), same_link.p99, "ms", limit);
            figures.add(format!("most beside {direction}"), same_link.most, "ms", Limit::Free);
            // What the machine's other work and the large payloads' own costs do to any call.
            figures.add(format!("p99 beside {direction}, another link"), other_link.p99, "ms", Limit::Free);
            figures.add(format!("most beside {direction}, another link"), other_link.most, "ms", Limit::Free);
            figures.add(format!("large {direction} took"), large_secs, "s", Limit::Free);
        }
        Ok(figures)
    })
}

/// The role: sends large payloads, then asks for large replies, and makes small calls all the while.
pub(super) fn caller(arguments: &str) -> Result<()> {
    let Arguments { address, count } = serde_json::from_str(arguments)?;
    let orders = Orders::listen();
    block_on(2, async {
        let node = ActiveMessageManager::builder().no_ipc().start().await?;
        let peer = node.client().connect(format!("tcp://{address}")).await?;
        let beside = ActiveMessageManager::builder().no_ipc().start().await?;
        let other_peer = beside.client().connect(format!("tcp://{address}")).await?;
        let large = Raw::from(vec![7; LARGE_LEN]);
        for asks in [false, true] {
            let over = Arc::new(AtomicBool::new(false));
            let small = tokio::spawn(small_calls(peer.clone(), over.clone()));
            let other = tokio::spawn(small_calls(other_peer.clone(), over.clone()));
            let began = Instant::now();
            for _ in 0..count {
                if asks {
                    let Raw(value) = peer.call::<Raw>("large_reply", &Raw::default()).await?;
                    crate::ensure!(value.len() == LARGE_LEN, "a large reply of {} octets", value.len());
                } else {
                    peer.confirm("fast", &large).await?;
                }
            }
            let large_secs = began.elapsed().as_secs_f64();
            over.store(true, Ordering::Relaxed);
            let (same_link, other_link) = (small.await??, other.await??);
            say_json(&Direction { same_link, other_link, large_secs })?;
        }
        drop(orders);
        beside.shutdown().await?;
        node.shutdown().await?;
        Ok(())
    })
}

async fn small_calls(peer: dynamo_am::Peer, over: Arc<AtomicBool>) -> Result<Times> {
    let payload = Raw::from(vec![1; 64]);
    let mut times = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        peer.call::<Raw>("echo", &payload).await?;
        times.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    Ok(Times {
        median: ms(times.get(times.len() / 2)),
        p99: ms(times.get(times.len() * 99 / 100)),
        most: ms(times.last()),
        calls: times.len() as u64,
    })
}
