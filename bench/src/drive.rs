//! The loops that measure. They are the same code for every system, so that a figure differs by what is
//! called and never by how it is looked at: the same place, the same clock readings, the same bookkeeping.
//!
//! A system takes part by [`Call`], [`OneWay`], or where neither fits by a [`Driver`] of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::task::JoinSet;

use crate::error::RoleError;
use crate::sample::{Latencies, Recorder, Sample};
use crate::spec::Amount;

/// One-way messages between two looks at the clock.
pub(crate) const BURST_LEN: u64 = 1024;
/// A count of handled messages that stands still for so long will not grow any more: the rest is lost.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// A phase under way.
pub(crate) type Phase<'a> = Pin<Box<dyn Future<Output = Result<Sample, RoleError>> + Send + 'a>>;

/// A connected client of one workload.
pub(crate) trait Driver: Send {
    /// Runs one phase; any number may follow each other.
    fn run(&mut self, amount: Amount) -> Phase<'_>;

    /// Runs the phase that is not measured.
    fn warm_up(&mut self, amount: Amount) -> Phase<'_> {
        self.run(amount)
    }
}

/// Something that can be called and answers.
pub(crate) trait Call: Send + 'static {
    /// One call: resolves when its answer has come and was found to be right.
    fn call(&mut self) -> impl Future<Output = Result<(), RoleError>> + Send;
}

/// Something that takes messages and answers none of them.
pub(crate) trait OneWay: Send + 'static {
    /// Sends so many; they may still wait in a buffer when this resolves.
    fn send(&mut self, count: u64) -> impl Future<Output = Result<(), RoleError>> + Send;

    /// Sends what waits, and asks how many the receiver has handled since it began.
    fn handled(&mut self) -> impl Future<Output = Result<u64, RoleError>> + Send;
}

/// One call after the other, from where this is called.
pub(crate) async fn one_at_a_time(call: &mut impl Call, amount: Amount) -> Result<Sample, RoleError> {
    let mut latencies = Latencies::new();
    let (done, elapsed) = call_until(call, amount, Instant::now(), |took| latencies.record(took)).await?;
    Ok(Sample { sent: done, done, elapsed, latencies: Some(latencies) })
}

/// Calls until the amount is reached, counted from `began`. One reading of the clock serves both the end of a
/// call and the start of the next.
async fn call_until(
    call: &mut impl Call,
    amount: Amount,
    began: Instant,
    mut record: impl FnMut(Duration),
) -> Result<(u64, Duration), RoleError> {
    let (mut done, mut last) = (0, Instant::now());
    while !amount.is_over(done, last - began) {
        call.call().await?;
        done += 1;
        let now = Instant::now();
        record(now - last);
        last = now;
    }
    Ok((done, last - began))
}

/// A task for each caller, one call at a time each, until their shares of the amount are reached. Times run from
/// the phase's beginning, so all stop together.
pub(crate) async fn by_tasks<C: Call>(callers: &mut Vec<C>, amount: Amount) -> Result<Sample, RoleError> {
    let latencies = Arc::new(Mutex::new(Latencies::new()));
    let mut tasks = JoinSet::new();
    let count = callers.len();
    let began = Instant::now();
    for (index, mut caller) in callers.drain(..).enumerate() {
        let share = amount.share(index, count);
        let mut recorder = Recorder::new(latencies.clone());
        tasks.spawn(async move {
            let called = call_until(&mut caller, share, began, |took| recorder.record(took)).await;
            called.map(|(done, _)| (done, caller))
        });
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        let (calls, caller) = ended.map_err(|_| RoleError::TaskPanicked)??;
        done += calls;
        callers.push(caller);
    }
    let elapsed = began.elapsed();
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Sample { sent: done, done, elapsed, latencies: Some(latencies) })
}

/// The same number of calls in flight, all held by the task that calls this.
pub(crate) async fn by_one_task<C: Call>(callers: &mut Vec<C>, amount: Amount) -> Result<Sample, RoleError> {
    let mut latencies = Latencies::new();
    let (mut begun, mut done, began) = (0, 0, Instant::now());
    let start = |mut caller: C| async move {
        let asked = Instant::now();
        caller.call().await.map(|()| (caller, asked))
    };
    let mut calls = FuturesUnordered::new();
    while let Some(caller) = callers.pop_if(|_| !amount.is_over(begun, Duration::ZERO)) {
        calls.push(start(caller));
        begun += 1;
    }
    let mut last = began;
    while let Some(ended) = calls.next().await {
        let (caller, asked) = ended?;
        done += 1;
        last = Instant::now();
        latencies.record(last - asked);
        if amount.is_over(begun, last - began) {
            callers.push(caller);
        } else {
            calls.push(start(caller));
            begun += 1;
        }
    }
    Ok(Sample { sent: begun, done, elapsed: last - began, latencies: Some(latencies) })
}

/// Sends until the amount is reached, then waits until all were handled.
pub(crate) async fn one_way(link: &mut impl OneWay, amount: Amount) -> Result<Sample, RoleError> {
    let handled_before = link.handled().await?;
    let (mut sent, began) = (0, Instant::now());
    while !amount.is_over(sent, began.elapsed()) {
        let count = match amount {
            Amount::Messages(total) => BURST_LEN.min(total - sent),
            Amount::Millis(_) => BURST_LEN,
        };
        link.send(count).await?;
        sent += count;
    }
    let done = until_handled(link, handled_before, sent).await?;
    Ok(Sample { sent, done, elapsed: began.elapsed(), latencies: None })
}

/// How many of `sent` were handled; waits for as long as their number still grows.
pub(crate) async fn until_handled(
    link: &mut impl OneWay,
    handled_before: u64,
    sent: u64,
) -> Result<u64, RoleError> {
    let (mut last, mut grew) = (0, Instant::now());
    loop {
        let done = link.handled().await?.saturating_sub(handled_before);
        if done >= sent {
            return Ok(done);
        }
        if done > last {
            (last, grew) = (done, Instant::now());
        } else if grew.elapsed() > STALL_TIMEOUT {
            return Ok(done);
        }
    }
}

/// Calls one at a time.
pub(crate) struct OneAtATime<C>(pub(crate) C);

impl<C: Call> Driver for OneAtATime<C> {
    fn run(&mut self, amount: Amount) -> Phase<'_> {
        Box::pin(one_at_a_time(&mut self.0, amount))
    }
}

/// Calls from a task each.
pub(crate) struct ByTasks<C>(pub(crate) Vec<C>);

impl<C: Call> Driver for ByTasks<C> {
    fn run(&mut self, amount: Amount) -> Phase<'_> {
        Box::pin(by_tasks(&mut self.0, amount))
    }
}

/// Calls that one task holds.
pub(crate) struct ByOneTask<C>(pub(crate) Vec<C>);

impl<C: Call> Driver for ByOneTask<C> {
    fn run(&mut self, amount: Amount) -> Phase<'_> {
        Box::pin(by_one_task(&mut self.0, amount))
    }
}

/// One-way messages.
pub(crate) struct Sending<O>(pub(crate) O);

impl<O: OneWay> Driver for Sending<O> {
    fn run(&mut self, amount: Amount) -> Phase<'_> {
        Box::pin(one_way(&mut self.0, amount))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives way once for each call, and counts them.
    #[derive(Clone)]
    struct Echo(Arc<Mutex<u64>>);

    impl Call for Echo {
        async fn call(&mut self) -> Result<(), RoleError> {
            tokio::task::yield_now().await;
            *self.0.lock().unwrap() += 1;
            Ok(())
        }
    }

    #[tokio::test]
    async fn each_arrangement_makes_as_many_calls_as_it_says() {
        let calls = Arc::new(Mutex::new(0));
        let mut callers = vec![Echo(calls.clone()); 7];
        let amount = Amount::Messages(100);
        let samples = [
            one_at_a_time(&mut callers[0], amount).await.unwrap(),
            by_tasks(&mut callers, amount).await.unwrap(),
            by_one_task(&mut callers, amount).await.unwrap(),
        ];
        assert!(samples.iter().all(|sample| (sample.sent, sample.done) == (100, 100)), "{samples:?}");
        assert_eq!(by_one_task(&mut callers, Amount::Messages(3)).await.unwrap().done, 3);
        assert_eq!(callers.len(), 7, "all are there for the next phase");
        assert_eq!(*calls.lock().unwrap(), 303);
    }

    /// A receiver that loses every tenth message, and handles the others when it is asked.
    struct Leak {
        sent: u64,
        handled: u64,
    }

    impl OneWay for Leak {
        async fn send(&mut self, count: u64) -> Result<(), RoleError> {
            self.sent += count;
            Ok(())
        }

        async fn handled(&mut self) -> Result<u64, RoleError> {
            tokio::task::yield_now().await;
            self.handled = (self.handled + 100).min(self.sent * 9 / 10);
            Ok(self.handled)
        }
    }

    #[tokio::test]
    async fn what_is_never_handled_is_found_lost_and_not_waited_for_without_end() {
        let sample = one_way(&mut Leak { sent: 0, handled: 0 }, Amount::Messages(3_000)).await.unwrap();
        assert_eq!((sample.sent, sample.done), (3_000, 2_700));
    }
}
