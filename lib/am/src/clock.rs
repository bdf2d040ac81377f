//! What the time is: the runtime's own monotonic clock, which tests and simulations pause and move.

use std::time::Instant;

/// Now, by the clock that all timers of the process go by.
#[inline]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
