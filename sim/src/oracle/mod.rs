//! Joins what callers and handlers have written down, and says what contradicts the promises: [`judge`].
//!
//! One file per group of promises; each gives sentences that begin with the promise's short name.

mod calm;
mod links;
mod order;
mod time;
mod truth;

use std::time::Duration;

use crate::log::{Done, End, Entry, Event, Life, Number};
use crate::message::{Kind, Mode, Plan};
use crate::scenario::Scenario;

/// A place in the log: the how-manieth entry, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) index: usize,
    pub(crate) at: Duration,
}

/// A handler that has run.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    pub(crate) place: Place,
    pub(crate) at: Life,
    pub(crate) kind: Kind,
    pub(crate) sender: String,
    pub(crate) time_left: Option<Duration>,
    pub(crate) is_intact: bool,
}

/// All that is known of one message.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) number: Number,
    pub(crate) place: Place,
    pub(crate) by: Life,
    pub(crate) task: u64,
    pub(crate) to: String,
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    pub(crate) plan: Plan,
    pub(crate) deadline: Duration,
    pub(crate) is_nested: bool,
    pub(crate) accepted: Option<Place>,
    pub(crate) receipt: Option<Place>,
    pub(crate) ends: Vec<(Place, End)>,
    pub(crate) runs: Vec<Ran>,
    pub(crate) dones: Vec<(Place, Done)>,
}

impl Message {
    /// Its one end, if it has one.
    pub(crate) fn end(&self) -> Option<&(Place, End)> {
        self.ends.first()
    }

    /// How it stands in sentences.
    pub(crate) fn name(&self) -> String {
        let Self { number, by, kind, mode, .. } = self;
        format!("message {number} of {by:?} to `{}` ({mode:?})", kind.name())
    }
}

/// The log of a run, joined.
#[derive(Debug)]
pub(crate) struct Joined<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) entries: &'a [Entry],
    pub(crate) messages: Vec<Message>,
    /// The instance ids that nodes had, with their lives in order.
    pub(crate) nodes: Vec<(String, Life, Place)>,
    /// When the clock jumped, and how far.
    pub(crate) jumps: Vec<(Place, Duration)>,
    /// Nodes that began to go in good order.
    pub(crate) draining: Vec<Life>,
    /// Nodes that ended before all was well, when, and whether all that they had to do was done.
    pub(crate) stopped: Vec<(Life, Place, bool)>,
    /// Whose identity another process has, and where that was let in.
    pub(crate) stolen: Vec<(u8, u8)>,
    /// Peace was made.
    pub(crate) is_well: bool,
}

/// Everything that is wrong with a run; empty when nothing is.
#[must_use]
pub fn judge(scenario: &Scenario, entries: &[Entry]) -> Vec<String> {
    let mut violations = Vec::new();
    let joined = join(scenario, entries, &mut violations);
    truth::judge(&joined, &mut violations);
    order::judge(&joined, &mut violations);
    time::judge(&joined, &mut violations);
    links::judge(&joined, &mut violations);
    calm::judge(&joined, &mut violations);
    violations
}

fn join<'a>(scenario: &'a Scenario, entries: &'a [Entry], violations: &mut Vec<String>) -> Joined<'a> {
    let mut joined = Joined {
        scenario,
        entries,
        messages: Vec::new(),
        nodes: Vec::new(),
        jumps: Vec::new(),
        draining: Vec::new(),
        stopped: Vec::new(),
        stolen: Vec::new(),
        is_well: false,
    };
    for (index, entry) in entries.iter().enumerate() {
        let place = Place { index, at: entry.at };
        add(&mut joined, place, &entry.event, violations);
    }
    joined
}

fn add(joined: &mut Joined<'_>, place: Place, event: &Event, violations: &mut Vec<String>) {
    match event {
        Event::Call { number, by, task, to, kind, mode, plan, deadline, is_nested } => {
            joined.messages.push(Message {
                number: *number,
                place,
                by: *by,
                task: *task,
                to: to.clone(),
                kind: *kind,
                mode: *mode,
                plan: *plan,
                deadline: *deadline,
                is_nested: *is_nested,
                accepted: None,
                receipt: None,
                ends: Vec::new(),
                runs: Vec::new(),
                dones: Vec::new(),
            });
        }
        Event::Accepted(number) => with(joined, *number, violations, |m| m.accepted = Some(place)),
        Event::Receipt(number) => with(joined, *number, violations, |m| m.receipt = Some(place)),
        Event::Ended(number, end) => {
            with(joined, *number, violations, |m| m.ends.push((place, end.clone())));
        }
        Event::Start { number, at, kind, sender, time_left, is_intact } => {
            let (at, kind, time_left, is_intact) = (*at, *kind, *time_left, *is_intact);
            let ran = Ran { place, at, kind, sender: sender.clone(), time_left, is_intact };
            with(joined, *number, violations, |m| m.runs.push(ran));
        }
        Event::Done(number, done) => with(joined, *number, violations, |m| m.dones.push((place, *done))),
        Event::Started(life, instance) => joined.nodes.push((instance.clone(), *life, place)),
        Event::Draining(life) => joined.draining.push(*life),
        // What comes then is the end of the run, at which nothing is under way.
        Event::Stopped(..) if joined.is_well => {}
        Event::Note(text) if text == "all is well" => joined.is_well = true,
        Event::Stopped(life, how) => joined.stopped.push((*life, place, how.contains("Ok(())"))),
        Event::Theft(victim, at, true) => joined.stolen.push((*victim, *at)),
        Event::Jump(jump) => joined.jumps.push((place, *jump)),
        Event::Wrong(text) => violations.push(text.clone()),
        _ => {}
    }
}

/// Messages stand in the order of their numbers, which are dense but for those of probes.
fn with(
    joined: &mut Joined<'_>,
    number: Number,
    violations: &mut Vec<String>,
    change: impl FnOnce(&mut Message),
) {
    let found = joined.messages.binary_search_by_key(&number, |message| message.number);
    match found {
        Ok(index) => change(&mut joined.messages[index]),
        // The numbers of probes are their own, and so small that they are not looked at twice.
        Err(_) => violations.push(format!("log: message {number} was never sent")),
    }
}

impl Joined<'_> {
    /// Which instance a life had.
    pub(crate) fn instance(&self, life: Life) -> Option<&str> {
        self.nodes.iter().find(|(_, known, _)| *known == life).map(|(instance, ..)| instance.as_str())
    }

    /// Whether a node of that instance has ever begun to go in good order.
    pub(crate) fn goes(&self, instance: &str) -> bool {
        self.draining.iter().any(|life| self.instance(*life) == Some(instance))
    }

    /// How far the clock jumped between two times, and a little for the tick after each.
    pub(crate) fn jumped(&self, from: Duration, to: Duration) -> Duration {
        let slack = Duration::from_millis(200);
        self.jumps
            .iter()
            .filter(|(place, _)| place.at <= to && place.at >= from)
            .map(|(_, jump)| *jump + slack)
            .sum()
    }
}
