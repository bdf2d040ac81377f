//! What the time is: the runtime's own monotonic clock, which tests and simulations pause and move.

use std::time::Instant;

/// Now, by the clock that all timers of the process go by.
#[inline]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Sleeps until then; for ever if there is no then.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
