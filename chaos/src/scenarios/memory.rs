//! Bounded memory: 10 GiB are offered to peers that take nothing, and both processes stay within their budget; what
//! was accepted is there when the peer goes on, and healthy peers notice nothing.

use std::net::SocketAddr;
use std::time::Duration;

use super::PATIENCE;
use super::memory_callers as callers;
use super::memory_healthy::{self as healthy, Healthy};
use super::memory_large as large;
use super::memory_raw::{DeafPeer, Received};
use super::memory_roles::{self as roles, Offer, Offered, Order, SIZES, Seen};
use super::memory_zmq as zmq;
use crate::failure::Result;
use crate::process::{Process, Role};
use crate::raw::OwnHello;
use crate::report::{Figures, Limit};
use crate::scenario::{Form, Group, Scenario, block_on};
use crate::usage::{Usage, UsageWatch, mib};

/// The scenarios and roles of this file and its neighbours.
pub const GROUP: Group = Group {
    name: "memory",
    scenarios: &[
        Scenario {
            name: "memory_deaf_receiver",
            proves: "a sender to a peer that reads nothing stays within its budget, and loses nothing it accepted",
            run: deaf_receiver,
        },
        Scenario {
            name: "memory_thousand_deaf_receivers",
            proves: "the same with a thousand such peers at once",
            run: thousand_deaf_receivers,
        },
        Scenario {
            name: "memory_hung_receiver",
            proves: "a receiver whose handlers never end, and its sender, stay within their budgets",
            run: hung_receiver,
        },
        Scenario {
            name: "memory_thousand_hung_senders",
            proves: "the same receiver with a thousand senders at once",
            run: callers::thousand_senders,
        },
        Scenario {
            name: "memory_slow_among_fast",
            proves: "a held message in each receive chunk of fast ones pins no chunks",
            run: slow_among_fast,
        },
        Scenario {
            name: "memory_unpolled_calls",
            proves: "replies that their caller does not take stay within both budgets, and each call ends truly",
            run: callers::unpolled_calls,
        },
        Scenario {
            name: "memory_deaf_caller",
            proves: "replies to a caller that reads nothing stay within the budget, and each comes when it reads",
            run: callers::deaf_caller,
        },
        Scenario {
            name: "memory_deaf_libzmq",
            proves: "a libzmq peer that stops reading is held back, and gets all that was accepted when it goes on",
            run: zmq::deaf,
        },
        Scenario {
            name: "memory_small_beside_large",
            proves: "a payload of 64 MiB on its way holds up no small call of the same link",
            run: large::run,
        },
    ],
    roles: &[
        Role { name: "memory_node", play: roles::node },
        Role { name: "memory_healthy", play: healthy::play },
        Role { name: "memory_large_caller", play: large::caller },
    ],
};

/// A process may hold so much beside its baseline: its budget, and 32 MiB for what is not counted.
pub(super) const HELD_MIB_MAX: f64 = 256.0 + 32.0;
/// How often a process is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The longest that it may take to hand over what was accepted.
pub(super) const RESUMED_MAX: Duration = Duration::from_secs(60);

/// Octets that are offered.
pub(super) fn total(form: Form) -> u64 {
    form.pick(256 << 20, 10 << 30)
}

/// Over how long they are offered, in ms.
pub(super) fn time_ms(form: Form) -> u64 {
    form.pick(1500, 15_000)
}

/// A node in a process of its own, watched from its baseline on.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
    watch: Option<(Usage, UsageWatch)>,
}

impl Node {
    pub(super) async fn start() -> Result<Self> {
        let mut process = Process::start("memory_node", &())?;
        let address = process.line("its address", PATIENCE).await?.parse()?;
        Ok(Self { process, address, watch: None })
    }

    /// What it holds now is its baseline.
    pub(super) fn watch(&mut self) -> Result<()> {
        let baseline = Usage::of(self.process.pid())?;
        self.watch = Some((baseline, UsageWatch::start(self.process.pid(), LOOK_INTERVAL)));
        Ok(())
    }

    /// Tells what it has held at most beside its baseline.
    pub(super) fn report(&mut self, who: &str, figures: &mut Figures) -> Result<()> {
        let Some((baseline, watch)) = self.watch.take() else { return Ok(()) };
        let above = mib(watch.finish()?.resident.saturating_sub(baseline.resident));
        figures.add(format!("{who}: memory above its baseline"), above, "MiB", Limit::AtMost(HELD_MIB_MAX));
        Ok(())
    }

    pub(super) async fn tell<T: serde::de::DeserializeOwned>(
        &mut self,
        order: &Order,
        expected: &str,
        limit: Duration,
    ) -> Result<T> {
        self.process.order(&serde_json::to_string(order)?)?;
        self.process.json(expected, limit).await
    }

    /// Lets go what its handlers hold.
    pub(super) async fn release(&mut self) -> Result<()> {
        self.process.order(&serde_json::to_string(&Order::Release)?)?;
        self.process.line("that it has released", PATIENCE).await.map(drop)
    }

    /// What its handlers have seen, once that is `expected`, or does not come nearer for a while.
    async fn seen(&mut self, expected: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let began = std::time::Instant::now();
        loop {
            let seen: Seen = self.tell(&Order::Seen, "what it has seen", PATIENCE).await?;
            if expected(&seen) || began.elapsed() > RESUMED_MAX {
                return Ok(seen);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// How long an offer may take: it is paced, but the machine may be busy.
pub(super) fn offer_max(form: Form) -> Duration {
    Duration::from_millis(time_ms(form)) * 8 + PATIENCE
}

pub(super) fn offer(form: Form, peers: Vec<Vec<u8>>, handler: &str) -> Offer {
    Offer { peers, handler: handler.to_owned(), total: total(form), time_ms: time_ms(form) }
}

pub(super) fn report_offered(offered: &Offered, figures: &mut Figures) {
    figures.add("offered", mib(offered.octets), "MiB", Limit::Free);
    figures.count("attempts", offered.attempts, Limit::Free);
    figures.count("attempts that waited and gave up", offered.gave_up, Limit::Free);
    for len in SIZES {
        let accepted = offered.accepted.get(&len).copied().unwrap_or_default();
        figures.count(format!("accepted of {len} octets"), accepted, Limit::Free);
    }
}

/// How many were accepted of each length and have not come.
fn report_lost(offered: &Offered, came: impl Fn(usize) -> u64, figures: &mut Figures) {
    let lost = offered.accepted.iter().map(|(len, accepted)| accepted.saturating_sub(came(*len))).sum();
    figures.count("accepted and lost", lost, Limit::Exactly(0.0));
}

fn deaf_receiver(form: Form) -> Result<Figures> {
    /// More than any memory has.
    const ABSURD: u64 = 1 << 60;
    let mut figures = Figures::new();
    let modest = OwnHello::numbered(1);
    let absurd = OwnHello { credit: (ABSURD, ABSURD), ..modest.clone() };
    for (what, hello) in [("", modest), ("grants 2^60: ", absurd)] {
        figures.append(what, offer_to_deaf(form, hello)?);
    }
    Ok(figures)
}

fn offer_to_deaf(form: Form, hello: OwnHello) -> Result<Figures> {
    block_on(2, async {
        let mut figures = Figures::new();
        let mut sender = Node::start().await?;
        let mut healthy = Healthy::start(form, sender.address).await?;
        let deaf = DeafPeer::granting(sender.address, hello)?;
        sender.watch()?;
        healthy.disturbed_from_now().await?;
        let order = Order::Offer(offer(form, vec![deaf.instance()], "sequence"));
        let offered: Offered = sender.tell(&order, "what was accepted", offer_max(form)).await?;
        healthy.report(&mut figures).await?;
        sender.report("sender", &mut figures)?;
        report_offered(&offered, &mut figures);
        let expected = offered.accepted.values().sum();
        let received = tokio::task::spawn_blocking(move || deaf.receive(expected, RESUMED_MAX)).await??;
        let Received { numbers, twice, out_of_order, .. } = received;
        let came = |len: usize| numbers.get(&len).copied().unwrap_or_default();
        report_lost(&offered, came, &mut figures);
        figures.count("came twice", twice, Limit::Exactly(0.0));
        figures.count("out of order", out_of_order, Limit::Exactly(0.0));
        Ok(figures)
    })
}

fn thousand_deaf_receivers(form: Form) -> Result<Figures> {
    block_on(2, async {
        let mut figures = Figures::new();
        let links = form.pick(100, 1000);
        super::hostile_tools::raise_descriptors(2 * links + 100)?;
        let mut sender = Node::start().await?;
        let mut healthy = Healthy::start(form, sender.address).await?;
        let deaf = DeafPeer::start_many(sender.address, links)?;
        sender.watch()?;
        healthy.disturbed_from_now().await?;
        let peers = deaf.iter().map(DeafPeer::instance).collect();
        let order = Order::Offer(offer(form, peers, "sequence"));
        let offered: Offered = sender.tell(&order, "what was accepted", offer_max(form)).await?;
        healthy.report(&mut figures).await?;
        sender.report("sender", &mut figures)?;
        figures.count("links", links, Limit::Free);
        report_offered(&offered, &mut figures);
        let left: Vec<Vec<u8>> = sender.tell(&Order::Peers, "its peers", PATIENCE).await?;
        let whole = deaf.iter().filter(|peer| left.contains(&peer.instance())).count() as u64;
        figures.count("deaf links that live on", whole, Limit::Free);
        Ok(figures)
    })
}

fn hung_receiver(form: Form) -> Result<Figures> {
    block_on(2, async {
        let mut figures = Figures::new();
        let (mut sender, mut receiver) = (Node::start().await?, Node::start().await?);
        // It comes first, so that it is granted much.
        let peer: Vec<u8> = sender.tell(&Order::Connect(receiver.address), "its peer", PATIENCE).await?;
        let mut healthy = Healthy::start(form, receiver.address).await?;
        sender.watch()?;
        receiver.watch()?;
        healthy.disturbed_from_now().await?;
        let order = Order::Offer(offer(form, vec![peer], "sequence"));
        let offered: Offered = sender.tell(&order, "what was accepted", offer_max(form)).await?;
        healthy.report(&mut figures).await?;
        sender.report("sender", &mut figures)?;
        receiver.report("receiver", &mut figures)?;
        report_offered(&offered, &mut figures);
        receiver.release().await?;
        let came = |seen: &Seen, len: usize| seen.sequence.get(&len).copied().unwrap_or_default();
        let all = |seen: &Seen| offered.accepted.iter().all(|(len, accepted)| came(seen, *len) >= *accepted);
        let seen = receiver.seen(all).await?;
        report_lost(&offered, |len| came(&seen, len), &mut figures);
        figures.count("came twice", seen.twice, Limit::Exactly(0.0));
        Ok(figures)
    })
}

/// One slow message of 64 octets behind each 64 KiB of fast ones, until the credit of the slow ones is used up.
fn slow_among_fast(form: Form) -> Result<Figures> {
    let mut figures = Figures::new();
    for (what, fast_len) in [("short: ", 64), ("long: ", 20_000)] {
        let part = block_on(2, callers::slow_among_fast(form, fast_len))?;
        figures.append(what, part);
    }
    Ok(figures)
}
