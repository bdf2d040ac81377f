//! How a listener of kernel sockets survives: what TCP and unix listeners share when `accept` fails.
//!
//! A listener must outlive a lack of descriptors, memory or connections that die in the backlog. The first two
//! leave the listener readable, so that trying again at once would burn a core: it waits, a little longer each
//! time. The pause is kept here, not in the accepting future, so that dropping that future and calling again
//! does not cut it short.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

/// Decides what happens after a failed `accept`.
#[derive(Debug, Default)]
pub(super) struct AcceptBackoff {
    failures_in_row: u32,
    resume_at: Option<Instant>,
}

impl AcceptBackoff {
    /// Waits until the listener may be asked again. Cancel safe.
    pub(super) async fn wait(&mut self) {
        if let Some(resume_at) = self.resume_at {
            tokio::time::sleep_until(resume_at).await;
            self.resume_at = None;
        }
    }

    /// A connection came: the trouble is over.
    pub(super) fn on_success(&mut self) {
        self.failures_in_row = 0;
    }

    /// Takes note of a failure; gives it back if it is permanent.
    pub(super) fn on_error(&mut self, error: io::Error) -> io::Result<()> {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            // One connection died in the backlog. It has been taken off, so the next try makes progress.
            Some(Errno::CONNABORTED | Errno::INTR | Errno::PROTO | Errno::AGAIN) => return Ok(()),
            // The descriptor is no listening socket (any more): waiting does not help.
            Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::FAULT) => {
                return Err(error);
            }
            // EMFILE, ENFILE, ENOBUFS, ENOMEM, and network errors of a connection that Linux reports here.
            _ => {}
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures_in_row.min(16)).min(PAUSE_MAX);
        if self.failures_in_row == 0 {
            tracing::warn!(%error, "cannot accept connections for now, will try again");
        }
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        self.resume_at = Some(Instant::now() + pause);
        Ok(())
    }
}

/// Connections that the kernel holds for us until we accept them: a cohort of 1000 may connect at once.
pub(super) const BACKLOG: i32 = 1024;

/// First pause: long enough for the CPU to be idle, short enough to go unnoticed.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause: service must be back within a second of descriptors being free.
const PAUSE_MAX: Duration = Duration::from_millis(320);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lack_of_descriptors_is_waited_out_ever_longer_up_to_a_cap() {
        let mut backoff = AcceptBackoff::default();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let before = Instant::now();
            backoff.on_error(Errno::MFILE.into()).unwrap();
            backoff.wait().await;
            pauses.push(before.elapsed());
        }
        assert!(pauses[0] >= PAUSE_MIN && pauses[1] > pauses[0]);
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX + Duration::from_millis(2)));
        backoff.on_success();
        assert_eq!(backoff.failures_in_row, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_wait_does_not_cut_the_pause_short() {
        let mut backoff = AcceptBackoff::default();
        backoff.on_error(Errno::NFILE.into()).unwrap();
        let cancelled = tokio::time::timeout(Duration::from_millis(1), backoff.wait()).await;
        assert!(cancelled.is_err() && backoff.resume_at.is_some());
    }

    #[test]
    fn only_a_broken_listener_is_a_permanent_error() {
        let mut backoff = AcceptBackoff::default();
        assert!(backoff.on_error(Errno::CONNABORTED.into()).is_ok() && backoff.resume_at.is_none());
        assert!(backoff.on_error(Errno::INVAL.into()).is_err());
        assert!(backoff.on_error(Errno::BADF.into()).is_err());
    }
}
