//! What a client has measured: a [`Sample`] while it runs, an [`Outcome`] when it is told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::usage::Usage;

/// Longest round trip that is told apart, in nanoseconds; a longer one counts as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Round trips that a task keeps to itself before it hands them over: 2 KiB.
const RECORDER_LEN: usize = 128;

/// Round-trip times in nanoseconds, to three digits: about 220 KiB, however many values there are.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty set.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        Self(histogram.expect("these constant bounds are valid"))
    }

    /// Counts one round trip.
    pub(crate) fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LATENCY_NS_MAX));
    }

    fn quantile_us(&self, quantile: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(quantile) as f64 / 1_000.0)
    }
}

/// One task's way into a set that many tasks share.
///
/// A histogram each would be most of the peak memory that a row shows, and a lock for each call would
/// be much of its time: so values are handed over by the hundred, and the rest when this is dropped.
#[derive(Debug)]
pub(crate) struct Recorder {
    shared: Arc<Mutex<Latencies>>,
    waiting: Vec<Duration>,
}

impl Recorder {
    /// A recorder into `shared`.
    pub(crate) fn new(shared: Arc<Mutex<Latencies>>) -> Self {
        Self { shared, waiting: Vec::with_capacity(RECORDER_LEN) }
    }

    /// Counts one round trip.
    pub(crate) fn record(&mut self, took: Duration) {
        self.waiting.push(took);
        if self.waiting.len() == RECORDER_LEN {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.drain(..).for_each(|took| shared.record(took));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// One phase as the client saw it.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Messages sent.
    pub(crate) sent: u64,
    /// Of these, how many were answered, or for one-way confirmed as handled.
    pub(crate) done: u64,
    /// From before the first was sent until the last was done.
    pub(crate) elapsed: Duration,
    /// Round trips, where the workload has any.
    pub(crate) latencies: Option<Latencies>,
}

/// What a client process says when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Messages sent.
    pub sent: u64,
    /// Of these, how many were answered, or for one-way confirmed as handled.
    pub done: u64,
    /// From before the first was sent until the last was done, in nanoseconds.
    pub elapsed_ns: u64,
    /// Median round trip in microseconds; absent where nothing is answered.
    pub p50_us: Option<f64>,
    /// 99th percentile of round trips.
    pub p99_us: Option<f64>,
    /// 99.9th percentile of round trips.
    pub p999_us: Option<f64>,
    /// CPU time of the client during the phase, in nanoseconds.
    pub cpu_ns: u64,
    /// Most memory that was ever resident in the client, in KiB.
    pub peak_rss_kib: u64,
    /// What the phase added to the client's resident memory, in KiB.
    pub rss_grown_kib: i64,
    /// The client's allocations during the phase; 0 in a program that does not count them.
    pub allocations: u64,
    /// What the server in the same process has handled during the phase; absent where that is another process.
    pub handled: Option<u64>,
}

impl Outcome {
    /// Sums up a phase by what the process's meters said before and after it.
    pub(crate) fn new(sample: &Sample, before: Usage, after: Usage) -> Self {
        let quantile = |q| sample.latencies.as_ref().and_then(|latencies| latencies.quantile_us(q));
        Self {
            sent: sample.sent,
            done: sample.done,
            elapsed_ns: u64::try_from(sample.elapsed.as_nanos()).unwrap_or(u64::MAX),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns),
            peak_rss_kib: after.peak_rss_kib,
            rss_grown_kib: after.rss_kib.cast_signed() - before.rss_kib.cast_signed(),
            allocations: after.allocations.saturating_sub(before.allocations),
            handled: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_all_recorders() {
        let shared = Arc::new(Mutex::new(Latencies::new()));
        let mut recorders = [Recorder::new(shared.clone()), Recorder::new(shared.clone())];
        for micros in 1..=1_000 {
            let [first, second] = &mut recorders;
            if micros <= 300 { first } else { second }.record(Duration::from_micros(micros));
        }
        drop(recorders);
        let p50 = shared.lock().unwrap().quantile_us(0.5).unwrap();
        assert!((499.0..502.0).contains(&p50), "{p50}");
        assert_eq!(Latencies::new().quantile_us(0.5), None);
    }

    #[test]
    fn a_round_trip_beyond_the_scale_counts_as_its_end() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(3_600));
        assert!(latencies.quantile_us(0.5).unwrap() > 59e6);
    }
}
