//! Messages of each of several senders reach an ordered handler in the order in which they were sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, Handler};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::PATIENCE;
use crate::failure::Result;
use crate::process::{Orders, Process, Role, say, say_json};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, Group, Scenario, block_on};

/// The scenarios and roles of this file.
pub const GROUP: Group = Group {
    name: "order",
    scenarios: &[Scenario {
        name: "order_of_four_senders",
        proves: "one-way messages of four processes reach an ordered handler in each sender's order, none lost",
        run,
    }],
    roles: &[Role { name: "order_receiver", play: receiver }, Role { name: "order_sender", play: sender }],
};

const SENDERS: u64 = 4;
/// The slowest machine that is thought of still handles so many a second.
const RATE_MIN: u64 = 10_000;

#[derive(Debug, Serialize, Deserialize)]
struct SenderArguments {
    endpoint: String,
    sender: u64,
    count: u64,
}

/// What the receiver saw of each sender.
#[derive(Debug, Default)]
struct Seen {
    next: HashMap<u64, u64>,
    handled: u64,
    out_of_order: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    senders: u64,
    handled: u64,
    out_of_order: u64,
}

fn run(form: Form) -> Result<Figures> {
    let each = form.pick(20_000, 1_000_000);
    let limit = PATIENCE + Duration::from_secs(SENDERS * each / RATE_MIN);
    block_on(1, async {
        let mut receiver = Process::start("order_receiver", &(SENDERS * each))?;
        let endpoint = receiver.line("its endpoint", PATIENCE).await?;
        let mut senders = Vec::new();
        for sender in 0..SENDERS {
            let arguments = SenderArguments { endpoint: endpoint.clone(), sender, count: each };
            senders.push(Process::start("order_sender", &arguments)?);
        }
        for sender in &mut senders {
            sender.line("that it is connected", PATIENCE).await?;
        }
        let began = Instant::now();
        for sender in &mut senders {
            sender.order("go")?;
        }
        for sender in &mut senders {
            sender.line("that it has sent all", limit).await?;
        }
        let counts: Counts = receiver.json("its counts", limit).await?;
        let mut figures = Figures::new();
        figures.count("senders", counts.senders, Limit::Exactly(4.0));
        figures.count("lost", (SENDERS * each).saturating_sub(counts.handled), Limit::Exactly(0.0));
        figures.count("out of order", counts.out_of_order, Limit::Exactly(0.0));
        figures.count("handled", counts.handled, Limit::Free);
        figures.add("time", began.elapsed().as_secs_f64(), "s", Limit::Free);
        Ok(figures)
    })
}

fn receiver(arguments: &str) -> Result<()> {
    let total: u64 = serde_json::from_str(arguments)?;
    let orders = Orders::listen();
    block_on(2, async {
        let node = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").start().await?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let complete = Arc::new(Notify::new());
        node.register(
            Handler::message("sequenced", {
                let (seen, complete) = (seen.clone(), complete.clone());
                move |_cx, (sender, n): (u64, u64)| {
                    if seen.lock().unwrap_or_else(PoisonError::into_inner).take(sender, n) == total {
                        complete.notify_one();
                    }
                    async { Ok(()) }
                }
            })
            .ordered(),
        )?;
        say(&node.endpoints()[0])?;
        complete.notified().await;
        let counts = seen.lock().unwrap_or_else(PoisonError::into_inner).counts();
        say_json(&counts)?;
        drop(orders);
        node.shutdown().await?;
        Ok(())
    })
}

impl Seen {
    /// Takes a message in; gives how many there were.
    fn take(&mut self, sender: u64, n: u64) -> u64 {
        let next = self.next.entry(sender).or_default();
        self.out_of_order += u64::from(*next != n);
        *next = n + 1;
        self.handled += 1;
        self.handled
    }

    fn counts(&self) -> Counts {
        let senders = self.next.len() as u64;
        Counts { senders, handled: self.handled, out_of_order: self.out_of_order }
    }
}

fn sender(arguments: &str) -> Result<()> {
    let SenderArguments { endpoint, sender, count } = serde_json::from_str(arguments)?;
    let mut orders = Orders::listen();
    block_on(1, async {
        let node = ActiveMessageManager::builder().start().await?;
        let peer = node.client().connect(endpoint).await?;
        say("connected")?;
        orders.expect("go").await?;
        for n in 0..count {
            peer.notify("sequenced", &(sender, n)).await?;
        }
        // What was sent is handled before a good end; a lost message would show at the receiver.
        node.shutdown().await?;
        say("sent")
    })
}
