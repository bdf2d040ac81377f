//! The command line: what can be asked for, checked before anything starts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use dynamo_am::{Endpoint, ShutdownPolicy};

use crate::exit::EXIT_CODES;

/// The longest time that can be said: a week. Nothing here is meant to wait for ever.
const SECONDS_MAX: f64 = 604_800.0;

/// Serve, call, look at and demonstrate dynamo-am nodes
#[derive(Debug, Parser)]
#[command(name = "am", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(ServeArgs),
    Ping(PingArgs),
    Call(CallArgs),
    /// List the handlers of a node, with what they take and give
    Handlers(InspectArgs),
    /// Ask a node how it is: 0 if it takes requests, 4 if it is draining
    Health(InspectArgs),
    /// Ask a node to end in good order; done when it has agreed
    Shutdown(InspectArgs),
    Demo(DemoArgs),
    Bench(BenchArgs),
    Completions(CompletionsArgs),
    /// A worker process of `am demo`
    #[command(hide = true)]
    DemoWorker(WorkerArgs),
    /// One process of a measurement of `am bench`
    #[command(name = dynamo_am_bench::ROLE_COMMAND, hide = true)]
    BenchRole {
        /// What to measure
        spec: String,
    },
}

/// Run a node with the handlers echo, sum, sleep, fail, panic and count
///
/// Prints `listening ENDPOINT`, a line each, when it can be called. Ends in good order on Ctrl-C, on
/// SIGTERM and on `am shutdown`: what runs is finished first. A second signal ends it at once.
///
///   echo   gives its payload back
///   sum    {"a":2,"b":3} gives {"total":5}
///   sleep  {"ms":N} ends N milliseconds later
///   fail   {"message":TEXT} fails with that text
///   panic  panics
///   count  counts one-way messages, and answers the number so far when a response is asked for
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, verbatim_doc_comment)]
pub(crate) struct ServeArgs {
    /// Where to listen: tcp://HOST:PORT (port 0: a free one), ipc:///PATH or ipc://*; may be said several times
    #[arg(long, value_name = "ENDPOINT", default_value = "tcp://127.0.0.1:0", value_parser = listenable)]
    pub(crate) listen: Vec<Endpoint>,
    /// Allow addresses beyond this machine: nothing authenticates callers yet
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Who may end the node by `am shutdown`
    #[arg(long, value_name = "WHO", value_enum, default_value_t = Who::Local)]
    pub(crate) allow_shutdown: Who,
    /// Print {"instance":ID,"listening":[ENDPOINT…]} instead, and errors as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Who may do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Who {
    /// Nobody
    Nobody,
    /// Callers on this machine
    Local,
    /// Whoever reaches the node
    Anybody,
}

impl From<Who> for ShutdownPolicy {
    fn from(who: Who) -> Self {
        match who {
            Who::Nobody => Self::Nobody,
            Who::Local => Self::Local,
            Who::Anybody => Self::Anybody,
        }
    }
}

/// Which node, and how it is reached.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The node: tcp://HOST:PORT or ipc:///PATH
    #[arg(value_parser = dialable)]
    pub(crate) endpoint: Endpoint,
    /// Allow nodes beyond this machine: nothing authenticates them yet
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Print JSON, a line for each thing said, and errors as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measure round trips to a node
///
/// Each is a call of its system handler `_health_check`. Goes on until Ctrl-C unless -c says how often; ends
/// with a summary, and with 0 only if every call was answered.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PingArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How many calls to make
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Seconds from the start of one call to the next; 0: as soon as the last is answered
    #[arg(short, long, value_name = "SECS", default_value = "1", value_parser = seconds_or_zero)]
    pub(crate) interval: Duration,
    /// Seconds that one answer may take
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

/// Call a handler and print its reply
///
/// The payload is JSON unless --raw is given, and checked before anything is sent. A reply that is JSON is laid
/// out for reading, without changing a number or the order of keys; any other, and every reply to --raw, is
/// written as it came. With --json the reply is one line of JSON whatever it is: text that is no JSON is a
/// string, and bytes that are no text are {"hex":"00ff"}.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CallArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The handler's name
    #[arg(value_parser = handler_name)]
    pub(crate) handler: String,
    /// The payload: JSON text, @FILE, or - for standard input; without it, the payload is empty
    #[arg(value_name = "PAYLOAD", allow_hyphen_values = true, value_hint = ValueHint::FilePath)]
    pub(crate) payload: Option<String>,
    /// Send the payload's bytes as they are, not as JSON; text that begins with @ comes by - or @FILE
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// Seconds that the call may take in all
    #[arg(long, value_name = "SECS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

/// What to wait for, if not for the reply.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Wait {
    /// Send it one way: wait until it has left, whatever becomes of it
    #[arg(long)]
    pub(crate) notify: bool,
    /// Wait until the handler has finished well, and print no reply
    #[arg(long)]
    pub(crate) confirm: bool,
    /// Wait until the message is accepted for the handler, and print what it takes and gives
    #[arg(long)]
    pub(crate) receipt: bool,
}

/// Of `am handlers`, `am health` and `am shutdown`, whose words stand at [`Command`].
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Seconds that the answer may take
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

/// Hash and count the files of a folder by worker processes
///
/// The workers are a cohort: each file is given to one that is free, a large one in parts to several. Files that
/// cannot be read are listed and stop nothing; the files of a worker that dies go to the others.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DemoArgs {
    /// The folder
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// How many worker processes
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// How many files, or parts of large ones, a worker has at once, at most
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) in_flight: u32,
    /// Kill a worker process when half is done: the totals stay the same
    #[arg(long)]
    pub(crate) kill_one: bool,
    /// Do it again in one process alone, and end with 1 if the totals differ
    #[arg(long)]
    pub(crate) verify: bool,
    /// Write the result as JSON to this file; - for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json: Option<PathBuf>,
}

/// Of the hidden `am demo-worker`.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The leader's endpoint
    #[arg(long)]
    pub(crate) leader: String,
    /// This worker's number
    #[arg(long)]
    pub(crate) number: u32,
}

/// Measure this machine's figures beside those of raw sockets, in the same run
///
/// Server and client are two processes of their own, and the raw baseline takes turns with dynamo-am. Measures the
/// workloads that are named, or all:
///
///   rtt         echo calls one at a time, from a spawned task and from `main`
///   concurrent  echo calls, 64 and 256 outstanding, held by as many tasks or by one
///   oneway      fire and forget until all is handled, by inline, ordered and spawned handlers
///   bulk        payloads of 1 MiB, 8 outstanding
///   links       one load over 1, 100 and 1000 links
///   idle        what each of 5000 idle links costs in memory
///   loaded      rtt beside a one-way flood, on another link and on the same
///   cohort      par_map over 1, 4, 16 and 64 workers, flat and down a tree, beside plain calls
///
/// Ends with 1 if a message was lost.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, verbatim_doc_comment)]
pub(crate) struct BenchArgs {
    /// Which workloads; without any, all
    #[arg(value_enum, value_name = "WORKLOAD", conflicts_with = "quick")]
    pub(crate) workloads: Vec<BenchWorkload>,
    /// The short set: rtt, 64 outstanding, one-way inline and 1 MiB; at most 40 s
    #[arg(long)]
    pub(crate) quick: bool,
    /// What carries the messages
    #[arg(long, value_enum, default_value_t = BenchTransport::Tcp)]
    pub(crate) transport: BenchTransport,
    /// Octets of payload in each message, instead of 64, 1 MiB for bulk, none for cohort
    #[arg(long, value_name = "OCTETS", value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    pub(crate) payload: Option<u32>,
    /// Messages in each turn, instead of as many as 0.8 s allow
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Measure rtt with busy polling too, at both ends, ours and raw, with one thread each
    #[arg(long, conflicts_with = "quick")]
    pub(crate) busy_poll: bool,
    /// Turns of each system; the median one is reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) runs: u32,
    /// Runtime threads of each process
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) workers: u32,
    /// Write the result as JSON to this file; - for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json: Option<PathBuf>,
}

/// A workload of `am bench`, whose words stand at [`BenchArgs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchWorkload {
    Rtt,
    Concurrent,
    Oneway,
    Bulk,
    Links,
    Idle,
    Loaded,
    Cohort,
}

/// What carries the messages of `am bench`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchTransport {
    /// Over loopback
    Tcp,
    /// Unix sockets
    Ipc,
    /// Memory, in one process
    Inproc,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

impl Command {
    /// Whether errors are to be JSON.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Serve(args) => args.json,
            Self::Ping(args) => args.target.json,
            Self::Call(args) => args.target.json,
            Self::Handlers(args) | Self::Health(args) | Self::Shutdown(args) => args.target.json,
            Self::Demo(args) => args.json.is_some(),
            Self::Bench(args) => args.json.is_some(),
            _ => false,
        }
    }
}

fn listenable(text: &str) -> Result<Endpoint, String> {
    let endpoint = text.parse::<Endpoint>().map_err(|error| error.to_string())?;
    match endpoint {
        Endpoint::Inproc { .. } => Err("no other process could reach it; use tcp or ipc".to_owned()),
        endpoint => Ok(endpoint),
    }
}

fn dialable(text: &str) -> Result<Endpoint, String> {
    let endpoint = text.parse::<Endpoint>().map_err(|error| error.to_string())?;
    if matches!(endpoint, Endpoint::Inproc { .. }) {
        return Err("it is no endpoint of another process; use tcp or ipc".to_owned());
    }
    if endpoint.is_wildcard() {
        return Err("it stands for many addresses or none; use the one that the node prints".to_owned());
    }
    Ok(endpoint)
}

fn handler_name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("it is empty".to_owned()),
        1..=255 => Ok(text.to_owned()),
        _ => Err("it is longer than 255 octets".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match seconds_or_zero(text)? {
        duration if duration < Duration::from_millis(1) => Err("it is less than a millisecond".to_owned()),
        duration => Ok(duration),
    }
}

fn seconds_or_zero(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number of seconds, such as 2 or 0.5".to_owned())?;
    if !(0.0..=SECONDS_MAX).contains(&seconds) {
        return Err(format!("it is not between 0 and {SECONDS_MAX} seconds"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_decimal_seconds_within_a_week() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds_or_zero("0"), Ok(Duration::ZERO));
        for text in ["", "x", "-1", "nan", "inf", "0", "0.0001", "1e9", "604801"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoints_that_cannot_work_are_found_at_once() {
        for text in ["tcp://127.0.0.1:0", "tcp://*:1", "ipc://*", "inproc://x", "localhost:1", ""] {
            assert!(dialable(text).is_err(), "{text}");
        }
        assert!(listenable("inproc://x").is_err() && listenable("ipc://*").is_ok());
        assert!(dialable("tcp://127.0.0.1:1").is_ok() && dialable("ipc:///tmp/x").is_ok());
    }
}
