//! Runs seeds, and shows what went wrong: `sim/run --seeds N [--seed K] [--trace]`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser;
use dynamo_am_sim::run;

/// Simulates nodes on a network that misbehaves, and judges what they did.
#[derive(Debug, Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Prints all that happened.
    #[arg(long)]
    trace: bool,
    /// With what the library says of itself.
    #[arg(long)]
    debug: bool,
    /// Runs each seed twice, and compares.
    #[arg(long)]
    twice: bool,
    /// How many at a time.
    #[arg(long)]
    threads: Option<usize>,
    /// Takes a run for endless after so many seconds.
    #[arg(long)]
    patience: Option<u64>,
    /// Stops after so many seeds that fail.
    #[arg(long, default_value_t = 5)]
    failures: u64,
}

fn main() -> ExitCode {
    let options = Arc::new(Options::parse());
    if let Some(seconds) = options.patience {
        run::set_patience(seconds);
    }
    if options.debug {
        dynamo_am_sim::debug::listen();
    }
    let next = Arc::new(AtomicU64::new(options.seed));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(available).min(options.seeds.max(1) as usize);
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let (options, next, failed) = (options.clone(), next.clone(), failed.clone());
            let work = move || work(&options, &next, &failed);
            std::thread::Builder::new().name(format!("seeds-{number}")).spawn(work)
        })
        .collect();
    for worker in workers {
        if !worker.is_ok_and(|worker| worker.join().is_ok()) {
            eprintln!("a worker did not end well");
            return ExitCode::FAILURE;
        }
    }
    let failed = failed.lock().map_or_else(|poisoned| poisoned.into_inner().clone(), |failed| failed.clone());
    println!("{} seeds, {} failed", options.seeds, failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(options: &Options, next: &AtomicU64, failed: &Mutex<Vec<u64>>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let is_enough = failed.lock().is_ok_and(|failed| failed.len() as u64 >= options.failures);
        if seed >= options.seed + options.seeds || is_enough {
            return;
        }
        let done = seed - options.seed;
        if done > 0 && done.is_multiple_of(5000) {
            println!("{done} seeds begun");
        }
        let mut report = run::seed(seed);
        if options.twice {
            let again = run::seed(seed);
            if again.hash != report.hash {
                report.violations.push(format!("repeat: {}", difference(&report.entries, &again.entries)));
            }
        }
        if options.trace {
            println!("{:#?}", dynamo_am_sim::scenario::Scenario::drawn(seed));
            for entry in &report.entries {
                println!("{:>12.6} {:?}", entry.at.as_secs_f64(), entry.event);
            }
        }
        if !report.violations.is_empty() {
            let shown: Vec<_> = report.violations.iter().take(8).map(|text| format!("  {text}")).collect();
            println!(
                "seed {seed} violates {} promises:\n{}\n  again: sim/run --seed {seed} --trace",
                report.violations.len(),
                shown.join("\n")
            );
            if let Ok(mut failed) = failed.lock() {
                failed.push(seed);
            }
        }
    }
}

fn difference(first: &[dynamo_am_sim::log::Entry], second: &[dynamo_am_sim::log::Entry]) -> String {
    let place = first.iter().zip(second).position(|(a, b)| a != b);
    match place {
        Some(place) => {
            format!("entry {place} is {:?}, and {:?} the second time", first[place], second[place])
        }
        None => format!("{} entries, and {} the second time", first.len(), second.len()),
    }
}
