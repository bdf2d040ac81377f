//! A work queue over a cohort: items go to whichever worker is free.
//!
//! All of it happens while the stream of results is polled: nothing runs ahead of its reader, so endless input needs
//! no more memory than the items that workers have.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::watch;

use super::LeaderWorkerCohort;
use super::answer::{Call, Encoded, Value};
use super::call::on_holder;
use super::error::CohortError;
use crate::api::call_error::{CallError, Refusal};
use crate::api::codec::{Decode, Encode};
use crate::clock;
use crate::proto::membership::Holder;

/// A rank that took an item and could not do it, busy or gone, is given none for so long.
const REST: Duration = Duration::from_millis(20);

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ItemResult<R> {
    /// The item's place in the input, from 0.
    pub index: u64,
    /// Who had it last; `None` if nobody had.
    pub rank: Option<usize>,
    /// What the handler gave.
    pub result: Result<R, CohortError>,
}

/// Results as they come; see `LeaderWorkerCohort::for_each_dynamic`. Dropped, the calls under way are cancelled.
pub struct DynamicResults<R>(BoxStream<'static, ItemResult<R>>);

impl<R> fmt::Debug for DynamicResults<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DynamicResults")
    }
}

impl<R> Stream for DynamicResults<R> {
    type Item = ItemResult<R>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

impl LeaderWorkerCohort {
    /// Gives each item to a worker that is free, at most `in_flight_per_worker` (at least 1) to each at a time.
    /// Results come in any order, with their items' places; the input is read only as workers become free.
    ///
    /// **At least once**: an item whose worker is lost goes to another, and the lost one may have done it. An item
    /// that was lost with `item_attempts_max` workers, or that all refuse until the deadline, ends with an error. A
    /// handler's own error is a result. An item for which no worker is there within the deadline ends with
    /// [`CohortError::NoWorkers`], and the stream after it.
    pub fn for_each_dynamic<T, R>(
        &self,
        handler: &str,
        items: impl Stream<Item = T> + Send + 'static,
        in_flight_per_worker: usize,
    ) -> DynamicResults<R>
    where
        T: Encode + Send + 'static,
        R: Decode + Send + 'static,
    {
        let mut changes = self.core.changes();
        changes.mark_changed();
        let queue = Queue {
            cohort: self.clone(),
            handler: handler.into(),
            items: items.map(|item| Encoded::new(&item).map_err(|error| error.to_string())).boxed(),
            is_drained: false,
            next_index: 0,
            in_flight: in_flight_per_worker.max(1),
            changes,
            present: Vec::new(),
            outstanding: HashMap::new(),
            resting: HashMap::new(),
            stuck_since: None,
            waiting: VecDeque::new(),
            calls: FuturesUnordered::new(),
            done: VecDeque::new(),
        };
        let stream = futures_util::stream::unfold(queue, |mut queue| async move {
            let result = queue.next().await?;
            Some((result, queue))
        });
        DynamicResults(stream.boxed())
    }
}

struct Item {
    index: u64,
    request: Encoded,
    attempts: u32,
    /// When it was given to a worker first.
    since: Option<Instant>,
}

struct Attempt<R> {
    item: Item,
    rank: usize,
    result: Result<R, CohortError>,
}

struct Queue<R> {
    cohort: LeaderWorkerCohort,
    handler: Arc<str>,
    items: BoxStream<'static, Result<Encoded, String>>,
    /// No more items are read.
    is_drained: bool,
    next_index: u64,
    in_flight: usize,
    changes: watch::Receiver<u64>,
    /// Ranks whose workers are there.
    present: Vec<usize>,
    /// Items that each rank has.
    outstanding: HashMap<usize, usize>,
    resting: HashMap<usize, Instant>,
    /// Since when there is nobody to work.
    stuck_since: Option<Instant>,
    /// Items that were read and that nobody has.
    waiting: VecDeque<Item>,
    calls: FuturesUnordered<BoxFuture<'static, Attempt<R>>>,
    done: VecDeque<ItemResult<R>>,
}

impl<R: Decode + Send + 'static> Queue<R> {
    async fn next(&mut self) -> Option<ItemResult<R>> {
        loop {
            if let Some(result) = self.done.pop_front() {
                return Some(result);
            }
            if let Err(over) = self.cohort.core.read(|book| self.cohort.core.over(book)) {
                self.give_up(&over);
            }
            self.look_for_workers();
            let free = self.give_waiting();
            if self.is_drained && self.waiting.is_empty() && self.calls.is_empty() && self.done.is_empty() {
                return None;
            }
            if self.done.is_empty() {
                self.step(free).await;
            }
        }
    }

    /// Waits for the next thing to happen.
    async fn step(&mut self, free: Option<usize>) {
        let is_stuck = self.calls.is_empty() && free.is_none();
        let now = clock::now();
        self.stuck_since = if is_stuck { self.stuck_since.or(Some(now)) } else { None };
        let deadline = self.cohort.view.deadline;
        let gives_up_at = self.stuck_since.map(|since| since + deadline).filter(|_| !self.waiting.is_empty());
        let wakes_at = self.resting.values().copied().chain(gives_up_at).min();
        let reads = !self.is_drained && self.waiting.is_empty() && (free.is_some() || is_stuck);
        let timer = clock::sleep_until(wakes_at);
        tokio::select! {
            biased;
            item = self.items.next(), if reads => match item {
                Some(Ok(request)) => {
                    let index = self.take_index();
                    self.waiting.push_back(Item { index, request, attempts: 0, since: None });
                }
                Some(Err(reason)) => {
                    let index = self.take_index();
                    let result = Err(CohortError::Request { rank: None, reason });
                    self.done.push_back(ItemResult { index, rank: None, result });
                }
                None => self.is_drained = true,
            },
            Some(attempt) = self.calls.next(), if !self.calls.is_empty() => self.end(attempt),
            _ = self.changes.changed() => self.changes.mark_changed(),
            () = timer => {
                if gives_up_at.is_some_and(|at| at <= clock::now()) {
                    let cohort = self.cohort.core.settings.name.clone();
                    self.give_up(&CohortError::NoWorkers { cohort, deadline });
                }
            }
        }
    }

    fn take_index(&mut self) -> u64 {
        let index = self.next_index;
        self.next_index += 1;
        index
    }

    fn look_for_workers(&mut self) {
        let now = clock::now();
        self.resting.retain(|_, until| *until > now);
        if !self.changes.has_changed().unwrap_or(false) {
            return;
        }
        self.changes.mark_unchanged();
        let ranks = self.cohort.target_ranks();
        self.present = self.cohort.core.read(|book| {
            let is_here = |rank: &usize| matches!(book.membership.holder(*rank), Holder::Present { .. });
            ranks.into_iter().filter(is_here).collect()
        });
    }

    /// Gives what waits to who is free; who is free then.
    fn give_waiting(&mut self) -> Option<usize> {
        loop {
            let free = self.free()?;
            let Some(item) = self.waiting.pop_front() else { return Some(free) };
            self.give(free, item);
        }
    }

    /// The rank that has the fewest items.
    fn free(&self) -> Option<usize> {
        let has = |rank: &usize| self.outstanding.get(rank).copied().unwrap_or(0);
        let rests = |rank: &usize| self.resting.contains_key(rank);
        let free = self.present.iter().filter(|rank| !rests(rank) && has(rank) < self.in_flight);
        free.min_by_key(|rank| has(rank)).copied()
    }

    fn give(&mut self, rank: usize, mut item: Item) {
        item.since.get_or_insert_with(clock::now);
        *self.outstanding.entry(rank).or_default() += 1;
        let core = self.cohort.core.clone();
        let terms = self.cohort.terms();
        let call = Call { handler: self.handler.clone(), request: item.request.clone() };
        let attempt = async move {
            let result = on_holder::<Value<R>>(&core, rank, &call, &terms).await;
            Attempt { item, rank, result: result.map(|Value(value)| value) }
        };
        self.calls.push(attempt.boxed());
    }

    fn end(&mut self, attempt: Attempt<R>) {
        let Attempt { mut item, rank, result } = attempt;
        if let Some(has) = self.outstanding.get_mut(&rank) {
            *has = has.saturating_sub(1);
        }
        let (goes_on, was_given) = result.as_ref().err().map_or((false, true), goes_to_another);
        item.attempts += u32::from(was_given);
        let attempts_max = self.cohort.core.settings.limits.item_attempts_max.max(1);
        // Refusals cost no attempt, and have an end as well.
        let is_late = item.since.is_some_and(|since| since + self.cohort.view.deadline <= clock::now());
        if goes_on && item.attempts < attempts_max && (was_given || !is_late) {
            self.resting.insert(rank, clock::now() + REST);
            self.waiting.push_back(item);
            return;
        }
        if goes_on && item.attempts >= attempts_max {
            self.cohort.core.reached("item_attempts_max");
        }
        self.done.push_back(ItemResult { index: item.index, rank: Some(rank), result });
    }

    /// Reads no more; what nobody has ends with this error.
    fn give_up(&mut self, error: &CohortError) {
        self.is_drained = true;
        let waiting = std::mem::take(&mut self.waiting);
        self.done.extend(waiting.into_iter().map(|item| ItemResult {
            index: item.index,
            rank: None,
            result: Err(error.clone()),
        }));
    }
}

/// Whether an item is worth giving to another worker, and whether this one may have worked on it.
fn goes_to_another(error: &CohortError) -> (bool, bool) {
    match error {
        CohortError::Vacant { .. } => (true, false),
        CohortError::Call { source, .. } => match source {
            CallError::PeerLost { maybe_executed, .. } | CallError::Cancelled { maybe_executed, .. } => {
                (true, *maybe_executed)
            }
            CallError::NotSent { transient, .. } => (*transient, false),
            CallError::Refused { reason, .. } => {
                (matches!(reason, Refusal::Overloaded | Refusal::Draining), false)
            }
            _ => (false, true),
        },
        _ => (false, false),
    }
}
