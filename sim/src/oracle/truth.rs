//! At most once; exactly one end; and the end is true.

use super::{Joined, Message, Place};
use crate::log::{Done, End};
use crate::message::{Kind, Mode};

pub(super) fn judge(joined: &Joined<'_>, violations: &mut Vec<String>) {
    for message in &joined.messages {
        let name = message.name();
        if message.runs.len() > 1 {
            violations.push(format!("once: {name} ran {} times", message.runs.len()));
        }
        match message.ends.len() {
            0 => violations.push(format!("end: {name} never ended")),
            1 => {}
            count => violations.push(format!("end: {name} ended {count} times")),
        }
        run(joined, message, violations);
        if let Some((place, end)) = message.end()
            && let Some(lie) = lie(joined, message, *place, end)
        {
            violations.push(format!("truth: {name} ended with {end:?}, but {lie}"));
        }
    }
}

/// What the handler saw is what was sent.
fn run(joined: &Joined<'_>, message: &Message, violations: &mut Vec<String>) {
    let name = message.name();
    for ran in &message.runs {
        if !ran.is_intact {
            violations.push(format!("payload: {name} came damaged"));
        }
        if ran.kind != message.kind {
            violations.push(format!("payload: {name} came to `{}`", ran.kind.name()));
        }
        // A foreigner has a fresh instance id for each link, and cannot know who has come to the address it dialled.
        if crate::foreign::is_foreign(message.by) {
            continue;
        }
        if joined.instance(message.by) != Some(&ran.sender) {
            violations.push(format!("sender: {name} came as one of {}", ran.sender));
        }
        if joined.instance(ran.at) != Some(&message.to) {
            violations.push(format!("sender: {name} for {} came to {:?}", message.to, ran.at));
        }
    }
}

/// Why an end is not true.
fn lie(joined: &Joined<'_>, message: &Message, ended: Place, end: &End) -> Option<String> {
    let ran = message.runs.first();
    let never_ran = || ran.map(|ran| format!("its handler ran at {:?}", ran.place.at));
    let done = |wanted: &[Done]| match message.dones.first() {
        Some((place, done)) if wanted.contains(done) && place.index < ended.index => None,
        Some((_, done)) => Some(format!("its handler ended with {done:?}, or later")),
        None => Some("its handler has not ended".to_owned()),
    };
    // Foreigners that were called answer anything, and run nothing.
    let is_ours = joined.nodes.iter().any(|(instance, ..)| *instance == message.to);
    let is_answer =
        !matches!(end, End::NotSent(_) | End::Full | End::NotConnected | End::Sent | End::Receipt);
    if !is_ours && is_answer {
        return None;
    }
    match end {
        End::NotSent(_) | End::Full | End::NotConnected => never_ran(),
        End::PeerLost(false) | End::Expired(false) | End::Cancelled(false) => never_ran(),
        End::PeerLost(true) | End::Expired(true) | End::Dropped => None,
        End::Cancelled(true) => unasked(joined, message),
        End::Refused(reason, text) => never_ran().or_else(|| refused(joined, message, reason, text)),
        End::Sent | End::Receipt => (message.kind == Kind::Absent && *end == End::Receipt)
            .then(|| "nobody has that handler".to_owned()),
        End::Ack if message.mode == Mode::Confirmed => done(&[Done::Well]),
        End::Reply(true) if message.mode.wants_response() => done(&[Done::Well]),
        End::Reply(false) => Some("the value is another message's".to_owned()),
        End::Ack | End::Reply(_) => Some("that was not asked for".to_owned()),
        // A value that is too long for its caller is an error of the handler, which has run.
        End::HandlerError(text)
            if text.starts_with("the answer") || text.starts_with("there was no memory") =>
        {
            done(&[Done::Well])
        }
        End::HandlerError(text) if text == "as told" => done(&[Done::Failed]),
        End::HandlerError(text) if text == "reply dropped" || text.contains("dropped") => {
            done(&[Done::Failed, Done::Dropped])
        }
        End::HandlerError(text) => Some(format!("no handler says `{text}`")),
        End::Panicked => done(&[Done::Panicked]),
        End::Broken(text) => Some(format!("no honest peer does that: {text}")),
    }
}

/// Nobody but its caller, a call around it, or a node that goes cancels a call.
fn unasked(joined: &Joined<'_>, message: &Message) -> Option<String> {
    (!message.is_nested && !joined.goes(&message.to)).then(|| "nobody cancelled it".to_owned())
}

/// Whether there was a reason to refuse.
fn refused(joined: &Joined<'_>, message: &Message, reason: &str, text: &str) -> Option<String> {
    let is_right = match reason {
        "NoHandler" => message.kind == Kind::Absent,
        "Draining" => joined.goes(&message.to),
        "Expired" => {
            message.is_nested
                || message.end().is_some_and(|(place, _)| {
                    place.at + std::time::Duration::from_millis(2) >= message.place.at + message.deadline
                })
        }
        "ContractMismatch" => message.mode.wants_response() && message.kind == Kind::Message,
        "Overloaded" => message.kind != Kind::Inline || message.is_nested,
        "TooLarge" => message.plan.payload_len > 4000,
        _ => false,
    };
    (!is_right).then(|| format!("there was no reason for {reason}: {text}"))
}
