//! The worker processes as their leader sees them: [`Team`] starts them, learns of each one's end, and leaves none.
//!
//! **Invariants**
//! 1. Each process is owned by a future that waits for its end: dropping the team kills whoever still runs.
//! 2. A worker is called only on the link by which it said hello; it listens nowhere.
//! 3. A worker that is lost stays lost.

use std::future::pending;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use dynamo_am::{ActiveMessageManager, Handler, HandlerError, InstanceId, Peer};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::report::WorkerReport;
use super::worker::Hello;
use crate::exit::Failure;

/// Workers that are not there by then are done without.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long workers may take to end by themselves when their leader has gone.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// From its hello on.
    pub(crate) peer: Option<Peer>,
    /// Files that it has been given and not answered for.
    pub(crate) outstanding: u32,
    pub(crate) report: WorkerReport,
}

impl Worker {
    const fn is_awaited(&self) -> bool {
        self.peer.is_none() && !self.report.lost
    }

    /// Whether it can be called.
    pub(crate) const fn is_working(&self) -> bool {
        self.peer.is_some() && !self.report.lost
    }
}

/// All workers of a leader. They are numbered from 1, and named by their place here.
pub(crate) struct Team {
    pub(crate) workers: Vec<Worker>,
    exits: FuturesUnordered<BoxFuture<'static, (usize, io::Result<ExitStatus>)>>,
}

impl Team {
    /// Starts `count` processes of this very command, and waits until each has said hello or is lost.
    ///
    /// # Errors
    ///
    /// When a process cannot be started, or none of them comes.
    pub(crate) async fn start(node: &ActiveMessageManager, count: u32) -> Result<Self, Failure> {
        let (hellos, mut arrived) = mpsc::channel(count as usize);
        node.register(hello(hellos))?;
        let mut team = Self { workers: Vec::new(), exits: FuturesUnordered::new() };
        for number in 1..=count {
            team.add(start_process(node, number)?, number);
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while team.workers.iter().any(Worker::is_awaited) {
            let came = async {
                tokio::select! {
                    biased;
                    Some((instance, hello)) = arrived.recv() => team.welcome(node, instance, &hello),
                    at = team.next_exit() => team.lose(at),
                }
            };
            if timeout_at(deadline, came).await.is_err() {
                break;
            }
        }
        for worker in &mut team.workers {
            worker.report.lost |= worker.is_awaited();
        }
        if team.is_lost() {
            return Err(Failure::connection("no worker process came up").hint("see what they said above"));
        }
        Ok(team)
    }

    fn add(&mut self, mut child: Child, number: u32) {
        let at = self.workers.len();
        let pid = child.id().unwrap_or_default();
        let report = WorkerReport { worker: number, pid, ..WorkerReport::default() };
        self.workers.push(Worker { peer: None, outstanding: 0, report });
        self.exits.push(Box::pin(async move { (at, child.wait().await) }));
    }

    fn welcome(&mut self, node: &ActiveMessageManager, instance: InstanceId, hello: &Hello) {
        let worker = self.workers.iter_mut().find(|worker| worker.report.worker == hello.number);
        if let Some(worker) = worker.filter(|worker| worker.is_awaited()) {
            worker.peer = node.client().peer(instance);
            // Its link has ended since.
            worker.report.lost = worker.peer.is_none();
        }
    }

    /// The next worker whose process has ended; waits for ever when none runs. Cancelling loses nothing.
    pub(crate) async fn next_exit(&mut self) -> usize {
        match self.exits.next().await {
            Some((at, _status)) => at,
            None => pending().await,
        }
    }

    /// Gives a worker up.
    pub(crate) fn lose(&mut self, at: usize) {
        if let Some(worker) = self.workers.get_mut(at) {
            worker.report.lost = true;
        }
    }

    /// Whether nobody is left to work.
    pub(crate) fn is_lost(&self) -> bool {
        !self.workers.iter().any(Worker::is_working)
    }

    /// The worker with the least to do, among those that have fewer than `in_flight` files.
    pub(crate) fn free(&self, in_flight: u32) -> Option<usize> {
        let free = self.workers.iter().enumerate();
        let free = free.filter(|(_, worker)| worker.is_working() && worker.outstanding < in_flight);
        free.min_by_key(|(_, worker)| (worker.outstanding, worker.report.files)).map(|(at, _)| at)
    }

    /// Waits for the processes, whose links have ended, and kills those that stay.
    pub(crate) async fn end(mut self) {
        let deadline = Instant::now() + END_TIMEOUT;
        while !self.exits.is_empty() {
            if timeout_at(deadline, self.exits.next()).await.is_err() {
                return;
            }
        }
    }
}

/// Takes each worker's hello, until nobody waits for any.
fn hello(hellos: mpsc::Sender<(InstanceId, Hello)>) -> Handler {
    Handler::unary("hello", move |cx, hello: Hello| {
        let sent = hellos.try_send((cx.sender().instance_id(), hello));
        async move { sent.map_err(|_| HandlerError::msg("no worker is awaited any more")) }
    })
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
