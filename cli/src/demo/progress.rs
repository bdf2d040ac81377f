//! How far the work is, while it runs: files, octets a second, and each worker's share.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// How often the text is put together anew.
const INTERVAL: Duration = Duration::from_millis(100);

/// The bar, hidden by itself where standard error is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    shown: Option<Instant>,
    /// Octets that each worker has read.
    shares: Vec<u64>,
}

impl Progress {
    pub(crate) fn new(workers: usize) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} files  {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(INTERVAL);
        Self { bar, began: Instant::now(), shown: None, shares: vec![0; workers] }
    }

    /// A worker has read so much more.
    pub(crate) fn read(&mut self, rank: usize, bytes: u64) {
        if let Some(share) = self.shares.get_mut(rank) {
            *share += bytes;
        }
    }

    /// So many files are settled, of those found so far.
    pub(crate) fn show(&mut self, settled: u64, found: u64) {
        let now = Instant::now();
        if self.shown.is_some_and(|shown| now - shown < INTERVAL) {
            return;
        }
        self.shown = Some(now);
        self.bar.set_length(found);
        self.bar.set_position(settled);
        self.bar.set_message(message(&self.shares, now - self.began));
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn message(shares: &[u64], elapsed: Duration) -> String {
    let bytes: u64 = shares.iter().sum();
    let rate = bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = format!("{}, {}/s ", HumanBytes(bytes), HumanBytes(rate as u64));
    for (rank, share) in shares.iter().enumerate() {
        let _ = write!(text, " {}:{:.0}%", rank + 1, 100.0 * *share as f64 / bytes.max(1) as f64);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_the_rate_and_each_workers_share() {
        let text = message(&[3 << 20, 0, 1 << 20], Duration::from_secs(2));
        assert_eq!(text, "4.00 MiB, 2.00 MiB/s  1:75% 2:0% 3:25%");
        assert_eq!(message(&[0], Duration::ZERO), "0 B, 0 B/s  1:0%");
    }
}
