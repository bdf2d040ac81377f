//! How long to wait before dialling again: [`Backoff`].

use std::time::Duration;

/// First wait.
pub const REDIAL_WAIT_MIN: Duration = Duration::from_millis(50);
/// Longest wait.
pub const REDIAL_WAIT_MAX: Duration = Duration::from_secs(5);
/// Each wait's bound is this many hundredths of the one before.
const GROWTH_PERCENT: u32 = 160;

/// Exponential backoff with full jitter: each wait is drawn evenly from zero to a bound that grows by 1.6 from
/// 50 ms to 5 s, so that nodes which lost the same peer do not come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    bound: Duration,
    bound_max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(REDIAL_WAIT_MAX)
    }
}

impl Backoff {
    /// Waits of at most `bound_max`.
    #[must_use]
    pub fn up_to(bound_max: Duration) -> Self {
        Self { bound: REDIAL_WAIT_MIN.min(bound_max), bound_max }
    }

    /// The next wait; `draw` is a random number from all of `u32`'s range.
    pub fn next_wait(&mut self, draw: u32) -> Duration {
        let wait = self.bound.mul_f64(f64::from(draw) / f64::from(u32::MAX));
        self.bound = (self.bound * GROWTH_PERCENT / 100).min(self.bound_max);
        wait
    }

    /// After an error that will hardly pass by itself, the next wait's bound is the longest.
    pub fn jump_to_max(&mut self) {
        self.bound = self.bound_max;
    }

    /// After success.
    pub fn reset(&mut self) {
        *self = Self::up_to(self.bound_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_start_over_after_success() {
        let mut backoff = Backoff::default();
        let bounds: Vec<_> = (0..12).map(|_| backoff.next_wait(u32::MAX)).collect();
        assert_eq!(bounds[..2], [Duration::from_millis(50), Duration::from_millis(80)]);
        assert_eq!(bounds[11], REDIAL_WAIT_MAX);
        assert_eq!(backoff.next_wait(0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next_wait(u32::MAX), REDIAL_WAIT_MIN);
    }
}
