//! Workers that are restarted one after the other, in good order, under load.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, Client, Peer};
use rustix::process::Signal;
use tokio::task::JoinHandle;

use self::load::{Load, Told};
use self::worker::Worker;
use super::PATIENCE;
use crate::failure::{Failure, Result};
use crate::process::{Process, Role};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, Group, Scenario, block_on};

mod load;
mod worker;

/// The scenarios and roles of these files.
pub const GROUP: Group = Group {
    name: "drain",
    scenarios: &[Scenario {
        name: "rolling_restart",
        proves: "restarting 5 workers under load loses no reply, no accepted message, and fails no call unsafely",
        run,
    }],
    roles: &[Role { name: "drain_worker", play: worker::play }],
};

const WORKERS: u8 = 5;
/// Nodes that call all workers.
const CALLERS: usize = 2;
/// How long there is load on a worker between two restarts.
const BETWEEN: Duration = Duration::from_millis(100);
/// A drain may take so long: the limit of the library.
const DRAIN_MAX_MS: f64 = 5000.0;
/// Redialling pauses for 5 s at most, and then dials.
const BACK_MAX_MS: f64 = 5500.0;
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// The longest of all restarts.
#[derive(Debug, Default)]
struct Slowest {
    drain: Duration,
    back: Duration,
}

/// A worker and its restarts.
struct Place {
    process: Process,
    worker: Worker,
    /// The worker, as all who dialled it have it; the first is for the order to go.
    peers: Vec<Peer>,
    runs: u32,
    /// Ends when all are linked again, with how long that took since the worker's return.
    back: Option<JoinHandle<Duration>>,
}

impl Place {
    async fn start(directory: &Path, index: u8, control: &Client) -> Result<Self> {
        let mut worker = Worker {
            port: 0,
            identity: format!("d0d0d0d0-0000-4000-8000-0000000000{index:02}"),
            handled: directory.join(format!("{index}-0")),
        };
        let mut process = Process::start("drain_worker", &worker)?;
        let endpoint = process.line("its endpoint", PATIENCE).await?;
        let port = endpoint.rsplit(':').next().unwrap_or_default();
        worker.port = port.parse()?;
        let peer = control.connect(&endpoint).await?;
        Ok(Self { process, worker, peers: vec![peer], runs: 1, back: None })
    }

    fn endpoint(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.worker.port)
    }

    /// Tells the worker to go, now by one way, now by the other; gives how long it took.
    async fn go(&mut self) -> Result<Duration> {
        let began = Instant::now();
        match self.peers.first() {
            Some(peer) if self.runs.is_multiple_of(2) => peer.confirm("_request_shutdown", &()).await?,
            _ => self.process.signal(Signal::TERM)?,
        }
        let status = self.process.ended(PATIENCE).await?;
        if !status.success() {
            return Err(Failure::new(format!("a worker did not end in good order: {status}")));
        }
        Ok(began.elapsed())
    }

    async fn come_back(&mut self, directory: &Path, index: usize) -> Result<()> {
        self.worker.handled = directory.join(format!("{index}-{}", self.runs));
        self.runs += 1;
        self.process = Process::start("drain_worker", &self.worker)?;
        self.process.line("its endpoint", PATIENCE).await?;
        let (peers, returned) = (self.peers.clone(), Instant::now());
        self.back = Some(tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_INTERVAL);
            while !peers.iter().all(Peer::is_connected) {
                looks.tick().await;
            }
            returned.elapsed()
        }));
        Ok(())
    }

    /// Waits until all are linked again, so that a worker goes under load; gives how long that took.
    async fn back(&mut self) -> Result<Duration> {
        let Some(back) = self.back.take() else { return Ok(Duration::ZERO) };
        let back = tokio::time::timeout(PATIENCE, back).await;
        Ok(back.map_err(|_| Failure::new("a worker that is back is not linked again"))??)
    }
}

fn run(form: Form) -> Result<Figures> {
    let rounds = form.pick(1, 20);
    let directory = tempfile::tempdir()?;
    block_on(2, async {
        let control = ActiveMessageManager::builder().start().await?;
        let mut places = Vec::new();
        for index in 0..WORKERS {
            places.push(Place::start(directory.path(), index, &control.client()).await?);
        }
        let ids = Arc::new(AtomicU64::new(0));
        let mut callers = Vec::new();
        let mut loads = Vec::new();
        for _ in 0..CALLERS {
            let caller = ActiveMessageManager::builder().start().await?;
            for place in &mut places {
                let peer = caller.client().connect(place.endpoint()).await?;
                loads.push(Load::start(&peer, &ids));
                place.peers.push(peer);
            }
            callers.push(caller);
        }
        let mut slowest = Slowest::default();
        for _ in 0..rounds {
            for (index, place) in places.iter_mut().enumerate() {
                slowest.back = slowest.back.max(place.back().await?);
                tokio::time::sleep(BETWEEN).await;
                slowest.drain = slowest.drain.max(place.go().await?);
                place.come_back(directory.path(), index).await?;
            }
        }
        for place in &mut places {
            slowest.back = slowest.back.max(place.back().await?);
        }
        tokio::time::sleep(BETWEEN).await;
        let mut told = Told::default();
        for load in loads {
            let finished = tokio::time::timeout(PATIENCE * 3, load.finish());
            told.add(finished.await.map_err(|_| Failure::new("callers do not come to an end"))??);
        }
        for caller in callers {
            caller.shutdown().await?;
        }
        for place in &mut places {
            place.go().await?;
        }
        let mut figures = Figures::new();
        figures.count("restarts", u64::from(rounds * u32::from(WORKERS)), Limit::Free);
        figures.add("drain and end, slowest", ms(slowest.drain), "ms", Limit::AtMost(DRAIN_MAX_MS));
        figures.add(
            "linked again after its return, slowest",
            ms(slowest.back),
            "ms",
            Limit::AtMost(BACK_MAX_MS),
        );
        judge(&told, &handled(directory.path())?, &mut figures)?;
        Ok(figures)
    })
}

/// How often each one-way message was handled, by all workers in all their runs.
fn handled(directory: &Path) -> Result<HashMap<u64, u32>> {
    let mut counts = HashMap::new();
    for file in std::fs::read_dir(directory)? {
        let ids: Vec<u64> = serde_json::from_slice(&std::fs::read(file?.path())?)?;
        for id in ids {
            *counts.entry(id).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Holds what the callers were told against what the workers did.
fn judge(told: &Told, handled: &HashMap<u64, u32>, figures: &mut Figures) -> Result<()> {
    let none = Limit::Exactly(0.0);
    if let Some(failure) = &told.first_unsafe {
        let count = told.unsafe_failures;
        return Err(Failure::new(format!("{count} failures were not safe to retry, the first: {failure}")));
    }
    let missing = |ids: &std::collections::HashSet<u64>| {
        ids.iter().filter(|id| !handled.contains_key(id)).count() as u64
    };
    figures.count("answers of 1 MiB, each whole and its own", told.fetched, Limit::AtLeast(1.0));
    figures.count("failures that are not safe to retry", told.unsafe_failures, none);
    figures.count("failures that are, all retried", told.retried, Limit::Free);
    figures.count("one-way messages accepted", told.accepted.len() as u64, Limit::AtLeast(1.0));
    figures.count("accepted and not handled", missing(&told.accepted), none);
    figures.count("one-way messages without receipt", told.sent.len() as u64, Limit::AtLeast(1.0));
    figures.count("sent without receipt and not handled", missing(&told.sent), none);
    let twice = handled.values().filter(|count| **count > 1).count();
    figures.count("handled more than once", twice as u64, none);
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
