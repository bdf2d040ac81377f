//! The stage of the hostile scenarios: a node, an honest client that calls it all the while, and an attacker, each
//! a process. What an attack must leave unharmed is measured here, the same for all.
//!
//! **The honest rate.** The processes share few processors, and an attacker takes time of them as any busy program
//! does. So there is a second node with an honest client of its own, the *control*, whom nobody attacks: to it the
//! attacker is a busy process that does no harm. The rate kept is the quotient of the two clients' rates during the
//! attack, over the same quotient before it. What else the machine does slows both alike.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::PATIENCE;
use crate::failure::{Failure, Result};
use crate::process::Process;
use crate::report::{Figures, Limit};
use crate::scenario::Form;
use crate::usage::{Usage, UsageWatch, mib};

/// What a node may hold beside its start after an attack, in MiB.
const KEPT_MIB_MAX: f64 = 16.0;
/// What it may hold during one: the process budget, and what the allocator and the kernel's structures take.
pub(super) const HELD_MIB_MAX: f64 = 256.0 + 32.0;
/// Of its rate the honest client keeps at least so much, in percent.
const RATE_MIN_PERCENT: f64 = 80.0;
/// Descriptors are back so soon after the attacker has left.
const DESCRIPTORS_BACK_MAX: Duration = Duration::from_secs(2);
/// Memory is back so soon: what was accepted is handled first.
const SETTLE_MAX: Duration = Duration::from_secs(8);
/// How often a process is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What a node is started with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct NodeArguments {
    /// The most descriptors that the process may have; unlimited if 0.
    pub(super) descriptors_max: u64,
    /// A connection must have shaken hands by then, in ms; the node's default if 0.
    pub(super) handshake_ms: u64,
}

/// What an attacker is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AttackArguments {
    /// Its name in the list of attacks.
    pub(super) attack: String,
    /// Where the node listens.
    pub(super) address: SocketAddr,
    /// The counts of the promise.
    pub(super) full: bool,
}

/// Something that an attacker found: a figure that crosses from its process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Finding {
    name: String,
    value: f64,
    is_ms: bool,
    most: Option<f64>,
    least: Option<f64>,
}

impl Finding {
    /// A count that is there to be known.
    #[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
    pub(super) fn count(name: &str, count: u64) -> Self {
        Self { name: name.to_owned(), value: count as f64, is_ms: false, most: None, least: None }
    }

    /// A count that must be this one.
    #[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
    pub(super) fn exactly(name: &str, count: u64, expected: u64) -> Self {
        let expected = Some(expected as f64);
        Self { most: expected, least: expected, ..Self::count(name, count) }
    }

    /// A count that must be at least so high.
    #[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
    pub(super) fn at_least(name: &str, count: u64, least: u64) -> Self {
        Self { least: Some(least as f64), ..Self::count(name, count) }
    }

    /// A count that must be at most so high.
    #[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
    pub(super) fn at_most(name: &str, count: u64, most: u64) -> Self {
        Self { most: Some(most as f64), ..Self::count(name, count) }
    }

    /// A time that must not be exceeded.
    pub(super) fn within(name: &str, time: Duration, most: Duration) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self { name: name.to_owned(), value: ms(time), is_ms: true, most: Some(ms(most)), least: None }
    }

    /// As a figure.
    pub(super) fn add_to(self, figures: &mut Figures) {
        let limit = match (self.least, self.most) {
            (Some(least), Some(most)) if least >= most => Limit::Exactly(least),
            (_, Some(most)) => Limit::AtMost(most),
            (Some(least), None) => Limit::AtLeast(least),
            (None, None) => Limit::Free,
        };
        figures.add(self.name, self.value, if self.is_ms { "ms" } else { "" }, limit);
    }
}

/// What an attacker says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AttackReport {
    pub(super) findings: Vec<Finding>,
    /// Processor time that it took, in ms.
    pub(super) cpu_ms: u64,
}

/// What the honest client has done so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct HonestCounts {
    pub(super) answered: u64,
    /// Calls that got no answer, or a wrong one.
    pub(super) failed: u64,
    /// The slowest call since the last time that it was asked, in ms.
    pub(super) slowest_ms: f64,
    /// The first thing that went wrong.
    pub(super) first_failure: Option<String>,
}

/// What a node says of itself when it is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeHealth {
    pub(super) panics: u64,
    /// Its own clock still ends calls: one of its own had its deadline pass and ended by that.
    pub(super) ends_calls: bool,
}

/// A node and its honest client, at work; and the control.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) node: Process,
    pub(super) honest: Process,
    pub(super) address: SocketAddr,
    control: (Process, Process),
    /// Rate of the honest client in that of the control, before any attack.
    quotient: f64,
    form: Form,
    at_start: Usage,
    before: HonestCounts,
}

impl Stage {
    /// Starts them, lets them warm up, and takes down what the node holds.
    pub(super) async fn start(form: Form, arguments: &NodeArguments) -> Result<Self> {
        let (node, mut honest, address) = pair(arguments).await?;
        let (control_node, mut control, _) = pair(&NodeArguments::default()).await?;
        tokio::time::sleep(form.pick(Duration::from_millis(200), Duration::from_secs(1))).await;
        let before = counts(&mut honest).await?;
        let beside = counts(&mut control).await?;
        let time = form.pick(Duration::from_millis(200), Duration::from_secs(8));
        tokio::time::sleep(time).await;
        let quotient = quotient(&before, &counts(&mut honest).await?, &beside, &counts(&mut control).await?);
        let at_start = Usage::of(node.pid())?;
        let control = (control_node, control);
        Ok(Self { node, honest, address, control, quotient, form, at_start, before })
    }

    /// Plays an attack to its end, and takes down what it found and what became of the others.
    pub(super) async fn attack(&mut self, attack: &str, figures: &mut Figures) -> Result<()> {
        let full = self.form == Form::Full;
        let arguments = AttackArguments { attack: attack.to_owned(), address: self.address, full };
        let mut attacker = Process::start("hostile_attacker", &arguments)?;
        attacker.line("that it is ready", PATIENCE).await?;
        let watch = UsageWatch::start(self.node.pid(), LOOK_INTERVAL);
        let from = counts(&mut self.honest).await?;
        let control_from = counts(&mut self.control.1).await?;
        let began = Instant::now();
        attacker.order("go")?;
        let limit = self.form.pick(Duration::from_secs(60), Duration::from_secs(300));
        let report: AttackReport = attacker.json("what it found", limit).await?;
        let took = began.elapsed();
        let to = counts(&mut self.honest).await?;
        let control_to = counts(&mut self.control.1).await?;
        let most = watch.finish()?;
        attacker.kill()?;
        report.findings.into_iter().for_each(|finding| finding.add_to(figures));
        let above = mib(most.resident.saturating_sub(self.at_start.resident));
        figures.add("node's memory above its start, during", above, "MiB", Limit::AtMost(HELD_MIB_MAX));
        figures.add("attack", took.as_secs_f64(), "s", Limit::Free);
        figures.add("honest rate", per_second(&from, &to, took), "/s", Limit::Free);
        let beside = per_second(&control_from, &control_to, took);
        figures.add("honest rate of the control", beside, "/s", Limit::Free);
        let kept = 100.0 * quotient(&from, &to, &control_from, &control_to) / self.quotient;
        // A short attack is over before a rate means anything.
        let limit = self.form.pick(Limit::Free, Limit::AtLeast(RATE_MIN_PERCENT));
        figures.add("rate kept", kept, "%", limit);
        figures.add("honest slowest call", to.slowest_ms, "ms", Limit::Free);
        figures.add("slowest call of the control", control_to.slowest_ms, "ms", Limit::Free);
        let share = Duration::from_millis(report.cpu_ms).as_secs_f64() / took.as_secs_f64();
        figures.add("attacker's processors", share, "", Limit::Free);
        self.settle(figures).await
    }

    /// The attacker has left: what it took must come back.
    pub(super) async fn settle(&self, figures: &mut Figures) -> Result<()> {
        let began = Instant::now();
        let mut closed_after = None;
        loop {
            let now = Usage::of(self.node.pid())?;
            let kept = mib(now.resident.saturating_sub(self.at_start.resident));
            let descriptors = now.descriptors.saturating_sub(self.at_start.descriptors);
            if descriptors == 0 {
                closed_after.get_or_insert_with(|| began.elapsed());
            }
            let over = began.elapsed() >= SETTLE_MAX;
            if over || (kept <= KEPT_MIB_MAX && closed_after.is_some()) {
                let closed_after = closed_after.unwrap_or(Duration::MAX).as_secs_f64();
                let limit = Limit::AtMost(DESCRIPTORS_BACK_MAX.as_secs_f64());
                figures.add("node's memory above its start, after", kept, "MiB", Limit::AtMost(KEPT_MIB_MAX));
                figures.add("until that", began.elapsed().as_secs_f64(), "s", Limit::Free);
                figures.add("descriptors back after", closed_after.min(1e6), "s", limit);
                return Ok(());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// The end: nobody was harmed.
    pub(super) async fn end(mut self, figures: &mut Figures) -> Result<()> {
        let after = counts(&mut self.honest).await?;
        // It goes on to be answered.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let last = counts(&mut self.honest).await?;
        if let Some(failure) = &last.first_failure {
            return Err(Failure::new(format!("the honest client was harmed: {failure}")));
        }
        figures.count("honest calls answered", last.answered - self.before.answered, Limit::AtLeast(1.0));
        figures.count(
            "honest calls answered afterwards",
            last.answered - after.answered,
            Limit::AtLeast(1.0),
        );
        figures.count("honest calls failed", last.failed, Limit::Exactly(0.0));
        self.node.order("health")?;
        let health: NodeHealth = self.node.json("how it is", PATIENCE).await?;
        figures.count("panics", health.panics, Limit::Exactly(0.0));
        figures.count(
            "node's own calls end by their deadline",
            health.ends_calls.into(),
            Limit::Exactly(1.0),
        );
        Ok(())
    }
}

/// What the honest client has done so far.
pub(super) async fn counts(honest: &mut Process) -> Result<HonestCounts> {
    honest.order("count")?;
    honest.json("its counts", PATIENCE).await
}

/// A node and its honest client, and where the node listens.
async fn pair(arguments: &NodeArguments) -> Result<(Process, Process, SocketAddr)> {
    let mut node = Process::start("hostile_node", arguments)?;
    let address: SocketAddr = node.line("its address", PATIENCE).await?.parse()?;
    let mut honest = Process::start("hostile_honest", &address)?;
    honest.line("that it is connected", PATIENCE).await?;
    Ok((node, honest, address))
}

/// What one client did meanwhile, in what the other did.
#[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
fn quotient(
    from: &HonestCounts,
    to: &HonestCounts,
    other_from: &HonestCounts,
    other_to: &HonestCounts,
) -> f64 {
    (to.answered - from.answered) as f64 / (other_to.answered - other_from.answered).max(1) as f64
}

#[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
fn per_second(from: &HonestCounts, to: &HonestCounts, time: Duration) -> f64 {
    (to.answered - from.answered) as f64 / time.as_secs_f64()
}

/// Processor time that this process has taken so far.
///
/// # Errors
///
/// When `/proc` does not tell.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let field = |at: usize| behind_name.split_whitespace().nth(at).and_then(|text| text.parse::<u64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    let ticks = ticks.ok_or_else(|| Failure::new("/proc/PID/stat has no times"))?;
    Ok(Duration::from_secs_f64(
        f64::from(u32::try_from(ticks)?) / rustix::param::clock_ticks_per_second() as f64,
    ))
}
