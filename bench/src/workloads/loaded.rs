//! `loaded`: echo calls one at a time while one-way messages go to the same server as fast as it handles them, on the
//! link of the calls or on another. The latencies are those of the calls, the rate is that of both together.
//!
//! On the same link the baseline's writer takes calls and messages from one buffer of 64 KiB, so a call waits for
//! that much at most, and for what the kernel holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::oneway::RawTicks;
use crate::case::{Case, Flood};
use crate::drive::{self, BURST_LEN, Call, Driver, OneWay, Phase};
use crate::error::RoleError;
use crate::node::{Echo, Link, Ticks};
use crate::raw;
use crate::raw::frame::{self, CHUNK_LEN, COUNT, TICK};
use crate::raw::mux::Mux;
use crate::sample::Sample;
use crate::spec::Amount;

pub(super) async fn ours(
    case: Case,
    flood: Flood,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let link = Link::first(&case, addresses).await?;
    let other = match flood {
        Flood::Same => link.clone(),
        Flood::Other => Link::first(&case, addresses).await?,
    };
    Ok(Box::new(Loaded { call: Echo(link), flood: Some(Ticks(other)) }))
}

pub(super) async fn raw(
    case: Case,
    flood: Flood,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let payload: Arc<[u8]> = Arc::from(vec![0x5a; case.payload_bytes]);
    let mux = Mux::new(raw::dial(case, addresses).await?, raw::chunk_len(&case));
    let call = mux.caller(&payload);
    Ok(match flood {
        Flood::Same => {
            let flood = MuxTicks { mux, batch: Vec::new(), payload, sent: 0 };
            Box::new(Loaded { call, flood: Some(flood) })
        }
        Flood::Other => {
            let flood = RawTicks::new(raw::dial(case, addresses).await?, &case);
            Box::new(Loaded { call, flood: Some(flood) })
        }
    })
}

/// The baseline's flood on the connection of the calls.
struct MuxTicks {
    mux: Mux,
    batch: Vec<u8>,
    payload: Arc<[u8]>,
    sent: u64,
}

impl MuxTicks {
    async fn push(&mut self) -> Result<(), RoleError> {
        self.mux.push(&self.batch).await?;
        self.batch.clear();
        Ok(())
    }
}

impl OneWay for MuxTicks {
    async fn send(&mut self, count: u64) -> Result<(), RoleError> {
        for _ in 0..count {
            frame::push(&mut self.batch, TICK | self.sent, &self.payload);
            self.sent += 1;
            if self.batch.len() >= CHUNK_LEN {
                self.push().await?;
            }
        }
        Ok(())
    }

    async fn handled(&mut self) -> Result<u64, RoleError> {
        self.push().await?;
        let answer = self.mux.ask(COUNT, &[]).await?;
        let count = answer.as_slice().try_into();
        count.map(u64::from_be_bytes).map_err(|_| RoleError::Unexpected("an answer that is no count"))
    }
}

struct Loaded<C, O> {
    call: C,
    /// Away while a phase runs.
    flood: Option<O>,
}

impl<C: Call, O: OneWay> Loaded<C, O> {
    async fn call_under_load(&mut self, amount: Amount) -> Result<Sample, RoleError> {
        let mut flood = self.flood.take().ok_or(RoleError::TaskPanicked)?;
        let handled_before = flood.handled().await?;
        let enough = Arc::new(AtomicBool::new(false));
        let (started, has_started) = tokio::sync::oneshot::channel();
        let began = Instant::now();
        let flooding = tokio::spawn(flood_until(enough.clone(), flood, started));
        // It is gone only when the flood has failed, whose reason is told below.
        let called = match has_started.await {
            Ok(()) => drive::one_at_a_time(&mut self.call, amount).await,
            Err(_) => Err(RoleError::PeerClosed),
        };
        // Seen at the flood's next burst.
        enough.store(true, Ordering::Relaxed);
        let (mut flood, ticks) = flooding.await.map_err(|_| RoleError::TaskPanicked)??;
        let calls = called?;
        let handled = drive::until_handled(&mut flood, handled_before, ticks).await?;
        self.flood = Some(flood);
        let (sent, done) = (calls.sent + ticks, calls.done + handled);
        Ok(Sample { sent, done, elapsed: began.elapsed(), latencies: calls.latencies })
    }
}

async fn flood_until<O: OneWay>(
    enough: Arc<AtomicBool>,
    mut flood: O,
    started: tokio::sync::oneshot::Sender<()>,
) -> Result<(O, u64), RoleError> {
    let (mut sent, mut started) = (0, Some(started));
    while !enough.load(Ordering::Relaxed) {
        flood.send(BURST_LEN).await?;
        sent += BURST_LEN;
        if let Some(started) = started.take() {
            // Nobody listens any more when the phase has been given up.
            let _ = started.send(());
        }
    }
    Ok((flood, sent))
}

impl<C: Call, O: OneWay> Driver for Loaded<C, O> {
    fn run(&mut self, amount: Amount) -> Phase<'_> {
        Box::pin(self.call_under_load(amount))
    }
}
