//! What a scenario is: [`Scenario`], and how the groups of them are found.

use std::time::Duration;

use crate::failure::Result;
use crate::process::Role;
use crate::report::Figures;
use crate::scenarios;

/// How much of a scenario is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What a test run can afford: the same acts, fewer and shorter.
    Short,
    /// The counts and times of the promise.
    Full,
}

impl Form {
    /// One value or the other.
    pub fn pick<T>(self, short: T, full: T) -> T {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }
}

/// One thing that is shown.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Unique, in lower case with underscores.
    pub name: &'static str,
    /// What holds when it passes, in one line.
    pub proves: &'static str,
    /// Plays it. Called on the main thread, outside of any runtime; see [`block_on`].
    pub run: fn(Form) -> Result<Figures>,
}

/// The scenarios of one file, and the roles that their helper processes play.
#[derive(Debug)]
pub struct Group {
    /// What they have in common.
    pub name: &'static str,
    /// In the order in which they are played.
    pub scenarios: &'static [Scenario],
    /// Names are unique among all groups: begin them with the group's.
    pub roles: &'static [Role],
}

/// All scenarios, group by group.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    scenarios::GROUPS.iter().flat_map(|group| group.scenarios)
}

/// The scenario of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.name == name)
}

/// The role of that name.
#[must_use]
pub fn find_role(name: &str) -> Option<&'static Role> {
    scenarios::GROUPS.iter().flat_map(|group| group.roles).find(|role| role.name == name)
}

/// Runs the async part of a scenario or role on a runtime with `workers` threads, which is gone afterwards.
///
/// # Errors
///
/// Those of the future, or when no runtime can be had.
pub fn block_on<T>(workers: usize, future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_keep_alive(IDLE_THREAD_MAX)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(future);
    // Long enough for tasks that are ending; one that hangs must not keep the program.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Threads for blocking work go when idle for so long: shorter than usual, so that those in use can be counted.
const IDLE_THREAD_MAX: Duration = Duration::from_millis(500);
