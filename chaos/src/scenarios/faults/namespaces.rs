//! A link that is cut for real: two network namespaces, a pair of virtual ethernet devices, one of them set down.
//! Needs root and the `ip` command; where they cannot be had this fails and says so.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dynamo_am::ActiveMessageManager;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::server::Server;
use super::{Ends, begin_forever, until_running};
use crate::failure::{Failure, Result};
use crate::process::{Orders, Process, say, say_json};
use crate::report::{Figures, Limit};
use crate::scenario::block_on;
use crate::scenarios::PATIENCE;

/// Addresses of a private network that only the two namespaces see.
const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 203, 77, 1);
const CALLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 203, 77, 2);

/// How the namespaces' names begin.
const PREFIX: &str = "chaos-";

#[derive(Debug, Serialize, Deserialize)]
struct CallerArguments {
    endpoint: String,
    calls: u64,
}

/// How the calls ended, and when the last did, on the clock that all processes share.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    lost: u64,
    other: u64,
    first_other: Option<String>,
    last_ns: u64,
}

/// Two namespaces and a wire between them; gone when dropped.
#[derive(Debug)]
struct Wire {
    server: String,
    caller: String,
}

impl Wire {
    fn lay() -> Result<Self> {
        remove_stale();
        let pid = std::process::id();
        let wire = Self { server: format!("{PREFIX}s-{pid}"), caller: format!("{PREFIX}c-{pid}") };
        let (here, there) = (&wire.server, &wire.caller);
        ip(&["netns", "add", here])?;
        ip(&["netns", "add", there])?;
        ip(&["-n", here, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", there])?;
        for (namespace, address) in [(here, SERVER_ADDRESS), (there, CALLER_ADDRESS)] {
            ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", "wire"])?;
            ip(&["-n", namespace, "link", "set", "wire", "up"])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        Ok(wire)
    }

    /// Nothing passes any more, and neither end is told by a packet. The caller's own device stays up.
    fn cut(&self) -> Result<()> {
        ip(&["-n", &self.server, "link", "set", "wire", "down"])
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.caller] {
            remove(namespace);
        }
    }
}

fn remove(namespace: &str) {
    // One that was never made cannot be removed.
    let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
}

/// Removes what earlier runs left that were killed: namespaces named after a process that is no more.
fn remove_stale() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    let list = String::from_utf8_lossy(&output.stdout);
    for namespace in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let pid = namespace.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(_, pid)| pid);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(namespace);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let needed = |why: String| {
        let command = arguments.join(" ");
        Failure::new(format!("cutting a link needs root and network namespaces: `ip {command}` {why}"))
    };
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| needed(format!("does not run: {error}")))?;
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(needed(format!("failed: {}", why.trim()))) }
}

pub(super) async fn cut(calls: u64, limit: Limit) -> Result<Figures> {
    let wire = Wire::lay()?;
    let server = Server { host: IpAddr::V4(SERVER_ADDRESS), ..Server::default() };
    let (_process, place) = server.start_in(&wire.server).await?;
    let arguments = CallerArguments { endpoint: place.endpoint, calls };
    let mut caller = Process::start_in(&wire.caller, "faults_cut_caller", &arguments)?;
    caller.line("that its calls are pending", PATIENCE).await?;
    let cut_ns = now_ns();
    wire.cut()?;
    let said: Said = caller.json("how its calls ended", PATIENCE).await?;
    let mut figures = Figures::new();
    Ends { lost: said.lost, other: said.other, first_other: said.first_other }.report(&mut figures, calls)?;
    let last = Duration::from_nanos(said.last_ns.saturating_sub(cut_ns));
    figures.add("last call ended after", super::ms(last), "ms", limit);
    Ok(figures)
}

pub(super) fn play_caller(arguments: &str) -> Result<()> {
    let CallerArguments { endpoint, calls } = serde_json::from_str(arguments)?;
    let _orders = Orders::listen();
    block_on(1, async {
        let node = ActiveMessageManager::builder().no_ipc().allow_insecure().start().await?;
        let peer = node.client().connect(endpoint).await?;
        let mut pending = Vec::new();
        for _ in 0..calls {
            pending.push(begin_forever(&peer).await?);
        }
        until_running(&peer, calls).await?;
        say("pending")?;
        let mut ends = Ends::default();
        let mut last_ns = 0;
        for call in pending {
            ends.take(&call.response().await);
            last_ns = now_ns();
        }
        say_json(&Said { lost: ends.lost, other: ends.other, first_other: ends.first_other, last_ns })
    })
}

/// The monotonic clock, which is the same for all processes of a machine.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (secs, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    secs.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}
