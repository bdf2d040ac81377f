//! `am bench`: this machine's figures, side by side with raw sockets.

use std::path::Path;
use std::time::Duration;

use dynamo_am_bench::{Amount, BenchOptions, Plan, Progress, Transport, WorkloadName};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{BenchArgs, BenchTransport, BenchWorkload};
use crate::demo::report::{check_json_path, write_json};
use crate::exit::Failure;
use crate::output::{print, print_error};

/// Longest that a phase may take whose messages are counted: nobody knows beforehand how long that is.
const COUNTED_LIMIT: Duration = Duration::from_secs(600);

/// Measures and prints.
///
/// # Errors
///
/// When it cannot be measured or written, and when messages were lost.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    if let Some(path) = &args.json {
        check_json_path(path)?;
    }
    let (options, notes) = options(args);
    options.validate().map_err(|error| Failure::usage(error.to_string()))?;
    for note in &notes {
        print_error(&format!("am: {note}\n"));
    }
    let exe = std::env::current_exe()
        .map_err(|error| Failure::usage(format!("cannot find this command to start it again: {error}")))?;
    // Hidden by itself where standard error is no terminal.
    let bar = bar();
    let report = dynamo_am_bench::run(&options, &exe, &mut |Progress { done, total, what }| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(what.to_owned());
    });
    bar.finish_and_clear();
    let mut report = report.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::handler(format!("{error}{cause}"))
    })?;
    report.notes.extend(notes);
    if args.json.as_deref() != Some(Path::new("-")) {
        print(format!("{}\n", report.table()))?;
    }
    if let Some(path) = &args.json {
        write_json(path, &serde_json::to_value(&report).unwrap_or_default())?;
    }
    match report.lost() {
        0 => Ok(()),
        lost => Err(Failure::handler(format!("{lost} messages were lost; the column says of whom"))),
    }
}

/// What is to be measured, and what has to be said about it beforehand.
fn options(args: &BenchArgs) -> (BenchOptions, Vec<String>) {
    let plan = Plan {
        workloads: match args.workloads.as_slice() {
            [] => WorkloadName::ALL.to_vec(),
            named => named.iter().map(|workload| (*workload).into()).collect(),
        },
        transport: args.transport.into(),
        payload_bytes: args.payload.map(|octets| octets as usize),
        busy_poll: args.busy_poll,
    };
    let base = if args.quick { BenchOptions::quick() } else { BenchOptions::default() };
    let (cases, notes) = if args.quick { (plan.quick(), Vec::new()) } else { plan.cases() };
    let options = BenchOptions { cases, runs: args.runs, workers: args.workers as usize, ..base };
    let options = match args.count {
        Some(count) => BenchOptions { amount: Amount::Messages(count), limit: COUNTED_LIMIT, ..options },
        None => options,
    };
    (options, notes)
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len}  {eta:>4}  {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

impl From<BenchWorkload> for WorkloadName {
    fn from(workload: BenchWorkload) -> Self {
        match workload {
            BenchWorkload::Rtt => Self::Rtt,
            BenchWorkload::Concurrent => Self::Concurrent,
            BenchWorkload::Oneway => Self::Oneway,
            BenchWorkload::Bulk => Self::Bulk,
            BenchWorkload::Links => Self::Links,
            BenchWorkload::Idle => Self::Idle,
            BenchWorkload::Loaded => Self::Loaded,
            BenchWorkload::Cohort => Self::Cohort,
        }
    }
}

impl From<BenchTransport> for Transport {
    fn from(transport: BenchTransport) -> Self {
        match transport {
            BenchTransport::Tcp => Self::Tcp,
            BenchTransport::Ipc => Self::Ipc,
            BenchTransport::Inproc => Self::Inproc,
        }
    }
}
