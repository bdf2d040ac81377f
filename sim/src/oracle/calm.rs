//! Where nothing goes wrong, nothing fails: what was sent is handled, and what was asked is answered.

use super::{Joined, Message};
use crate::log::End;
use crate::message::{Kind, Mode};

pub(super) fn judge(joined: &Joined<'_>, violations: &mut Vec<String>) {
    if joined.scenario.is_orderly {
        return orderly(joined, violations);
    }
    if !joined.scenario.is_calm {
        return;
    }
    for message in &joined.messages {
        let name = message.name();
        let Some((_, end)) = message.end() else { continue };
        let was_taken = message.accepted.is_some() && message.kind != Kind::Absent;
        if was_taken && message.mode == Mode::OneWay && message.runs.is_empty() {
            violations.push(format!("calm: {name} was taken and never handled"));
        }
        // Others may wait until their deadline has passed.
        let is_run_at_once = matches!(message.kind, Kind::Inline | Kind::InlineToo);
        if *end == End::Receipt && is_run_at_once && message.runs.is_empty() {
            violations.push(format!("calm: {name} was accepted and never handled"));
        }
        let is_lost = matches!(end, End::PeerLost(_) | End::Cancelled(_)) && !message.is_nested;
        if is_lost {
            violations.push(format!("calm: {name} ended with {end:?}"));
        }
    }
}

/// Where nodes go in good order nothing that they took is lost: not the one-way messages, and no answer.
fn orderly(joined: &Joined<'_>, violations: &mut Vec<String>) {
    for message in &joined.messages {
        let Some((ended, end)) = message.end() else { continue };
        let name = message.name();
        let is_ours = joined.nodes.iter().any(|(instance, ..)| *instance == message.to);
        if !is_ours || crate::foreign::is_foreign(message.by) || is_hasty(joined, message) {
            continue;
        }
        // Two came at once with one identity, and the wrong one was first.
        let there =
            joined.nodes.iter().find(|(instance, ..)| *instance == message.to).map(|(_, life, _)| life.slot);
        let meets_thief = |(victim, at): &(u8, u8)| {
            [(Some(*victim), *at), (Some(*at), *victim)].contains(&(there, message.by.slot))
        };
        if joined.stolen.iter().any(meets_thief) {
            continue;
        }
        let was_taken = message.accepted.is_some() && message.kind != Kind::Absent;
        if was_taken && message.mode == Mode::OneWay && message.runs.is_empty() {
            violations.push(format!("drain: {name} was taken and never handled"));
        }
        if matches!(end, End::PeerLost(_)) && !message.is_nested {
            violations.push(format!("drain: {name} ended with {end:?} at {:?}", ended.at));
        }
    }
}

/// Whether its own node went meanwhile, or the other went before its handlers had ended, which its own limit allows.
fn is_hasty(joined: &Joined<'_>, message: &Message) -> bool {
    joined.stopped.iter().any(|(life, place, is_well)| {
        let is_hasty_other = !is_well && joined.instance(*life) == Some(&message.to);
        (*life == message.by || is_hasty_other) && place.at >= message.place.at
    }) || matches!(message.kind, Kind::Never | Kind::Nested)
}
