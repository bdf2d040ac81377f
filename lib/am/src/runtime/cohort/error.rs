//! How the work of a cohort can fail, one type per operation.

use std::fmt;
use std::time::Duration;

use crate::api::call_error::CallError;
use crate::error::{ConnectError, RegisterError};
use crate::id::InstanceId;
use crate::proto::membership::JoinRefusal;

/// Why a rank gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CohortError {
    /// The call to the rank's worker failed. The source says whether the handler can have run.
    #[error("the call to rank {rank} failed")]
    Call {
        /// The rank.
        rank: usize,
        /// Who had it.
        worker: InstanceId,
        /// How the call failed.
        #[source]
        source: CallError,
    },
    /// Nobody has the rank, so nothing was sent.
    #[error("rank {rank} has no worker: {reason}")]
    Vacant {
        /// The rank.
        rank: usize,
        /// Why not.
        reason: String,
    },
    /// The rank's worker was away, and neither it nor a spare was there by the deadline; nothing was sent.
    #[error("rank {rank} was away until the deadline of {} ms", deadline.as_millis())]
    Away {
        /// The rank.
        rank: usize,
        /// The call's deadline.
        deadline: Duration,
    },
    /// The request could not be made; nothing was sent.
    #[error("no request could be made{}: {reason}", rank.map_or_else(String::new, |rank| format!(" for rank {rank}")))]
    Request {
        /// The rank, if it was for one.
        rank: Option<usize>,
        /// Why not.
        reason: String,
    },
    /// The cohort has failed as a whole (`FailurePolicy::FailAll`).
    #[error("the cohort `{cohort}` has failed: {reason}")]
    Failed {
        /// Its name.
        cohort: String,
        /// Which loss it was.
        reason: String,
        /// Whether the handler can have run.
        maybe_executed: bool,
    },
    /// The cohort was shut down or dropped; nothing was sent.
    #[error("the cohort `{cohort}` has ended")]
    Ended {
        /// Its name.
        cohort: String,
    },
    /// No worker was there by the deadline; nothing was sent.
    #[error("no worker of the cohort `{cohort}` was there within {} ms", deadline.as_millis())]
    NoWorkers {
        /// Its name.
        cohort: String,
        /// How long it was waited.
        deadline: Duration,
    },
}

impl CohortError {
    /// Whether no handler can have run.
    #[must_use]
    pub const fn is_retry_safe(&self) -> bool {
        match self {
            Self::Call { source, .. } => source.is_retry_safe(),
            Self::Failed { maybe_executed, .. } => !*maybe_executed,
            _ => true,
        }
    }

    /// Whether the rank was too slow, rather than wrong or lost.
    #[must_use]
    pub const fn is_straggler(&self) -> bool {
        matches!(self, Self::Call { source: CallError::DeadlineExceeded { .. }, .. } | Self::Away { .. })
    }

    /// The rank, where it is about one.
    #[must_use]
    pub const fn rank(&self) -> Option<usize> {
        match self {
            Self::Call { rank, .. } | Self::Vacant { rank, .. } | Self::Away { rank, .. } => Some(*rank),
            Self::Request { rank, .. } => *rank,
            Self::Failed { .. } | Self::Ended { .. } | Self::NoWorkers { .. } => None,
        }
    }
}

/// An operation that needs all ranks did not get all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectiveError {
    /// What each rank that failed failed of, in rank order.
    pub failures: Vec<(usize, CohortError)>,
    /// How many ranks were asked.
    pub ranks: usize,
}

impl CollectiveError {
    /// The ranks that had not answered when the deadline passed.
    #[must_use]
    pub fn stragglers(&self) -> Vec<usize> {
        self.failures.iter().filter(|(_, error)| error.is_straggler()).map(|(rank, _)| *rank).collect()
    }
}

impl fmt::Display for CollectiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranks == 0 {
            return f.write_str("the cohort has no ranks");
        }
        write!(f, "{} of {} ranks failed", self.failures.len(), self.ranks)?;
        let stragglers = self.stragglers();
        if !stragglers.is_empty() {
            write!(f, "; not done by the deadline: ranks {}", ranks_text(&stragglers))?;
        }
        let others = self.failures.iter().filter(|(_, error)| !error.is_straggler());
        for (_, error) in others.take(FAILURES_SHOWN) {
            match error {
                CohortError::Call { rank, source, .. } => write!(f, "; rank {rank}: {source}")?,
                error => write!(f, "; {error}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for CollectiveError {}

/// An error text names so many failures; the fields have all of them.
const FAILURES_SHOWN: usize = 4;

/// Ranks as people read them: `0, 3-5`.
pub(crate) fn ranks_text(ranks: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(rank) => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let texts: Vec<_> = runs
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    texts.join(", ")
}

/// Why a cohort was not ready in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitReadyError {
    /// Some ranks have no worker.
    #[error("after {} ms ranks {} of the cohort `{cohort}` are missing", waited.as_millis(), ranks_text(missing))]
    Missing {
        /// Its name.
        cohort: String,
        /// Which, in order.
        missing: Vec<usize>,
        /// How long it was waited.
        waited: Duration,
    },
    /// It has failed or ended.
    #[error(transparent)]
    Over(#[from] CohortError),
}

/// Why a cohort did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartCohortError {
    /// Its name is not allowed.
    #[error("a cohort cannot be called `{name}`: {reason}")]
    Name {
        /// The name, cut at 64 characters.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A cohort of no workers, or of more than its limits allow.
    #[error("a cohort of {size} workers is not possible: the size must be 1 to {limit}, its `ranks_max`")]
    Size {
        /// What was asked for.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The node leads a cohort of that name already, or takes no handlers.
    #[error("the cohort `{cohort}` cannot be led here")]
    Register {
        /// Its name.
        cohort: String,
        /// Why not.
        #[source]
        source: RegisterError,
    },
}

/// Why a worker did not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The name is not allowed.
    #[error("no cohort can be called `{name}`: {reason}")]
    Name {
        /// The name, cut at 64 characters.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The leader cannot be reached.
    #[error("the leader cannot be reached")]
    Connect(#[from] ConnectError),
    /// There is a node, and it leads no cohort of that name.
    #[error("{leader} leads no cohort `{cohort}`; it was waited for {} ms", waited.as_millis())]
    NoSuchCohort {
        /// The cohort.
        cohort: String,
        /// Who was asked.
        leader: InstanceId,
        /// How long.
        waited: Duration,
    },
    /// The leader says no.
    #[error(transparent)]
    Refused(#[from] JoinRefusal),
    /// The question got no answer.
    #[error("the leader was asked and gave no answer")]
    Call(#[from] CallError),
    /// The handlers of a member cannot be registered here.
    #[error("this node cannot take part")]
    Register(#[from] RegisterError),
}

/// Why a worker that was named by its endpoint was not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddWorkerError {
    /// It cannot be reached.
    #[error("the worker cannot be reached")]
    Connect(#[from] ConnectError),
    /// It may not join.
    #[error(transparent)]
    Refused(#[from] JoinRefusal),
    /// The cohort has failed or ended.
    #[error(transparent)]
    Over(#[from] CohortError),
}

/// Why a barrier did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// Not all came; the leader's word.
    #[error("the barrier did not open: {0}")]
    NotAll(String),
    /// The membership ended first.
    #[error("the membership ended before the barrier opened")]
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_named_in_runs() {
        assert_eq!(ranks_text(&[0, 3, 4, 5, 9]), "0, 3-5, 9");
        assert_eq!(ranks_text(&[]), "");
    }

    #[test]
    fn a_collective_error_names_the_stragglers() {
        let away = |rank| (rank, CohortError::Away { rank, deadline: Duration::from_millis(50) });
        let error = CollectiveError { failures: vec![away(1), away(2)], ranks: 4 };
        assert_eq!(error.to_string(), "2 of 4 ranks failed; not done by the deadline: ranks 1-2");
    }
}
