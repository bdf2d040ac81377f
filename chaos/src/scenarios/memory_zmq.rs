//! A peer with the real libzmq that stops reading; it runs `python/deaf.py` with pyzmq.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::PATIENCE;
use super::memory::{Node, RESUMED_MAX, offer, offer_max, report_offered, time_ms};
use super::memory_healthy::Healthy;
use super::memory_roles::{Offered, Order, SIZES};
use crate::failure::{Failure, Result};
use crate::process::Process;
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};

/// Names a Python that has pyzmq, as the tests of interoperation do.
const PYTHON: &str = "DYNAMO_AM_PYTHON";
/// Replies that it asks for and does not read.
const REPLY_LEN: usize = 64 << 10;

#[derive(Debug, Deserialize)]
struct Made {
    made: u64,
}

/// What came when it read again.
#[derive(Debug, Deserialize)]
struct Came {
    responses: u64,
    nacks: u64,
    messages: BTreeMap<usize, u64>,
    out_of_order: u64,
    wrong: u64,
}

fn script(arguments: &[&str]) -> Result<Process> {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".to_owned());
    let has_it = std::process::Command::new(&python).args(["-c", "import zmq"]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        return Err(Failure::new(format!("`{python}` cannot import zmq: set {PYTHON} to a Python that can")));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/python/deaf.py");
    Process::start_program(&python, &[&[path], arguments].concat())
}

/// It calls and does not read, and the node offers it messages meanwhile.
pub(super) fn deaf(form: Form) -> Result<Figures> {
    block_on(2, async {
        let mut figures = Figures::new();
        let mut node = Node::start().await?;
        let before: Vec<Vec<u8>> = node.tell(&Order::Peers, "its peers", PATIENCE).await?;
        let endpoint = format!("tcp://{}", node.address);
        let calls = form.pick("500", "20000");
        let mut deaf = script(&[&endpoint, calls, &REPLY_LEN.to_string()])?;
        let made: Made = deaf.json("how many calls it has made", PATIENCE).await?;
        let after: Vec<Vec<u8>> = node.tell(&Order::Peers, "its peers", PATIENCE).await?;
        let found: Vec<_> = after.into_iter().filter(|peer| !before.contains(peer)).collect();
        crate::ensure!(found.len() == 1, "the node has {} new peers instead of the libzmq peer", found.len());
        let mut healthy = Healthy::start(form, node.address).await?;
        node.watch()?;
        healthy.disturbed_from_now().await?;
        let order = Order::Offer(offer(form, found, "sequence"));
        let offered: Offered = node.tell(&order, "what was accepted", offer_max(form)).await?;
        // At the least so long that its own heartbeats would have taken us for dead.
        tokio::time::sleep(Duration::from_millis(3500_u64.saturating_sub(time_ms(form)))).await;
        healthy.report(&mut figures).await?;
        report_offered(&offered, &mut figures);
        deaf.order("read")?;
        let came: Came = deaf.json("what came", RESUMED_MAX).await?;
        node.report("node", &mut figures)?;
        let lost: u64 = SIZES
            .iter()
            .map(|len| {
                let accepted = offered.accepted.get(len).copied().unwrap_or_default();
                accepted.saturating_sub(came.messages.get(len).copied().unwrap_or_default())
            })
            .sum();
        figures.count("accepted and lost", lost, Limit::Exactly(0.0));
        figures.count("out of order", came.out_of_order, Limit::Exactly(0.0));
        figures.count("calls made", made.made, Limit::Free);
        figures.count("calls answered", came.responses, Limit::AtLeast(1.0));
        figures.count("calls told that there was no room", came.nacks, Limit::Free);
        figures.count(
            "calls without an answer",
            made.made - (came.responses + came.nacks).min(made.made),
            Limit::Exactly(0.0),
        );
        figures.count("answers that are wrong", came.wrong, Limit::Exactly(0.0));
        Ok(figures)
    })
}
