//! The conductor: starts the two processes of each measurement, in turns, and sums up the median run.

use std::path::Path;
use std::time::Duration;

use crate::case::{Case, Dispatch, Transport, Workload};
use crate::error::BenchError;
use crate::options::BenchOptions;
use crate::process::{Launch, RoleProcess};
use crate::report::{Host, Report, Row};
use crate::sample::Outcome;
use crate::spec::{Role, System};
use crate::usage::Usage;

/// How long a process may take to start, or to answer what it answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A phase's own limit is told by its process; the conductor waits this much longer to hear it.
const GRACE: Duration = Duration::from_secs(2);

/// A measurement that begins.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Measurements that are done.
    pub done: usize,
    /// Measurements in all.
    pub total: usize,
    /// Which one begins.
    pub what: &'a str,
}

/// Runs the benchmark and blocks until it is done. `exe` is a program that hands the argument behind
/// [`crate::ROLE_COMMAND`] to [`crate::run_role`], normally `std::env::current_exe()`; `progress` is
/// told each measurement that begins.
///
/// For each case the systems take turns, so that a drift of the machine meets all alike.
///
/// # Errors
/// [`BenchError`] at the first measurement that fails. No process is left behind.
pub fn run(
    options: &BenchOptions,
    exe: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, BenchError> {
    options.validate()?;
    let launch = Launch::plain(exe);
    let mut results = Vec::with_capacity(options.cases.len() * options.systems.len());
    let total = options.cases.len() * options.systems.len() * options.runs as usize;
    let mut done = 0;
    for case in &options.cases {
        let mut turns: Vec<(System, Vec<Row>)> = options.systems.iter().map(|s| (*s, Vec::new())).collect();
        for run in 1..=options.runs {
            for (system, rows) in &mut turns {
                let what = format!("{case}: {system}, run {run} of {}", options.runs);
                progress(Progress { done, total, what: &what });
                let measured = measure(options, [&launch, &launch], *system, *case)?;
                rows.push(measured.row(*system, *case)?);
                done += 1;
            }
        }
        results.extend(turns.into_iter().filter_map(|(_, rows)| median(rows)));
    }
    let notes = notes(&options.cases);
    Ok(Report { host: Host::read(), results, notes })
}

/// What has to be known about the baselines to read their figures.
fn notes(cases: &[Case]) -> Vec<String> {
    let has = |found: fn(&Case) -> bool| cases.iter().any(found);
    let mut notes = Vec::new();
    let mut note = |found: bool, text: &str| {
        if found {
            notes.push(text.to_owned());
        }
    };
    note(
        has(|case| case.transport == Transport::Inproc),
        "inproc: server and client share one process; raw is a pair of pipes in memory (tokio::io::duplex)",
    );
    note(
        has(|case| matches!(case.workload, Workload::Oneway { handler } if handler != Dispatch::Inline)),
        "oneway: raw hands a read's messages to one task by a bounded channel (ordered), or spawns a task for each \
         message (spawned)",
    );
    note(
        has(|case| matches!(case.workload, Workload::Links { .. })),
        "links: raw has as many sockets; with one caller each, that caller writes and reads himself",
    );
    note(
        has(|case| matches!(case.workload, Workload::Idle { .. })),
        "idle: rates and times are those of setting a link up; KiB/link is what both processes have grown by",
    );
    note(
        has(|case| matches!(case.workload, Workload::Loaded { .. })),
        "loaded: times are those of calls, one at a time; the rate counts them and the flood",
    );
    note(
        has(|case| matches!(case.workload, Workload::Cohort { .. })),
        "cohort: a message is a call to all ranks; raw is a FuturesUnordered of plain calls to the same workers, \
         which are nodes of one process; a tree of one rank is flat",
    );
    notes
}

/// What the processes of one measurement have said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    /// The server's meters before and after; two times the same where client and server are one process.
    pub(crate) before: Usage,
    pub(crate) after: Usage,
}

/// One measurement with fresh processes; `launches` are those of the server and the client.
pub(crate) fn measure(
    options: &BenchOptions,
    launches: [&Launch; 2],
    system: System,
    case: Case,
) -> Result<Measured, BenchError> {
    let [server_launch, client_launch] = launches;
    if case.transport == Transport::Inproc {
        let mut both = RoleProcess::start(client_launch, &options.spec(Role::Both, system, case))?;
        let outcome = conduct_client(options, &mut both, || Ok(()))?;
        both.finish();
        return Ok(Measured { outcome, before: Usage::default(), after: Usage::default() });
    }
    let mut server = RoleProcess::start(server_launch, &options.spec(Role::Server, system, case))?;
    let line = server.line("address", ANSWER_TIMEOUT)?;
    let Some(addresses) = line.strip_prefix("listening ") else {
        return Err(server.unexpected("address", &line));
    };
    let role = Role::Client { addresses: addresses.split(' ').map(str::to_owned).collect() };
    let mut client = RoleProcess::start(client_launch, &options.spec(role, system, case))?;
    let mut before = Usage::default();
    let outcome = conduct_client(options, &mut client, || {
        server.order("mark");
        before = server.json("meters", ANSWER_TIMEOUT)?;
        Ok(())
    })?;
    server.order("stop");
    let after = server.json("meters", ANSWER_TIMEOUT)?;
    client.finish();
    server.finish();
    Ok(Measured { outcome, before, after })
}

/// Waits until the client is ready, does what is to be done then, and lets it measure.
fn conduct_client(
    options: &BenchOptions,
    client: &mut RoleProcess,
    when_ready: impl FnOnce() -> Result<(), BenchError>,
) -> Result<Outcome, BenchError> {
    let phase_limit = options.limit.saturating_add(GRACE);
    // Two phases: it connects and warms up.
    let line = client.line("readiness", phase_limit.saturating_add(options.limit))?;
    if line != "ready" {
        return Err(client.unexpected("readiness", &line));
    }
    when_ready()?;
    client.order("go");
    client.json("result", phase_limit)
}

impl Measured {
    fn row(&self, system: System, case: Case) -> Result<Row, BenchError> {
        let Self { outcome, before, after } = self;
        if outcome.done == 0 || outcome.elapsed_ns == 0 {
            return Err(BenchError::Nothing { case: format!("{system} {case}") });
        }
        // Both ends count on their own, and a message is there only if both say so.
        let handled = outcome.handled.unwrap_or(after.handled.saturating_sub(before.handled));
        let handled = handled / (case.handlers_per_message() as u64).max(1);
        let cpu_ns = outcome.cpu_ns.saturating_add(after.cpu_ns.saturating_sub(before.cpu_ns));
        let rss_grown_kib =
            outcome.rss_grown_kib + after.rss_kib.cast_signed() - before.rss_kib.cast_signed();
        let is_idle = matches!(case.workload, Workload::Idle { .. });
        // In one process nobody can tell the leader's share.
        let has_leader =
            matches!(case.workload, Workload::Cohort { .. }) && case.transport != Transport::Inproc;
        Ok(Row {
            case,
            system,
            rate_per_s: outcome.done as f64 * 1e9 / outcome.elapsed_ns as f64,
            p50_us: outcome.p50_us,
            p99_us: outcome.p99_us,
            p999_us: outcome.p999_us,
            cpu_us_per_msg: cpu_ns as f64 / 1e3 / outcome.done as f64,
            peak_rss_kib: outcome.peak_rss_kib.saturating_add(after.peak_rss_kib),
            lost: outcome.sent.saturating_sub(outcome.done.min(handled)),
            link_kib: is_idle.then(|| rss_grown_kib as f64 / outcome.done as f64),
            leader_cpu_us_per_msg: has_leader.then(|| outcome.cpu_ns as f64 / 1e3 / outcome.done as f64),
        })
    }
}

/// The run of the middle rate (the slower of two), but with the losses of all: none may hide.
fn median(mut rows: Vec<Row>) -> Option<Row> {
    let lost = rows.iter().map(|row| row.lost).sum();
    rows.sort_by(|a, b| a.rate_per_s.total_cmp(&b.rate_per_s));
    let middle = rows.len().saturating_sub(1) / 2;
    rows.into_iter().nth(middle).map(|row| Row { lost, ..row })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Place, Route};

    fn outcome(sent: u64, done: u64) -> Outcome {
        Outcome {
            sent,
            done,
            elapsed_ns: 1_000_000_000,
            p50_us: None,
            p99_us: None,
            p999_us: None,
            cpu_ns: 500_000,
            peak_rss_kib: 10,
            rss_grown_kib: 5_000,
            allocations: 0,
            handled: None,
        }
    }

    fn usage(cpu_ns: u64, handled: u64) -> Usage {
        Usage { cpu_ns, peak_rss_kib: 7, rss_kib: 4 + handled, allocations: 0, handled }
    }

    fn row(outcome: Outcome, before: Usage, after: Usage) -> Row {
        let case = Case::oneway(Dispatch::Inline);
        Measured { outcome, before, after }.row(System::Raw, case).unwrap()
    }

    #[test]
    fn a_row_counts_both_processes_and_only_the_measured_phase() {
        let row = row(outcome(1_000, 1_000), usage(90, 40), usage(500_090, 1_040));
        assert_eq!((row.rate_per_s, row.cpu_us_per_msg, row.peak_rss_kib, row.lost), (1_000.0, 1.0, 17, 0));
        assert_eq!(row.link_kib, None);
    }

    #[test]
    fn a_message_is_lost_unless_both_ends_have_counted_it() {
        let lost = |done, handled| row(outcome(100, done), usage(0, 0), usage(0, handled)).lost;
        assert_eq!((lost(100, 100), lost(99, 100), lost(100, 97)), (0, 1, 3));
        let in_one_process = Outcome { handled: Some(98), ..outcome(100, 100) };
        assert_eq!(row(in_one_process, usage(0, 0), usage(0, 0)).lost, 2);
    }

    #[test]
    fn a_cohorts_message_is_handled_when_all_ranks_have_and_its_leaders_cpu_is_told_apart() {
        let case = Case::new(Workload::Cohort { ranks: 4, route: Route::Tree });
        let measured = |handled: u64| Measured {
            outcome: outcome(100, 100),
            before: usage(0, 8),
            after: usage(1_500_000, 8 + handled),
        };
        let row = measured(400).row(System::DynamoAm, case).unwrap();
        assert_eq!((row.lost, row.cpu_us_per_msg, row.leader_cpu_us_per_msg), (0, 20.0, Some(5.0)));
        assert_eq!(measured(399).row(System::DynamoAm, case).unwrap().lost, 1);
        let inproc = Case { transport: Transport::Inproc, ..case };
        assert_eq!(measured(400).row(System::Raw, inproc).unwrap().leader_cpu_us_per_msg, None);
    }

    #[test]
    fn an_idle_link_costs_what_both_processes_have_grown_by() {
        let case = Case::new(Workload::Idle { links: 1_000 });
        let measured =
            Measured { outcome: outcome(1_000, 1_000), before: usage(0, 0), after: usage(0, 1_000) };
        assert_eq!(measured.row(System::DynamoAm, case).unwrap().link_kib, Some(6.0));
    }

    #[test]
    fn the_median_run_keeps_the_losses_of_all_runs() {
        let rows = [(5.0, 1), (1.0, 0), (3.0, 2)].map(|(rate_per_s, lost)| Row {
            rate_per_s,
            lost,
            ..row(outcome(1, 1), usage(0, 0), usage(0, 1))
        });
        let median = median(rows.to_vec()).unwrap();
        assert_eq!((median.rate_per_s, median.lost), (3.0, 3));
    }

    #[test]
    fn a_baseline_that_needs_words_has_them() {
        assert!(notes(&[Case::rtt(Place::Main), Case::bulk()]).is_empty());
        let inproc = Case { transport: Transport::Inproc, ..Case::oneway(Dispatch::Spawned) };
        let notes = notes(&[inproc]);
        assert!(notes.len() == 2 && notes[0].contains("duplex") && notes[1].contains("task"), "{notes:?}");
    }

    fn run_with(exe: &str) -> BenchError {
        let options = BenchOptions { systems: vec![System::Raw], ..BenchOptions::quick() };
        run(&options, Path::new(exe), &mut |_| {}).unwrap_err()
    }

    #[test]
    fn a_program_that_is_no_role_is_an_error_that_quotes_it() {
        assert!(matches!(run_with("/nonexistent"), BenchError::Spawn { .. }));
        assert!(matches!(run_with("/bin/false"), BenchError::Ended { role: "server", .. }));
        // It ends with a complaint about its argument, which the error must quote.
        assert!(run_with("/bin/cat").to_string().contains(crate::ROLE_COMMAND));
        // It repeats its arguments for ever and must be killed.
        assert!(matches!(run_with("/usr/bin/yes"), BenchError::Unexpected { role: "server", .. }));
    }
}
