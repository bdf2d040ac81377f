//! The leading side of the demo: gives the files to the workers of a cohort, and adds up what comes back.
//!
//! The cohort's queue takes a file from the walk only when a worker can have it, so at most `--in-flight` files a
//! worker and one queue of names are held, however large the tree.
//!
//! **Invariant**: a file that was found is answered for exactly once, in the sums or among the errors. The queue gives
//! a lost worker's files to others, and one answer comes of each; reading a file twice does no harm.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dynamo_am::cohort::{CohortError, DynamicResults, ItemResult};
use dynamo_am::{ActiveMessageManager, CallError};
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;

use super::digest::{Digest, PartDigest};
use super::parts::Cut;
use super::progress::Progress;
use super::report::{FileError, Report, Sum, check_json_path, write_json};
use super::source::{LargeFile, SharedBook, Task, again, items};
use super::team::Team;
use super::verify::verify;
use super::walk::{Found, walk, walk_each};
use super::worker::{Answer, DIGEST, Request};
use crate::args::DemoArgs;
use crate::exit::Failure;
use crate::output::{print, print_error};
use crate::signals::Signals;

/// Names that the walk may be ahead of the workers.
const FOUND_LEN: usize = 1024;
/// One item's deadline: even a huge file on a slow disk is done by then.
const FILE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs the demo.
///
/// # Errors
///
/// When there is no such folder, when the result cannot be written, when all workers are lost, when `--verify` finds
/// other totals, and on a signal.
pub(crate) async fn run(args: &DemoArgs) -> Result<(), Failure> {
    let root = folder(&args.dir)?;
    if let Some(path) = &args.json {
        check_json_path(path)?;
    }
    if args.kill_one && args.workers < 2 {
        let failure = Failure::usage("--kill-one would leave nobody to work");
        return Err(failure.hint("give it at least --workers 2"));
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
    // Nobody knows what half is before all is counted.
    let kill_at = if args.kill_one { Some(count_items(root).await? / 2) } else { None };
    let node = ActiveMessageManager::builder().listen("ipc://*").start().await?;
    let mut team = Team::start(&node, args.workers).await?;
    let began = Instant::now();
    let mut job = Job::new(root, args, kill_at);
    let worked = job.work(&mut team).await;
    job.progress.end();
    worked?;
    team.look();
    let mut report = job.report(&team, began.elapsed());
    // All is answered: how the node and its workers end changes nothing.
    team.end().await;
    let _ = node.shutdown().await;
    if args.verify {
        report.verified = Some(verify(root, &report.totals).await?);
    }
    show(&report, args)
}

/// How many items the queue will have, by a walk of its own.
async fn count_items(root: &Path) -> Result<u64, Failure> {
    let root = root.to_owned();
    let counted = tokio::task::spawn_blocking(move || {
        let mut count = 0;
        walk_each(&root, |found| {
            if let Found::File(_, len) = found {
                count += Cut::of(len).map_or(1, |cut| cut.count());
            }
            true
        });
        count
    });
    counted.await.map_err(|error| Failure::handler(format!("cannot count the files: {error}")))
}

fn show(report: &Report, args: &DemoArgs) -> Result<(), Failure> {
    let json = args.json.as_deref();
    if json != Some(Path::new("-")) {
        print_error(&report.complaints());
        print(report.summary())?;
    }
    if let Some(path) = json {
        let value = serde_json::to_value(report)
            .map_err(|error| Failure::handler(format!("cannot put the result into JSON: {error}")))?;
        write_json(path, &value)?;
    }
    if args.kill_one && report.killed.is_none() {
        return Err(Failure::handler("no worker was killed: all was done before half of it had come")
            .hint("give it a folder whose files do not go meanwhile"));
    }
    match &report.verified {
        Some(verified) if !verified.equal => {
            let Report { totals, .. } = report;
            Err(Failure::handler(format!(
                "one process alone finds other totals: {:?}, not {totals:?}",
                verified.totals
            ))
            .hint("see whether files have changed between the two runs"))
        }
        _ => Ok(()),
    }
}

/// The work: what is being done, and what has come of it.
struct Job<'a> {
    root: &'a Path,
    args: &'a DemoArgs,
    book: SharedBook,
    /// A worker is killed when so many items are answered.
    kill_at: Option<u64>,
    answered: u64,
    /// Files that have changed while they were read in parts.
    changed: Vec<PathBuf>,
    sum: Sum,
    report: Report,
    progress: Progress,
}

impl<'a> Job<'a> {
    fn new(root: &'a Path, args: &'a DemoArgs, kill_at: Option<u64>) -> Self {
        Self {
            root,
            args,
            // With nothing to do there is nothing to kill halfway.
            kill_at,
            book: SharedBook::default(),
            answered: 0,
            changed: Vec::new(),
            sum: Sum::default(),
            report: Report::default(),
            progress: Progress::new(args.workers as usize),
        }
    }

    /// Works until every file is answered for.
    async fn work(&mut self, team: &mut Team) -> Result<(), Failure> {
        self.report.workers.clone_from(&team.workers);
        let (found, receiver) = mpsc::channel(FOUND_LEN);
        let walked = self.root.to_owned();
        // It ends when the job does and nobody listens any more.
        let _walker = tokio::task::spawn_blocking(move || walk(&walked, &found));
        // One worker is not faster by reading in parts what it could read as a whole.
        let cuts = self.args.workers > 1;
        let found = items(self.root, receiver, cuts, &self.book);
        self.drain(team, found).await?;
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return Ok(());
        }
        let whole = again(self.root, changed, &self.book);
        self.drain(team, whole).await
    }

    /// Gives out these items and takes in all that comes of them.
    async fn drain(
        &mut self,
        team: &mut Team,
        items: impl Stream<Item = Request> + Send + 'static,
    ) -> Result<(), Failure> {
        let cohort = team.cohort.within(FILE_TIMEOUT);
        let in_flight = self.args.in_flight as usize;
        let mut results: DynamicResults<Answer> = cohort.for_each_dynamic(DIGEST, items, in_flight);
        loop {
            self.kill_halfway(team)?;
            let next = if team.is_lost() {
                // What had come before is still to be taken in; nothing more will.
                results.next().now_or_never().ok_or_else(|| self.all_lost())?
            } else {
                tokio::select! {
                    biased;
                    next = results.next() => next,
                    () = team.change() => continue,
                }
            };
            let Some(item) = next else { return Ok(()) };
            self.take(item);
        }
    }

    fn all_lost(&self) -> Failure {
        let files = self.sum.totals.files;
        let message = format!("all workers were lost; {files} files had been read, the rest was not");
        Failure::connection(message).hint("see what ended them, and run it again")
    }

    fn kill_halfway(&mut self, team: &Team) -> Result<(), Failure> {
        // The input has not been read before the first turn: then half of one item, or of none, is over at once.
        if self.kill_at.is_some_and(|at| self.answered >= at) {
            self.kill_at = None;
            self.report.killed = Some(team.kill_one()?);
        }
        Ok(())
    }

    fn take(&mut self, item: ItemResult<Answer>) {
        let book = self.book.clone();
        let mut book = book.lock();
        self.answered += 1;
        let rank = item.rank.unwrap_or(usize::MAX);
        match (book.tasks.remove(&item.index), item.result) {
            (Some(Task::Whole(path)), Ok(Answer::Whole(digest))) => {
                self.progress.read(rank, digest.bytes);
                self.credit(rank, 0, digest.bytes);
                self.add(rank, &path, &digest);
            }
            (Some(Task::Whole(path)), result) => self.fail(&path, &reason(result)),
            (Some(Task::Part(file, number)), Ok(Answer::Part(part))) => {
                self.progress.read(rank, part.counts.bytes);
                if let Some(large) = book.large.get_mut(&file) {
                    match join(large, rank, number, part) {
                        Joined::NotYet => {}
                        Joined::Whole(digest) => {
                            let large = book.large.remove(&file);
                            self.add_large(rank, large, &digest);
                        }
                        Joined::Changed => {
                            self.changed.extend(book.large.remove(&file).map(|large| large.path));
                        }
                    }
                }
            }
            (Some(Task::Part(file, _)), Ok(Answer::Changed)) => {
                self.changed.extend(book.large.remove(&file).map(|large| large.path));
            }
            (Some(Task::Part(file, _)), result) => {
                if let Some(large) = book.large.remove(&file) {
                    self.fail(&large.path, &reason(result));
                }
            }
            (None, _) => {}
        }
        let settled = self.sum.totals.files + self.report.errors.len() as u64;
        self.progress.show(settled, book.found);
    }

    fn add_large(&mut self, rank: usize, large: Option<LargeFile>, digest: &Digest) {
        let Some(large) = large else { return };
        for (rank, (parts, bytes)) in large.shares {
            self.credit(rank, parts, bytes);
        }
        self.add(rank, &large.path, digest);
    }

    fn credit(&mut self, rank: usize, parts: u64, bytes: u64) {
        if let Some(worker) = self.report.workers.get_mut(rank) {
            worker.parts += parts;
            worker.bytes += bytes;
        }
    }

    /// A file is whole, by the answer of `rank`.
    fn add(&mut self, rank: usize, path: &Path, digest: &Digest) {
        if let Some(worker) = self.report.workers.get_mut(rank) {
            worker.files += 1;
        }
        self.sum.add(path, digest);
    }

    fn fail(&mut self, path: &Path, reason: &str) {
        self.report.errors.push(FileError::new(path, &reason));
    }

    fn report(self, team: &Team, took: Duration) -> Report {
        let mut report = self.report;
        for (worker, seen) in report.workers.iter_mut().zip(&team.workers) {
            worker.lost = seen.lost || report.killed == Some(worker.worker);
        }
        report.totals = self.sum.finish();
        let mut book = self.book.lock();
        report.errors.append(&mut book.errors);
        report.errors.sort_by(|a, b| a.path.cmp(&b.path));
        report.skipped = book.skipped;
        report.seconds = took.as_secs_f64();
        report
    }
}

/// What a part makes of its file.
enum Joined {
    NotYet,
    Whole(Digest),
    Changed,
}

fn join(large: &mut LargeFile, rank: usize, number: u64, part: PartDigest) -> Joined {
    let bytes = part.counts.bytes;
    if !large.gathered.put(number, part) {
        return Joined::Changed;
    }
    let share = large.shares.entry(rank).or_default();
    share.0 += 1;
    share.1 += bytes;
    large.gathered.whole().map_or(Joined::NotYet, Joined::Whole)
}

/// Why there are no figures of a file, in the worker's own words where it has some.
fn reason(result: Result<Answer, CohortError>) -> String {
    match result {
        Err(CohortError::Call { source: CallError::HandlerError { message, .. }, .. }) => message,
        Err(CohortError::Call { source, .. }) => source.to_string(),
        Err(error) => error.to_string(),
        Ok(_) => "the worker answered something else than was asked".to_owned(),
    }
}
