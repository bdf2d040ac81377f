//! What a cohort is before it starts: [`CohortBuilder`], [`FailurePolicy`], [`CohortLimits`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::LeaderWorkerCohort;
use super::core::start;
use super::error::StartCohortError;
use crate::api::client::Client;
use crate::endpoint::Endpoint;
use crate::id::InstanceId;
use crate::proto::membership::Rules;

/// What happens when a rank's worker is lost, which is when its link has ended and its grace period has passed.
/// `docs/cohorts.md` has what each promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FailurePolicy {
    /// The cohort has failed: calls that run and all later ones fail at once.
    FailAll,
    /// The rank's results are errors, the other ranks go on. The rank may be taken again.
    #[default]
    FailSlot,
    /// A spare takes the rank. A call that was running is made again at its new worker if it cannot have run, or is
    /// declared idempotent; else its result is an error.
    Replace,
}

/// What a cohort holds and waits for at most. Each time a limit is reached,
/// `dynamo_am_cohort_limit_reached_total{limit="<its name>"}` counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct CohortLimits {
    /// An open cohort has no more ranks, a fixed one no larger size. Default 4096: each is a link.
    pub ranks_max: usize,
    /// Workers that may stand by under `FailurePolicy::Replace`. Default 64.
    pub spares_max: usize,
    /// Events kept for a reader that lags; it is told how many it missed beyond that. Default 1024.
    pub events_kept: usize,
    /// An item of a work queue is given to so many workers that are lost with it, then it is taken to be the reason.
    /// Default 3.
    pub item_attempts_max: u32,
    /// A branch of the tree carries at most so many octets of requests; what is longer goes directly. Default 4 MiB:
    /// in one message to a worker who hands it on, it would hold up smaller ones.
    pub branch_len_max: usize,
    /// A worker has so long to answer an order: to take a rank, to end. Default 5 s.
    pub order_timeout: Duration,
    /// Joins that may wait for `admit` and the book at the same time; more wait at the senders. Default 256.
    pub joins_max: usize,
}

impl Default for CohortLimits {
    fn default() -> Self {
        Self {
            ranks_max: 4096,
            spares_max: 64,
            events_kept: 1024,
            item_attempts_max: 3,
            branch_len_max: 4 << 20,
            order_timeout: Duration::from_secs(5),
            joins_max: 256,
        }
    }
}

/// A worker that asks to join, as `admit` and `assign_ranks` see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinRequest {
    /// Who: proved by its link as far as the link's mechanism proves anything.
    pub worker: InstanceId,
    /// The rank it asks for.
    pub rank: Option<usize>,
    /// It wants to stand by.
    pub is_spare: bool,
    /// Where it listens; empty when it listens nowhere.
    pub endpoints: Vec<Endpoint>,
    /// Whether it is on this machine.
    pub is_local: bool,
}

type Admit = Arc<dyn Fn(&JoinRequest) -> Result<(), String> + Send + Sync>;
type Assign = Arc<dyn Fn(&JoinRequest) -> Option<usize> + Send + Sync>;

/// Settles what a cohort is before it starts.
#[derive(Clone)]
pub struct CohortBuilder {
    pub(crate) name: String,
    pub(crate) size: Option<usize>,
    pub(crate) policy: FailurePolicy,
    pub(crate) ends_workers: bool,
    pub(crate) grace: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) fan_out_width: usize,
    pub(crate) admit: Option<Admit>,
    pub(crate) assign: Option<Assign>,
    pub(crate) limits: CohortLimits,
}

impl fmt::Debug for CohortBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CohortBuilder")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Default for CohortBuilder {
    fn default() -> Self {
        Self {
            name: super::DEFAULT_NAME.to_owned(),
            size: None,
            policy: FailurePolicy::default(),
            ends_workers: false,
            grace: Duration::from_secs(2),
            call_timeout: Duration::from_secs(30),
            fan_out_width: 16,
            admit: None,
            assign: None,
            limits: CohortLimits::default(),
        }
    }
}

impl CohortBuilder {
    /// The cohort's name, which its workers join by. Default `default`; a node may lead several of different names.
    /// 1 to 64 octets without `/` and control characters.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// So many workers, with the ranks from 0. Without it the cohort is open: it has whoever joins.
    #[must_use]
    pub fn size(mut self, workers: usize) -> Self {
        self.size = Some(workers);
        self
    }

    /// What happens when a worker is lost. Default `FailurePolicy::FailSlot`.
    #[must_use]
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// When the cohort fails under `FailurePolicy::FailAll`, its workers' memberships end, so that they can go.
    #[must_use]
    pub fn end_workers_on_failure(mut self) -> Self {
        self.ends_workers = true;
        self
    }

    /// A worker whose link is lost has so long to come back to its rank under the same identity; so long do its
    /// workers wait for a lost leader. Default 2 s; zero: a lost link is a lost worker.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The deadline of each call unless [`LeaderWorkerCohort::within`] says otherwise. Default 30 s.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// A call to more ranks than this goes down a tree of workers, who hand it on; so the leader sends and receives
    /// about as many messages as the number of ranks has binary digits. Default 16; `usize::MAX`: never.
    #[must_use]
    pub fn fan_out_width(mut self, ranks: usize) -> Self {
        self.fan_out_width = ranks;
        self
    }

    /// Decides who may join; the error's text is told to whoever may not. Asked before ranks are looked at, and
    /// again when a worker comes back. It must not block.
    #[must_use]
    pub fn admit(mut self, f: impl Fn(&JoinRequest) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.admit = Some(Arc::new(f));
        self
    }

    /// The leader gives the ranks: what workers ask for is a wish. `None` is the lowest rank that is free. It must
    /// not block.
    #[must_use]
    pub fn assign_ranks(mut self, f: impl Fn(&JoinRequest) -> Option<usize> + Send + Sync + 'static) -> Self {
        self.assign = Some(Arc::new(f));
        self
    }

    /// What the cohort holds and waits for at most.
    #[must_use]
    pub fn limits(mut self, limits: CohortLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Begins to lead: workers can join when this returns, at every endpoint of the client's node.
    ///
    /// # Errors
    ///
    /// A name or size that is not allowed; a node that leads a cohort of that name already, or has ended.
    pub fn start(self, client: &Client) -> Result<LeaderWorkerCohort, StartCohortError> {
        start(self, client)
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules {
            size: self.size,
            ranks_max: self.limits.ranks_max,
            spares_max: self.limits.spares_max,
            grace: self.grace,
            replaces: self.policy == FailurePolicy::Replace,
            assigns: self.assign.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_line_in_the_documentation_with_its_default() {
        let document = include_str!("../../../../../docs/cohorts.md");
        let line = |name: &str| {
            let found = document.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            found.unwrap_or_else(|| panic!("docs/cohorts.md says nothing of `{name}`")).to_owned()
        };
        let shown = format!("{:#?}", CohortLimits::default());
        let fields: Vec<_> =
            shown.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": ")).collect();
        assert_eq!(fields.len(), 7);
        for (name, value) in fields {
            let value = value.trim_end_matches(',');
            let value = match name {
                "branch_len_max" => "4 MiB",
                "order_timeout" => "5 s",
                _ => value,
            };
            assert!(line(name).contains(&format!("| {value} |")), "{}", line(name));
        }
        let builder = CohortBuilder::default();
        assert_eq!(
            (builder.grace.as_secs(), builder.call_timeout.as_secs(), builder.fan_out_width),
            (2, 30, 16)
        );
        assert!(line("grace").contains("| 2 s |") && line("call_timeout").contains("| 30 s |"));
        assert!(line("fan_out_width").contains("| 16 |"));
    }
}
