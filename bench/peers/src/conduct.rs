//! The conductor: starts the two processes of each measurement, in turns, bounds every wait, and takes the
//! median of the runs.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::meter::{Outcome, SHARED_LEN};
use crate::role::MARK;
use crate::spec::{Case, Listening, Role, RoleSpec, System};

/// How long a server may take until it can be reached, and a client until it is connected.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How much longer than their time the phases may take together: for what is still on its way when they end.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of a failed process's error stream that are shown.
const REASON_LEN_MAX: usize = 300;

/// What is run.
pub struct Plan {
    pub systems: Vec<System>,
    pub cases: Vec<Case>,
    pub runs: usize,
    pub workers: usize,
    pub warm_up: Duration,
    pub measure: Duration,
}

/// A system in a case: the median of its runs.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub workload: &'static str,
    pub system: &'static str,
    pub transport: &'static str,
    pub payload_bytes: usize,
    pub outstanding: usize,
    pub runs: usize,
    pub rate_per_s: f64,
    /// Rate over that of ours on the same transport.
    pub ratio: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    pub cpu_us_per_msg: f64,
    pub peak_rss_kib: u64,
    /// Of all runs.
    pub lost: u64,
    /// Of the runs that failed, why the last one did.
    pub error: Option<String>,
}

/// Runs a plan. For each case the systems take turns, so that a drift of the machine meets all alike.
/// A measurement that fails is told in its row, and the rest goes on.
pub fn run(plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let exe = std::env::current_exe().context("finding this program")?;
    let mut rows = Vec::new();
    for case in &plan.cases {
        let systems: Vec<_> = plan.systems.iter().copied().filter(|system| case.suits(*system)).collect();
        let mut turns: Vec<Vec<Result<Outcome>>> = systems.iter().map(|_| Vec::new()).collect();
        for run in 1..=plan.runs {
            for (system, outcomes) in systems.iter().zip(&mut turns) {
                progress(&format!("{}: {} ({run} of {})", case.title(), system.name(), plan.runs));
                outcomes.push(measure(plan, &exe, *system, *case));
            }
        }
        let first = rows.len();
        rows.extend(systems.iter().zip(turns).map(|(system, outcomes)| row(*system, *case, outcomes)));
        let references = rows.clone();
        for (row, system) in rows.iter_mut().skip(first).zip(&systems) {
            let reference = references.iter().skip(first).find(|r| r.system == system.reference().name());
            let reference = reference.filter(|r| r.rate_per_s > 0.0 && row.rate_per_s > 0.0);
            row.ratio = reference.map(|reference| row.rate_per_s / reference.rate_per_s);
        }
    }
    Ok(rows)
}

/// One measurement, with two fresh processes.
fn measure(plan: &Plan, exe: &Path, system: System, case: Case) -> Result<Outcome> {
    let directory = tempfile::Builder::new().prefix("am-peers").tempdir()?;
    let shared = directory.path().join("handled");
    File::create_new(&shared)?.set_len(SHARED_LEN)?;
    let limit = START_LIMIT + plan.warm_up + plan.measure + DRAIN_LIMIT;
    let spec = |role| RoleSpec {
        role,
        system,
        case,
        workers: plan.workers,
        warm_up_ms: plan.warm_up.as_millis() as u64,
        measure_ms: plan.measure.as_millis() as u64,
        limit_s: (START_LIMIT + limit).as_secs() as u32,
        shared: shared.clone(),
        directory: directory.path().to_owned(),
    };
    let mut server = Process::start(exe, &spec(Role::Server), "server", directory.path())?;
    let Listening { address, servers } = server.line(START_LIMIT)?;
    let role = Role::Client { address, servers };
    let mut client = Process::start(exe, &spec(role), "client", directory.path())?;
    let outcome: Outcome = client.line(limit)?;
    if outcome.done == 0 || outcome.elapsed_ns == 0 {
        bail!("nothing was handled");
    }
    Ok(outcome)
}

/// The run of the middle rate (the slower of two), but with the losses of all: none may hide.
fn row(system: System, case: Case, outcomes: Vec<Result<Outcome>>) -> Row {
    let (mut good, mut error) = (Vec::new(), None);
    for outcome in outcomes {
        match outcome {
            Ok(outcome) => good.push(outcome),
            Err(failed) => error = Some(format!("{failed:#}")),
        }
    }
    let rate = |outcome: &Outcome| outcome.done as f64 * 1e9 / outcome.elapsed_ns as f64;
    good.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
    let middle = good.get(good.len().saturating_sub(1) / 2);
    Row {
        workload: case.workload.name(),
        system: system.name(),
        transport: system.transport(),
        payload_bytes: case.payload_bytes,
        outstanding: case.outstanding,
        runs: good.len(),
        rate_per_s: middle.map_or(0.0, rate),
        ratio: None,
        p50_us: middle.and_then(|outcome| outcome.p50_us),
        p99_us: middle.and_then(|outcome| outcome.p99_us),
        p999_us: middle.and_then(|outcome| outcome.p999_us),
        cpu_us_per_msg: middle.map_or(0.0, |outcome| outcome.cpu_ns as f64 / 1e3 / outcome.done as f64),
        peak_rss_kib: middle.map_or(0, |outcome| outcome.peak_rss_kib),
        lost: good.iter().map(|outcome| outcome.sent - outcome.done).sum(),
        error,
    }
}

/// A running role. Dropping it kills the process and waits for it.
struct Process {
    name: &'static str,
    child: Child,
    lines: Receiver<String>,
    errors: std::path::PathBuf,
}

impl Process {
    fn start(exe: &Path, spec: &RoleSpec, name: &'static str, directory: &Path) -> Result<Self> {
        let errors = directory.join(format!("{name}.err"));
        let mut command = Command::new(exe);
        command.args(["role", &serde_json::to_string(spec)?]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&errors)?);
        // SAFETY: between fork and exec only one system call is made, which is safe there.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().with_context(|| format!("starting the {name}"))?;
        let (told, lines) = channel();
        // The thread ends with the process's output.
        let output = child.stdout.take().context("a process without output")?;
        std::thread::spawn(move || forward_lines(output, |line| told.send(line).is_ok()));
        Ok(Self { name, child, lines, errors })
    }

    fn line<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T> {
        let deadline = Instant::now() + limit;
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => serde_json::from_str(&line).with_context(|| format!("the {} said {line}", self.name)),
            Err(RecvTimeoutError::Timeout) => {
                bail!("timed out: the {} had not answered after {} s", self.name, limit.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.why_it_ended()),
        }
    }

    fn why_it_ended(&mut self) -> anyhow::Error {
        let code = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let said = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let said = said.trim();
        let start = said.char_indices().rev().take(REASON_LEN_MAX).last().map_or(0, |(start, _)| start);
        anyhow!("the {} ended ({code}): {}", self.name, said[start..].replace('\n', "; "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward_lines(output: ChildStdout, mut tell: impl FnMut(String) -> bool) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Some(line) = line.strip_prefix(MARK)
            && !tell(line.to_owned())
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Workload;

    fn outcome(done: u64, sent: u64) -> Outcome {
        let (elapsed_ns, p50_us, p99_us, p999_us) = (1_000_000_000, None, None, None);
        Outcome { sent, done, elapsed_ns, p50_us, p99_us, p999_us, cpu_ns: 1_000 * done, peak_rss_kib: 1 }
    }

    #[test]
    fn a_row_is_the_median_run_with_the_losses_and_the_failure_of_all() {
        let case = Case { workload: Workload::Oneway, payload_bytes: 64, outstanding: 0 };
        let outcomes = vec![Ok(outcome(5, 6)), Ok(outcome(1, 1)), Ok(outcome(3, 5)), Err(anyhow!("no"))];
        let row = row(System::Zmq, case, outcomes);
        assert_eq!((row.runs, row.rate_per_s, row.cpu_us_per_msg, row.lost), (3, 3.0, 1.0, 3));
        assert_eq!(row.error.as_deref(), Some("no"));
    }

    #[test]
    fn a_process_that_ends_or_hangs_is_reported_with_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        let spec = RoleSpec {
            role: Role::Server,
            system: System::Zmq,
            case: Case::ALL[0],
            workers: 1,
            warm_up_ms: 1,
            measure_ms: 1,
            limit_s: 5,
            shared: directory.path().join("none"),
            directory: directory.path().to_owned(),
        };
        // It complains about its arguments.
        let mut ended = Process::start(Path::new("/bin/cat"), &spec, "server", directory.path()).unwrap();
        let error = ended.line::<Listening>(Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
        let mut silent =
            Process::start(Path::new("/usr/bin/yes"), &spec, "client", directory.path()).unwrap();
        let error = silent.line::<Listening>(Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("timed out"), "{error}");
    }
}
