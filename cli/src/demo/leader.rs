//! The leading side of the demo: gives each file to a worker that is free, and adds up what comes back.
//!
//! One task does it all: it takes a file from the walk only when a worker can have it, so at most `--in-flight`
//! files a worker and one queue of names are held, however large the tree.
//!
//! **Invariant**: a file that was found is answered for exactly once, in the sums or among the errors. Reading a
//! file twice does no harm, so a lost worker's files simply go to others.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, CallError, Peer, Raw, Refusal};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressFinish};
use tokio::sync::mpsc;

use super::digest::Digest;
use super::report::{FileError, Report, check_json_path, write_json};
use super::team::{Team, Worker};
use super::walk::{Found, walk};
use crate::args::DemoArgs;
use crate::exit::Failure;
use crate::output::{print, print_error};
use crate::signals::Signals;

/// Names that the walk may be ahead of the workers.
const FOUND_LEN: usize = 1024;
/// One file's deadline: even a huge one on a slow disk is done by then.
const FILE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs the demo.
///
/// # Errors
///
/// When there is no such folder, when the result cannot be written, when all workers are lost, and on a signal.
pub(crate) async fn run(args: &DemoArgs) -> Result<(), Failure> {
    let root = folder(&args.dir)?;
    if let Some(path) = &args.json {
        check_json_path(path)?;
    }
    let mut signals = Signals::new()?;
    tokio::select! {
        biased;
        // The node and the team are dropped: the workers are killed, and the socket's file goes.
        () = signals.next() => Err(Failure::interrupted()),
        result = lead(args, &root) => result,
    }
}

fn folder(dir: &Path) -> Result<PathBuf, Failure> {
    let cannot = |reason: String| {
        Failure::usage(format!("cannot read the folder `{}`: {reason}", dir.display()))
            .hint("give it the path of a folder that you may read")
    };
    let root = std::fs::canonicalize(dir).map_err(|error| cannot(error.to_string()))?;
    // The one folder whose loss leaves nothing to do. Those below it are only reported.
    std::fs::read_dir(&root).map_err(|error| cannot(error.to_string()))?;
    Ok(root)
}

async fn lead(args: &DemoArgs, root: &Path) -> Result<(), Failure> {
    let node = ActiveMessageManager::builder().listen("ipc://*").start().await?;
    let mut team = Team::start(&node, args.workers).await?;
    let began = Instant::now();
    let (found, receiver) = mpsc::channel(FOUND_LEN);
    let walked = root.to_owned();
    // It ends when the job does and nobody listens any more.
    let _walker = tokio::task::spawn_blocking(move || walk(&walked, &found));
    let mut job = Job::new(root, receiver, args.in_flight);
    let worked = job.work(&mut team).await;
    job.progress.finish_and_clear();
    worked?;
    let report = job.report(&team, began.elapsed());
    // All is answered: how the node and its workers end changes nothing.
    let _ = node.shutdown().await;
    team.end().await;
    show(&report, args.json.as_deref())
}

fn show(report: &Report, json: Option<&Path>) -> Result<(), Failure> {
    if json != Some(Path::new("-")) {
        print_error(&report.complaints());
        print(report.summary())?;
    }
    let Some(path) = json else { return Ok(()) };
    let value = serde_json::to_value(report)
        .map_err(|error| Failure::handler(format!("cannot put the result into JSON: {error}")))?;
    write_json(path, &value)
}

/// A call under way: which worker has which file, and what became of it.
type Call = BoxFuture<'static, (usize, PathBuf, Result<Digest, CallError>)>;

/// The work: what is to do, what is being done, and what has come of it.
struct Job {
    root: PathBuf,
    in_flight: u32,
    found: mpsc::Receiver<Found>,
    is_walked: bool,
    /// Files whose workers were lost; they go first.
    returned: Vec<PathBuf>,
    calls: FuturesUnordered<Call>,
    report: Report,
    /// `HEX  relative/path` of each file, without an end of line: sorting is by the line alone.
    lines: Vec<Vec<u8>>,
    progress: ProgressBar,
}

impl Job {
    fn new(root: &Path, found: mpsc::Receiver<Found>, in_flight: u32) -> Self {
        let progress = ProgressBar::new_spinner().with_finish(ProgressFinish::AndClear);
        progress.enable_steady_tick(Duration::from_millis(100));
        Self {
            root: root.to_owned(),
            in_flight,
            found,
            is_walked: false,
            returned: Vec::new(),
            calls: FuturesUnordered::new(),
            report: Report::default(),
            lines: Vec::new(),
            progress,
        }
    }

    /// Works until every file is answered for.
    async fn work(&mut self, team: &mut Team) -> Result<(), Failure> {
        loop {
            self.give_returned(team);
            if self.is_done() {
                return Ok(());
            }
            if team.is_lost() && self.calls.is_empty() {
                let files = self.report.totals.files;
                let message = format!("all workers were lost; {files} files had been read, the rest was not");
                return Err(Failure::connection(message).hint("see what ended them, and run it again"));
            }
            let is_wanted = !self.is_walked && self.returned.is_empty();
            let free = if is_wanted { team.free(self.in_flight) } else { None };
            tokio::select! {
                Some((at, path, result)) = self.calls.next() => self.end_call(team, at, path, result),
                at = team.next_exit() => team.lose(at),
                found = self.found.recv(), if free.is_some() => self.take(team, free, found),
            }
        }
    }

    fn is_done(&self) -> bool {
        self.is_walked && self.returned.is_empty() && self.calls.is_empty()
    }

    fn give_returned(&mut self, team: &mut Team) {
        while let Some(at) = team.free(self.in_flight) {
            let Some(path) = self.returned.pop() else { return };
            self.give(team, at, path);
        }
    }

    fn take(&mut self, team: &mut Team, free: Option<usize>, found: Option<Found>) {
        match (found, free) {
            (Some(Found::File(path)), Some(at)) => self.give(team, at, path),
            (Some(Found::File(path)), None) => self.returned.push(path),
            (Some(Found::Other), _) => self.report.skipped += 1,
            (Some(Found::Error(error)), _) => self.report.errors.push(error),
            (None, _) => self.is_walked = true,
        }
    }

    fn give(&mut self, team: &mut Team, at: usize, path: PathBuf) {
        if let Some(worker) = team.workers.get_mut(at)
            && let Some(peer) = worker.peer.clone()
        {
            worker.outstanding += 1;
            let whole = self.root.join(&path);
            self.calls.push(Box::pin(async move {
                let result = digest(&peer, &whole).await;
                (at, path, result)
            }));
        } else {
            self.returned.push(path);
        }
    }

    fn end_call(&mut self, team: &mut Team, at: usize, path: PathBuf, result: Result<Digest, CallError>) {
        let Some(worker) = team.workers.get_mut(at) else { return };
        worker.outstanding -= 1;
        match result {
            Ok(digest) => self.add(worker, &path, &digest),
            Err(CallError::HandlerError { message, .. }) => self.fail(&path, &message),
            Err(error) if is_of_the_file(&error) => self.fail(&path, &error),
            Err(CallError::Refused { reason: Refusal::Overloaded, .. }) => self.returned.push(path),
            Err(_) => {
                self.returned.push(path);
                team.lose(at);
            }
        }
    }
    fn add(&mut self, worker: &mut Worker, path: &Path, digest: &Digest) {
        worker.report.files += 1;
        worker.report.bytes += digest.bytes;
        let totals = &mut self.report.totals;
        totals.files += 1;
        totals.bytes += digest.bytes;
        totals.lines += digest.lines;
        totals.words += digest.words;
        let files = HumanCount(totals.files);
        self.progress.set_message(format!("{files} files, {}", HumanBytes(totals.bytes)));
        let mut line = format!("{}  ", digest.blake3).into_bytes();
        line.extend_from_slice(path.as_os_str().as_bytes());
        self.lines.push(line);
    }

    fn fail(&mut self, path: &Path, error: &impl ToString) {
        self.report.errors.push(FileError::new(path, error));
    }

    fn report(mut self, team: &Team, took: Duration) -> Report {
        self.lines.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        for line in &self.lines {
            hasher.update(line).update(b"\n");
        }
        self.report.totals.blake3 = hasher.finalize().to_hex().to_string();
        self.report.workers = team.workers.iter().map(|worker| worker.report.clone()).collect();
        self.report.errors.sort_by(|a, b| a.path.cmp(&b.path));
        self.report.seconds = took.as_secs_f64();
        self.report
    }
}

/// Whether another worker would fare no better.
const fn is_of_the_file(error: &CallError) -> bool {
    use CallError::{BadResponse, DeadlineExceeded, HandlerPanicked};
    matches!(error, HandlerPanicked { .. } | BadResponse { .. } | DeadlineExceeded { .. })
}

/// The path travels as raw octets: it need not be text.
async fn digest(peer: &Peer, path: &Path) -> Result<Digest, CallError> {
    let payload = Raw::from(path.as_os_str().as_bytes().to_vec());
    let client = peer.client();
    let message = client.active_message("digest").payload(&payload).deadline(FILE_TIMEOUT);
    message.expect_response::<Digest>().send(peer).await?.response().await
}
