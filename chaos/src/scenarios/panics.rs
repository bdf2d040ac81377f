//! Handlers that panic: each call is answered, and nothing stays behind.

use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, CallError, Handler, HandlerError, Limits, Peer};
use futures::stream::{self, StreamExt as _};
use tokio::runtime::Handle;

use super::PATIENCE;
use crate::failure::{Failure, Result};
use crate::process::{Orders, Process, Role, say};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, Group, Scenario, block_on};
use crate::usage::{Usage, mib};

/// The scenarios and roles of this file.
pub const GROUP: Group = Group {
    name: "panics",
    scenarios: &[Scenario {
        name: "panicking_handlers",
        proves: "each of the 1 % of calls that panic is answered by HandlerPanicked, and nothing leaks",
        run,
    }],
    roles: &[Role { name: "panics_server", play: server }],
};

/// One handler of each kind that runs one message at a time.
const HANDLERS: [&str; 4] = ["inline", "spawned", "ordered", "blocking"];
/// One of so many calls panics.
const PANIC_EVERY: u64 = 100;
/// Calls outstanding; few enough for no handler to refuse one.
const OUTSTANDING: usize = 256;
/// Threads that the blocking handler may use, and keep for a while.
const BLOCKING_MAX: u8 = 8;
/// How long to look whether what was held comes back; idle threads go sooner.
const REST_MAX: Duration = Duration::from_secs(2);
/// Memory that an allocator may keep without anything leaking.
const GROWTH_MAX_MIB: f64 = 8.0;

/// What became of calls.
#[derive(Debug, Default)]
struct Ends {
    panicked: u64,
    wrong: u64,
    first_wrong: Option<String>,
    /// How long those that panicked took.
    times: Vec<Duration>,
}

fn run(form: Form) -> Result<Figures> {
    let calls = form.pick(20_000, 100_000);
    block_on(2, async {
        let mut server = Process::start("panics_server", &())?;
        let endpoint = server.line("its endpoint", PATIENCE).await?;
        let node = ActiveMessageManager::builder().start().await?;
        let peer = node.client().connect(&endpoint).await?;
        // The first panics load the machinery of unwinding, and the pools fill.
        call_all(&peer, calls / 10).await?;
        let before = Held::at_rest(&peer, &server, None).await?;
        let ends = call_all(&peer, calls).await?;
        let after = Held::at_rest(&peer, &server, Some(before)).await?;
        if let Some(wrong) = &ends.first_wrong {
            return Err(Failure::new(format!("{} of {calls} calls ended wrong: {wrong}", ends.wrong)));
        }
        let mut figures = Figures::new();
        #[allow(clippy::cast_precision_loss, reason = "a count of calls")]
        let expected = (calls / PANIC_EVERY) as f64;
        figures.count("calls", calls, Limit::Free);
        figures.count("answered by HandlerPanicked", ends.panicked, Limit::Exactly(expected));
        figures.add("their p99", p99_ms(ends.times), "ms", Limit::Free);
        after.compare(before, &mut figures);
        node.shutdown().await?;
        Ok(figures)
    })
}

async fn call_all(peer: &Peer, calls: u64) -> Result<Ends> {
    let mut ends = Ends::default();
    let mut answers = stream::iter((0..calls).zip(HANDLERS.iter().cycle()))
        .map(|(n, handler)| async move {
            let began = Instant::now();
            let end = peer.call::<u64>(handler, &n).await;
            (n, end, began.elapsed())
        })
        .buffer_unordered(OUTSTANDING);
    while let Some((n, end, took)) = answers.next().await {
        ends.take(n, &end, took);
    }
    Ok(ends)
}

impl Ends {
    fn take(&mut self, n: u64, end: &std::result::Result<u64, CallError>, took: Duration) {
        match end {
            Err(CallError::HandlerPanicked { message, .. }) if is_bad(n) && *message == message_of(n) => {
                self.panicked += 1;
                self.times.push(took);
            }
            Ok(answer) if !is_bad(n) && *answer == n => {}
            other => {
                self.wrong += 1;
                self.first_wrong.get_or_insert_with(|| format!("call {n}: {other:?}"));
            }
        }
    }
}

/// What the server holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    tasks: u64,
    usage: Usage,
}

impl Held {
    /// What it holds when it has nothing to do; looks until that is no more than `expected`, or stays so.
    async fn at_rest(peer: &Peer, server: &Process, expected: Option<Self>) -> Result<Self> {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        let deadline = Instant::now() + REST_MAX;
        let mut least = Self::now(peer, server).await?;
        while Instant::now() < deadline && expected.is_none_or(|expected| !least.is_within(expected)) {
            looks.tick().await;
            let now = Self::now(peer, server).await?;
            least.tasks = least.tasks.min(now.tasks);
            least.usage = least.usage.min(now.usage);
        }
        Ok(least)
    }

    async fn now(peer: &Peer, server: &Process) -> Result<Self> {
        let tasks = peer.call("tasks", &()).await?;
        Ok(Self { tasks, usage: Usage::of(server.pid())? })
    }

    /// In all that is counted exactly.
    fn is_within(self, other: Self) -> bool {
        self.tasks <= other.tasks
            && self.usage.threads <= other.usage.threads
            && self.usage.descriptors <= other.usage.descriptors
    }

    fn compare(self, before: Self, figures: &mut Figures) {
        let none = Limit::Exactly(0.0);
        let (now, then) = (self.usage, before.usage);
        figures.count("tasks more than before", self.tasks.saturating_sub(before.tasks), none);
        figures.count("descriptors more than before", now.descriptors.saturating_sub(then.descriptors), none);
        figures.count("threads more than before", now.threads.saturating_sub(then.threads), none);
        let growth = mib(now.resident.saturating_sub(then.resident));
        figures.add("memory more than before", growth, "MiB", Limit::AtMost(GROWTH_MAX_MIB));
    }
}

fn p99_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let place = (times.len() * 99).div_ceil(100).saturating_sub(1);
    times.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// Whether call `n` panics: spread over all handlers.
fn is_bad(n: u64) -> bool {
    (n / PANIC_EVERY + n).is_multiple_of(PANIC_EVERY)
}

fn message_of(n: u64) -> String {
    format!("{n} is unlucky")
}

fn work(n: u64) -> u64 {
    assert!(!is_bad(n), "{}", message_of(n));
    n
}

fn server(_: &str) -> Result<()> {
    // The panics are due; a line for each of them would hide those that are not.
    std::panic::set_hook(Box::new(|info| {
        if !info.payload_as_str().is_some_and(|message| message.ends_with("unlucky")) {
            // Nobody reads it when standard error is gone.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{info}\n").as_bytes());
        }
    }));
    let mut orders = Orders::listen();
    block_on(2, async {
        let limits = Limits { handler_concurrency: OUTSTANDING, ..Limits::default() };
        let node = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").limits(limits).start().await?;
        let spawned = |_cx, n: u64| async move { Ok::<_, HandlerError>(work(n)) };
        let runtime = Handle::current();
        for handler in [
            Handler::inline("inline", |_cx, n: u64| Ok(work(n))),
            Handler::unary("spawned", spawned),
            Handler::unary("ordered", spawned).ordered(),
            Handler::blocking("blocking", |_cx, n: u64| Ok(work(n))).limit(BLOCKING_MAX.into()),
            Handler::inline("tasks", move |_cx, (): ()| Ok(runtime.metrics().num_alive_tasks() as u64)),
        ] {
            node.register(handler)?;
        }
        say(&node.endpoints()[0])?;
        orders.expect("end").await
    })
}
