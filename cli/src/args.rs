//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::exit::CODES;

/// Serve, call and look at dynamo-am nodes.
#[derive(Debug, Parser)]
#[command(name = "am", version, after_help = CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node with the handlers echo, sum, sleep, fail, panic and count.
    Serve(ServeArgs),
    /// Time round trips to a node.
    Ping(PingArgs),
    /// Call a handler of a node.
    Call(CallArgs),
    /// List a node's handlers.
    Handlers(NodeArgs),
    /// Ask a node how it is.
    Health(NodeArgs),
    /// Ask a node to shut down.
    Shutdown(NodeArgs),
    /// Hash and count all files of a folder by worker processes.
    Demo(DemoArgs),
    /// Measure this machine against raw sockets.
    Bench(BenchArgs),
    /// Print a shell's completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    #[command(name = "demo-worker", hide = true)]
    DemoWorker(WorkerArgs),
    #[command(name = "bench-role", hide = true)]
    BenchRole { spec: String },
}

impl Command {
    pub(crate) fn wants_json_errors(&self) -> bool {
        match self {
            Self::Serve(args) => args.json,
            Self::Ping(args) => args.json,
            Self::Call(args) => args.json,
            Self::Handlers(args) | Self::Health(args) | Self::Shutdown(args) => args.json,
            _ => false,
        }
    }
}

/// Who may ask a node to shut down.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum AllowShutdown {
    /// Nobody.
    Nobody,
    /// Peers on this machine.
    Local,
    /// Every peer.
    Anybody,
}

#[derive(Debug, Parser)]
pub(crate) struct ServeArgs {
    /// Where to listen: tcp://HOST:PORT, ipc:///PATH or ipc://*; may be said several times.
    #[arg(long, value_name = "ENDPOINT", default_value = "tcp://127.0.0.1:0")]
    pub(crate) listen: Vec<String>,
    /// Allow addresses beyond this machine, although nothing authenticates peers.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Who may ask this node to shut down.
    #[arg(long, value_enum, default_value = "local")]
    pub(crate) allow_shutdown: AllowShutdown,
    /// Print one line of JSON instead of a line per endpoint.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct PingArgs {
    /// The node's endpoint.
    pub(crate) endpoint: String,
    /// How many round trips.
    #[arg(short = 'c', long, default_value_t = 4)]
    pub(crate) count: u32,
    /// Seconds from one to the next.
    #[arg(short, long, default_value = "0.2", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// Seconds after which a round trip is lost.
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Allow addresses beyond this machine, although nothing authenticates peers.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct CallArgs {
    /// The node's endpoint.
    pub(crate) endpoint: String,
    /// The handler's name.
    pub(crate) handler: String,
    /// The argument: JSON text, @FILE to read it from a file, or - for standard input. Empty if left out.
    pub(crate) argument: Option<String>,
    /// Send the argument's bytes as they are, without a codec.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Send it one way, and wait for nothing.
    #[arg(long, conflicts_with_all = ["confirm", "receipt"])]
    pub(crate) notify: bool,
    /// Wait until the handler has finished, and for no value.
    #[arg(long, conflicts_with = "receipt")]
    pub(crate) confirm: bool,
    /// Wait until the message is accepted, and print what the node says of its handler.
    #[arg(long)]
    pub(crate) receipt: bool,
    /// Seconds that the call may take.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Allow addresses beyond this machine, although nothing authenticates peers.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Print everything as JSON, errors too; bytes that are no JSON as a string.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct NodeArgs {
    /// The node's endpoint.
    pub(crate) endpoint: String,
    /// Seconds that the call may take.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Allow addresses beyond this machine, although nothing authenticates peers.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct DemoArgs {
    /// The folder.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Worker processes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Files that a worker has at once, at most.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) in_flight: u32,
    /// Write the result as JSON to this file; - for standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Parser)]
pub(crate) struct WorkerArgs {
    /// The leader's endpoint.
    #[arg(long)]
    pub(crate) leader: String,
    /// This worker's number.
    #[arg(long)]
    pub(crate) number: u32,
}

#[derive(Debug, Parser)]
pub(crate) struct BenchArgs {
    /// The short set: rtt, 64 outstanding, one-way and 1 MiB over tcp; at most 40 s.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Turns of each system; the median one is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) runs: u32,
    /// Runtime threads of each process.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) workers: u32,
    /// Write the result as JSON to this file; - for standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("must be between 0 and 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["-1", "nan", "x", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
