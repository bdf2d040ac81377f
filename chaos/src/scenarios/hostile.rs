//! Hostile peers over loopback sockets, bounded in count and time: each is closed or refused within its limit, the
//! node gets its memory and descriptors back, and an honest client is served all the while.

use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, Raw};

use super::PATIENCE;
use super::hostile_before as before;
use super::hostile_calls as calls;
use super::hostile_frames as frames;
use super::hostile_roles as roles;
use super::hostile_stage::{AttackArguments, AttackReport, Finding, NodeArguments, Stage, counts, cpu_time};
use super::hostile_tools::Target;
use crate::failure::{Failure, Result};
use crate::process::{Orders, Process, Role, say, say_json};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, Group, Scenario, block_on};

/// Descriptors of the node that runs out of them.
pub(super) const FEW_DESCRIPTORS: u64 = 128;
/// Calls that an honest program drops at once.
const DROPPED_CALLS: usize = 5000;

/// What an attacker does to a node.
type Attack = fn(Target) -> Result<Vec<Finding>>;

macro_rules! hostile {
    ($($name:ident: $attack:path, $proves:literal;)+) => {
        const ATTACKS: &[(&str, Attack)] = &[$((stringify!($name), $attack)),+];

        /// The scenarios and roles of this file and its neighbours.
        pub const GROUP: Group = Group {
            name: "hostile",
            scenarios: &[
                $(Scenario {
                    name: stringify!($name),
                    proves: $proves,
                    run: |form| play(form, stringify!($name), &NodeArguments::default()),
                },)+
                Scenario {
                    name: "hostile_all_descriptors",
                    proves: "a node that runs out of descriptors stays calm, and serves within a second of having some",
                    run: descriptors,
                },
                Scenario {
                    name: "hostile_dropped_calls",
                    proves: "a program that drops 5000 calls at once is honest and keeps its link",
                    run: dropped_calls,
                },
            ],
            roles: &[
                Role { name: "hostile_node", play: roles::node },
                Role { name: "hostile_honest", play: roles::honest },
                Role { name: "hostile_attacker", play: attacker },
                Role { name: "hostile_dropper", play: dropper },
            ],
        };
    };
}

hostile! {
    hostile_slow_loris: before::slow_loris,
        "connections that creep, in each state of the handshake, end at its limit; slow links hold little";
    hostile_properties: before::properties, "a READY of 64 Ki properties is refused at once";
    hostile_announced_sizes: before::announced_sizes, "frames of 2^63-1 octets end their links, and cost nothing";
    hostile_connect_and_drop: before::connect_and_drop, "1000 connections a second that leave at once do no harm";
    hostile_empty_frames: frames::empty_frames, "a million empty frames of messages without end are not taken";
    hostile_pings: frames::pings, "100 000 PINGs end their links";
    hostile_unknown_commands: frames::unknown_commands, "100 000 commands that nobody knows end their links";
    hostile_forged_credit: frames::forged_credit, "credit that cannot be true ends its link";
    hostile_forged_replies: frames::forged_replies, "answers to calls that were never made reach nobody";
    hostile_cancels: calls::cancels, "a million requests cancelled at once are answered once each";
    hostile_deaf_to_answers: calls::deaf_to_answers, "a peer that calls and never reads is held back";
    hostile_deaf_to_nacks: calls::deaf_to_nacks, "a peer that earns Nacks and never reads them is held back";
    hostile_deaf_to_receipts: calls::deaf_to_receipts, "a peer that asks for receipts and never reads is held back";
    hostile_deaf_to_late_answers: calls::deaf_to_late_answers, "answers that nobody waits for any more are not kept";
    hostile_broken_chunks: calls::broken_chunks, "payloads in parts that do not fit end their links or are refused";
    hostile_unfinished_payloads: calls::unfinished_payloads, "begun payloads on many links stay within the budget";
    hostile_gone_senders: calls::gone_senders, "what peers leave behind stays within the budget, and keeps no socket";
}

fn play(form: Form, attack: &str, node: &NodeArguments) -> Result<Figures> {
    block_on(1, async {
        let mut figures = Figures::new();
        let mut stage = Stage::start(form, node).await?;
        stage.attack(attack, &mut figures).await?;
        stage.end(&mut figures).await?;
        Ok(figures)
    })
}

fn attacker(arguments: &str) -> Result<()> {
    let AttackArguments { attack, address, full } = serde_json::from_str(arguments)?;
    let found = ATTACKS.iter().find(|(name, _)| *name == attack).map(|(_, attack)| *attack);
    let attack = match (found, attack.as_str()) {
        (Some(attack), _) => attack,
        (None, "hostile_all_descriptors") => calls::all_descriptors,
        (None, name) => return Err(Failure::new(format!("there is no attack `{name}`"))),
    };
    let mut orders = Orders::listen();
    block_on(1, async {
        say("ready")?;
        orders.expect("go").await
    })?;
    let before = cpu_time(std::process::id())?;
    let findings = attack(Target { address, full })?;
    let cpu = cpu_time(std::process::id())?.saturating_sub(before);
    say_json(&AttackReport { findings, cpu_ms: u64::try_from(cpu.as_millis())? })?;
    // It is killed when it has been heard, so that what it holds is held until then.
    block_on(1, async { orders.expect("nothing").await })
}

/// The node has few descriptors, and a busy loop of its listener would show while the honest client is quiet.
fn descriptors(form: Form) -> Result<Figures> {
    /// Of one processor, while it cannot accept.
    const SHARE_MAX: f64 = 0.2;
    block_on(1, async {
        let mut figures = Figures::new();
        let arguments = NodeArguments { descriptors_max: FEW_DESCRIPTORS, ..NodeArguments::default() };
        let mut stage = Stage::start(form, &arguments).await?;
        let full = form == Form::Full;
        let arguments =
            AttackArguments { attack: "hostile_all_descriptors".into(), address: stage.address, full };
        let mut attacker = Process::start("hostile_attacker", &arguments)?;
        attacker.line("that it is ready", PATIENCE).await?;
        attacker.order("go")?;
        stage.honest.order("pause")?;
        // By now the attacker holds what there is.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (cpu, began) = (cpu_time(stage.node.pid())?, Instant::now());
        tokio::time::sleep(form.pick(Duration::from_millis(700), Duration::from_secs(3))).await;
        let burnt = cpu_time(stage.node.pid())?.saturating_sub(cpu);
        let share = burnt.as_secs_f64() / began.elapsed().as_secs_f64();
        figures.add("node's processor while it cannot accept", share, "", Limit::AtMost(SHARE_MAX));
        let before = counts(&mut stage.honest).await?;
        stage.honest.order("go on")?;
        let report: AttackReport = attacker.json("what it found", Duration::from_secs(60)).await?;
        let after = counts(&mut stage.honest).await?;
        attacker.kill()?;
        report.findings.into_iter().for_each(|finding| finding.add_to(&mut figures));
        figures.count("honest calls meanwhile", after.answered - before.answered, Limit::AtLeast(1.0));
        stage.settle(&mut figures).await?;
        stage.end(&mut figures).await?;
        Ok(figures)
    })
}

fn dropped_calls(form: Form) -> Result<Figures> {
    block_on(1, async {
        let mut figures = Figures::new();
        let stage = Stage::start(form, &NodeArguments::default()).await?;
        let mut dropper = Process::start("hostile_dropper", &(stage.address, form.pick(2, 20)))?;
        let (dropped, events): (u64, u64) = dropper.json("that its link is whole", PATIENCE).await?;
        figures.count("calls dropped", dropped, Limit::Free);
        figures.count("link events of the program that dropped them", events, Limit::Exactly(0.0));
        stage.settle(&mut figures).await?;
        stage.end(&mut figures).await?;
        Ok(figures)
    })
}

/// A program that makes 5000 calls and drops them all at once, some rounds of it; then its link still serves.
fn dropper(arguments: &str) -> Result<()> {
    let (address, rounds): (std::net::SocketAddr, u64) = serde_json::from_str(arguments)?;
    let orders = Orders::listen();
    block_on(1, async {
        let node = ActiveMessageManager::builder().no_ipc().start().await?;
        let client = node.client();
        let peer = client.connect(format!("tcp://{address}")).await?;
        let mut events = client.link_events();
        let mut dropped = 0;
        for round in 0..rounds {
            let mut calls = Vec::new();
            // Some run, some wait for their handler, some are answered already, some refused.
            for n in 0..DROPPED_CALLS {
                let handler = if n % 2 == 0 { "until_cancelled" } else { "echo" };
                let payload = Raw::from("x");
                let call = client.active_message(handler).payload(&payload).expect_response::<Raw>();
                calls.push(call.send(&peer).await?);
            }
            dropped += calls.len();
            drop(calls);
            let n = i64::try_from(round)?;
            let doubled: i64 = peer.call("double", &n).await?;
            crate::ensure!(doubled == 2 * n, "a wrong answer after calls were dropped");
        }
        let mut seen = 0_u64;
        while tokio::time::timeout(Duration::from_millis(100), events.next()).await.is_ok() {
            seen += 1;
        }
        say_json(&(dropped, seen))?;
        drop(orders);
        node.shutdown().await?;
        Ok(())
    })
}
