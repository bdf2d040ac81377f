//! `chaos`: plays scenarios and prints their figures. It exits with 1 when one fails, with 2 when it is misused.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use clap::Parser;
use dynamo_am_chaos::failure::{Failure, Result};
use dynamo_am_chaos::process::{self, ROLE_COMMAND};
use dynamo_am_chaos::report::Outcome;
use dynamo_am_chaos::scenario::{self, Form, Scenario};

/// Does bad things to real processes, and measures what becomes of the rest.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// The counts and times of the promise instead of the short form that tests run.
    #[arg(long)]
    full: bool,
    /// Lists the scenarios and what each proves.
    #[arg(long)]
    list: bool,
    /// Writes the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Which scenarios; all if none is named.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(ROLE_COMMAND) {
        let (name, arguments) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        return ended(process::play(&name, &arguments).map(|()| true));
    }
    ended(run(&Arguments::parse()))
}

fn ended(outcome: Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            // Nobody is left to be told when standard error is gone.
            let _ = writeln!(std::io::stderr(), "chaos: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Whether all passed.
fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for scenario in scenario::all() {
            process::say(format_args!("{:<24} {}", scenario.name, scenario.proves))?;
        }
        return Ok(true);
    }
    let form = if arguments.full { Form::Full } else { Form::Short };
    let mut outcomes = Vec::new();
    for scenario in chosen(&arguments.names)? {
        let outcome = play(scenario, form);
        process::say(&outcome)?;
        outcomes.push(outcome);
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&outcomes)?)?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.passed))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(scenario::all().collect());
    }
    let find = |name: &String| {
        let unknown = || Failure::new(format!("there is no scenario `{name}`; see --list"));
        scenario::find(name).ok_or_else(unknown)
    };
    names.iter().map(find).collect()
}

fn play(scenario: &Scenario, form: Form) -> Outcome {
    let _watchdog = watchdog(scenario.name, form.pick(SHORT_MAX, FULL_MAX));
    let began = Instant::now();
    let played = (scenario.run)(form);
    Outcome::new(scenario.name, began.elapsed().as_secs_f64(), played)
}

/// Ends the program, and with it all helper processes, when what is returned is not dropped in time.
fn watchdog(name: &'static str, limit: Duration) -> SyncSender<()> {
    let (alive, dropped) = sync_channel(0);
    std::thread::spawn(move || {
        if dropped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            let _ = writeln!(std::io::stderr(), "chaos: {name} hangs: it has not ended within {limit:?}");
            std::process::exit(1);
        }
    });
    alive
}

/// No scenario takes so long in its short form.
const SHORT_MAX: Duration = Duration::from_secs(120);
/// No scenario takes so long in full.
const FULL_MAX: Duration = Duration::from_secs(30 * 60);
