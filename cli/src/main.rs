//! The `am` command: serves, calls, looks at and demonstrates nodes, over the public API alone.
//!
//! Results go to standard output, everything else to standard error, and the exit code says how it went: see
//! [`exit`].

mod args;
mod bench;
mod call;
mod demo;
mod exit;
mod inspect;
mod ping;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command};
use crate::exit::Failure;

fn main() -> ExitCode {
    let args = Args::parse();
    let as_json = args.command.wants_json_errors();
    // The roles of a measurement build runtimes of their own.
    match args.command {
        Command::BenchRole { spec } => return dynamo_am_bench::run_role(&spec),
        Command::Bench(options) => return finish(bench::run(&options), as_json),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "am", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(args.command));
            // A blocking read of standard input must not keep the process.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::usage(format!("no runtime: {error}"))),
    };
    finish(result, as_json)
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(&args).await,
        Command::Ping(args) => ping::run(&args).await,
        Command::Call(args) => call::run(&args).await,
        Command::Handlers(args) => inspect::handlers(&args).await,
        Command::Health(args) => inspect::health(&args).await,
        Command::Shutdown(args) => inspect::shutdown(&args).await,
        Command::Demo(args) => demo::run(&args).await,
        Command::DemoWorker(args) => demo::worker::run(&args).await,
        Command::Bench(_) | Command::BenchRole { .. } | Command::Completions { .. } => Ok(()),
    }
}

fn finish(result: Result<(), Failure>, as_json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(as_json),
    }
}
