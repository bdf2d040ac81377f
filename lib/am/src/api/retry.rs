//! Calling again what is safe to call again: [`Retry`].

use std::time::Duration;

use rand::RngCore;

use super::call_error::CallError;
use crate::clock;
use crate::proto::backoff::Backoff;

/// Makes a call again while that is safe and can help.
///
/// Safe means that the handler cannot have run ([`CallError::is_retry_safe`]): the message was not sent, or the peer
/// refused it. Of a call that is [`idempotent`](Self::idempotent) it does not matter whether it ran. Calling again can
/// help after a loss, an overload or a drain ([`CallError::is_transient`]), and not after a bad argument.
///
/// Each attempt is a call of its own, with a deadline of its own; the runtime itself resends nothing, ever. Pauses
/// grow by 1.6 from 50 ms, with full jitter.
///
/// ```
/// use dynamo_am::{ActiveMessageManager, Handler, Retry};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = ActiveMessageManager::builder().start().await?;
/// node.register(Handler::unary("double", |_cx, n: i64| async move { Ok(n * 2) }))?;
/// let peer = node.client().myself();
/// let doubled: i64 = Retry::default().run(|| peer.call("double", &21)).await?;
/// assert_eq!(doubled, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    attempts_max: u32,
    within: Duration,
    wait_max: Duration,
    is_idempotent: bool,
}

impl Default for Retry {
    /// At most 5 attempts within 30 s, pauses of at most 2 s, for calls that are not idempotent.
    fn default() -> Self {
        Self {
            attempts_max: 5,
            within: Duration::from_secs(30),
            wait_max: Duration::from_secs(2),
            is_idempotent: false,
        }
    }
}

impl Retry {
    /// Calls at most so many times, the first included; at least once.
    #[must_use]
    pub fn attempts(mut self, attempts_max: u32) -> Self {
        self.attempts_max = attempts_max.max(1);
        self
    }

    /// Begins no attempt later than so long after the first.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// No pause is longer.
    #[must_use]
    pub fn wait_max(mut self, wait_max: Duration) -> Self {
        self.wait_max = wait_max;
        self
    }

    /// The handler may run twice without harm, so that calls which may have run are made again, too.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Calls, and calls again.
    ///
    /// # Errors
    ///
    /// The error of the last attempt.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the attempt under way is dropped: see [`Peer::call`](crate::Peer::call).
    pub async fn run<T, Call>(&self, mut call: impl FnMut() -> Call) -> Result<T, CallError>
    where
        Call: Future<Output = Result<T, CallError>>,
    {
        let last = clock::now() + self.within;
        let mut backoff = Backoff::up_to(self.wait_max);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let wait = backoff.next_wait(rand::rng().next_u32());
            if attempts >= self.attempts_max || !self.helps(&error) || clock::now() + wait > last {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn helps(&self, error: &CallError) -> bool {
        error.is_transient() && (self.is_idempotent || error.is_retry_safe())
    }
}
