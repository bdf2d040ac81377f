//! Runs dynamo-am side by side with other messaging systems on the same workloads; see README.md.

mod conduct;
mod load;
mod meter;
mod report;
mod role;
mod spec;
mod systems;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

use crate::conduct::Plan;
use crate::report::{Host, Report};
use crate::spec::{Case, System};

/// dynamo-am side by side with other messaging systems
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Systems to run, by the names of lines or packages; dynamo-am is always among them
    #[arg(long, value_delimiter = ',', value_name = "SYSTEM,...")]
    only: Vec<String>,
    /// Workloads to run: rtt, concurrent, window, oneway, bulk
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD,...")]
    workload: Vec<String>,
    /// How often each is measured, in turns; the table shows the median
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=99))]
    runs: u8,
    /// Short measurements, and one run: to see that all works
    #[arg(long)]
    quick: bool,
    /// Milliseconds of each measurement
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    measure_ms: u64,
    /// Runtime threads of each process
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Write the results to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Plays one of the two measured processes
    #[command(hide = true)]
    Role { spec: String },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(Command::Role { spec }) = &cli.command {
        return role::play(spec);
    }
    let chosen = if cli.only.is_empty() { System::ALL.to_vec() } else { System::select(&cli.only)? };
    let (mut systems, mut skipped) = (Vec::new(), Vec::new());
    for system in chosen {
        match system.missing() {
            None => systems.push(system),
            Some(why) => skipped.push((system.name().to_owned(), why)),
        }
    }
    let names = ["rtt", "concurrent", "window", "oneway", "bulk"];
    for name in &cli.workload {
        ensure!(
            names.contains(&name.as_str()),
            "no workload is called {name}; there are {}",
            names.join(", ")
        );
    }
    let is_asked =
        |case: &Case| cli.workload.is_empty() || cli.workload.iter().any(|n| n == case.workload.name());
    let plan = Plan {
        systems,
        cases: Case::ALL.into_iter().filter(is_asked).collect(),
        runs: if cli.quick { 1 } else { cli.runs.into() },
        workers: cli.workers.into(),
        warm_up: Duration::from_millis(if cli.quick { 200 } else { 500 }),
        measure: Duration::from_millis(if cli.quick { 500 } else { cli.measure_ms }),
    };
    let host = Host::read();
    let rows = conduct::run(&plan, |step| eprintln!("{step}"))?;

    let versions = report::versions(&plan.systems);
    println!("{} cores, {}, Linux {}, load {}", host.cores, host.cpu, host.kernel, host.load_average);
    let list: Vec<_> = versions.iter().map(|(package, version)| format!("{package} {version}")).collect();
    println!("{}", list.join(", "));
    print!("{}", report::table(&plan.cases, &rows));
    if !skipped.is_empty() {
        println!();
    }
    for (system, why) in &skipped {
        println!("skipped: {system}: {why}");
    }
    if let Some(path) = &cli.json {
        let command =
            std::env::args().skip(1).fold("bench/peers/run".to_owned(), |line, arg| line + " " + &arg);
        let report = Report { host, versions, command, skipped: &skipped, results: &rows };
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
