//! One sender's messages run in the order in which it sent them, within a link and across the two links that a
//! pair of nodes has for a while; and an ordered handler runs one at a time for each sender.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Joined, Message, Ran};
use crate::log::{Event, Life};
use crate::message::Kind;

pub(super) fn judge(joined: &Joined<'_>, violations: &mut Vec<String>) {
    let breaks = breaks(joined);
    let mut last: BTreeMap<_, Vec<(&Message, &Ran)>> = BTreeMap::new();
    for message in joined.messages.iter().filter(|message| message.task > 0) {
        let (Some(group), Some(ran)) = (message.kind.order_group(), message.runs.first()) else { continue };
        // The place of a payload in parts is that of its last part.
        if message.plan.payload_len > 1_000_000 || message.accepted.is_none() {
            continue;
        }
        last.entry((message.task, ran.at, group)).or_default().push((message, ran));
    }
    for pairs in last.values().flat_map(|sent| sent.windows(2)) {
        let [(first, ran_first), (second, ran_second)] = pairs else { continue };
        if ran_first.place < ran_second.place || is_broken(&breaks, first, ran_first) {
            continue;
        }
        violations.push(format!(
            "order: {} was sent after {}, and ran before it",
            second.name(),
            first.name()
        ));
    }
    one_at_a_time(joined, violations);
}

/// Entries of the log, from one to another, in which a link between two slots has ended or is left.
struct Break {
    from: usize,
    to: usize,
    slots: [u8; 2],
}

/// A Bye is read within this, or its link has ended.
const BYE_TIME_MAX: Duration = Duration::from_secs(15);

/// When links between two slots ended, or were left on purpose.
fn breaks(joined: &Joined<'_>) -> Vec<Break> {
    let mut hosts = BTreeMap::new();
    let mut open = BTreeMap::<[u8; 2], Vec<u64>>::new();
    let mut half_closed = BTreeSet::new();
    let mut breaks = Vec::new();
    for (index, entry) in joined.entries.iter().enumerate() {
        match &entry.event {
            Event::Opened(conn, from, to) => {
                hosts.insert(*conn, (*from, *to));
                let pair = open.entry([*from.min(to), *from.max(to)]).or_default();
                pair.push(*conn);
                // Of three links at once either side may know another order.
                if pair.len() > 2 {
                    let until = joined.entries.partition_point(|later| later.at < entry.at + BYE_TIME_MAX);
                    breaks.push(Break { from: index, to: until, slots: [*from, *to] });
                }
            }
            Event::Closed(conn) => {
                if let Some((from, to)) = hosts.get(conn) {
                    breaks.push(Break { from: index, to: index, slots: [*from, *to] });
                    // While only one end has left it, it stands for the other.
                    if !half_closed.insert(*conn) {
                        open.entry([*from.min(to), *from.max(to)]).or_default().retain(|other| other != conn);
                    }
                }
            }
            Event::Net(conn, what) if !what.starts_with("Stall") => {
                if let Some((from, to)) = hosts.get(conn) {
                    breaks.push(Break { from: index, to: index, slots: [*from, *to] });
                }
            }
            Event::Left(slot, peer) => {
                let others = joined.nodes.iter().filter(|(instance, ..)| instance == peer);
                // The Bye may be long on its way, and what is sent until it comes is read beside the next link.
                let to = joined.entries.partition_point(|later| later.at < entry.at + BYE_TIME_MAX);
                breaks.extend(others.map(|(_, life, _)| Break {
                    from: index,
                    to,
                    slots: [*slot, life.slot],
                }));
            }
            _ => {}
        }
    }
    breaks
}

/// Whether a link between the two ended while the first message was on its way: then another link owes no order.
fn is_broken(breaks: &[Break], message: &Message, ran: &Ran) -> bool {
    let (sent, ran_at) = (message.place.index, ran.place.index);
    let (from, to) = (message.by.slot, ran.at.slot);
    breaks.iter().any(|broken| {
        let is_meanwhile = broken.from <= ran_at && broken.to >= sent;
        is_meanwhile && (broken.slots == [from, to] || broken.slots == [to, from])
    })
}

fn one_at_a_time(joined: &Joined<'_>, violations: &mut Vec<String>) {
    let mut spans: BTreeMap<(&str, Life), Vec<_>> = BTreeMap::new();
    let mut limited: BTreeMap<Life, Vec<(usize, bool)>> = BTreeMap::new();
    for message in &joined.messages {
        let (Some(ran), Some((done, _))) = (message.runs.first(), message.dones.first()) else { continue };
        match message.kind {
            Kind::Ordered => {
                spans.entry((&ran.sender, ran.at)).or_default().push((ran.place.index, done.index, message));
            }
            Kind::Limited => {
                limited.entry(ran.at).or_default().extend([(ran.place.index, true), (done.index, false)]);
            }
            _ => {}
        }
    }
    for runs in spans.values_mut() {
        runs.sort_by_key(|(start, ..)| *start);
        for pair in runs.windows(2) {
            let [(_, done, first), (start, _, second)] = pair else { continue };
            if start < done {
                violations.push(format!(
                    "ordered: {} began before {} had ended",
                    second.name(),
                    first.name()
                ));
            }
        }
    }
    for (life, steps) in &mut limited {
        steps.sort_by_key(|(index, _)| *index);
        let mut running = 0;
        let mut most = 0;
        for (_, is_start) in steps {
            running = if *is_start { running + 1 } else { running - 1 };
            most = most.max(running);
        }
        let limit = joined.scenario.handlers.limited as i64;
        if most > limit {
            violations.push(format!("limit: `limited` ran {most} at once at {life:?}, and may {limit}"));
        }
    }
}
