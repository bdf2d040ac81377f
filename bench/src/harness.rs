//! The conductor: starts the two processes of each measurement, in turns, and sums up the median run.

use std::path::Path;
use std::time::Duration;

use crate::error::BenchError;
use crate::options::BenchOptions;
use crate::process::RoleProcess;
use crate::report::{Host, Report, Row};
use crate::sample::Outcome;
use crate::spec::{Case, Role, System};
use crate::usage::Usage;

/// How long a process may take to start, or to answer what it answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A phase's own limit is told by its process; the conductor waits this much longer to hear it.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the benchmark and blocks until it is done. `exe` is a program that hands the argument behind
/// [`crate::ROLE_COMMAND`] to [`crate::run_role`], normally `std::env::current_exe()`; `progress` is
/// told each measurement that begins.
///
/// For each case the systems take turns, so that a drift of the machine meets all alike.
///
/// # Errors
/// [`BenchError`] at the first measurement that fails. No process is left behind.
pub fn run(options: &BenchOptions, exe: &Path, progress: &mut dyn FnMut(&str)) -> Result<Report, BenchError> {
    options.validate()?;
    let mut results = Vec::with_capacity(options.cases.len() * options.systems.len());
    for case in &options.cases {
        let mut turns: Vec<(System, Vec<Row>)> = options.systems.iter().map(|s| (*s, Vec::new())).collect();
        for run in 1..=options.runs {
            for (system, rows) in &mut turns {
                progress(&format!("{case}: {system}, run {run} of {}", options.runs));
                rows.push(measure(options, exe, *system, *case)?);
            }
        }
        results.extend(turns.into_iter().filter_map(|(_, rows)| median(rows)));
    }
    Ok(Report { host: Host::read(), results })
}

/// One measurement with two fresh processes.
fn measure(options: &BenchOptions, exe: &Path, system: System, case: Case) -> Result<Row, BenchError> {
    let phase_limit = options.limit.saturating_add(GRACE);
    let mut server = RoleProcess::start(exe, &options.spec(Role::Server, system, case))?;
    let line = server.line("address", ANSWER_TIMEOUT)?;
    let Some(address) = line.strip_prefix("listening ") else {
        return Err(server.unexpected("address", &line));
    };
    let role = Role::Client { address: address.to_owned() };
    let mut client = RoleProcess::start(exe, &options.spec(role, system, case))?;
    // Two phases: it connects and warms up.
    let line = client.line("readiness", phase_limit.saturating_add(options.limit))?;
    if line != "ready" {
        return Err(client.unexpected("readiness", &line));
    }
    server.order("mark");
    let before: Usage = server.json("meters", ANSWER_TIMEOUT)?;
    client.order("go");
    let outcome: Outcome = client.json("result", phase_limit)?;
    server.order("stop");
    let after: Usage = server.json("meters", ANSWER_TIMEOUT)?;
    client.finish();
    server.finish();
    row(system, case, &outcome, before, after)
}

fn row(
    system: System,
    case: Case,
    outcome: &Outcome,
    before: Usage,
    after: Usage,
) -> Result<Row, BenchError> {
    if outcome.done == 0 || outcome.elapsed_ns == 0 {
        return Err(BenchError::Nothing { case: format!("{system} {case}") });
    }
    // Both ends count on their own, and a message is there only if both say so.
    let handled = after.handled.saturating_sub(before.handled);
    let cpu_ns = outcome.cpu_ns.saturating_add(after.cpu_ns.saturating_sub(before.cpu_ns));
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
    })
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
    use crate::spec::Place;

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
        }
    }

    fn usage(cpu_ns: u64, handled: u64) -> Usage {
        Usage { cpu_ns, peak_rss_kib: 7, handled }
    }

    #[test]
    fn a_row_counts_both_processes_and_only_the_measured_phase() {
        let row =
            row(System::Raw, Case::oneway(), &outcome(1_000, 1_000), usage(90, 40), usage(500_090, 1_040));
        let row = row.unwrap();
        assert_eq!((row.rate_per_s, row.cpu_us_per_msg, row.peak_rss_kib, row.lost), (1_000.0, 1.0, 17, 0));
    }

    #[test]
    fn a_message_is_lost_unless_both_ends_have_counted_it() {
        let lost = |done, handled| {
            row(System::Raw, Case::oneway(), &outcome(100, done), usage(0, 0), usage(0, handled))
                .unwrap()
                .lost
        };
        assert_eq!((lost(100, 100), lost(99, 100), lost(100, 97)), (0, 1, 3));
    }

    #[test]
    fn the_median_run_keeps_the_losses_of_all_runs() {
        let rows = [(5.0, 1), (1.0, 0), (3.0, 2)].map(|(rate_per_s, lost)| Row {
            rate_per_s,
            lost,
            ..row(System::Raw, Case::rtt(Place::Task), &outcome(1, 1), usage(0, 0), usage(0, 1)).unwrap()
        });
        let median = median(rows.to_vec()).unwrap();
        assert_eq!((median.rate_per_s, median.lost), (3.0, 3));
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
