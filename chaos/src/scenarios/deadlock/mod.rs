//! Nodes with all budgets set to 1 that flood each other and call each other in rings: everything ends, by an answer
//! or by a refusal in time.

use std::time::Duration;

use dynamo_am::Limits;
use serde::{Deserialize, Serialize};

use super::PATIENCE;
use crate::failure::{Failure, Result};
use crate::process::{Process, Role};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, Group, Scenario, block_on};

mod node;

/// The scenarios and roles of these files.
pub const GROUP: Group = Group {
    name: "deadlock",
    scenarios: &[
        Scenario {
            name: "mutual_floods",
            proves: "two nodes with budgets of 1 that flood and call each other make progress every second",
            run: |form| run(Pattern::Flood, 2, form),
        },
        Scenario {
            name: "ring_of_eight",
            proves: "nested calls around a ring of 8 nodes with budgets of 1 are answered, or refused in time",
            run: |form| run(Pattern::Ring, 8, form),
        },
        Scenario {
            name: "all_to_all_of_eight",
            proves: "8 nodes with budgets of 1 that all call each other through each other make progress every second",
            run: |form| run(Pattern::AllToAll, 8, form),
        },
    ],
    roles: &[Role { name: "deadlock_node", play: node::play }],
};

/// Every call's deadline. What cannot go on is refused long before.
const DEADLINE: Duration = Duration::from_secs(5);
/// A nested call waits for credit for 100 ms at most, by design, and is refused by the peer at once; then a tick
/// and the processes' turns on few cores.
const REFUSAL_MAX_MS: f64 = 150.0;
/// A machine that lets a thread which only waits be so late stands still now and then.
const MACHINE_LATE_MAX_MS: f64 = 100.0;
/// Where that happens more often, nothing can be shown.
const STALLED_PERCENT_MAX: f64 = 50.0;
/// No refusal takes so long, whatever else the machine does.
const STALLED_REFUSAL_MAX_MS: f64 = 1000.0;

/// Who calls whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Pattern {
    /// Two nodes send each other one-way messages, calls, and calls that call back.
    Flood,
    /// Each calls its next, which calls its next, once around.
    Ring,
    /// Each calls every other, which calls a third or calls back.
    AllToAll,
}

/// What a node did since its last word.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Tick {
    answered: u64,
    /// Of those, the ones that went through several nodes.
    nested_answered: u64,
    refused: u64,
    /// One-way messages that were handled.
    handled: u64,
    /// Calls that ended by their deadline.
    expired: u64,
    /// Calls that were still there when their deadline was over for long.
    hung: u64,
    /// How nested calls were refused for want of credit, counted from their beginning.
    for_credit: Refusals,
    /// How they were refused by the peer, counted from their sending.
    by_peer: Refusals,
    /// The longest that any call took, in milliseconds.
    call_ms: f64,
    /// The longest that a thread with nothing to do but to wait was kept waiting beyond its time, in milliseconds:
    /// what the machine adds to all times here.
    thread_late_ms: f64,
    /// Any other end.
    wrong: Option<String>,
}

/// How many calls were refused, and how late.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Refusals {
    count: u64,
    /// Those that took longer than they may.
    late: u64,
    slowest_ms: f64,
}

impl Refusals {
    fn take(&mut self, took_ms: f64) {
        self.add(Self { count: 1, late: u64::from(took_ms > REFUSAL_MAX_MS), slowest_ms: took_ms });
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.late += other.late;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
    }

    /// Few may be late, since a busy machine gives a process no turn now and then; none may be late for long.
    #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
    fn report(self, how: &str, late_percent_max: f64, figures: &mut Figures) {
        figures.count(format!("nested calls refused {how}"), self.count, Limit::Free);
        let late = 100.0 * self.late as f64 / self.count.max(1) as f64;
        let name = format!("- of them after more than {REFUSAL_MAX_MS} ms");
        figures.add(name, late, "%", Limit::AtMost(late_percent_max));
        figures.add("- the slowest after", self.slowest_ms, "ms", Limit::AtMost(STALLED_REFUSAL_MAX_MS));
    }
}

/// Everything that can be set to 1, is.
fn budgets_of_one() -> Limits {
    Limits {
        credit_messages: 1,
        credit_bytes: 1,
        system_calls_max: 1,
        // Taken as the least that a node can work with.
        budget_len_max: 1,
        send_buffer_len_max: 1,
        handler_concurrency: 1,
        handler_queue_len: 1,
        ..Limits::default()
    }
}

/// All ticks of all nodes.
#[derive(Debug, Default)]
struct Sums {
    total: Tick,
    /// Of each second and node, the fewest calls that ended.
    ended_min: u64,
    /// Seconds of all nodes.
    seconds: u64,
    /// Those in which the machine gave a node no turn for long: their times say nothing about the node.
    stalled: u64,
}

fn run(pattern: Pattern, nodes: usize, form: Form) -> Result<Figures> {
    let secs = form.pick(5, 60);
    block_on(1, async {
        let mut processes = start(pattern, nodes).await?;
        for process in &mut processes {
            process.order("go")?;
        }
        let mut sums = Sums { ended_min: u64::MAX, ..Sums::default() };
        let mut thread_late_ms = vec![0.0_f64; nodes];
        for _ in 0..secs {
            for (process, before_ms) in processes.iter_mut().zip(&mut thread_late_ms) {
                let tick: Tick = process.json("what it did in a second", PATIENCE).await?;
                // What is late may be noted in the second after the one in which the machine stood still.
                let late_ms = before_ms.max(tick.thread_late_ms);
                *before_ms = tick.thread_late_ms;
                sums.add(tick, late_ms > MACHINE_LATE_MAX_MS);
            }
        }
        for process in &mut processes {
            process.order("stop")?;
        }
        let mut in_good_order = 0;
        for process in &mut processes {
            // Those ticks that were on their way come first.
            while process.line("that it has stopped", PATIENCE + DEADLINE).await? != "stopped" {}
        }
        for process in &mut processes {
            process.order("end")?;
        }
        for process in &mut processes {
            in_good_order += u64::from(process.ended(PATIENCE).await?.success());
        }
        figures(&sums, nodes, in_good_order, form)
    })
}

async fn start(pattern: Pattern, nodes: usize) -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    for index in 0..nodes {
        processes.push(Process::start("deadlock_node", &(pattern, index))?);
    }
    let mut roster: Vec<node::Place> = Vec::new();
    for process in &mut processes {
        roster.push(process.json("where it is", PATIENCE).await?);
    }
    let roster = serde_json::to_string(&roster)?;
    for process in &mut processes {
        process.order(&roster)?;
    }
    for process in &mut processes {
        process.line("that it is linked", PATIENCE).await?;
    }
    Ok(processes)
}

fn figures(sums: &Sums, nodes: usize, in_good_order: u64, form: Form) -> Result<Figures> {
    if let Some(wrong) = &sums.total.wrong {
        return Err(Failure::new(wrong).during("a call ended neither by an answer nor by a refusal"));
    }
    let mut figures = Figures::new();
    figures.count("calls ended at a node in a second, fewest", sums.ended_min, Limit::AtLeast(1.0));
    figures.count("nested calls answered", sums.total.nested_answered, Limit::AtLeast(form.pick(1.0, 60.0)));
    figures.count("calls expired", sums.total.expired, Limit::Exactly(0.0));
    figures.count("calls beyond their deadline", sums.total.hung, Limit::Exactly(0.0));
    let late_percent_max = form.pick(20.0, 1.0);
    sums.total.for_credit.report("for want of credit", late_percent_max, &mut figures);
    sums.total.by_peer.report("by the peer", late_percent_max, &mut figures);
    figures.add("call ended after, slowest", sums.total.call_ms, "ms", Limit::Free);
    figures.add("a waiting thread was late by, at most", sums.total.thread_late_ms, "ms", Limit::Free);
    let name = format!("seconds of a node left out, a thread being over {MACHINE_LATE_MAX_MS} ms late");
    #[allow(clippy::cast_precision_loss, reason = "at most 480")]
    let stalled_percent = 100.0 * sums.stalled as f64 / sums.seconds as f64;
    figures.add(name, stalled_percent, "%", Limit::AtMost(STALLED_PERCENT_MAX));
    figures.count("calls answered", sums.total.answered, Limit::Free);
    figures.count("calls refused", sums.total.refused, Limit::Free);
    figures.count("one-way messages handled", sums.total.handled, Limit::Free);
    #[allow(clippy::cast_precision_loss, reason = "at most 8")]
    figures.count("nodes that went in good order", in_good_order, Limit::Exactly(nodes as f64));
    Ok(figures)
}

impl Sums {
    fn add(&mut self, mut tick: Tick, is_stalled: bool) {
        self.seconds += 1;
        if is_stalled {
            self.stalled += 1;
            for refusals in [&mut tick.for_credit, &mut tick.by_peer] {
                *refusals = Refusals { count: refusals.count, ..Refusals::default() };
            }
        } else {
            self.ended_min = self.ended_min.min(tick.answered + tick.refused);
        }
        self.total.add(tick);
    }
}

impl Tick {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.nested_answered += other.nested_answered;
        self.refused += other.refused;
        self.handled += other.handled;
        self.expired += other.expired;
        self.hung += other.hung;
        self.for_credit.add(other.for_credit);
        self.by_peer.add(other.by_peer);
        self.call_ms = self.call_ms.max(other.call_ms);
        self.thread_late_ms = self.thread_late_ms.max(other.thread_late_ms);
        self.wrong = self.wrong.take().or(other.wrong);
    }
}
