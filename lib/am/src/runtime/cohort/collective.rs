//! Talking to all ranks at once: broadcast, map, scatter, gather, reduce.
//!
//! Results stand in rank order. A rank that fails fills its own slot with the error; how many messages it takes, and
//! whether workers hand them on, changes no result.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{Stream, StreamExt};

use super::LeaderWorkerCohort;
use super::answer::{Answer, Call, Done, Encoded, Sent, Value};
use super::call::{Terms, on_rank};
use super::core::Core;
use super::error::{CohortError, CollectiveError};
use super::relay;
use super::settings::FailurePolicy;
use crate::api::codec::{Decode, Encode};
use crate::clock;
use crate::proto::membership::Holder;

/// What each rank made of its call.
pub(crate) type Slots<A> = Vec<(usize, Result<A, CohortError>)>;
/// What is called at which rank.
pub(crate) type Calls = Vec<(usize, Call)>;
/// Which ranks failed, and of what.
type Failures = Vec<(usize, CohortError)>;
/// A request for a rank, or why there is none.
pub(crate) type Request = (usize, Result<Encoded, String>);

impl LeaderWorkerCohort {
    /// Sends a one-way message to all ranks; the payload is encoded once. One result per rank, in order: whether the
    /// message is in the send buffer, of the worker or of the one who hands it on.
    pub async fn broadcast(
        &self,
        handler: &str,
        payload: &(impl Encode + ?Sized),
    ) -> Vec<Result<(), CohortError>> {
        let requests = self.same_for_all(payload, self.target_ranks());
        let slots = self.run::<Sent>(handler, requests).await;
        slots.into_iter().map(|(_, result)| result.map(|Sent| ())).collect()
    }

    /// Sends a message to all ranks and waits until each has handled it well.
    ///
    /// # Errors
    ///
    /// When a rank has not; the others have, or failed, too: all are waited for.
    pub async fn broadcast_acked(
        &self,
        handler: &str,
        payload: &(impl Encode + ?Sized),
    ) -> Result<(), CollectiveError> {
        let requests = self.same_for_all(payload, self.needed_ranks());
        all_of(self.run::<Done>(handler, requests).await).map(drop)
    }

    /// Calls all ranks with the same payload. One result per rank, in order.
    pub async fn broadcast_responses<R: Decode + Send + 'static>(
        &self,
        handler: &str,
        payload: &(impl Encode + ?Sized),
    ) -> Vec<Result<R, CohortError>> {
        let requests = self.same_for_all(payload, self.target_ranks());
        values(self.run::<Value<R>>(handler, requests).await)
    }

    /// Calls each rank with a request of its own; all are made before the first is sent. One result per rank, in
    /// order.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the calls under way are cancelled.
    pub fn par_map<Q: Encode, R: Decode + Send + 'static>(
        &self,
        handler: &str,
        f: impl Fn(usize) -> Q,
    ) -> impl Future<Output = Vec<Result<R, CohortError>>> + Send {
        let running = self.run::<Value<R>>(handler, made(self.target_ranks(), f));
        async move { values(running.await) }
    }

    /// As [`par_map`](Self::par_map), with requests that take time to make, or may fail: a failure fills its rank's
    /// slot.
    pub fn par_map_with<Q, R, E, Fut>(
        &self,
        handler: &str,
        f: impl Fn(usize) -> Fut,
    ) -> impl Future<Output = Vec<Result<R, CohortError>>> + Send
    where
        Q: Encode,
        R: Decode + Send + 'static,
        E: fmt::Display,
        Fut: Future<Output = Result<Q, E>> + Send,
    {
        let cohort = self.clone();
        let handler: Arc<str> = handler.into();
        let making: Vec<_> = self.target_ranks().into_iter().map(|rank| (rank, f(rank))).collect();
        async move {
            let made = making.into_iter().map(|(rank, request)| async move {
                let request = request.await.map_err(|error| error.to_string());
                let encode = |request: Q| Encoded::new(&request).map_err(|error| error.to_string());
                (rank, request.and_then(encode))
            });
            if cohort.uses_tree(made.len()) {
                let requests = futures_util::future::join_all(made).await;
                return values(cohort.run::<Value<R>>(&handler, requests).await);
            }
            // A rank whose request takes long holds up no other.
            let calls = made.map(|made| async {
                let requests = vec![made.await];
                cohort.run::<Value<R>>(&handler, requests).await
            });
            values(futures_util::future::join_all(calls).await.into_iter().flatten().collect())
        }
    }

    /// As [`par_map`](Self::par_map), giving the results as they come. Always flat.
    pub fn map_unordered<Q: Encode, R: Decode + Send + 'static>(
        &self,
        handler: &str,
        f: impl Fn(usize) -> Q,
    ) -> MapResults<R> {
        let terms = self.terms();
        let (calls, failed) = split_made(handler, made(self.target_ranks(), f));
        let core = self.core.clone();
        let running: FuturesUnordered<_> = calls
            .into_iter()
            .map(|(rank, call)| {
                let (core, terms) = (core.clone(), terms.clone());
                async move {
                    let result =
                        unless_failed(&core, on_rank::<Value<R>>(core.clone(), rank, call, terms)).await;
                    RankResult { rank, result: result.map(|Value(value)| value) }
                }
            })
            .collect();
        let failed = failed.into_iter().map(|(rank, error)| RankResult { rank, result: Err(error) });
        MapResults(futures_util::stream::iter(failed).chain(running).boxed())
    }

    /// Gives each rank its item, in order, and waits until each has handled it well.
    ///
    /// # Errors
    ///
    /// When there are more or fewer items than ranks, in which case nothing is sent; when a rank fails.
    pub async fn scatter<Q: Encode>(
        &self,
        handler: &str,
        items: impl IntoIterator<Item = Q>,
    ) -> Result<(), CollectiveError> {
        let ranks = self.needed_ranks();
        let items: Vec<_> = items.into_iter().collect();
        if items.len() != ranks.len() {
            let reason = format!("there are {} items for {} ranks", items.len(), ranks.len());
            let failure =
                |rank: usize| (rank, CohortError::Request { rank: Some(rank), reason: reason.clone() });
            let asked = ranks.len();
            return Err(CollectiveError { failures: ranks.into_iter().map(failure).collect(), ranks: asked });
        }
        let requests = ranks.into_iter().zip(&items).map(|(rank, item)| (rank, encode(item))).collect();
        drop(items);
        all_of(self.run::<Done>(handler, requests).await).map(drop)
    }

    /// Asks each rank for its value, without an argument. One result per rank, in order.
    pub async fn gather<R: Decode + Send + 'static>(&self, handler: &str) -> Vec<Result<R, CohortError>> {
        self.broadcast_responses(handler, &()).await
    }

    /// Calls each rank with a request of its own, and folds the values in rank order.
    ///
    /// # Errors
    ///
    /// When a rank fails, or there is none. Ranks whose workers left or were removed are not asked.
    pub fn reduce<Q: Encode, R: Decode + Send + 'static>(
        &self,
        handler: &str,
        f: impl Fn(usize) -> Q,
        fold: impl FnMut(R, R) -> R,
    ) -> impl Future<Output = Result<R, CollectiveError>> {
        let running = self.run::<Value<R>>(handler, made(self.needed_ranks(), f));
        async move {
            let values = all_of(running.await)?.into_iter().map(|Value(value)| value);
            values.reduce(fold).ok_or(CollectiveError { failures: Vec::new(), ranks: 0 })
        }
    }

    /// As [`reduce`](Self::reduce), and gives the result to the handler `deliver` of each rank, waiting until each has
    /// handled it well.
    ///
    /// # Errors
    ///
    /// When a rank fails at either; nothing is delivered unless all have given their values.
    pub async fn all_reduce<Q: Encode, R: Encode + Decode + Send + 'static>(
        &self,
        handler: &str,
        f: impl Fn(usize) -> Q,
        fold: impl FnMut(R, R) -> R,
        deliver: &str,
    ) -> Result<R, CollectiveError> {
        let value = self.reduce::<Q, R>(handler, f, fold).await?;
        self.broadcast_acked(deliver, &value).await?;
        Ok(value)
    }

    /// Sends a one-way message to one rank.
    ///
    /// # Errors
    ///
    /// When it could not be sent.
    pub async fn send(
        &self,
        rank: usize,
        handler: &str,
        payload: &(impl Encode + ?Sized),
    ) -> Result<(), CohortError> {
        self.one::<Sent>(rank, handler, payload).await.map(|Sent| ())
    }

    /// Sends a message to one rank and waits until it has handled it well.
    ///
    /// # Errors
    ///
    /// When it has not.
    pub async fn confirm(
        &self,
        rank: usize,
        handler: &str,
        payload: &(impl Encode + ?Sized),
    ) -> Result<(), CohortError> {
        self.one::<Done>(rank, handler, payload).await.map(|Done| ())
    }

    /// Calls one rank and waits for its value.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn call<R: Decode + Send + 'static>(
        &self,
        rank: usize,
        handler: &str,
        payload: &(impl Encode + ?Sized),
    ) -> Result<R, CohortError> {
        self.one::<Value<R>>(rank, handler, payload).await.map(|Value(value)| value)
    }

    fn one<A: Answer>(
        &self,
        rank: usize,
        handler: &str,
        payload: &(impl Encode + ?Sized),
    ) -> impl Future<Output = Result<A, CohortError>> + Send {
        let request = encode(payload);
        let (core, terms, handler) = (self.core.clone(), self.terms(), handler.into());
        async move {
            let request = request.map_err(|reason| CohortError::Request { rank: Some(rank), reason })?;
            let call = Call { handler, request };
            unless_failed(&core, on_rank(core.clone(), rank, call, terms)).await
        }
    }

    /// The ranks that a call to all goes to.
    pub(crate) fn target_ranks(&self) -> Vec<usize> {
        self.within_view(self.core.read(|book| book.membership.ranks()))
    }

    /// Those of them whose part cannot be left out: all but those whose workers left or were removed.
    pub(crate) fn needed_ranks(&self) -> Vec<usize> {
        self.within_view(self.core.read(|book| {
            let ranks = book.membership.ranks().into_iter();
            ranks.filter(|rank| book.membership.holder(*rank) != Holder::GivenBack).collect()
        }))
    }

    fn within_view(&self, mut ranks: Vec<usize>) -> Vec<usize> {
        if let Some(range) = &self.view.ranks {
            ranks.retain(|rank| range.contains(rank));
        }
        ranks
    }

    pub(crate) fn terms(&self) -> Terms {
        let deadline = self.view.deadline;
        Terms { deadline, until: clock::now() + deadline, is_idempotent: self.view.is_idempotent }
    }

    fn uses_tree(&self, ranks: usize) -> bool {
        !self.view.is_flat && ranks > self.core.settings.fan_out_width
    }

    pub(crate) fn same_for_all(&self, payload: &(impl Encode + ?Sized), ranks: Vec<usize>) -> Vec<Request> {
        let encoded = encode(payload);
        ranks.into_iter().map(|rank| (rank, encoded.clone())).collect()
    }

    /// Calls each of these ranks. The results stand in rank order.
    pub(crate) fn run<A: Answer>(
        &self,
        handler: &str,
        requests: Vec<Request>,
    ) -> impl Future<Output = Slots<A>> + Send + use<A> {
        let uses_tree = self.uses_tree(requests.len()) && !handler.starts_with('_');
        let (core, terms) = (self.core.clone(), self.terms());
        let (calls, failed) = split_made(handler, requests);
        async move {
            let called = match uses_tree {
                true => relay::down_the_tree(&core, calls, &terms).await,
                false => flat(&core, calls, &terms).await,
            };
            let mut slots: Slots<A> =
                failed.into_iter().map(|(rank, error)| (rank, Err(error))).chain(called).collect();
            slots.sort_by_key(|(rank, _)| *rank);
            slots
        }
    }
}

/// Calls each rank itself, all at once.
pub(crate) async fn flat<A: Answer>(core: &Arc<Core>, calls: Calls, terms: &Terms) -> Slots<A> {
    let ranks: Vec<_> = calls.iter().map(|(rank, _)| *rank).collect();
    let running = calls.into_iter().map(|(rank, call)| {
        let running = on_rank::<A>(core.clone(), rank, call, terms.clone());
        async move { (rank, running.await) }
    });
    all_unless_failed(core, ranks, running.collect()).await
}

/// Waits for all, or for the failure of the whole cohort.
pub(crate) async fn all_unless_failed<A, F>(
    core: &Arc<Core>,
    ranks: Vec<usize>,
    mut running: FuturesUnordered<F>,
) -> Slots<A>
where
    F: Future<Output = (usize, Result<A, CohortError>)>,
{
    let mut slots = Vec::with_capacity(ranks.len());
    if core.settings.policy != FailurePolicy::FailAll {
        while let Some(slot) = running.next().await {
            slots.push(slot);
        }
        return slots;
    }
    let mut failure = std::pin::pin!(core.failed());
    loop {
        tokio::select! {
            biased;
            slot = running.next() => match slot {
                Some(slot) => slots.push(slot),
                None => return slots,
            },
            reason = &mut failure => {
                let left: Vec<_> =
                    ranks.iter().copied().filter(|rank| slots.iter().all(|(done, _)| done != rank)).collect();
                slots.extend(left.into_iter().map(|rank| (rank, Err(failed(core, &reason)))));
                return slots;
            }
        }
    }
}

/// As it is, but for the failure of the whole cohort.
pub(crate) async fn unless_failed<T>(
    core: &Arc<Core>,
    call: impl Future<Output = Result<T, CohortError>>,
) -> Result<T, CohortError> {
    if core.settings.policy != FailurePolicy::FailAll {
        return call.await;
    }
    tokio::select! {
        biased;
        result = call => result,
        reason = core.failed() => Err(failed(core, &reason)),
    }
}

fn failed(core: &Core, reason: &str) -> CohortError {
    let (cohort, reason) = (core.settings.name.clone(), reason.to_owned());
    CohortError::Failed { cohort, reason, maybe_executed: true }
}

fn encode(payload: &(impl Encode + ?Sized)) -> Result<Encoded, String> {
    Encoded::new(payload).map_err(|error| error.to_string())
}

fn made<Q: Encode>(ranks: Vec<usize>, f: impl Fn(usize) -> Q) -> Vec<Request> {
    ranks.into_iter().map(|rank| (rank, encode(&f(rank)))).collect()
}

/// What can be called, and what cannot.
fn split_made(handler: &str, requests: Vec<Request>) -> (Calls, Failures) {
    let handler: Arc<str> = handler.into();
    let (mut calls, mut failed) = (Vec::with_capacity(requests.len()), Vec::new());
    for (rank, request) in requests {
        match request {
            Ok(request) => calls.push((rank, Call { handler: handler.clone(), request })),
            Err(reason) => failed.push((rank, CohortError::Request { rank: Some(rank), reason })),
        }
    }
    (calls, failed)
}

fn values<R>(slots: Slots<Value<R>>) -> Vec<Result<R, CohortError>> {
    slots.into_iter().map(|(_, result)| result.map(|Value(value)| value)).collect()
}

/// All answers, or all failures.
pub(crate) fn all_of<A>(slots: Slots<A>) -> Result<Vec<A>, CollectiveError> {
    let ranks = slots.len();
    let (mut answers, mut failures) = (Vec::with_capacity(ranks), Vec::new());
    for (rank, result) in slots {
        match result {
            Ok(answer) => answers.push(answer),
            Err(error) => failures.push((rank, error)),
        }
    }
    if failures.is_empty() { Ok(answers) } else { Err(CollectiveError { failures, ranks }) }
}

/// One rank's result.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RankResult<R> {
    /// The rank.
    pub rank: usize,
    /// What it gave.
    pub result: Result<R, CohortError>,
}

/// Results as they come; see `LeaderWorkerCohort::map_unordered`. Dropped, the calls under way are cancelled.
pub struct MapResults<R>(BoxStream<'static, RankResult<R>>);

impl<R> fmt::Debug for MapResults<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MapResults")
    }
}

impl<R> Stream for MapResults<R> {
    type Item = RankResult<R>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}
