//! The two measured processes.
//!
//! The server prints one line, where it can be reached, and serves until its standard input ends; the client
//! measures and prints one line, what came of it. A line that begins with [`MARK`] is meant for the
//! conductor; what a system writes to standard output beside it is not.

use std::io::{Read as _, Write as _};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::load::Phase;
use crate::meter::{self, Outcome};
use crate::spec::{Role, RoleSpec};
use crate::systems;

/// What a line for the conductor begins with.
pub const MARK: &str = "@peers ";

/// Plays the part that a specification describes, and ends the process with it.
pub fn play(spec_json: &str) -> Result<()> {
    let spec: RoleSpec = serde_json::from_str(spec_json).context("reading the specification")?;
    // SAFETY: it has no preconditions. A process that hangs is ended by the kernel, whatever becomes of the
    // conductor.
    unsafe { libc::alarm(spec.limit_s) };
    let handled = meter::map_handled(&spec.shared)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(spec.workers).enable_all().build()?;
    match &spec.role {
        Role::Server => {
            let serving = runtime.block_on(systems::serve(&spec, handled))?;
            say(&serving.listening)?;
            // It ends when the conductor has ended, or wants it to.
            std::io::stdin().read_to_end(&mut Vec::new())?;
        }
        Role::Client { address, servers } => {
            // Spawned, since a reply that wakes the main thread has a longer way.
            let client = client(spec.clone(), address.clone(), servers.clone(), handled);
            say(&runtime.block_on(runtime.spawn(client))??)?;
        }
    }
    // Not waiting for anything that a system still has to tidy up.
    std::process::exit(0)
}

async fn client(
    spec: RoleSpec,
    address: String,
    mut processes: Vec<i32>,
    handled: &'static AtomicU64,
) -> Result<Outcome> {
    processes.push(std::process::id() as i32);
    let cpu = || processes.iter().map(|pid| meter::cpu_ns(*pid)).sum::<u64>();
    let mut cpu_before = 0;
    let phases = [spec.warm_up_ms, spec.measure_ms]
        .map(|millis| Phase::new(spec.case, Duration::from_millis(millis), handled));
    let outcome = systems::measure(&spec, &address, phases, || cpu_before = cpu()).await?;
    Ok(Outcome {
        cpu_ns: cpu().saturating_sub(cpu_before),
        peak_rss_kib: processes.iter().map(|pid| meter::peak_rss_kib(*pid)).sum(),
        ..outcome
    })
}

fn say(value: &impl Serialize) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{MARK}{}", serde_json::to_string(value)?)?;
    Ok(output.flush()?)
}
