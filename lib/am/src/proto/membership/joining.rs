//! Who may join, and with which rank.

use super::{Member, Membership, MembershipEvent, State};
use crate::id::{Incarnation, InstanceId};

/// Somebody who wants to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Candidate {
    /// Who.
    pub worker: InstanceId,
    /// Which start of it.
    pub start: Incarnation,
    /// The rank it asks for.
    pub rank: Option<usize>,
    /// It wants to stand by.
    pub is_spare: bool,
    /// The rank that the leader gives it, if that is the leader's business.
    pub assigned: Option<usize>,
}

/// A worker has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Place {
    /// Its rank; `None` for a spare.
    pub rank: Option<usize>,
    /// It was no member before.
    pub is_new: bool,
}

/// Why a worker may not join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// Another worker has the rank.
    #[error("rank {rank} is taken by {by}; start this worker with a rank of its own")]
    RankTaken {
        /// The rank asked for.
        rank: usize,
        /// Who has it.
        by: InstanceId,
    },
    /// The cohort has no such rank.
    #[error("rank {rank} is out of range: the cohort's ranks are 0 to {}", end.saturating_sub(1))]
    RankOutOfRange {
        /// The rank asked for.
        rank: usize,
        /// Ranks are below this.
        end: usize,
    },
    /// Some workers name ranks and others do not.
    #[error(
        "the workers of this cohort {}; let all of them name a rank, or none",
        if *cohort_is_ranked { "name their ranks, and this one does not" }
        else { "name no ranks, and this one does" }
    )]
    Mixed {
        /// Whether the others name ranks.
        cohort_is_ranked: bool,
    },
    /// All ranks are taken.
    #[error("too late: all {size} ranks of the cohort are taken")]
    Full {
        /// How many there are.
        size: usize,
    },
    /// The cohort takes nobody any more, or has ended.
    #[error("too late: the cohort takes no more workers")]
    Closed,
    /// This instance is a member already, with another rank.
    #[error("this instance is in the cohort as {}, and now asks for {}", rank_text(*has), rank_text(*asked))]
    OtherRank {
        /// What it has.
        has: Option<usize>,
        /// What it asks for now.
        asked: Option<usize>,
    },
    /// As many workers stand by as may.
    #[error("too late: {limit} spare workers stand by already")]
    TooManySpares {
        /// The limit.
        limit: usize,
    },
    /// The leader's `admit` said no.
    #[error("the leader does not admit this worker: {reason}")]
    NotAdmitted {
        /// Its words.
        reason: String,
    },
    /// A plain ZeroMQ client cannot be a worker.
    #[error("only nodes of dynamo-am can join a cohort")]
    NotANode,
}

fn rank_text(rank: Option<usize>) -> String {
    rank.map_or_else(|| "a worker without a named rank".to_owned(), |rank| format!("rank {rank}"))
}

impl Membership {
    /// Takes a worker in, or back. Joining twice alike is joining once.
    ///
    /// # Errors
    ///
    /// When it may not join; nothing has changed then.
    pub fn join(&mut self, candidate: Candidate) -> Result<Place, JoinRefusal> {
        if self.members.contains_key(&candidate.worker) {
            return self.join_again(&candidate);
        }
        if self.is_closed {
            return Err(JoinRefusal::Closed);
        }
        let rank = match candidate.assigned.or(candidate.rank) {
            _ if candidate.is_spare => None,
            Some(rank) => Some(self.check_rank(rank)?),
            None => self.next_rank()?,
        };
        if rank.is_none() {
            self.check_spares()?;
        } else if !self.rules.assigns {
            self.is_ranked.get_or_insert(candidate.rank.is_some());
        }
        self.admit(&candidate, rank);
        Ok(Place { rank, is_new: true })
    }

    fn join_again(&mut self, candidate: &Candidate) -> Result<Place, JoinRefusal> {
        let worker = candidate.worker;
        let generation = self.next_generation;
        let Some(member) = self.members.get_mut(&worker) else { return Err(JoinRefusal::Closed) };
        let is_alike = candidate.rank == member.asked && candidate.is_spare == member.asked_spare;
        let names_its_own = candidate.rank.is_some() && candidate.rank == member.rank;
        if !is_alike && !names_its_own {
            return Err(JoinRefusal::OtherRank { has: member.rank, asked: candidate.rank });
        }
        let rank = member.rank;
        let restarted = member.start != candidate.start;
        member.start = candidate.start;
        if restarted || matches!(member.state, State::Away { .. }) {
            member.generation = generation;
            if member.state != State::Taking {
                member.state = State::Present;
            }
            self.next_generation += 1;
            self.events.push_back(MembershipEvent::Returned { rank, worker, restarted });
            self.note_ready();
        }
        Ok(Place { rank, is_new: false })
    }

    /// A rank that is named.
    fn check_rank(&self, rank: usize) -> Result<usize, JoinRefusal> {
        let end = self.rules.ranks_end();
        if rank >= end {
            return Err(JoinRefusal::RankOutOfRange { rank, end });
        }
        if self.is_ranked == Some(false) {
            return Err(JoinRefusal::Mixed { cohort_is_ranked: false });
        }
        match self.ranks.get(&rank) {
            Some(by) => Err(JoinRefusal::RankTaken { rank, by: *by }),
            None => Ok(rank),
        }
    }

    /// The position of a worker that names none; `None` if it is to stand by.
    fn next_rank(&self) -> Result<Option<usize>, JoinRefusal> {
        if self.is_ranked == Some(true) {
            return Err(JoinRefusal::Mixed { cohort_is_ranked: true });
        }
        let end = self.rules.ranks_end();
        let free = (0..end).find(|rank| !self.ranks.contains_key(rank));
        if free.is_none() && !self.rules.replaces {
            return Err(JoinRefusal::Full { size: end });
        }
        Ok(free)
    }

    fn check_spares(&self) -> Result<(), JoinRefusal> {
        let spares = self.members.values().filter(|member| member.rank.is_none()).count();
        let limit = self.rules.spares_max;
        match spares < limit {
            true => Ok(()),
            false if limit == 0 && self.rules.size.is_some() => {
                Err(JoinRefusal::Full { size: self.rules.ranks_end() })
            }
            false => Err(JoinRefusal::TooManySpares { limit }),
        }
    }

    fn admit(&mut self, candidate: &Candidate, rank: Option<usize>) {
        let member = Member {
            start: candidate.start,
            rank,
            state: State::Present,
            generation: self.next_generation,
            asked: candidate.rank,
            asked_spare: candidate.is_spare,
        };
        self.next_generation += 1;
        self.members.insert(candidate.worker, member);
        if let Some(rank) = rank {
            self.vacant.remove(&rank);
            self.ranks.insert(rank, candidate.worker);
        }
        self.events.push_back(MembershipEvent::Joined { rank, worker: candidate.worker });
        self.fill();
        self.note_ready();
    }
}
