//! The leading side of the demo: starts workers, gives out files, adds up.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dynamo_am::{
    ActiveMessageManager, CallError, Client, Handler, HandlerError, InstanceId, Peer, Raw, Refusal,
};
use indicatif::{HumanBytes, ProgressBar};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::digest::Digest;
use super::feed::{FOUND_LEN, Feed};
use super::report::{FileError, Report, Totals, WorkerReport, write_json};
use super::walk::walk;
use super::worker::Hello;
use crate::args::DemoArgs;
use crate::exit::Failure;

/// Workers that are not there by then will not come.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long workers may take to end by themselves.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// One file's deadline: even a huge one on a slow disk is done by then.
const FILE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A worker that has said hello.
#[derive(Debug, Clone)]
struct Worker {
    peer: Peer,
    report: Arc<Mutex<WorkerReport>>,
}

/// What all slots add to.
#[derive(Debug, Default)]
struct Sums {
    totals: Totals,
    /// `HEX  relative/path` lines, sorted.
    lines: BTreeSet<Vec<u8>>,
}

/// Runs the demo.
pub(crate) async fn run(args: &DemoArgs) -> Result<(), Failure> {
    let root = std::fs::canonicalize(&args.dir)
        .map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", args.dir.display())))?;
    if !root.is_dir() {
        return Err(Failure::usage(format!("`{}` is no directory", args.dir.display())));
    }
    tokio::select! {
        result = lead(args, &root) => result,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| Failure::usage(format!("cannot watch for signals: {error}")))?;
            Err(Failure::interrupted())
        }
    }
}

async fn lead(args: &DemoArgs, root: &Path) -> Result<(), Failure> {
    let node = ActiveMessageManager::builder().listen("ipc://*").start().await?;
    let (mut children, workers) = start_workers(&node, args.workers).await?;
    let began = Instant::now();
    let (found, receiver) = mpsc::channel(FOUND_LEN);
    let walked = root.to_owned();
    let walker = tokio::task::spawn_blocking(move || walk(&walked, &found));
    let feed = Arc::new(Feed::new(receiver));
    let sums = Arc::new(Mutex::new(Sums::default()));
    let progress = progress_bar();

    let job = Arc::new(Job { root: root.to_owned(), feed: feed.clone(), sums: sums.clone(), progress });
    let mut alive = workers.clone();
    loop {
        let mut slots = JoinSet::new();
        for worker in &alive {
            for _ in 0..args.in_flight {
                slots.spawn(job.clone().run_slot(worker.clone()));
            }
        }
        while slots.join_next().await.is_some() {}
        alive.retain(|worker| !lock(&worker.report).lost);
        if alive.is_empty() {
            return Err(Failure::connection("all workers were lost; nobody is left to read the files"));
        }
        // Files of workers that were lost after the others had found nothing more to do.
        if !feed.has_returned() {
            break;
        }
    }
    job.progress.finish_and_clear();
    let _ = walker.await;
    let seconds = began.elapsed().as_secs_f64();
    let _ = node.shutdown().await;
    end_workers(&mut children).await;

    let report = sum_up(&sums, &workers, &feed, seconds);
    if args.json.as_deref() != Some(Path::new("-")) {
        report.print();
    }
    match &args.json {
        Some(path) => write_json(path, &serde_json::to_value(&report).unwrap_or_default()),
        None => Ok(()),
    }
}

fn progress_bar() -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(100));
    progress
}

fn sum_up(sums: &Mutex<Sums>, workers: &[Worker], feed: &Feed, seconds: f64) -> Report {
    let mut sums = lock(sums);
    let mut hasher = blake3::Hasher::new();
    for line in &sums.lines {
        hasher.update(line);
    }
    sums.totals.blake3 = hasher.finalize().to_hex().to_string();
    let mut workers: Vec<WorkerReport> = workers.iter().map(|worker| lock(&worker.report).clone()).collect();
    workers.sort_by_key(|worker| worker.worker);
    let mut errors = feed.take_errors();
    errors.sort_by(|a, b| a.path.cmp(&b.path));
    Report { totals: sums.totals.clone(), workers, errors, seconds }
}

/// What a slot needs to know.
#[derive(Debug)]
struct Job {
    root: PathBuf,
    feed: Arc<Feed>,
    sums: Arc<Mutex<Sums>>,
    progress: ProgressBar,
}

impl Job {
    /// One of a worker's places: a file after the other, until there is none or the worker is lost.
    async fn run_slot(self: Arc<Self>, worker: Worker) {
        while !lock(&worker.report).lost {
            let Some(path) = self.feed.next().await else { return };
            match self.digest(&worker.peer, &path).await {
                Ok(digest) => self.add(&worker, &path, &digest),
                Err(CallError::HandlerError { message, .. }) => self.fail(&path, message),
                Err(error @ (CallError::HandlerPanicked { .. } | CallError::DeadlineExceeded { .. })) => {
                    self.fail(&path, error.to_string());
                }
                Err(CallError::Refused { reason: Refusal::Overloaded, .. }) => self.feed.give_back(path),
                // Reading a file twice does no harm, so it does not matter whether it was read already.
                Err(_) => {
                    self.feed.give_back(path);
                    lock(&worker.report).lost = true;
                }
            }
        }
    }

    async fn digest(&self, peer: &Peer, path: &Path) -> Result<Digest, CallError> {
        let whole = self.root.join(path);
        let payload = Raw::from(whole.as_os_str().as_bytes().to_vec());
        let client = peer.client();
        let message = client.active_message("digest").payload(&payload).deadline(FILE_TIMEOUT);
        message.expect_response::<Digest>().send(peer).await?.response().await
    }

    fn add(&self, worker: &Worker, path: &Path, digest: &Digest) {
        {
            let mut report = lock(&worker.report);
            report.files += 1;
            report.bytes += digest.bytes;
        }
        let mut sums = lock(&self.sums);
        sums.totals.files += 1;
        sums.totals.bytes += digest.bytes;
        sums.totals.lines += digest.lines;
        sums.totals.words += digest.words;
        let mut line = format!("{}  ", digest.blake3).into_bytes();
        line.extend_from_slice(path.as_os_str().as_bytes());
        line.push(b'\n');
        sums.lines.insert(line);
        self.progress.set_message(format!("{} files, {}", sums.totals.files, HumanBytes(sums.totals.bytes)));
    }

    fn fail(&self, path: &Path, error: String) {
        self.feed.fail(FileError { path: path.to_string_lossy().into_owned(), error });
    }
}

/// Starts the processes and waits until each has said hello.
async fn start_workers(
    node: &ActiveMessageManager,
    count: u32,
) -> Result<(Vec<Child>, Vec<Worker>), Failure> {
    let (hellos, mut arrived) = mpsc::channel::<(InstanceId, Hello)>(count as usize);
    let hello = Handler::unary("hello", move |cx, hello: Hello| {
        let hellos = hellos.clone();
        async move {
            let sent = hellos.try_send((cx.sender().instance_id(), hello));
            sent.map_err(|_| HandlerError::msg("no worker is awaited"))
        }
    });
    node.register(hello).map_err(|error| Failure::usage(error.to_string()))?;
    let endpoint = node.endpoints().first().map(ToString::to_string).unwrap_or_default();
    let exe = std::env::current_exe()
        .map_err(|error| Failure::usage(format!("cannot find this command to start it again: {error}")))?;
    let mut children = Vec::new();
    for number in 1..=count {
        let child = Command::new(&exe)
            .args(["demo-worker", "--leader", &endpoint, "--number", &number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::usage(format!("cannot start a worker: {error}")))?;
        children.push(child);
    }
    let client = node.client();
    let all = async {
        let mut workers = Vec::new();
        while workers.len() < count as usize {
            let Some((instance, hello)) = arrived.recv().await else { break };
            workers.extend(worker_of(&client, instance, &hello));
        }
        workers
    };
    let workers = tokio::time::timeout(START_TIMEOUT, all).await;
    let workers =
        workers.map_err(|_| Failure::connection("the workers did not come; see their errors above"))?;
    Ok((children, workers))
}

fn worker_of(client: &Client, instance: InstanceId, hello: &Hello) -> Option<Worker> {
    let report = WorkerReport { worker: hello.number, pid: hello.pid, ..WorkerReport::default() };
    let peer = client.peer(instance)?;
    Some(Worker { peer, report: Arc::new(Mutex::new(report)) })
}

/// Workers end when the leader's link does; those that do not are killed.
async fn end_workers(children: &mut [Child]) {
    let deadline = tokio::time::Instant::now() + END_TIMEOUT;
    for child in children {
        if tokio::time::timeout_at(deadline, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
