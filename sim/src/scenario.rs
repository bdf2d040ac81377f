//! What a run is like, drawn from its seed: [`Scenario`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use dynamo_am::transport::sim::{Dice, FaultRates};
use dynamo_am::{InstanceId, Limits};

use crate::handlers::HandlerLimits;

/// What befalls nodes rather than connections: how often a minute, each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeFaults {
    /// It is killed, and its sockets are closed by the system.
    pub kill: u32,
    /// Its machine is gone: nobody is told.
    pub vanish: u32,
    /// It shuts down in good order.
    pub shutdown: u32,
    /// It leaves a peer on purpose.
    pub disconnect: u32,
    /// It dials a peer that it is connected to already.
    pub dial_again: u32,
    /// All processes are stopped for seconds: the clock jumps.
    pub jump: u32,
    /// A node with the identity of another appears, and dials all.
    pub thief: u32,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Which.
    pub seed: u64,
    /// For all that is drawn while it runs.
    pub dice: Dice,
    /// Nothing goes wrong on purpose, so nothing may fail.
    pub is_calm: bool,
    /// Connections are slow and awkward and never fail, and nodes go in good order: nothing may be lost.
    pub is_orderly: bool,
    /// Faults of connections.
    pub rates: FaultRates,
    /// Faults of nodes.
    pub node_faults: NodeFaults,
    /// For how long things go wrong.
    pub trouble: Duration,
    /// What each node holds at most.
    pub limits: Vec<Limits>,
    /// What its handlers do at once at most.
    pub handlers: HandlerLimits,
    /// Who dials whom.
    pub dials: Vec<(u8, u8)>,
    /// Tasks that call, at each node, and how long they rest between two calls at most, in milliseconds.
    pub callers: u64,
    /// See `callers`.
    pub rest_ms: u64,
    /// A node that comes back has the identity that it had.
    pub keeps_identity: bool,
    /// Payloads over 1 MiB are among the messages, so many in a thousand.
    pub large: u32,
    /// Foreign peers that come and go.
    pub foreigners: u64,
}

impl Scenario {
    /// The run of that seed.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed).fork(1);
        let slots = dice.between(2, 5) as u8;
        let is_calm = dice.per_mille(80);
        let is_orderly = !is_calm && dice.per_mille(200);
        let mut rates = FaultRates::drawn(&mut dice);
        let mut node_faults = node_faults(&mut dice);
        if is_orderly {
            (rates, node_faults) = (orderly_rates(&rates), orderly_faults(node_faults, &mut dice));
        }
        let limits: Vec<_> = {
            let are_alike = dice.per_mille(300);
            let mut drawn: Vec<_> = (0..slots).map(|_| limits(&mut dice)).collect();
            if are_alike || is_calm {
                let first = drawn.first().cloned().unwrap_or_default();
                drawn.fill(first);
            }
            drawn
        };
        let limits = if is_orderly { limits.iter().map(patient).collect() } else { limits };
        let large = if dice.per_mille(200) { 20 } else { 0 };
        if large > 0 {
            // What takes no time moves gigabytes in it.
            rates.latency_ms = rates.latency_ms.max(1);
            rates.capacity_max = rates.capacity_max.max(4096);
        }
        let longest = if dice.per_mille(100) { 20_000 } else { 6000 };
        Self {
            seed,
            is_calm,
            is_orderly,
            rates: if is_calm { FaultRates::none() } else { rates },
            node_faults: if is_calm { NodeFaults::default() } else { node_faults },
            trouble: dice.millis(1500, longest),
            limits,
            handlers: HandlerLimits {
                limited: dice.between(1, 4) as usize,
                batch: dice.between(1, 8) as usize,
                batch_age: dice.millis(0, 40),
            },
            dials: dials(&mut dice, slots),
            callers: dice.between(1, 4),
            rest_ms: one_of(&mut dice, if large > 0 { &[20, 100] } else { &[2, 20, 100] }),
            keeps_identity: dice.per_mille(600),
            large,
            foreigners: if is_calm { 0 } else { dice.below(4) },
            dice: dice.fork(2),
        }
    }

    /// How many nodes there are.
    #[must_use]
    pub fn slots(&self) -> u8 {
        self.limits.len() as u8
    }
}

/// The address of a slot's host.
#[must_use]
pub const fn host(slot: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, slot + 1))
}

/// Which slot is at an address.
#[must_use]
pub const fn slot_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3].wrapping_sub(1),
        IpAddr::V6(_) => u8::MAX,
    }
}

/// Where a slot's node listens.
#[must_use]
pub const fn address(slot: u8) -> SocketAddr {
    SocketAddr::new(host(slot), 7000)
}

/// The identity of a slot's node in its `version`.
///
/// # Panics
///
/// Never: the first octet is not 0.
#[must_use]
pub fn identity(slot: u8, version: u32) -> InstanceId {
    let mut octets = [0x11; 16];
    // Not in the order of the slots, so that either side of a pair can be the lower one.
    octets[0] = [0x70, 0x30, 0x90, 0x10, 0x50].get(usize::from(slot)).copied().unwrap_or(0xB0);
    octets[1] = slot;
    octets[2..6].copy_from_slice(&version.to_be_bytes());
    InstanceId::from_bytes(octets).unwrap_or_else(|| unreachable!("the first octet is not 0"))
}

fn one_of(dice: &mut Dice, values: &[u64]) -> u64 {
    dice.pick(values).copied().unwrap_or(1)
}

fn node_faults(dice: &mut Dice) -> NodeFaults {
    let mut often = |rates: [u32; 2]| rates.get(dice.below(4) as usize).copied().unwrap_or(0);
    NodeFaults {
        kill: often([3, 12]),
        vanish: often([2, 6]),
        shutdown: often([3, 12]),
        disconnect: often([4, 20]),
        dial_again: often([10, 60]),
        jump: often([1, 5]),
        thief: often([2, 6]),
    }
}

/// What is left of trouble when no connection ever fails.
fn orderly_rates(rates: &FaultRates) -> FaultRates {
    FaultRates {
        stall: 0,
        cut: 0,
        reset: 0,
        half_reset: 0,
        half_open: 0,
        refused_dial: 0,
        lost_dial: 0,
        capacity_max: rates.capacity_max.max(4096),
        ..rates.clone()
    }
}

fn orderly_faults(faults: NodeFaults, dice: &mut Dice) -> NodeFaults {
    let has_thieves = dice.per_mille(300);
    NodeFaults {
        dial_again: faults.dial_again.max(20),
        shutdown: if has_thieves { 0 } else { faults.shutdown.max(6) },
        thief: if has_thieves { 10 } else { 0 },
        ..NodeFaults::default()
    }
}

/// Nobody is closed for being slow.
fn patient(limits: &Limits) -> Limits {
    Limits { slow_consumer_timeout: Limits::default().slow_consumer_timeout, ..limits.clone() }
}

fn limits(dice: &mut Dice) -> Limits {
    let mut one = |values: &[u64]| one_of(dice, values);
    Limits {
        credit_messages: one(&[1, 2, 5, 40, 8192, 8192]),
        credit_bytes: one(&[1, 2000, 20_000, 1 << 20, 16 << 20, 16 << 20]),
        system_calls_max: one(&[1, 4, 64]) as u32,
        pending_calls_max: one(&[3, 64, 65_536, 65_536]) as usize,
        send_buffer_len_max: one(&[1, 2000, 64 << 10, 1 << 20]) as usize,
        handler_concurrency: one(&[1, 3, 1024]) as usize,
        handler_queue_len: one(&[1, 8, 1024]) as usize,
        payload_len_max: one(&[5000, 64 << 20, 64 << 20, 64 << 20]),
        drain_timeout: Duration::from_millis(one(&[200, 1000, 5000])),
        slow_consumer_timeout: Duration::from_millis(one(&[3000, 30_000])),
        ..Limits::default()
    }
}

/// Each pair is dialled from one side or from both.
fn dials(dice: &mut Dice, slots: u8) -> Vec<(u8, u8)> {
    let mut dials = Vec::new();
    for a in 0..slots {
        for b in a + 1..slots {
            match dice.below(4) {
                0 => dials.push((a, b)),
                1 => dials.push((b, a)),
                _ => dials.extend([(a, b), (b, a)]),
            }
        }
    }
    dials
}
