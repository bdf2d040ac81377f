//! Those who wait for a handler to be registered: told at registration, not by polling, and at no task's cost.

use crate::clock;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What a waiter gets.
type Tell = Box<dyn FnOnce(bool) + Send>;

/// Waiters of a node, by the name they wait for.
#[derive(Debug)]
pub(crate) struct HandlerWaiters {
    count_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiters: Vec<(String, Instant, Tell)>,
    is_over: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} waiters", self.waiters.len())
    }
}

impl HandlerWaiters {
    pub(crate) fn new(count_max: usize) -> Self {
        Self { count_max, state: Mutex::default() }
    }

    /// Waits for `name` until `deadline`; `is_there` is asked under the lock, so that nothing falls in a gap.
    /// Gives `tell` back when there are too many waiters.
    pub(crate) fn add(
        &self,
        name: &str,
        deadline: Instant,
        is_there: impl FnOnce() -> bool,
        tell: Tell,
    ) -> Result<(), Tell> {
        let answer = {
            let mut state = self.state.lock();
            if is_there() {
                Some(true)
            } else if state.is_over || deadline <= clock::now() {
                Some(false)
            } else if state.waiters.len() >= self.count_max {
                return Err(tell);
            } else {
                state.waiters.push((name.to_owned(), deadline, tell));
                return Ok(());
            }
        };
        tell(answer.unwrap_or(false));
        Ok(())
    }

    /// As [`add`](Self::add), for a caller that awaits.
    pub(crate) fn wait(
        &self,
        name: &str,
        deadline: Instant,
        is_there: impl FnOnce() -> bool,
    ) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        let tell: Tell = Box::new(move |found| {
            let _ = sender.send(found);
        });
        if let Err(tell) = self.add(name, deadline, is_there, tell) {
            tell(false);
        }
        receiver
    }

    /// A handler has come.
    pub(crate) fn registered(&self, name: &str) {
        self.take(|waiting_for, _| waiting_for == name).into_iter().for_each(|tell| tell(true));
    }

    /// Tells those whose time is up.
    pub(crate) fn expire(&self, now: Instant) {
        self.take(|_, deadline| deadline <= now).into_iter().for_each(|tell| tell(false));
    }

    /// The node is going: nobody waits any longer.
    pub(crate) fn end(&self) {
        self.state.lock().is_over = true;
        self.take(|_, _| true).into_iter().for_each(|tell| tell(false));
    }

    /// Whether anybody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().waiters.is_empty()
    }

    fn take(&self, mut which: impl FnMut(&str, Instant) -> bool) -> Vec<Tell> {
        let mut state = self.state.lock();
        state
            .waiters
            .extract_if(.., |(name, deadline, _)| which(name, *deadline))
            .map(|(_, _, tell)| tell)
            .collect()
    }
}
