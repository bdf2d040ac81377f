//! Link events alternate, honest nodes never find each other in breach of the protocol, and nobody is taken for
//! dead without a fault.

use std::collections::BTreeMap;

use super::Joined;
use crate::log::{Entry, Event, Life};

pub(super) fn judge(joined: &Joined<'_>, violations: &mut Vec<String>) {
    let mut up: BTreeMap<(Life, &str), bool> = BTreeMap::new();
    for entry in joined.entries {
        match &entry.event {
            Event::Up(life, peer) if up.insert((*life, peer), true) == Some(true) => {
                violations.push(format!("events: {life:?} was told twice that {peer} is up"));
            }
            Event::Down(life, peer, reason) => {
                if up.insert((*life, peer), false) != Some(true) {
                    violations
                        .push(format!("events: {life:?} was told that {peer} is down, which was not up"));
                }
                let is_own = joined.nodes.iter().any(|(instance, ..)| instance == peer);
                if !is_own {
                    continue;
                }
                if reason.contains("protocol") {
                    violations.push(format!("protocol: {life:?} says of {peer}: {reason}"));
                }
                let has_silence = joined.scenario.rates.stall > 0
                    || joined.scenario.rates.cut > 0
                    || joined.scenario.rates.half_open > 0
                    || joined.scenario.rates.half_reset > 0
                    || joined.scenario.node_faults.vanish > 0;
                if reason.contains("silent") && !has_silence {
                    violations
                        .push(format!("alive: {life:?} took {peer} for dead at {:?}: {reason}", entry.at));
                }
            }
            Event::Theft(victim, at, true) => theft(joined, entry, (*victim, *at), &up, violations),
            _ => {}
        }
    }
}

/// A thief is let in only where its victim is not known to live.
fn theft(
    joined: &Joined<'_>,
    theft: &Entry,
    (victim, at): (u8, u8),
    up: &BTreeMap<(Life, &str), bool>,
    violations: &mut Vec<String>,
) {
    // Elsewhere a link may look dead for a while.
    if !joined.scenario.is_orderly || victim == at {
        return;
    }
    let latest = |slot: u8| {
        joined.nodes.iter().rev().find(|(_, life, place)| life.slot == slot && place.at < theft.at)
    };
    let (Some((stolen, ..)), Some((_, life, _))) = (latest(victim), latest(at)) else { return };
    if up.get(&(*life, stolen.as_str())) == Some(&true) {
        violations.push(format!("identity: {life:?} let a thief of {victim} in, whose link was well"));
    }
}
