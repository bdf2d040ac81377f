//! Who is in a cohort and with which rank: [`Membership`], the leader's book, without clock, socket or task.
//!
//! **Invariants**
//! 1. A rank is held by one worker at most, and a worker holds one rank at most.
//! 2. A rank that was lost is known as lost until somebody holds it again; one that was given back is not lost.
//! 3. Each change of who answers for a rank gives its holder a generation that no holder had before.

mod joining;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::id::{Incarnation, InstanceId};

pub use joining::{Candidate, JoinRefusal, Place};

/// What a cohort goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Rules {
    /// So many ranks, or any number.
    pub size: Option<usize>,
    /// An open cohort has no more ranks than this.
    pub ranks_max: usize,
    /// So many workers may stand by.
    pub spares_max: usize,
    /// A lost worker has so long to come back to its rank.
    pub grace: Duration,
    /// A lost rank is given to a spare.
    pub replaces: bool,
    /// The leader gives the ranks; what workers ask for is a wish.
    pub assigns: bool,
}

impl Rules {
    /// Ranks are below this.
    #[must_use]
    pub fn ranks_end(&self) -> usize {
        self.size.unwrap_or(self.ranks_max)
    }
}

/// A change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembershipEvent {
    /// A worker has a rank now, or stands by.
    Joined {
        /// Its rank; `None` for a spare.
        rank: Option<usize>,
        /// Who.
        worker: InstanceId,
    },
    /// The link to a worker is lost; it has the grace period to come back.
    Away {
        /// Its rank.
        rank: usize,
        /// Who.
        worker: InstanceId,
    },
    /// A worker has come back to its rank.
    Returned {
        /// Its rank; `None` for a spare.
        rank: Option<usize>,
        /// Who.
        worker: InstanceId,
        /// It is a new process under the old identity.
        restarted: bool,
    },
    /// A worker is lost for good. This is the failure that the cohort's policy is about.
    Lost {
        /// The rank it had; `None` for a spare.
        rank: Option<usize>,
        /// Who.
        worker: InstanceId,
    },
    /// A spare has taken a lost rank.
    Replaced {
        /// The rank.
        rank: usize,
        /// Who had it.
        old: InstanceId,
        /// Who has it.
        new: InstanceId,
    },
    /// A worker left by its own will.
    Left {
        /// The rank it had; `None` for a spare.
        rank: Option<usize>,
        /// Who.
        worker: InstanceId,
    },
    /// The leader let a worker go.
    Removed {
        /// The rank it had; `None` for a spare.
        rank: Option<usize>,
        /// Who.
        worker: InstanceId,
    },
    /// All ranks have their workers.
    Ready,
}

/// A spare is to be told its rank; `handle_assigned` takes its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Assignment {
    /// The rank.
    pub rank: usize,
    /// Who is to take it.
    pub spare: InstanceId,
}

/// Where a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Present,
    Away {
        until: Instant,
    },
    /// A spare that is being told its rank.
    Taking,
}

#[derive(Debug)]
struct Member {
    start: Incarnation,
    rank: Option<usize>,
    state: State,
    generation: u64,
    /// What it asked for.
    asked: Option<usize>,
    asked_spare: bool,
}

/// Who answers for a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Holder {
    /// This worker.
    Present {
        /// Who.
        worker: InstanceId,
        /// Grows with each change of holder, and each return.
        generation: u64,
    },
    /// This worker had it last, and it, or a spare, may have it soon.
    Awaited(InstanceId),
    /// Nobody: its worker was lost.
    Lost(InstanceId),
    /// Nobody: its worker left or was removed.
    GivenBack,
    /// Nobody ever had it.
    NeverTaken,
}

/// A member as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberInfo {
    /// Its rank; `None` for a spare.
    pub rank: Option<usize>,
    /// Who.
    pub worker: InstanceId,
    /// Whether it is there: not lost with its grace period still running, and not a spare on its way to a rank.
    pub is_present: bool,
}

/// The leader's book of members.
#[derive(Debug)]
pub struct Membership {
    rules: Rules,
    members: BTreeMap<InstanceId, Member>,
    ranks: BTreeMap<usize, InstanceId>,
    /// Ranks without a holder: whose they were, or `None` if they were given back.
    vacant: BTreeMap<usize, Option<InstanceId>>,
    /// Settled by the first joiner, unless the leader gives the ranks.
    is_ranked: Option<bool>,
    is_closed: bool,
    was_ready: bool,
    next_generation: u64,
    events: VecDeque<MembershipEvent>,
    assignments: VecDeque<Assignment>,
}

impl Membership {
    /// Nobody yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            members: BTreeMap::new(),
            ranks: BTreeMap::new(),
            vacant: BTreeMap::new(),
            is_ranked: None,
            is_closed: false,
            was_ready: false,
            next_generation: 1,
            events: VecDeque::new(),
            assignments: VecDeque::new(),
        }
    }

    /// Nobody can join any more; who is in it stays, and may come back.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// The link to this start of a worker is lost.
    pub fn handle_lost(&mut self, now: Instant, worker: InstanceId) {
        let grace = self.rules.grace;
        let Some(member) = self.members.get_mut(&worker) else { return };
        match (member.state, member.rank) {
            (State::Present, Some(rank)) if !grace.is_zero() => {
                member.state = State::Away { until: now + grace };
                self.was_ready = false;
                self.events.push_back(MembershipEvent::Away { rank, worker });
            }
            (State::Present | State::Taking, _) => self.lose(worker),
            (State::Away { .. }, _) => {}
        }
    }

    /// A worker has given up without leaving: no grace.
    pub fn handle_abandoned(&mut self, worker: InstanceId) {
        self.lose(worker);
    }

    /// A worker leaves. `false` when it is none.
    pub fn handle_leave(&mut self, worker: InstanceId) -> bool {
        self.give_back(worker, |rank, worker| MembershipEvent::Left { rank, worker })
    }

    /// The leader lets a worker go. `false` when it is none.
    pub fn remove(&mut self, worker: InstanceId) -> bool {
        self.give_back(worker, |rank, worker| MembershipEvent::Removed { rank, worker })
    }

    /// A spare has been told its rank, or could not be.
    pub fn handle_assigned(&mut self, assignment: Assignment, is_told: bool) {
        let Assignment { rank, spare } = assignment;
        let Some(member) = self.members.get_mut(&spare) else { return };
        if member.state != State::Taking || member.rank != Some(rank) {
            return;
        }
        if !is_told {
            return self.lose(spare);
        }
        member.state = State::Present;
        member.generation = self.next_generation;
        self.next_generation += 1;
        let old = self.vacant.remove(&rank).flatten().unwrap_or(InstanceId::UNKNOWN);
        self.events.push_back(MembershipEvent::Replaced { rank, old, new: spare });
        self.note_ready();
    }

    /// When `handle_timeout` has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.members
            .values()
            .filter_map(|member| match member.state {
                State::Away { until } => Some(until),
                State::Present | State::Taking => None,
            })
            .min()
    }

    /// Whose grace period has passed is lost.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_over = |member: &Member| matches!(member.state, State::Away { until } if until <= now);
        let over: Vec<_> =
            self.members.iter().filter(|(_, member)| is_over(member)).map(|(worker, _)| *worker).collect();
        over.into_iter().for_each(|worker| self.lose(worker));
    }

    /// What has happened since the last look, in order.
    pub fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    /// A spare that is to be told its rank.
    pub fn poll_assignment(&mut self) -> Option<Assignment> {
        self.assignments.pop_front()
    }

    /// Who answers for a rank.
    #[must_use]
    pub fn holder(&self, rank: usize) -> Holder {
        if let Some(worker) = self.ranks.get(&rank)
            && let Some(member) = self.members.get(worker)
        {
            return match member.state {
                State::Present => Holder::Present { worker: *worker, generation: member.generation },
                State::Away { .. } | State::Taking => Holder::Awaited(*worker),
            };
        }
        match self.vacant.get(&rank) {
            Some(Some(worker)) => Holder::Lost(*worker),
            Some(None) => Holder::GivenBack,
            None => Holder::NeverTaken,
        }
    }

    /// The ranks that a call to all goes to: all of a cohort of fixed size, those ever held in an open one.
    #[must_use]
    pub fn ranks(&self) -> Vec<usize> {
        match self.rules.size {
            Some(size) => (0..size).collect(),
            None => {
                let lost = self.vacant.iter().filter(|(_, old)| old.is_some()).map(|(rank, _)| *rank);
                let mut ranks: Vec<_> = self.ranks.keys().copied().chain(lost).collect();
                ranks.sort_unstable();
                ranks.dedup();
                ranks
            }
        }
    }

    /// Ranks without a worker that is there: of a fixed size those below it, of an open one the holes.
    #[must_use]
    pub fn missing(&self) -> Vec<usize> {
        let end =
            self.rules.size.unwrap_or_else(|| self.ranks().last().map_or(1, |rank| rank.saturating_add(1)));
        (0..end).filter(|rank| !matches!(self.holder(*rank), Holder::Present { .. })).collect()
    }

    /// All members: by rank, the spares last.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        let mut members: Vec<_> = self
            .members
            .iter()
            .map(|(worker, member)| MemberInfo {
                rank: member.rank,
                worker: *worker,
                is_present: member.state == State::Present,
            })
            .collect();
        members.sort_by_key(|member| (member.rank.is_none(), member.rank, member.worker));
        members
    }

    /// Whether it has a rank or stands by.
    #[must_use]
    pub fn is_member(&self, worker: InstanceId) -> bool {
        self.members.contains_key(&worker)
    }

    /// The start of a member that is there.
    #[must_use]
    pub fn start_of(&self, worker: InstanceId) -> Option<Incarnation> {
        let member = self.members.get(&worker)?;
        (!matches!(member.state, State::Away { .. })).then_some(member.start)
    }

    /// The rank of a member.
    #[must_use]
    pub fn rank_of(&self, worker: InstanceId) -> Option<usize> {
        self.members.get(&worker)?.rank
    }

    fn note_ready(&mut self) {
        let is_ready = !self.ranks.is_empty() && self.missing().is_empty();
        if is_ready && !self.was_ready {
            self.events.push_back(MembershipEvent::Ready);
        }
        self.was_ready = is_ready;
    }

    fn give_back(
        &mut self,
        worker: InstanceId,
        event: fn(Option<usize>, InstanceId) -> MembershipEvent,
    ) -> bool {
        let Some(member) = self.members.remove(&worker) else { return false };
        if let Some(rank) = member.rank {
            self.ranks.remove(&rank);
            if member.state != State::Taking {
                self.vacant.insert(rank, None);
            }
        }
        self.was_ready = false;
        // One that was on its way to a rank has had none.
        let had = member.rank.filter(|_| member.state != State::Taking);
        self.events.push_back(event(had, worker));
        self.fill();
        true
    }

    fn lose(&mut self, worker: InstanceId) {
        let Some(member) = self.members.remove(&worker) else { return };
        let mut had = None;
        if let Some(rank) = member.rank {
            self.ranks.remove(&rank);
            if member.state != State::Taking {
                self.vacant.insert(rank, Some(worker));
                had = Some(rank);
            }
        }
        self.was_ready = false;
        self.events.push_back(MembershipEvent::Lost { rank: had, worker });
        self.fill();
    }

    /// Gives lost ranks to spares.
    fn fill(&mut self) {
        if !self.rules.replaces {
            return;
        }
        let lost: Vec<_> = self
            .vacant
            .iter()
            .filter(|(rank, old)| old.is_some() && !self.ranks.contains_key(rank))
            .map(|(rank, _)| *rank)
            .collect();
        for rank in lost {
            let spare = self.members.iter_mut().find(|(_, member)| member.rank.is_none());
            let Some((spare, member)) = spare else { return };
            member.rank = Some(rank);
            member.state = State::Taking;
            self.ranks.insert(rank, *spare);
            self.assignments.push_back(Assignment { rank, spare: *spare });
        }
    }
}
