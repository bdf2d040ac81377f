//! What a process holds, read from `/proc`: [`Usage`], and the most of it over a time: [`UsageWatch`].

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// What a process holds at one moment, or the most that it held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

impl Usage {
    /// What process `pid` holds now.
    ///
    /// # Errors
    ///
    /// When there is no such process, or it is another user's.
    pub fn of(pid: u32) -> Result<Self> {
        let during = |error: std::io::Error| Failure::from(error).during(format!("reading /proc/{pid}"));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(during)?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_err(during)?.count();
        parse(&status, descriptors as u64)
            .ok_or_else(|| Failure::new(format!("process {pid} has ended: it holds nothing")))
    }

    /// The greater of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            threads: self.threads.max(other.threads),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }

    /// The smaller of each.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            resident: self.resident.min(other.resident),
            threads: self.threads.min(other.threads),
            descriptors: self.descriptors.min(other.descriptors),
        }
    }

    /// Resident memory, in MiB.
    #[must_use]
    pub fn resident_mib(self) -> f64 {
        mib(self.resident)
    }
}

/// Bytes as MiB.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "for people; 2^53 bytes are not resident anywhere")]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// `None` for a zombie, whose status has no memory.
fn parse(status: &str, descriptors: u64) -> Option<Usage> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Usage { resident: field("VmRSS")? * 1024, threads: field("Threads")?, descriptors })
}

/// Looks at a process again and again, from a thread of its own, and keeps the most of each.
#[derive(Debug)]
pub struct UsageWatch {
    stop: SyncSender<()>,
    thread: JoinHandle<Result<Usage>>,
}

impl UsageWatch {
    /// Begins to look at `pid`, each `interval`.
    #[must_use]
    pub fn start(pid: u32, interval: Duration) -> Self {
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let mut most = Usage::of(pid)?;
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                most = most.max(Usage::of(pid)?);
            }
            Ok(most.max(Usage::of(pid)?))
        });
        Self { stop, thread }
    }

    /// Ends, and gives the most of each.
    ///
    /// # Errors
    ///
    /// When the process ended first.
    pub fn finish(self) -> Result<Usage> {
        // The thread has ended already when the process has.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_else(|_| Err(Failure::new("the thread that watched has panicked")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_threads_are_read_from_their_own_lines() {
        let status = "Name:\tVmRSS\nVmHWM:\t    9 kB\nVmRSS:\t  42 kB\nThreads:\t3\n";
        let expected = Usage { resident: 42 << 10, threads: 3, descriptors: 7 };
        assert_eq!(parse(status, 7), Some(expected));
        assert_eq!(parse("Name:\tgone\nState:\tZ (zombie)\nThreads:\t1\n", 0), None);
    }

    #[test]
    fn a_watch_keeps_the_most_and_ends() {
        let watch = UsageWatch::start(std::process::id(), Duration::from_millis(1));
        let most = watch.finish();
        assert!(most.is_ok_and(|most| most.resident > 0 && most.threads > 1 && most.descriptors > 2));
    }
}
