//! What a worker remembers of calls that came to it through others: [`Ledger`]. So a call that is sent again, since the
//! one who handed it on was lost, is not run again: it gets the answer of the first.
//!
//! The leader says with each call which ones it is done with, so the ledger is as long as calls are under way, and no
//! longer than [`ENTRIES_MAX`].

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// A call that finds so many others under way is not run. As many as may run of one handler, by default, and wait.
pub(crate) const ENTRIES_MAX: usize = 2048;

/// The calls of one cohort at one worker.
#[derive(Debug)]
pub(crate) struct Ledger<T> {
    entries: Mutex<BTreeMap<u64, Known<T>>>,
}

#[derive(Debug)]
struct Known<T> {
    answer: watch::Receiver<Option<T>>,
    was_asked_again: bool,
}

/// What a call is to do.
#[derive(Debug)]
pub(crate) enum Entry<T> {
    /// Run, and put the answer here.
    Run(Runner<T>),
    /// Wait for the answer of the first.
    Wait(Waiter<T>),
    /// Nothing: it is over, or there are too many.
    Refuse,
}

/// The first of a call.
#[derive(Debug)]
pub(crate) struct Runner<T>(watch::Sender<Option<T>>);

/// Another of the same call.
#[derive(Debug)]
pub(crate) struct Waiter<T>(watch::Receiver<Option<T>>);

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<T: Clone> Ledger<T> {
    /// Enters a call. Those before `done_before` will not be asked for again.
    pub(crate) fn enter(&self, call: u64, done_before: u64) -> Entry<T> {
        let mut entries = self.entries.lock();
        let kept = entries.split_off(&done_before);
        let done = std::mem::replace(&mut *entries, kept);
        let entry = if let Some(known) = entries.get_mut(&call) {
            known.was_asked_again = true;
            Entry::Wait(Waiter(known.answer.clone()))
        } else if call < done_before || entries.len() >= ENTRIES_MAX {
            Entry::Refuse
        } else {
            let (sender, answer) = watch::channel(None);
            entries.insert(call, Known { answer, was_asked_again: false });
            Entry::Run(Runner(sender))
        };
        drop(entries);
        // Answers may be long: freed without the lock.
        drop(done);
        entry
    }

    /// Whether a call came more than once.
    pub(crate) fn was_asked_again(&self, call: u64) -> bool {
        self.entries.lock().get(&call).is_some_and(|known| known.was_asked_again)
    }

    /// Another leader counts anew.
    pub(crate) fn clear(&self) {
        let entries = std::mem::take(&mut *self.entries.lock());
        drop(entries);
    }
}

impl<T: Clone> Runner<T> {
    pub(crate) fn finish(self, answer: T) {
        self.0.send_replace(Some(answer));
    }
}

impl<T: Clone> Waiter<T> {
    /// The answer; `None` if the first was given up.
    pub(crate) async fn answer(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }
}

/// Numbers calls, and knows the first that is still under way.
#[derive(Debug, Default)]
pub(crate) struct CallNumbers(Mutex<(u64, std::collections::BTreeSet<u64>)>);

/// A call under way.
#[derive(Debug)]
pub(crate) struct CallNumber {
    pub(crate) number: u64,
    numbers: Arc<CallNumbers>,
}

impl CallNumbers {
    pub(crate) fn begin(self: &Arc<Self>) -> CallNumber {
        let mut numbers = self.0.lock();
        numbers.0 += 1;
        let number = numbers.0;
        numbers.1.insert(number);
        CallNumber { number, numbers: self.clone() }
    }
}

impl CallNumber {
    /// All before this are done.
    pub(crate) fn done_before(&self) -> u64 {
        self.numbers.0.lock().1.first().copied().unwrap_or(self.number)
    }
}

impl Drop for CallNumber {
    fn drop(&mut self) {
        self.numbers.0.lock().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ledger: &Ledger<u32>, call: u64, done_before: u64) -> Runner<u32> {
        match ledger.enter(call, done_before) {
            Entry::Run(runner) => runner,
            other => panic!("{other:?}"),
        }
    }

    fn wait(ledger: &Ledger<u32>, call: u64, done_before: u64) -> Waiter<u32> {
        match ledger.enter(call, done_before) {
            Entry::Wait(waiter) => waiter,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_call_that_comes_twice_runs_once_and_both_get_the_answer() {
        let ledger = Ledger::default();
        let runner = run(&ledger, 1, 1);
        assert!(!ledger.was_asked_again(1));
        let early = wait(&ledger, 1, 1);
        assert!(ledger.was_asked_again(1));
        runner.finish(7);
        assert_eq!(early.answer().await, Some(7));
        assert_eq!(wait(&ledger, 1, 1).answer().await, Some(7));
    }

    #[tokio::test]
    async fn a_call_that_was_given_up_is_not_run_again() {
        let ledger = Ledger::default();
        drop(run(&ledger, 1, 1));
        assert_eq!(wait(&ledger, 1, 1).answer().await, None);
    }

    #[test]
    fn what_the_leader_is_done_with_is_forgotten_and_never_run_again() {
        let ledger = Ledger::default();
        (1..=5).for_each(|call| run(&ledger, call, 1).finish(0));
        drop(run(&ledger, 6, 5));
        assert_eq!(ledger.entries.lock().keys().copied().collect::<Vec<_>>(), [5, 6]);
        assert!(matches!(ledger.enter(3, 5), Entry::Refuse));
        ledger.clear();
        drop(run(&ledger, 1, 1));
    }

    #[test]
    fn the_ledger_has_an_end() {
        let ledger = Ledger::default();
        let max = ENTRIES_MAX as u64;
        let runners: Vec<_> = (1..=max).map(|call| run(&ledger, call, 1)).collect();
        assert!(matches!(ledger.enter(max + 1, 1), Entry::Refuse));
        drop(runners);
    }

    #[test]
    fn the_first_call_under_way_bounds_what_is_done() {
        let numbers = Arc::new(CallNumbers::default());
        let (first, second, third) = (numbers.begin(), numbers.begin(), numbers.begin());
        assert_eq!(third.done_before(), first.number);
        drop(first);
        assert_eq!(third.done_before(), second.number);
        drop(second);
        assert_eq!(third.done_before(), third.number);
    }
}
