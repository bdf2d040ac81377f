//! Link events alternate, honest nodes never find each other in breach of the protocol, and nobody is taken for
//! dead without a fault.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Joined;
use crate::log::{Entry, Event, Life};

/// Two that come at once with one identity: it is whose handshake ends first.
const MEETING: Duration = Duration::from_secs(1);

pub(super) fn judge(joined: &Joined<'_>, violations: &mut Vec<String>) {
    let mut up: BTreeMap<(Life, &str), bool> = BTreeMap::new();
    let mut since: BTreeMap<(Life, &str), Duration> = BTreeMap::new();
    for entry in joined.entries {
        match &entry.event {
            Event::Up(life, peer) => since.insert((*life, peer), entry.at),
            Event::Down(life, peer, _) => since.remove(&(*life, peer)),
            _ => None,
        };
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
            Event::Theft(victim, at, true) => theft(joined, entry, (*victim, *at), &since, violations),
            _ => {}
        }
    }
}

/// A thief is let in only where its victim is not known to live.
fn theft(
    joined: &Joined<'_>,
    theft: &Entry,
    (victim, at): (u8, u8),
    since: &BTreeMap<(Life, &str), Duration>,
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
    if since.get(&(*life, stolen.as_str())).is_some_and(|at| *at + MEETING < theft.at) {
        violations.push(format!("identity: {life:?} let a thief of {victim} in, whose link was well"));
    }
}
