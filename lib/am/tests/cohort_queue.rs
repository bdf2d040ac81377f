//! The work queue over a cohort: who gets what, what is read, what is kept; workers are nodes of this process.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;
mod team;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{server, soon, unique, until};
use dynamo_am::cohort::{CohortError, FailurePolicy, LeaderWorkerCohort};
use dynamo_am::{ActiveMessageManager, CallError, Handler, HandlerError, Limits, Refusal};
use futures::{Stream, StreamExt};
use team::{Team, Worker};
use tokio::sync::Semaphore;

/// A handler `gated` at all workers that counts its starts, and ends when a permit is there.
fn gated(team: &Team) -> (Arc<AtomicUsize>, Arc<Semaphore>) {
    let (starts, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    for worker in &team.workers {
        let (starts, gate) = (starts.clone(), gate.clone());
        let handler = Handler::unary("gated", move |_cx, n: u64| {
            let (starts, gate) = (starts.clone(), gate.clone());
            async move {
                starts.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await?.forget();
                Ok(n)
            }
        });
        worker.node.register(handler).unwrap();
    }
    (starts, gate)
}

/// Endless input, and how much of it was read.
fn endless() -> (impl Stream<Item = u64>, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    let counter = read.clone();
    let items = futures::stream::iter(0u64..).inspect(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    (items, read)
}

#[tokio::test]
async fn endless_input_is_read_only_as_workers_are_free() {
    let team = Team::in_process(LeaderWorkerCohort::builder(), 3).await;
    let (starts, gate) = gated(&team);
    let (items, read) = endless();
    let mut results = team.cohort.for_each_dynamic::<u64, u64>("gated", items, 2);
    assert_eq!(read.load(Ordering::SeqCst), 0, "nothing is read before somebody asks for results");
    for taken in 0..20 {
        gate.add_permits(1);
        let result = soon("a result", results.next()).await.unwrap();
        assert_eq!(result.result, Ok(result.index));
        // Six are with the workers; one more was read when the result's place was free.
        assert!(read.load(Ordering::SeqCst) <= 6 + taken + 1);
    }
    until("six run", || starts.load(Ordering::SeqCst) >= 20).await;
    assert!(starts.load(Ordering::SeqCst) <= 26);
    drop(results);
    gate.close();
    team.end().await;
}

#[tokio::test]
async fn no_worker_has_more_items_than_it_may() {
    let team = Team::in_process(LeaderWorkerCohort::builder(), 2).await;
    let most = Arc::new(AtomicUsize::new(0));
    for worker in &team.workers {
        let (most, now) = (most.clone(), Arc::new(AtomicUsize::new(0)));
        let handler = Handler::unary("busy", move |_cx, n: u64| {
            let (most, now) = (most.clone(), now.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(n)
            }
        });
        worker.node.register(handler).unwrap();
    }
    let items = futures::stream::iter(0u64..300);
    let results = team.cohort.for_each_dynamic::<u64, u64>("busy", items, 3);
    let count = soon("all", results.count()).await;
    assert_eq!(count, 300);
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
    team.end().await;
}

#[tokio::test]
async fn a_handlers_own_error_is_a_result_and_the_rest_goes_on() {
    let team = Team::in_process(LeaderWorkerCohort::builder(), 2).await;
    for worker in &team.workers {
        let handler = Handler::unary("picky", |_cx, n: u64| async move {
            match n {
                3 => Err(HandlerError::msg("not three")),
                5 => panic!("five"),
                n => Ok(n),
            }
        });
        worker.node.register(handler).unwrap();
    }
    let results = team.cohort.for_each_dynamic::<u64, u64>("picky", futures::stream::iter(0u64..10), 2);
    let mut results: Vec<_> = soon("all", results.collect()).await;
    results.sort_by_key(|item| item.index);
    for item in &results {
        match (item.index, &item.result) {
            (3, Err(CohortError::Call { source: CallError::HandlerError { message, .. }, .. })) => {
                assert_eq!(message, "not three");
            }
            (5, Err(CohortError::Call { source, .. })) => {
                assert!(matches!(source, CallError::HandlerPanicked { .. }), "{source}");
            }
            (index, result) => assert_eq!(*result, Ok(index)),
        }
    }
    assert_eq!(results.len(), 10);
    team.end().await;
}

#[tokio::test]
async fn items_that_a_busy_worker_refuses_are_done_all_the_same() {
    let leader = server().await;
    let cohort = LeaderWorkerCohort::builder().size(2).start(&leader.client()).unwrap();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let limits = Limits { handler_queue_len: 1, ..Limits::default() };
        let node = ActiveMessageManager::builder().limits(limits).start().await.unwrap();
        let handler = Handler::unary("narrow", |_cx, n: u64| async move {
            tokio::task::yield_now().await;
            Ok(n)
        });
        node.register(handler.limit(1)).unwrap();
        let membership = node.client().join_cohort(&leader.endpoints()[0], None).await.unwrap();
        workers.push(Worker { node, membership });
    }
    // Eight at a time, where two have room.
    let results = cohort.for_each_dynamic::<u64, u64>("narrow", futures::stream::iter(0u64..100), 8);
    let mut done: Vec<_> = soon("all", results.map(|item| item.result.unwrap()).collect()).await;
    done.sort_unstable();
    assert_eq!(done, (0..100).collect::<Vec<_>>());
    Team { leader, cohort, workers }.end().await;
}

#[tokio::test]
async fn an_item_that_is_refused_until_its_deadline_ends_with_the_refusal() {
    let team = Team::in_process(LeaderWorkerCohort::builder(), 1).await;
    let limits = Limits { handler_queue_len: 0, ..Limits::default() };
    let node =
        ActiveMessageManager::builder().limits(limits).listen("tcp://127.0.0.1:0").start().await.unwrap();
    let starts = Arc::new(AtomicUsize::new(0));
    let counter = starts.clone();
    let handler = Handler::unary("full", move |cx, (): ()| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            cx.cancelled().await;
            Ok(())
        }
    });
    node.register(handler.limit(1)).unwrap();
    team.cohort.remove(team.workers[0].node.instance_id()).await;
    team.cohort.add_worker(&node.endpoints()[0], Some(0)).await.unwrap();
    // Its only place is taken.
    let cohort = team.cohort.clone();
    let first = tokio::spawn(async move { cohort.call::<()>(0, "full", &()).await });
    until("it runs", || starts.load(Ordering::SeqCst) == 1).await;
    let cohort = team.cohort.within(Duration::from_millis(100));
    let results = cohort.for_each_dynamic::<(), ()>("full", futures::stream::iter([()]), 1);
    let results: Vec<_> = soon("the refusal", results.collect()).await;
    let [item] = &results[..] else { panic!("{results:?}") };
    let error = item.result.as_ref().unwrap_err();
    let refused = matches!(error, CohortError::Call { source: CallError::Refused { reason, .. }, .. }
        if *reason == Refusal::Overloaded);
    assert!(refused, "{error}");
    first.abort();
    let _ = first.await;
    team.end().await;
    soon("the end", node.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_joins_later_gets_items() {
    let mut team = Team::start(LeaderWorkerCohort::builder(), 0).await;
    let items = futures::stream::iter(0usize..50);
    let mut results = team.cohort.for_each_dynamic::<usize, usize>("rank_plus", items, 1);
    // There is nobody yet: the queue waits.
    let waiting = tokio::spawn(async move { (results.next().await, results) });
    let node = team::worker().await;
    team::register(&node, 0);
    let membership = node.client().join_cohort(team.endpoint(), None).await.unwrap();
    team.workers.push(Worker { node, membership });
    let (first, results) = soon("a result", waiting).await.unwrap();
    assert_eq!((first.as_ref().unwrap().rank, &first.unwrap().result), (Some(0), &Ok(0)));
    assert_eq!(soon("the rest", results.count()).await, 49);
    team.end().await;
}

#[tokio::test]
async fn an_item_whose_deadline_passes_is_a_result_that_says_so() {
    let team = Team::in_process(LeaderWorkerCohort::builder(), 1).await;
    let handler = Handler::unary("late", |cx, (): ()| async move {
        cx.cancelled().await;
        Ok(())
    });
    team.workers[0].node.register(handler).unwrap();
    let cohort = team.cohort.within(Duration::from_millis(50));
    let results = cohort.for_each_dynamic::<(), ()>("late", futures::stream::iter([()]), 1);
    let results: Vec<_> = soon("the deadline", results.collect()).await;
    assert!(results.len() == 1 && results[0].result.as_ref().unwrap_err().is_straggler(), "{results:?}");
    team.end().await;
}

#[tokio::test]
async fn a_cohort_that_fails_or_ends_ends_its_queues() {
    let team = Team::in_process(LeaderWorkerCohort::builder().on_failure(FailurePolicy::FailAll), 2).await;
    let (_starts, gate) = gated(&team);
    let (items, _read) = endless();
    let mut results = team.cohort.for_each_dynamic::<u64, u64>("gated", items, 1);
    gate.add_permits(1);
    assert!(soon("a result", results.next()).await.unwrap().result.is_ok());
    let Team { leader, cohort, mut workers } = team;
    drop(workers.pop().unwrap().membership);
    until("the cohort has failed", || cohort.members().len() == 1).await;
    gate.add_permits(10);
    let mut left = 0;
    while let Some(item) = soon("the end", results.next()).await {
        // What ran has its answer.
        left += 1;
        assert!(left <= 4, "{item:?}");
    }
    drop((cohort, leader));
}

#[tokio::test]
async fn a_leader_may_be_a_worker_of_its_own_cohort() {
    let at = format!("inproc://{}", unique("own"));
    let node = ActiveMessageManager::builder().listen(at).start().await.unwrap();
    team::register(&node, 0);
    let cohort = LeaderWorkerCohort::builder().size(1).start(&node.client()).unwrap();
    let membership = node.client().join_cohort(&node.endpoints()[0], Some(0)).await.unwrap();
    assert_eq!(soon("an answer", cohort.call::<usize>(0, "rank_plus", &2)).await, Ok(2));
    soon("leaving", membership.leave()).await;
    assert_eq!(cohort.members(), []);
    node.shutdown().await.unwrap();
}
