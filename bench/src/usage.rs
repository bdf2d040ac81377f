//! What a process has cost so far: its CPU clock and its memory, read from the kernel.

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One reading of a process's meters, and of its count of handled messages.
///
/// CPU time is that of all threads, user and system, from the process clock: it counts nanoseconds,
/// where `/proc/self/stat` counts ticks of 10 ms, too coarse for phases of less than a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time since the process began, in nanoseconds.
    pub cpu_ns: u64,
    /// Most memory that was ever resident (`VmHWM`), in KiB; 0 where the kernel does not say.
    pub peak_rss_kib: u64,
    /// Memory that is resident now (`VmRSS`), in KiB; 0 where the kernel does not say.
    pub rss_kib: u64,
    /// Allocations since the process began; 0 in a program that does not count them.
    pub allocations: u64,
    /// Messages handled since the process began; 0 for a client.
    pub handled: u64,
}

impl Usage {
    /// Reads this process's meters.
    pub fn read(handled: u64) -> Self {
        let allocations = dynamo_am_alloc_count::counts().allocations;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name| field_kib(&status, name).unwrap_or(0);
        Self { cpu_ns: cpu_ns(), peak_rss_kib: kib("VmHWM:"), rss_kib: kib("VmRSS:"), allocations, handled }
    }
}

/// CPU time of this process, in nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (secs, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    secs.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}

fn field_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_its_own_line() {
        let status = "Name:\tam\nVmPeak:\t  9 kB\nVmHWM:\t    4242 kB\nVmRSS:\t 1 kB\n";
        assert_eq!((field_kib(status, "VmHWM:"), field_kib(status, "VmRSS:")), (Some(4242), Some(1)));
        assert_eq!(field_kib("Name:\tam\n", "VmHWM:"), None);
    }

    #[test]
    fn meters_run_forward() {
        let before = Usage::read(0);
        let sum = (0..2_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        let after = Usage::read(sum & 1);
        assert!(after.cpu_ns > before.cpu_ns);
        assert!(after.peak_rss_kib >= before.peak_rss_kib && before.peak_rss_kib > 0);
        assert!((1..=after.peak_rss_kib).contains(&before.rss_kib));
    }
}
