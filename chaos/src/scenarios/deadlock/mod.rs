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
/// A nested call waits so long for credit at most, by design.
const NESTED_WAIT_MAX_MS: f64 = 100.0;

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
    /// The longest that a nested call waited for credit before it was refused, in milliseconds.
    credit_wait_ms: f64,
    /// The longest from a nested call's sending to the peer's refusal, in milliseconds.
    refusal_ms: f64,
    /// The longest that any call took, in milliseconds.
    call_ms: f64,
    /// Any other end.
    wrong: Option<String>,
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
}

fn run(pattern: Pattern, nodes: usize, form: Form) -> Result<Figures> {
    let secs = form.pick(3, 60);
    let margin_ms = form.pick(900.0, 150.0);
    block_on(1, async {
        let mut processes = start(pattern, nodes).await?;
        for process in &mut processes {
            process.order("go")?;
        }
        let mut sums = Sums { ended_min: u64::MAX, ..Sums::default() };
        for _ in 0..secs {
            for process in &mut processes {
                let tick: Tick = process.json("what it did in a second", PATIENCE).await?;
                sums.ended_min = sums.ended_min.min(tick.answered + tick.refused);
                sums.total.add(tick);
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
        figures(&sums, nodes, in_good_order, margin_ms, form.pick(1.0, 60.0))
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

fn figures(
    sums: &Sums,
    nodes: usize,
    in_good_order: u64,
    margin_ms: f64,
    nested_min: f64,
) -> Result<Figures> {
    if let Some(wrong) = &sums.total.wrong {
        return Err(Failure::new(wrong).during("a call ended neither by an answer nor by a refusal"));
    }
    let mut figures = Figures::new();
    figures.count("calls ended at a node in a second, fewest", sums.ended_min, Limit::AtLeast(1.0));
    figures.count("nested calls answered", sums.total.nested_answered, Limit::AtLeast(nested_min));
    figures.count("calls expired", sums.total.expired, Limit::Exactly(0.0));
    figures.count("calls beyond their deadline", sums.total.hung, Limit::Exactly(0.0));
    let wait_limit = Limit::AtMost(NESTED_WAIT_MAX_MS + margin_ms);
    figures.add("refused for want of credit after, slowest", sums.total.credit_wait_ms, "ms", wait_limit);
    // At once, by design; what it takes is the turn of a process among many on few cores.
    let refusal_limit = Limit::AtMost(2.0 * margin_ms);
    figures.add("refused by the peer after, slowest", sums.total.refusal_ms, "ms", refusal_limit);
    figures.add("call ended after, slowest", sums.total.call_ms, "ms", Limit::Free);
    figures.count("calls answered", sums.total.answered, Limit::Free);
    figures.count("calls refused", sums.total.refused, Limit::Free);
    figures.count("one-way messages handled", sums.total.handled, Limit::Free);
    #[allow(clippy::cast_precision_loss, reason = "at most 8")]
    figures.count("nodes that went in good order", in_good_order, Limit::Exactly(nodes as f64));
    Ok(figures)
}

impl Tick {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.nested_answered += other.nested_answered;
        self.refused += other.refused;
        self.handled += other.handled;
        self.expired += other.expired;
        self.hung += other.hung;
        self.credit_wait_ms = self.credit_wait_ms.max(other.credit_wait_ms);
        self.refusal_ms = self.refusal_ms.max(other.refusal_ms);
        self.call_ms = self.call_ms.max(other.call_ms);
        self.wrong = self.wrong.take().or(other.wrong);
    }
}
