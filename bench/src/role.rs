//! The two measured processes, and the lines they speak with the conductor.
//!
//! | process | standard output | standard input |
//! | --- | --- | --- |
//! | server | `listening ADDRESS` | |
//! | client | `ready` (connected and warm) | |
//! | server | a [`Usage`] as JSON: the meters before | `mark` |
//! | client | an [`Outcome`] as JSON | `go` |
//! | server | a [`Usage`] as JSON: the meters after | `stop` |
//!
//! The client reads its own meters around its phase. A standard input that ends is an order to end, so
//! no process outlives a conductor that was killed. Reasons for failure go to standard error.
//!
//! A further system joins by one arm in each of the three matches on `System` and `Client` here.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Runtime;

use crate::error::RoleError;
use crate::sample::{Outcome, Sample};
use crate::spec::{Amount, Place, Role, RoleSpec, System};
use crate::usage::{Usage, cpu_ns};
use crate::{ours, raw};

/// The subcommand that the conductor runs as `EXE bench-role SPEC`, to be hidden from a command's help.
pub const ROLE_COMMAND: &str = "bench-role";

/// How long a role's runtime may take to end its tasks.
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Plays the role that `spec_json` describes on this process's standard streams, and blocks until done.
///
/// It builds its own runtime, so it must not be called from within one. A failure is written to
/// standard error, and the code is 1.
pub fn run_role(spec_json: &str) -> ExitCode {
    let played = serde_json::from_str(spec_json)
        .map_err(RoleError::Spec)
        .and_then(|spec| play(&spec, std::io::stdin().lock(), std::io::stdout().lock()));
    let Err(error) = played else { return ExitCode::SUCCESS };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    // Nobody is left to be told when the error stream itself is gone.
    let _ = writeln!(std::io::stderr(), "{error}{cause}");
    ExitCode::FAILURE
}

/// Plays a role on any pair of streams.
///
/// # Errors
/// Any [`RoleError`]: a value out of range, a socket that fails, a phase over its limit, a conductor
/// that says something else than the protocol.
pub fn play(spec: &RoleSpec, input: impl BufRead, output: impl Write) -> Result<(), RoleError> {
    spec.validate()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(spec.workers)
        .enable_all()
        .build()
        .map_err(RoleError::io("starting the runtime"))?;
    let played = match &spec.role {
        Role::Server => play_server(&runtime, spec, input, output),
        Role::Client { address } => play_client(&runtime, spec, address, input, output),
    };
    runtime.shutdown_timeout(TEARDOWN_TIMEOUT);
    played
}

/// A server that accepts connections, and its count of messages handled.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) address: String,
    pub(crate) handled: Arc<AtomicU64>,
}

/// A connected client of any system.
#[derive(Debug)]
enum Client {
    Raw(raw::Client),
    Ours(ours::Client),
}

impl Client {
    async fn connect(spec: &RoleSpec, address: &str) -> Result<Self, RoleError> {
        match spec.system {
            System::Raw => raw::Client::connect(spec.case, address).await.map(Self::Raw),
            System::DynamoAm => ours::Client::connect(spec.case, address).await.map(Self::Ours),
        }
    }

    /// Takes and returns itself, because a phase may run in a spawned task.
    async fn run(mut self, amount: Amount) -> Result<(Self, Sample), RoleError> {
        let sample = match &mut self {
            Self::Raw(client) => client.run(amount).await?,
            Self::Ours(client) => client.run(amount).await?,
        };
        Ok((self, sample))
    }
}

fn play_server(
    runtime: &Runtime,
    spec: &RoleSpec,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<(), RoleError> {
    // The node, where there is one, must live as long as it is measured.
    let (_node, server) = runtime.block_on(async {
        match spec.system {
            System::Raw => raw::serve(spec.case).await.map(|server| (None, server)),
            System::DynamoAm => ours::serve().await.map(|(node, server)| (Some(node), server)),
        }
    })?;
    say(&mut output, &format!("listening {}", server.address))?;
    loop {
        let order = hear(&mut input)?;
        if order.is_empty() {
            return Ok(());
        }
        if order != "mark" && order != "stop" {
            return Err(RoleError::Control { expected: "mark or stop", got: order });
        }
        say_json(&mut output, &Usage::read(server.handled.load(Ordering::Relaxed)))?;
        if order == "stop" {
            return Ok(());
        }
    }
}

fn play_client(
    runtime: &Runtime,
    spec: &RoleSpec,
    address: &str,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<(), RoleError> {
    let limit = Duration::from_millis(spec.limit_ms);
    let connected =
        runtime.block_on(async { tokio::time::timeout(limit, Client::connect(spec, address)).await });
    let client = connected.map_err(|_| too_slow("connecting", spec))??;
    let (client, _) = run_phase(runtime, spec, client, spec.warm_up, "the warm-up")?;
    say(&mut output, "ready")?;
    let order = hear(&mut input)?;
    if order != "go" {
        return Err(RoleError::Control { expected: "go", got: order });
    }
    let cpu_before = cpu_ns();
    let (_client, sample) = run_phase(runtime, spec, client, spec.amount, "the measurement")?;
    let cpu_spent = cpu_ns().saturating_sub(cpu_before);
    say_json(&mut output, &Outcome::new(&sample, cpu_spent, Usage::read(0).peak_rss_kib))
}

/// Runs one phase from the place that the case asks for.
fn run_phase(
    runtime: &Runtime,
    spec: &RoleSpec,
    client: Client,
    amount: Amount,
    phase: &'static str,
) -> Result<(Client, Sample), RoleError> {
    let limit = Duration::from_millis(spec.limit_ms);
    let ended = match spec.case.place {
        Place::Main => runtime.block_on(async { tokio::time::timeout(limit, client.run(amount)).await }),
        Place::Task => {
            let task = runtime.spawn(client.run(amount));
            let joined = runtime.block_on(async { tokio::time::timeout(limit, task).await });
            joined.map(|joined| joined.unwrap_or(Err(RoleError::TaskPanicked)))
        }
    };
    ended.map_err(|_| too_slow(phase, spec))?
}

fn too_slow(phase: &'static str, spec: &RoleSpec) -> RoleError {
    RoleError::TooSlow { phase, limit_ms: spec.limit_ms }
}

fn say(output: &mut impl Write, line: &str) -> Result<(), RoleError> {
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(RoleError::io("writing to the control stream"))
}

fn say_json(output: &mut impl Write, value: &impl Serialize) -> Result<(), RoleError> {
    let line = serde_json::to_string(value).map_err(std::io::Error::from);
    say(output, &line.map_err(RoleError::io("encoding a result"))?)
}

/// The next line without its end; empty when the stream has ended.
fn hear(input: &mut impl BufRead) -> Result<String, RoleError> {
    let mut line = String::new();
    input.read_line(&mut line).map_err(RoleError::io("reading the control stream"))?;
    Ok(line.trim_end().to_owned())
}
