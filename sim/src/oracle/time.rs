//! Nothing waits beyond its deadline, nothing ends early for it, and no handler starts after it.

use std::time::Duration;

use super::Joined;
use crate::log::End;
use crate::message::Mode;

/// A tick of the node's clock, twice, and one for the way back to the caller.
const SLACK: Duration = Duration::from_millis(30);

pub(super) fn judge(joined: &Joined<'_>, violations: &mut Vec<String>) {
    for message in &joined.messages {
        let name = message.name();
        let is_awaited = message.mode != Mode::OneWay || message.accepted.is_none();
        if let Some((ended, end)) = message.end()
            && is_awaited
        {
            let took = ended.at.saturating_sub(message.place.at);
            let most = message.deadline + SLACK + joined.jumped(message.place.at, ended.at);
            if took > most {
                violations.push(format!(
                    "deadline: {name} ended after {took:?} with {end:?}, and had {:?}",
                    message.deadline
                ));
            }
            let is_expired = matches!(end, End::Expired(_));
            if is_expired && !message.is_nested && took + Duration::from_millis(1) < message.deadline {
                violations
                    .push(format!("deadline: {name} expired after {took:?}, and had {:?}", message.deadline));
            }
        }
        for ran in &message.runs {
            if ran.time_left == Some(Duration::ZERO) && message.mode != Mode::OneWay {
                violations.push(format!("deadline: {name} was started when its time was over"));
            }
            if ran.time_left.is_some_and(|left| left > message.deadline) {
                violations.push(format!("deadline: {name} has more time at its handler than it was given"));
            }
        }
    }
}
