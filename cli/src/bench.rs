//! `am bench`: this machine's figures, side by side with raw sockets.

use dynamo_am_bench::BenchOptions;

use crate::args::BenchArgs;
use crate::demo::report::{check_json_path, write_json};
use crate::exit::Failure;

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    if !args.quick {
        return Err(Failure::usage("say --quick: it is the one set of workloads that there is so far"));
    }
    if let Some(path) = &args.json {
        check_json_path(path)?;
    }
    let exe = std::env::current_exe()
        .map_err(|error| Failure::usage(format!("cannot find this command to start it again: {error}")))?;
    let options = BenchOptions { runs: args.runs, workers: args.workers as usize, ..BenchOptions::quick() };
    let progress = indicatif::ProgressBar::new_spinner();
    progress.enable_steady_tick(std::time::Duration::from_millis(100));
    let report = dynamo_am_bench::run(&options, &exe, &mut |step| progress.set_message(step.to_owned()));
    progress.finish_and_clear();
    let report = report.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::handler(format!("{error}{cause}"))
    })?;
    if args.json.as_deref() != Some(std::path::Path::new("-")) {
        crate::output::print(format!("{}\n", report.table()))?;
    }
    match &args.json {
        Some(path) => write_json(path, &serde_json::to_value(&report).unwrap_or_default()),
        None => Ok(()),
    }
}
