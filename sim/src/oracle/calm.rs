//! Where nothing goes wrong, nothing fails: what was sent is handled, and what was asked is answered.

use super::{Joined, Message};
use crate::log::End;
use crate::message::{Kind, Mode, Outcome};

pub(super) fn judge(joined: &Joined<'_>, violations: &mut Vec<String>) {
    if !joined.scenario.is_calm {
        return;
    }
    for message in &joined.messages {
        let name = message.name();
        let Some((_, end)) = message.end() else { continue };
        let was_taken = message.accepted.is_some() && message.kind != Kind::Absent;
        if was_taken
            && message.mode == Mode::OneWay
            && message.runs.is_empty()
            && !is_cut_short(joined, message)
        {
            violations.push(format!("calm: {name} was taken and never handled"));
        }
        // Others may wait until their deadline has passed.
        let is_run_at_once = matches!(message.kind, Kind::Inline | Kind::InlineToo);
        if *end == End::Receipt && is_run_at_once && message.runs.is_empty() && !is_cut_short(joined, message)
        {
            violations.push(format!("calm: {name} was accepted and never handled"));
        }
        let is_lost = matches!(end, End::PeerLost(_) | End::Cancelled(_)) && !message.is_nested;
        if is_lost {
            violations.push(format!("calm: {name} ended with {end:?}"));
        }
    }
}

/// Credit for one-way messages and few at once can leave some of them to the end of the run.
fn is_cut_short(joined: &Joined<'_>, message: &Message) -> bool {
    let last = joined.entries.last().map_or(message.place.at, |entry| entry.at);
    message.place.at + std::time::Duration::from_secs(10) > last || message.plan.outcome == Outcome::Panic
}
