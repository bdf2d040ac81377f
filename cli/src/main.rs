//! The `am` command: serves, calls, looks at and demonstrates nodes, over the public API alone.
//!
//! `main` reads the command line, runs one command, and turns what came of it into words and an exit code.
//! Nothing below it ends the process or writes to standard error about a failure of its own.
//!
//! It deliberately does no more than a program of any user could: what is missing here is missing in the API.

mod args;
mod bench;
mod call;
mod demo;
mod exit;
mod inspect;
mod output;
mod ping;
mod remote;
mod serve;
mod signals;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use exit::{Exit, Failure};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let as_json = cli.command.wants_json();
    let ended = match cli.command {
        // These two build runtimes of their own.
        Command::BenchRole { spec } => return dynamo_am_bench::run_role(&spec),
        Command::Bench(args) => bench::run(&args).map(|()| Exit::Ok),
        Command::Completions(args) => completions(&args),
        command => start(command),
    };
    let exit = ended.unwrap_or_else(|failure| {
        if let Some(text) = failure.text(as_json) {
            output::print_error(&text);
        }
        failure.exit
    });
    exit.into()
}

fn start(command: Command) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::usage(format!("cannot start the runtime: {error}")))?;
    let ended = runtime.block_on(run(command));
    // A thread that still waits for standard input must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Ping(args) => ping::run(args).await,
        Command::Call(args) => until_interrupted(call::run(args)).await,
        Command::Handlers(args) => until_interrupted(inspect::handlers(args)).await,
        Command::Health(args) => until_interrupted(inspect::health(args)).await,
        Command::Shutdown(args) => until_interrupted(inspect::shutdown(args)).await,
        Command::Demo(args) => demo::run(&args).await.map(|()| Exit::Ok),
        Command::DemoWorker(args) => demo::worker::run(&args).await.map(|()| Exit::Ok),
        Command::Bench(_) | Command::BenchRole { .. } | Command::Completions(_) => Ok(Exit::Ok),
    }
}

/// Gives up on Ctrl-C: a call under way is dropped, and its peer is told by the end of the link.
async fn until_interrupted(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::select! {
        // Ctrl-C is listened for before the command begins.
        biased;
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(Failure::interrupted()),
            Err(error) => Err(Failure::usage(format!("cannot wait for Ctrl-C: {error}"))),
        },
        ended = command => ended,
    }
}

fn completions(args: &args::CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "am", &mut script);
    output::print(script)?;
    Ok(Exit::Ok)
}

/// Help and version, which are no errors, or words about the command line.
fn not_understood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    let words = error.to_string();
    let message = words.strip_prefix("error: ").unwrap_or(&words);
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        output::print_error(&words);
    } else if wants_json {
        let failure = Failure::usage(message.trim_end());
        output::print_error(&failure.text(true).unwrap_or_default());
    } else {
        // clap's words are its own and the user's, laid out in lines on purpose.
        output::print_error(&format!("am: {message}"));
    }
    Exit::Usage.into()
}
