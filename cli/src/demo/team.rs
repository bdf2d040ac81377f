//! The workers as their leader sees them: [`Team`] starts the processes, forms the cohort of them, learns of each
//! one's loss, and leaves none behind.
//!
//! **Invariants**
//! 1. Each process is owned by a future that waits for its end: dropping the team kills whoever still runs.
//! 2. Only the processes that were started are in the cohort, each by the rank it was started with.
//! 3. A worker that is lost stays lost.

use std::future::pending;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dynamo_am::ActiveMessageManager;
use dynamo_am::cohort::{CohortEvents, CohortLimits, FailurePolicy, LeaderWorkerCohort};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout_at};

use super::report::WorkerReport;
use crate::exit::Failure;

/// Workers that are not there by then are done without.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long workers may take to end when their leader lets them go.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// All workers of a leader. Their numbers begin with 1, their ranks with 0; a rank is a worker's place here.
pub(crate) struct Team {
    pub(crate) workers: Vec<WorkerReport>,
    pub(crate) cohort: LeaderWorkerCohort,
    events: CohortEvents,
    exits: FuturesUnordered<BoxFuture<'static, (usize, io::Result<ExitStatus>)>>,
}

impl Team {
    /// Starts `count` processes of this very command, and waits until each has joined or is lost.
    ///
    /// # Errors
    ///
    /// When a process cannot be started, or none of them comes.
    pub(crate) async fn start(node: &ActiveMessageManager, count: u32) -> Result<Self, Failure> {
        let is_forming = Arc::new(AtomicBool::new(true));
        let cohort = form(node, count, is_forming.clone())?;
        let events = cohort.events();
        let mut team = Self { workers: Vec::new(), cohort, events, exits: FuturesUnordered::new() };
        for number in 1..=count {
            team.add(start_process(node, number)?, number);
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while !team.is_complete() {
            let change = async {
                tokio::select! {
                    _ = team.events.next() => {}
                    at = next_exit(&mut team.exits) => if let Some(worker) = team.workers.get_mut(at) {
                        worker.lost = true;
                    },
                }
            };
            if timeout_at(deadline, change).await.is_err() {
                break;
            }
        }
        is_forming.store(false, Ordering::Relaxed);
        team.look();
        if team.is_lost() {
            return Err(Failure::connection("no worker process came up").hint("see what they said above"));
        }
        Ok(team)
    }

    fn add(&mut self, mut child: Child, number: u32) {
        let at = self.workers.len();
        let pid = child.id().unwrap_or_default();
        self.workers.push(WorkerReport { worker: number, pid, ..WorkerReport::default() });
        self.exits.push(Box::pin(async move { (at, child.wait().await) }));
    }

    /// Whether each worker has joined, or will not.
    fn is_complete(&self) -> bool {
        let present = self.present();
        self.workers.iter().enumerate().all(|(rank, worker)| worker.lost || present.contains(&rank))
    }

    fn present(&self) -> Vec<usize> {
        let members = self.cohort.members().into_iter();
        members.filter(|member| member.is_present).filter_map(|member| member.rank).collect()
    }

    /// Marks those as lost that are not in the cohort any more.
    pub(crate) fn look(&mut self) {
        let present = self.present();
        for (rank, worker) in self.workers.iter_mut().enumerate() {
            worker.lost |= !present.contains(&rank);
        }
    }

    /// Waits until something changes among the workers, and marks who is lost. A worker's answers that had come
    /// before its loss are in the hands of the cohort by then. Cancelling loses nothing.
    pub(crate) async fn change(&mut self) {
        if self.events.next().await.is_none() {
            // The cohort has ended, which only the team's own end does.
            pending::<()>().await;
        }
        self.look();
    }

    /// Whether nobody is left to work.
    pub(crate) fn is_lost(&self) -> bool {
        self.workers.iter().all(|worker| worker.lost)
    }

    /// Kills a worker that works, the last one of them; gives its number.
    ///
    /// # Errors
    ///
    /// When there is none, or the system refuses.
    pub(crate) fn kill_one(&self) -> Result<u32, Failure> {
        let worker = self.workers.iter().rfind(|worker| !worker.lost);
        let (number, pid) = worker.map(|worker| (worker.worker, worker.pid)).unwrap_or_default();
        // It is our child and nobody has waited for it, so the number is still its own.
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::connection("there is no worker left to kill"))?;
        kill_process(pid, Signal::KILL)
            .map_err(|error| Failure::handler(format!("cannot kill worker {number}: {error}")))?;
        Ok(number)
    }

    /// Lets the workers go, waits for their processes, and kills those that stay.
    pub(crate) async fn end(mut self) {
        let deadline = Instant::now() + END_TIMEOUT;
        // All is answered: who lingers is killed below.
        let _ = self.cohort.shutdown(END_TIMEOUT).await;
        while !self.exits.is_empty() {
            if timeout_at(deadline, self.exits.next()).await.is_err() {
                return;
            }
        }
    }
}

fn form(
    node: &ActiveMessageManager,
    count: u32,
    is_forming: Arc<AtomicBool>,
) -> Result<LeaderWorkerCohort, Failure> {
    LeaderWorkerCohort::builder()
        .size(count as usize)
        .on_failure(FailurePolicy::FailSlot)
        // Another process would have read nothing yet: there is nothing to wait for.
        .grace(Duration::ZERO)
        // Reading does no harm to workers, so a file that was lost with some is no reason to give it up.
        .limits(CohortLimits { item_attempts_max: count + 1, ..CohortLimits::default() })
        .admit(move |_request| match is_forming.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("no worker is awaited any more".to_owned()),
        })
        .start(&node.client())
        .map_err(|error| Failure::handler(error.to_string()))
}

/// The next worker whose process has ended; waits for ever when none runs. Cancelling loses nothing.
async fn next_exit(
    exits: &mut FuturesUnordered<BoxFuture<'static, (usize, io::Result<ExitStatus>)>>,
) -> usize {
    match exits.next().await {
        Some((at, _status)) => at,
        None => pending().await,
    }
}

fn start_process(node: &ActiveMessageManager, number: u32) -> Result<Child, Failure> {
    let cannot_start = |error: io::Error| {
        Failure::handler(format!("cannot start a worker process: {error}"))
            .hint("see that this command's own file is still in its place, and how many processes may run")
    };
    let endpoint = node.endpoints().first().map(ToString::to_string).unwrap_or_default();
    let exe = std::env::current_exe().map_err(cannot_start)?;
    Command::new(exe)
        .args(["demo-worker", "--leader", &endpoint, "--number", &number.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot_start)
}
