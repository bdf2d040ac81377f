//! The same workloads over dynamo-am, by its public API alone, as README's first program would write them.
//!
//! Handlers are inline: what the benchmark asks of them takes less than handing it to a task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dynamo_am::{ActiveMessageManager, Handler, Peer, Raw};
use tokio::task::JoinSet;

use crate::error::RoleError;
use crate::role::Listening;
use crate::sample::{Latencies, Recorder, Sample};
use crate::spec::{Amount, Case, Workload};

/// One-way messages between two looks at the clock.
const CLOCK_INTERVAL: u64 = 1024;

/// A serving node and the counter that its handlers move.
pub(crate) async fn serve() -> Result<(ActiveMessageManager, Listening), RoleError> {
    let node = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc().start().await;
    let node = node.map_err(RoleError::system("starting the node"))?;
    let handled = Arc::new(AtomicU64::new(0));
    let (ticks, sunk, counted) = (handled.clone(), handled.clone(), handled.clone());
    let echoed = handled.clone();
    for handler in [
        Handler::inline_raw("tick", move |_cx, _payload| {
            ticks.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }),
        Handler::inline_raw("echo", move |_cx, payload| {
            echoed.fetch_add(1, Ordering::Relaxed);
            Ok(payload.to_raw())
        }),
        Handler::inline_raw("sink", move |_cx, payload| {
            std::hint::black_box(&payload[..]);
            sunk.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }),
        Handler::inline("handled", move |_cx, (): ()| Ok(counted.load(Ordering::Relaxed))),
    ] {
        node.register(handler).map_err(RoleError::system("registering a handler"))?;
    }
    let address = node.endpoints().first().map(ToString::to_string).unwrap_or_default();
    Ok((node, Listening { address, handled }))
}

/// A connected client of any workload.
#[derive(Debug)]
pub(crate) struct Client {
    /// Held so that the link lives as long as the client.
    _node: ActiveMessageManager,
    peer: Peer,
    payload: Raw,
    case: Case,
}

impl Client {
    /// Connects to a server's endpoint.
    pub(crate) async fn connect(case: Case, endpoint: &str) -> Result<Self, RoleError> {
        let node = ActiveMessageManager::builder().no_ipc().start().await;
        let node = node.map_err(RoleError::system("starting the node"))?;
        let peer = node.client().connect(endpoint).await.map_err(RoleError::system("connecting"))?;
        Ok(Self { _node: node, peer, payload: Raw::from(vec![0x5a; case.payload_bytes]), case })
    }

    /// Runs one phase; a client may run any number, one after the other.
    pub(crate) async fn run(&mut self, amount: Amount) -> Result<Sample, RoleError> {
        match self.case.workload {
            Workload::Rtt => self.one_at_a_time(amount).await,
            Workload::Oneway => self.one_way(amount).await,
            Workload::Concurrent | Workload::Bulk => self.many(amount).await,
        }
    }

    async fn one_at_a_time(&self, amount: Amount) -> Result<Sample, RoleError> {
        let mut latencies = Latencies::new();
        let (mut done, began) = (0, Instant::now());
        let mut last = began;
        while !amount.is_over(done, last - began) {
            echo(&self.peer, &self.payload).await?;
            done += 1;
            let now = Instant::now();
            latencies.record(now - last);
            last = now;
        }
        Ok(Sample { sent: done, done, elapsed: last - began, latencies: Some(latencies) })
    }

    async fn one_way(&self, amount: Amount) -> Result<Sample, RoleError> {
        let handled_before = self.handled().await?;
        let (mut sent, began) = (0, Instant::now());
        while !amount.is_over(sent, began.elapsed()) {
            for _ in 0..CLOCK_INTERVAL {
                self.peer.notify("tick", &self.payload).await.map_err(RoleError::system("sending"))?;
            }
            sent += CLOCK_INTERVAL;
        }
        // Inline handlers run in order, so this answer comes after the last message was handled.
        let handled = self.handled().await?;
        Ok(Sample { sent, done: handled - handled_before, elapsed: began.elapsed(), latencies: None })
    }

    async fn handled(&self) -> Result<u64, RoleError> {
        self.peer.call("handled", &()).await.map_err(RoleError::system("asking for the count"))
    }

    async fn many(&self, amount: Amount) -> Result<Sample, RoleError> {
        let latencies = Arc::new(Mutex::new(Latencies::new()));
        let mut callers = JoinSet::new();
        let began = Instant::now();
        for index in 0..self.case.outstanding {
            let share = amount.share(index, self.case.outstanding);
            let recorder = Recorder::new(latencies.clone());
            let (peer, payload) = (self.peer.clone(), self.payload.clone());
            let is_bulk = self.case.workload == Workload::Bulk;
            callers.spawn(call_repeatedly(peer, payload, is_bulk, share, began, recorder));
        }
        let mut done = 0;
        while let Some(ended) = callers.join_next().await {
            done += ended.map_err(|_| RoleError::TaskPanicked)??;
        }
        let elapsed = began.elapsed();
        let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Sample { sent: done, done, elapsed, latencies: Some(latencies) })
    }
}

/// One caller. Its time runs from the phase's beginning, so all stop together.
async fn call_repeatedly(
    peer: Peer,
    payload: Raw,
    is_bulk: bool,
    amount: Amount,
    began: Instant,
    mut recorder: Recorder,
) -> Result<u64, RoleError> {
    let (mut done, mut last) = (0, Instant::now());
    while !amount.is_over(done, last - began) {
        if is_bulk {
            peer.confirm("sink", &payload).await.map_err(RoleError::system("sending a payload"))?;
        } else {
            echo(&peer, &payload).await?;
        }
        done += 1;
        let now = Instant::now();
        recorder.record(now - last);
        last = now;
    }
    Ok(done)
}

async fn echo(peer: &Peer, payload: &Raw) -> Result<(), RoleError> {
    let Raw(reply) = peer.call("echo", payload).await.map_err(RoleError::system("calling echo"))?;
    if reply.len() == payload.len() {
        Ok(())
    } else {
        Err(RoleError::Unexpected("a reply of another length"))
    }
}
