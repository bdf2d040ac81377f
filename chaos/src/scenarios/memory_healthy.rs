//! Healthy peers of a node that others misuse: each calls it at a steady pace and expects its answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, Peer, Raw};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::PATIENCE;
use crate::failure::{Failure, Result};
use crate::process::{Orders, Process, say, say_json};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};

/// Healthy peers of a node.
const PEERS: usize = 20;
/// Each calls so often a second.
const RATE: u64 = 100;
/// How often one of them asks for the node's health.
const HEALTH_INTERVAL: Duration = Duration::from_millis(50);
/// Of their rate they keep at least so much, in percent; in a test run a second is all that is measured.
const RATE_MIN_PERCENT: f64 = 80.0;
const RATE_MIN_PERCENT_SHORT: f64 = 40.0;
/// The node says its health within this.
const HEALTH_MAX_MS: f64 = 1000.0;
const HEALTH_MAX_MS_SHORT: f64 = 5000.0;

#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
    slowest_us: AtomicU64,
    health_answered: AtomicU64,
    health_slowest_us: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

/// What they have done since they were asked last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Counts {
    answered: u64,
    failed: u64,
    slowest_us: u64,
    health_answered: u64,
    health_slowest_us: u64,
    /// The first thing that went wrong.
    first_failure: Option<String>,
}

/// Healthy peers of a node that is misused, and as many of one that nobody else knows: what slows both down is the
/// machine's other work, and no fault of the node's.
#[derive(Debug)]
pub(super) struct Healthy {
    form: Form,
    peers: Process,
    undisturbed: Process,
    _node: Process,
    began: Instant,
}

impl Healthy {
    /// Starts them, and lets them find their pace.
    pub(super) async fn start(form: Form, address: SocketAddr) -> Result<Self> {
        let mut peers = Process::start("memory_healthy", &address)?;
        peers.line("that they are connected", PATIENCE).await?;
        let mut node = Process::start("memory_node", &())?;
        let address: SocketAddr = node.line("its address", PATIENCE).await?.parse()?;
        let mut undisturbed = Process::start("memory_healthy", &address)?;
        undisturbed.line("that they are connected", PATIENCE).await?;
        tokio::time::sleep(form.pick(Duration::from_secs(1), Duration::from_secs(5))).await;
        Ok(Self { form, peers, undisturbed, _node: node, began: Instant::now() })
    }

    /// What they did before no longer counts.
    pub(super) async fn disturbed_from_now(&mut self) -> Result<()> {
        counts(&mut self.peers).await?;
        counts(&mut self.undisturbed).await?;
        self.began = Instant::now();
        Ok(())
    }

    /// What they have kept of their rate since.
    pub(super) async fn report(&mut self, figures: &mut Figures) -> Result<()> {
        let found = counts(&mut self.peers).await?;
        let control = counts(&mut self.undisturbed).await?;
        if let Some(failure) = &found.first_failure {
            return Err(Failure::new(format!(
                "healthy peers were harmed, {} times: {failure}",
                found.failed
            )));
        }
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
        let rate = |counts: &Counts| per_second(counts.answered, self.began.elapsed());
        figures.add("healthy peers' calls", rate(&found), "/s", Limit::Free);
        figures.add("the same of an undisturbed node", rate(&control), "/s", Limit::Free);
        let kept = 100.0 * rate(&found) / rate(&control);
        let limit = Limit::AtLeast(self.form.pick(RATE_MIN_PERCENT_SHORT, RATE_MIN_PERCENT));
        figures.add("rate kept", kept, "%", limit);
        figures.count("healthy peers' calls failed", found.failed, Limit::Exactly(0.0));
        figures.add("healthy peers' slowest call", ms(found.slowest_us), "ms", Limit::Free);
        figures.add("slowest call of the others", ms(control.slowest_us), "ms", Limit::Free);
        figures.count("health checks answered", found.health_answered, Limit::AtLeast(1.0));
        let limit = Limit::AtMost(self.form.pick(HEALTH_MAX_MS_SHORT, HEALTH_MAX_MS));
        figures.add("slowest health check", ms(found.health_slowest_us), "ms", limit);
        Ok(())
    }
}

async fn counts(healthy: &mut Process) -> Result<Counts> {
    healthy.order("count")?;
    healthy.json("their counts", PATIENCE).await
}

#[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// The role: twenty nodes in one process.
pub(super) fn play(arguments: &str) -> Result<()> {
    let address: SocketAddr = serde_json::from_str(arguments)?;
    let mut orders = Orders::listen();
    block_on(1, async {
        let tally = Arc::new(Tally::default());
        let mut nodes = Vec::new();
        for number in 0..PEERS {
            let node = ActiveMessageManager::builder().no_ipc().start().await?;
            let peer = node.client().connect(format!("tcp://{address}")).await?;
            if number == 0 {
                tokio::spawn(ask_for_health(peer.clone(), tally.clone()));
            }
            tokio::spawn(call_on(peer, tally.clone()));
            nodes.push(node);
        }
        say("connected")?;
        loop {
            orders.expect("count").await?;
            say_json(&tally.take())?;
        }
    })
}

async fn call_on(peer: Peer, tally: Arc<Tally>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(RATE).unwrap_or(1));
    // A call that took long is a call less: it shows in the rate.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let payload = Raw::from(vec![1; 64]);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        match peer.call::<Raw>("echo", &payload).await {
            Ok(echo) if echo == payload => {
                tally.answered.fetch_add(1, Ordering::Relaxed);
                tally.slowest_us.fetch_max(micros(began), Ordering::Relaxed);
            }
            Ok(_) => tally.fail("an answer that is wrong".to_owned()),
            Err(error) => tally.fail(error.to_string()),
        }
    }
}

async fn ask_for_health(peer: Peer, tally: Arc<Tally>) {
    let mut ticks = tokio::time::interval(HEALTH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        match peer.call::<serde_json::Value>("_health_check", &()).await {
            Ok(health) if health["status"] == "ok" => {
                tally.health_answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(health) => tally.fail(format!("the node says that it is {health}")),
            Err(error) => tally.fail(error.to_string()),
        }
        tally.health_slowest_us.fetch_max(micros(began), Ordering::Relaxed);
    }
}

fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Tally {
    fn fail(&self, what: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    fn take(&self) -> Counts {
        Counts {
            answered: self.answered.swap(0, Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            slowest_us: self.slowest_us.swap(0, Ordering::Relaxed),
            health_answered: self.health_answered.swap(0, Ordering::Relaxed),
            health_slowest_us: self.health_slowest_us.swap(0, Ordering::Relaxed),
            first_failure: self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
