//! The workloads, written once for all systems that can be called from any task ([`Client`]).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::meter::{Latencies, Outcome, Recorder};
use crate::spec::{Case, Workload};

/// One-way messages between two looks at the clock.
pub const BATCH: u64 = 1024;
/// Most one-way messages that may be on their way. Far above what any system with flow control lets happen;
/// the others would fill the memory.
const IN_FLIGHT_MAX: u64 = 1 << 20;
/// How long the count of handled messages may stand still before the rest counts as lost.
const STALL_LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);

/// What a system does with one message, as its documentation says it should be done.
pub trait Client: Clone + Send + Sync + 'static {
    /// Sends a payload and waits until it has come back.
    fn echo(&self, payload: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Sends a payload and waits until the receiver says, with an empty reply, that it has handled it.
    fn acked(&self, payload: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Sends one-way messages until the flood says that it is over.
    fn flood(&self, payload: Bytes, flood: Flood) -> impl Future<Output = Result<()>> + Send;

    /// Runs one phase. A system whose socket belongs to one thread has loops of its own for some.
    fn run(&self, phase: Phase) -> impl Future<Output = Result<Outcome>> + Send {
        run(self.clone(), phase)
    }
}

/// One phase of a measurement.
#[derive(Clone)]
pub struct Phase {
    pub case: Case,
    pub duration: Duration,
    pub payload: Bytes,
    pub handled: &'static AtomicU64,
}

impl Phase {
    pub fn new(case: Case, duration: Duration, handled: &'static AtomicU64) -> Self {
        Self { case, duration, payload: Bytes::from(vec![0x5a; case.payload_bytes]), handled }
    }

    pub fn outcome(&self, sent: u64, done: u64, began: Instant) -> Outcome {
        let elapsed_ns = began.elapsed().as_nanos() as u64;
        Outcome {
            sent,
            done,
            elapsed_ns,
            p50_us: None,
            p99_us: None,
            p999_us: None,
            cpu_ns: 0,
            peak_rss_kib: 0,
        }
    }
}

/// Any system's phase, called from the task that runs it.
pub async fn run<C: Client>(client: C, phase: Phase) -> Result<Outcome> {
    match phase.case.workload {
        Workload::Rtt => one_at_a_time(client, phase).await,
        Workload::Concurrent | Workload::Bulk => many(client, phase).await,
        Workload::Window => bail!("a window is held by a loop of the system's own"),
        Workload::Oneway => one_way(client, phase).await,
    }
}

async fn one_at_a_time<C: Client>(client: C, phase: Phase) -> Result<Outcome> {
    let latencies = Latencies::new()?;
    let began = Instant::now();
    let done = call_repeatedly(&client, &phase, began, &latencies).await?;
    Ok(phase.outcome(done, done, began).with_latencies(&latencies))
}

async fn many<C: Client>(client: C, phase: Phase) -> Result<Outcome> {
    let latencies = Arc::new(Latencies::new()?);
    let mut callers = JoinSet::new();
    let began = Instant::now();
    for _ in 0..phase.case.outstanding {
        let (client, phase, latencies) = (client.clone(), phase.clone(), latencies.clone());
        callers.spawn(async move { call_repeatedly(&client, &phase, began, &latencies).await });
    }
    let mut done = 0;
    while let Some(ended) = callers.join_next().await {
        done += ended.context("a caller panicked")??;
    }
    Ok(phase.outcome(done, done, began).with_latencies(&latencies))
}

/// One caller. Its time runs from the phase's beginning, so all stop together.
async fn call_repeatedly<C: Client>(
    client: &C,
    phase: &Phase,
    began: Instant,
    latencies: &Latencies,
) -> Result<u64> {
    let mut recorder = Recorder::new(latencies);
    let is_bulk = phase.case.workload == Workload::Bulk;
    let (mut done, mut last) = (0, Instant::now());
    while last - began < phase.duration {
        if is_bulk {
            client.acked(phase.payload.clone()).await?;
        } else {
            client.echo(phase.payload.clone()).await?;
        }
        done += 1;
        let now = Instant::now();
        recorder.record(now - last);
        last = now;
    }
    Ok(done)
}

async fn one_way<C: Client>(client: C, phase: Phase) -> Result<Outcome> {
    let began = Instant::now();
    let flood = Flood::new(&phase, began);
    client.flood(phase.payload.clone(), flood.clone()).await?;
    let (sent, handled) = flood.until_all_are_handled().await;
    if handled > sent {
        bail!("{handled} messages handled, but only {sent} sent");
    }
    Ok(phase.outcome(sent, handled, began))
}

/// Tells the sender of one-way messages when to stop, and counts them.
#[derive(Clone)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    handled: &'static AtomicU64,
    handled_before: u64,
    ends: Instant,
    in_flight_max: u64,
}

impl Flood {
    pub fn new(phase: &Phase, began: Instant) -> Self {
        Self {
            sent: Arc::default(),
            handled: phase.handled,
            handled_before: phase.handled.load(Ordering::Relaxed),
            ends: began + phase.duration,
            in_flight_max: IN_FLIGHT_MAX,
        }
    }

    /// For a system that drops messages, or a link, when more than this many wait.
    pub fn in_flight_max(mut self, count: u64) -> Self {
        self.in_flight_max = count;
        self
    }

    /// Whether to send another [`BATCH`] of messages, which are then counted as sent.
    pub async fn go_on(&self) -> bool {
        while self.is_full() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        self.count_batch()
    }

    /// As `go_on`, for a thread that may block.
    pub fn go_on_blocking(&self) -> bool {
        while self.is_full() {
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.count_batch()
    }

    fn is_full(&self) -> bool {
        let in_flight = self.sent.load(Ordering::Relaxed).saturating_sub(self.handled());
        in_flight >= self.in_flight_max && Instant::now() < self.ends
    }

    fn count_batch(&self) -> bool {
        let goes_on = Instant::now() < self.ends;
        if goes_on {
            self.sent.fetch_add(BATCH, Ordering::Relaxed);
        }
        goes_on
    }

    /// The same as a stream of payloads, for systems that take one.
    pub fn payloads(self, payload: Bytes) -> impl futures::Stream<Item = Bytes> + Send {
        futures::stream::unfold((self, payload, 0), |(flood, payload, left)| async move {
            if left == 0 && !flood.go_on().await {
                return None;
            }
            let left = if left == 0 { BATCH } else { left } - 1;
            Some((payload.clone(), (flood, payload, left)))
        })
    }

    fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed) - self.handled_before
    }

    /// Messages sent, and handled in the end.
    async fn until_all_are_handled(self) -> (u64, u64) {
        let sent = self.sent.load(Ordering::Relaxed);
        // A thread of its own: the runtime's timers are too coarse, and its threads may be busy.
        let waiting = tokio::task::spawn_blocking(move || {
            let (mut last, mut last_moved) = (self.handled(), Instant::now());
            while last < sent && last_moved.elapsed() < STALL_LIMIT {
                std::thread::sleep(LOOK_INTERVAL);
                let handled = self.handled();
                if handled != last {
                    (last, last_moved) = (handled, Instant::now());
                }
            }
            last
        });
        (sent, waiting.await.unwrap_or(0))
    }
}
