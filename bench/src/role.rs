//! The measured processes, and the lines they speak with the conductor.
//!
//! | process | standard output | standard input |
//! | --- | --- | --- |
//! | server | `listening ADDRESS…` | |
//! | client | `ready` (connected and warm) | |
//! | server | a [`Usage`] as JSON: the meters before | `mark` |
//! | client | an [`Outcome`] as JSON | `go` |
//! | server | a [`Usage`] as JSON: the meters after | `stop` |
//!
//! A process that is both says what the client does, and counts in its outcome what its server has handled.
//! The client reads its own meters around its phase. A standard input that ends is an order to end, so
//! no process outlives a conductor that was killed. Reasons for failure go to standard error.
//!
//! A further system joins by one arm in each of the two matches on `System` here.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamo_am::ActiveMessageManager;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use crate::case::{Place, Workload};
use crate::drive::Driver;
use crate::error::RoleError;
use crate::sample::{Outcome, Sample};
use crate::spec::{Role, RoleSpec, System};
use crate::usage::Usage;
use crate::{files, node, raw, workloads};

/// The subcommand that the conductor runs as `EXE bench-role SPEC`, to be hidden from a command's help.
pub const ROLE_COMMAND: &str = "bench-role";

/// So many links need no more files than any process may open.
const FEW_LINKS: usize = 100;
/// How long a role's runtime may take to end its tasks.
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Plays the role that `spec_json` describes on this process's standard streams, and blocks until done.
///
/// It builds its own runtime, so it must not be called from within one. It ends with the thread that has
/// started this process. A failure is written to standard error, and the code is 1.
pub fn run_role(spec_json: &str) -> ExitCode {
    // A phase of many messages does not look at its input. What fails here costs only that.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
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
    if spec.case.links() > FEW_LINKS {
        files::raise();
    }
    let runtime = runtime(spec).map_err(RoleError::io("starting the runtime"))?;
    let played = match &spec.role {
        Role::Server => play_server(&runtime, spec, input, output),
        Role::Client { addresses } => play_client(&runtime, spec, addresses, None, input, output),
        Role::Both => runtime.block_on(serve(spec)).and_then(|(_nodes, server)| {
            play_client(&runtime, spec, &server.addresses, Some(&server), input, output)
        }),
    };
    runtime.shutdown_timeout(TEARDOWN_TIMEOUT);
    played
}

/// A server that accepts connections, and its counts of messages handled.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) addresses: Vec<String>,
    pub(crate) counters: Vec<Arc<AtomicU64>>,
}

impl Listening {
    fn handled(&self) -> u64 {
        self.counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

/// A server, and the nodes that must live as long as it is measured, where there are any.
type Serving = (Vec<ActiveMessageManager>, Listening);

async fn serve(spec: &RoleSpec) -> Result<Serving, RoleError> {
    match spec.system {
        // Its baseline calls the same nodes.
        _ if matches!(spec.case.workload, Workload::Cohort { .. }) => {
            workloads::cohort::serve(spec.case).await
        }
        System::Raw => raw::serve(spec.case).await.map(|server| (Vec::new(), server)),
        System::DynamoAm => node::serve(spec.case).await,
    }
}

async fn connect(spec: &RoleSpec, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    match spec.system {
        System::Raw => workloads::connect_raw(spec.case, addresses).await,
        System::DynamoAm => workloads::connect_ours(spec.case, addresses).await,
    }
}

fn play_server(
    runtime: &Runtime,
    spec: &RoleSpec,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<(), RoleError> {
    let (_nodes, server) = runtime.block_on(serve(spec))?;
    say(&mut output, &format!("listening {}", server.addresses.join(" ")))?;
    loop {
        let order = hear(&mut input)?;
        if order.is_empty() {
            return Ok(());
        }
        if order != "mark" && order != "stop" {
            return Err(RoleError::Control { expected: "mark or stop", got: order });
        }
        say_json(&mut output, &Usage::read(server.handled()))?;
        if order == "stop" {
            return Ok(());
        }
    }
}

/// Plays a client; `server` is the one in the same process, if it is there.
fn play_client(
    runtime: &Runtime,
    spec: &RoleSpec,
    addresses: &[String],
    server: Option<&Listening>,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<(), RoleError> {
    let limit = Duration::from_millis(spec.limit_ms);
    let connected = runtime.block_on(async { tokio::time::timeout(limit, connect(spec, addresses)).await });
    let driver = connected.map_err(|_| too_slow("connecting", spec))??;
    let (driver, _) = run_phase(runtime, spec, driver, Phase::WarmUp)?;
    say(&mut output, "ready")?;
    let order = hear(&mut input)?;
    if order != "go" {
        return Err(RoleError::Control { expected: "go", got: order });
    }
    let handled = || server.map_or(0, Listening::handled);
    let before = Usage::read(handled());
    let (_driver, sample) = run_phase(runtime, spec, driver, Phase::Measured)?;
    let after = Usage::read(handled());
    let mut outcome = Outcome::new(&sample, before, after);
    outcome.handled = server.map(|_| after.handled.saturating_sub(before.handled));
    say_json(&mut output, &outcome)
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    WarmUp,
    Measured,
}

/// Runs one phase from the place that the case asks for.
fn run_phase(
    runtime: &Runtime,
    spec: &RoleSpec,
    mut driver: Box<dyn Driver>,
    phase: Phase,
) -> Result<(Box<dyn Driver>, Sample), RoleError> {
    let limit = Duration::from_millis(spec.limit_ms);
    let (warm_up, amount) = (spec.warm_up, spec.amount);
    let run = async move {
        let sample = match phase {
            Phase::WarmUp => driver.warm_up(warm_up).await?,
            Phase::Measured => driver.run(amount).await?,
        };
        Ok((driver, sample))
    };
    let ended = match spec.case.place() {
        Place::Main => runtime.block_on(async { tokio::time::timeout(limit, run).await }),
        Place::Task => {
            let task = runtime.spawn(run);
            let joined = runtime.block_on(async { tokio::time::timeout(limit, task).await });
            joined.map(|joined| joined.unwrap_or(Err(RoleError::TaskPanicked)))
        }
    };
    let name = match phase {
        Phase::WarmUp => "the warm-up",
        Phase::Measured => "the measurement",
    };
    ended.map_err(|_| too_slow(name, spec))?
}

/// With busy polling `main` and everything else share one thread, as that is what it is made for; everywhere else
/// `main` stands beside the runtime's threads, as `#[tokio::main]` has it.
fn runtime(spec: &RoleSpec) -> std::io::Result<Runtime> {
    let shares_main = spec.case.busy_poll() && spec.case.place() == Place::Main;
    if shares_main && !matches!(spec.role, Role::Server) {
        return Builder::new_current_thread().enable_all().build();
    }
    Builder::new_multi_thread().worker_threads(spec.workers).enable_all().build()
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
