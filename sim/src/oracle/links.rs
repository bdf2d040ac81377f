//! Link events alternate, honest nodes never find each other in breach of the protocol, and nobody is taken for
//! dead without a fault.

use std::collections::BTreeMap;

use super::Joined;
use crate::log::{Event, Life};

pub(super) fn judge(joined: &Joined<'_>, violations: &mut Vec<String>) {
    let mut up: BTreeMap<(Life, &str), bool> = BTreeMap::new();
    for entry in joined.entries {
        match &entry.event {
            Event::Up(life, peer) => {
                if up.insert((*life, peer), true) == Some(true) {
                    violations.push(format!("events: {life:?} was told twice that {peer} is up"));
                }
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
            _ => {}
        }
    }
}
