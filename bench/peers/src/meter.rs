//! What a message costs: CPU time and peak memory of any process, the count of handled messages that both
//! processes see, and round-trip times.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One page: all that is mapped.
pub const SHARED_LEN: u64 = 4096;
/// Longest round trip that is told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Round trips that a task keeps to itself before it hands them over.
const RECORDER_LEN: usize = 128;

/// The server's count of handled messages, in a page that both processes map: so the client learns that all
/// are handled by no message of the measured system, alike for all.
pub fn map_handled(path: &Path) -> Result<&'static AtomicU64> {
    let file = File::options().read(true).write(true).open(path)?;
    if file.metadata()?.len() < SHARED_LEN {
        bail!("{} is too short to be mapped", path.display());
    }
    // SAFETY: a fresh shared mapping of a file that is long enough; it is never unmapped, so it is 'static,
    // and all access to it in both processes is atomic.
    unsafe {
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        let page = libc::mmap(std::ptr::null_mut(), SHARED_LEN as usize, access, libc::MAP_SHARED, fd, 0);
        if page == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(&*page.cast::<AtomicU64>())
    }
}

/// CPU time of all threads of a process, user and system, in nanoseconds. 0 once it has ended.
pub fn cpu_ns(pid: i32) -> u64 {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls only write through the pointers they are given.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) != 0 || libc::clock_gettime(clock, &raw mut time) != 0
    };
    if failed { 0 } else { time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 }
}

/// Most memory that was ever resident in a process, in KiB.
pub fn peak_rss_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// Round-trip times, to three digits, of any number of tasks.
pub struct Latencies(Mutex<Histogram<u64>>);

impl Latencies {
    pub fn new() -> Result<Self> {
        Ok(Self(Mutex::new(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?)))
    }

    fn quantile_us(&self, quantile: f64) -> Option<f64> {
        let histogram = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1e3)
    }
}

/// One task's way into [`Latencies`]: values are handed over by the hundred, the rest when it is dropped.
pub struct Recorder<'a> {
    shared: &'a Latencies,
    waiting: Vec<Duration>,
}

impl<'a> Recorder<'a> {
    pub fn new(shared: &'a Latencies) -> Self {
        Self { shared, waiting: Vec::with_capacity(RECORDER_LEN) }
    }

    pub fn record(&mut self, took: Duration) {
        self.waiting.push(took);
        if self.waiting.len() == RECORDER_LEN {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let mut histogram = self.shared.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.waiting.drain(..).for_each(|took| histogram.saturating_record(took.as_nanos() as u64));
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// What a client says when it is done.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Outcome {
    pub sent: u64,
    /// Of these, how many were answered, or for one-way handled.
    pub done: u64,
    pub elapsed_ns: u64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    /// Of all processes that took part.
    pub cpu_ns: u64,
    pub peak_rss_kib: u64,
}

impl Outcome {
    pub fn with_latencies(mut self, latencies: &Latencies) -> Self {
        self.p50_us = latencies.quantile_us(0.5);
        self.p99_us = latencies.quantile_us(0.99);
        self.p999_us = latencies.quantile_us(0.999);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_mapped_count_is_the_same_in_every_mapping() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(map_handled(file.path()).is_err(), "an empty file must be refused");
        file.as_file().set_len(SHARED_LEN).unwrap();
        let (one, other) = (map_handled(file.path()).unwrap(), map_handled(file.path()).unwrap());
        one.fetch_add(7, Ordering::Relaxed);
        assert_eq!(other.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn cpu_time_of_a_process_runs_forward_and_is_nothing_for_none() {
        let pid = std::process::id() as i32;
        let before = cpu_ns(pid);
        std::hint::black_box((0..3_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n)));
        assert!(cpu_ns(pid) > before);
        assert_eq!(cpu_ns(i32::MAX), 0);
        assert!(peak_rss_kib(pid) > 0);
    }
}
