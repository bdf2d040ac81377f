//! Talking to all ranks: every collective against a computed answer, flat and down the tree, for many sizes.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;
mod team;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{soon, until};
use dynamo_am::cohort::{BarrierError, CohortBuilder, CohortError, JoinOptions, LeaderWorkerCohort};
use dynamo_am::{ActiveMessageManager, CallError, Handler, HandlerError, Raw, Refusal};
use futures::StreamExt;
use team::Team;

const SIZES: [usize; 7] = [1, 2, 3, 5, 8, 16, 33];

/// A cohort whose calls go down the tree from two ranks on.
fn wide() -> CohortBuilder {
    LeaderWorkerCohort::builder().fan_out_width(1)
}

/// Counts per worker, kept by a handler of that name.
fn count(team: &Team, name: &'static str) -> Vec<Arc<AtomicUsize>> {
    let counter = |worker: &team::Worker| {
        let counter = Arc::new(AtomicUsize::new(0));
        let counted = counter.clone();
        let handler = Handler::unary(name, move |_cx, n: usize| {
            let counted = counted.clone();
            async move {
                counted.fetch_add(n, Ordering::SeqCst);
                Ok(())
            }
        });
        worker.node.register(handler).unwrap();
        counter
    };
    team.workers.iter().map(counter).collect()
}

fn counts(counters: &[Arc<AtomicUsize>]) -> Vec<usize> {
    counters.iter().map(|counter| counter.load(Ordering::SeqCst)).collect()
}

/// How many links the workers have to each other, each counted at both ends.
fn links(team: &Team) -> usize {
    team.workers.iter().map(|worker| worker.node.client().peers().len() - 1).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flat_and_tree_give_the_same_computed_answers_for_every_size() {
    for size in SIZES {
        let team = Team::in_process(wide(), size).await;
        let delivered = count(&team, "deliver");
        let flat = team.cohort.flat();
        for cohort in [&team.cohort, &flat] {
            let mapped = soon("answers", cohort.par_map::<usize, usize>("rank_plus", |rank| 10 * rank)).await;
            assert_eq!(mapped, (0..size).map(|rank| Ok(11 * rank)).collect::<Vec<_>>());
            let same = soon("answers", cohort.broadcast_responses::<usize>("rank_plus", &7)).await;
            assert_eq!(same, (0..size).map(|rank| Ok(rank + 7)).collect::<Vec<_>>());
            let (largest, sum) = (2 * (size - 1), size * (size - 1));
            let max = cohort.reduce::<usize, usize>("rank_plus", |rank| rank, usize::max);
            assert_eq!(soon("the largest", max).await, Ok(largest));
            let reduced =
                cohort.all_reduce::<usize, usize>("rank_plus", |rank| rank, |a, b| a + b, "deliver");
            assert_eq!(soon("the sum", reduced).await, Ok(sum));
            // A fold that is not commutative: rank order is kept.
            let order = cohort.reduce::<usize, usize>("rank_plus", |_| 1, |a, b| a.wrapping_mul(31) ^ b);
            let computed = (0..size).map(|rank| rank + 1).reduce(|a, b| a.wrapping_mul(31) ^ b);
            assert_eq!(soon("the fold", order).await.ok(), computed);
        }
        assert_eq!(counts(&delivered), vec![2 * size * (size - 1); size]);
        // Without workers who hand on, the tree was none.
        assert_eq!(links(&team) > 0, size > 2, "{size} workers");
        team.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_passes_a_barrier_before_everybody_has_come() {
    for size in SIZES {
        for width in [1, usize::MAX] {
            let team = Team::in_process(LeaderWorkerCohort::builder().fan_out_width(width), size).await;
            let come = Arc::new(AtomicUsize::new(0));
            let Team { leader, cohort, workers } = team;
            let passing: Vec<_> = workers
                .into_iter()
                .map(|worker| {
                    let come = come.clone();
                    tokio::spawn(async move {
                        for round in 1..=3 {
                            come.fetch_add(1, Ordering::SeqCst);
                            soon("the barrier", worker.membership.barrier()).await.unwrap();
                            assert!(come.load(Ordering::SeqCst) >= round * size, "round {round}");
                        }
                        worker
                    })
                })
                .collect();
            for round in 1..=3 {
                soon("the barrier", cohort.barrier()).await.unwrap();
                assert!(come.load(Ordering::SeqCst) >= round * size);
            }
            let mut workers = Vec::new();
            for passed in passing {
                workers.push(soon("passing", passed).await.unwrap());
            }
            Team { leader, cohort, workers }.end().await;
        }
    }
}

#[tokio::test]
async fn a_barrier_that_not_all_reach_names_who_is_missing_and_the_next_is_another() {
    let team = Team::in_process(LeaderWorkerCohort::builder(), 2).await;
    let Team { leader, cohort, mut workers } = team;
    let late = workers.pop().unwrap();
    let early = workers.pop().unwrap();
    let waiting = tokio::spawn(async move {
        let passed = early.membership.barrier().await;
        (early, passed)
    });
    let error = soon("an error", cohort.within(Duration::from_millis(50)).barrier()).await.unwrap_err();
    assert_eq!(error.stragglers(), [1]);
    let (early, passed) = soon("the word of it", waiting).await.unwrap();
    assert!(matches!(&passed, Err(BarrierError::NotAll(why)) if why.contains("ranks 1")), "{passed:?}");
    // Who comes late to a barrier that failed comes to the next one.
    let (leading, first, second) = soon(
        "the next",
        futures::future::join3(cohort.barrier(), early.membership.barrier(), late.membership.barrier()),
    )
    .await;
    assert_eq!((leading, first, second), (Ok(()), Ok(()), Ok(())));
    Team { leader, cohort, workers: vec![early, late] }.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_workers_in_one_process_work_as_one() {
    let team = Team::in_process(LeaderWorkerCohort::builder(), 200).await;
    let flat = team.cohort.flat();
    for cohort in [&team.cohort, &flat] {
        let sum =
            soon("the sum", cohort.reduce::<usize, usize>("rank_plus", |rank| rank, |a, b| a + b)).await;
        assert_eq!(sum, Ok(200 * 199));
    }
    let items = futures::stream::iter(0usize..2000);
    let mut results = flat.for_each_dynamic::<usize, usize>("rank_plus", items, 4);
    let mut seen = vec![false; 2000];
    let mut ranks = [false; 200];
    while let Some(item) = soon("a result", results.next()).await {
        let (index, rank) = (usize::try_from(item.index).unwrap(), item.rank.unwrap());
        assert_eq!(item.result, Ok(index + rank));
        assert!(!std::mem::replace(&mut seen[index], true));
        ranks[rank] = true;
    }
    assert!(seen.iter().all(|seen| *seen) && ranks.iter().all(|worked| *worked));
    drop(results);
    team.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_rank_fills_only_its_slot_flat_and_down_the_tree() {
    let team = Team::in_process(wide(), 8).await;
    for (rank, worker) in team.workers.iter().enumerate() {
        let handler = Handler::unary("picky", move |_cx, n: usize| async move {
            match rank {
                3 => Err(HandlerError::msg("not today")),
                5 => panic!("rank 5 panics"),
                _ => Ok(n),
            }
        });
        if rank != 6 {
            worker.node.register(handler).unwrap();
        }
    }
    let flat = team.cohort.flat();
    for cohort in [&team.cohort, &flat] {
        let slots = soon("answers", cohort.par_map::<usize, usize>("picky", |rank| rank)).await;
        for (rank, slot) in slots.iter().enumerate() {
            let id = team.workers[rank].node.instance_id();
            match (rank, slot) {
                (3, Err(CohortError::Call { source: CallError::HandlerError { message, .. }, .. })) => {
                    assert_eq!(message, "not today");
                }
                (5, Err(CohortError::Call { rank: 5, worker, source })) => {
                    assert!(matches!(source, CallError::HandlerPanicked { .. }), "{source}");
                    assert_eq!((*worker, source.call().peer), (id, id));
                }
                (6, Err(CohortError::Call { source: CallError::Refused { reason, .. }, .. })) => {
                    assert_eq!(*reason, Refusal::NoHandler);
                }
                (_, slot) => assert_eq!(*slot, Ok(rank)),
            }
        }
        let error = soon("an error", cohort.broadcast_acked("picky", &1)).await.unwrap_err();
        assert_eq!(error.failures.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [3, 5, 6]);
        assert!(error.to_string().starts_with("3 of 8 ranks failed; rank 3: "), "{error}");
    }
    team.end().await;
}

#[tokio::test]
async fn requests_may_fail_or_take_time_to_make() {
    for width in [1, usize::MAX] {
        let team = Team::in_process(LeaderWorkerCohort::builder().fan_out_width(width), 4).await;
        let slots = team
            .cohort
            .par_map_with::<usize, usize, _, _>("rank_plus", |rank| async move {
                tokio::task::yield_now().await;
                if rank == 2 { Err("no file for it") } else { Ok(rank) }
            })
            .await;
        let reason = "no file for it".to_owned();
        assert_eq!(slots[2], Err(CohortError::Request { rank: Some(2), reason }));
        assert_eq!((&slots[0], &slots[1], &slots[3]), (&Ok(0), &Ok(2), &Ok(6)));
        team.end().await;
    }
}

#[tokio::test]
async fn results_come_as_they_are_done() {
    let team = Team::in_process(LeaderWorkerCohort::builder(), 3).await;
    let gate = Arc::new(tokio::sync::Notify::new());
    for (rank, worker) in team.workers.iter().enumerate() {
        let gate = gate.clone();
        let handler = Handler::unary("gated", move |_cx, (): ()| {
            let gate = gate.clone();
            async move {
                if rank == 0 {
                    gate.notified().await;
                }
                Ok(rank)
            }
        });
        worker.node.register(handler).unwrap();
    }
    let mut results = team.cohort.map_unordered::<(), usize>("gated", |_| ());
    let mut early = Vec::new();
    for _ in 0..2 {
        early.push(soon("a result", results.next()).await.unwrap().rank);
    }
    early.sort_unstable();
    assert_eq!(early, [1, 2]);
    gate.notify_one();
    assert_eq!(soon("the last", results.next()).await.unwrap().result, Ok(0));
    assert!(results.next().await.is_none());
    team.end().await;
}

#[tokio::test]
async fn items_are_scattered_in_rank_order_and_only_if_their_number_fits() {
    for width in [1, usize::MAX] {
        let team = Team::in_process(LeaderWorkerCohort::builder().fan_out_width(width), 5).await;
        let taken = count(&team, "take");
        let wrong = team.cohort.scatter("take", vec![1usize; 4]).await.unwrap_err();
        assert_eq!(wrong.failures.len(), 5);
        assert_eq!(counts(&taken), [0; 5]);
        soon("scatter", team.cohort.scatter("take", [1usize, 2, 3, 4, 5])).await.unwrap();
        assert_eq!(counts(&taken), [1, 2, 3, 4, 5]);
        team.end().await;
    }
}

#[tokio::test]
async fn broadcasts_reach_all_or_the_ranks_that_are_named() {
    for width in [1, usize::MAX] {
        let team = Team::in_process(LeaderWorkerCohort::builder().fan_out_width(width), 7).await;
        let taken = count(&team, "take");
        let sent = soon("sending", team.cohort.broadcast("take", &1usize)).await;
        assert_eq!(sent, vec![Ok(()); 7]);
        until("all have it", || counts(&taken) == [1; 7]).await;
        soon("acks", team.cohort.ranks(2..5).broadcast_acked("take", &10usize)).await.unwrap();
        assert_eq!(counts(&taken), [1, 1, 11, 11, 11, 1, 1]);
        team.cohort.send(6, "take", &100usize).await.unwrap();
        until("rank 6 has it", || counts(&taken)[6] == 101).await;
        team.cohort.confirm(0, "take", &1000usize).await.unwrap();
        assert_eq!(counts(&taken)[0], 1001);
        let none = team.cohort.send(7, "take", &1usize).await.unwrap_err();
        assert!(matches!(none, CohortError::Vacant { rank: 7, .. }), "{none}");
        team.end().await;
    }
}

#[tokio::test]
async fn raw_payloads_and_long_ones_arrive_whole_both_ways() {
    let team = Team::in_process(wide(), 6).await;
    for worker in &team.workers {
        worker.node.register(Handler::unary("echo", |_cx, payload: Raw| async move { Ok(payload) })).unwrap();
    }
    let flat = team.cohort.flat();
    for len in [0, 10, 100_000, 3 << 20] {
        let payload = Raw::from(vec![7u8; len]);
        for cohort in [&team.cohort, &flat] {
            let echoed = soon("echoes", cohort.broadcast_responses::<Raw>("echo", &payload)).await;
            assert!(echoed.iter().all(|echo| echo.as_ref() == Ok(&payload)), "{len}: {echoed:?}");
        }
    }
    team.end().await;
}

#[tokio::test]
async fn stragglers_are_named_and_the_others_answers_are_kept() {
    for width in [1, usize::MAX] {
        let team = Team::in_process(LeaderWorkerCohort::builder().fan_out_width(width), 4).await;
        for (rank, worker) in team.workers.iter().enumerate() {
            let handler = Handler::unary("slow_at_0", move |cx, (): ()| async move {
                if rank == 0 {
                    cx.cancelled().await;
                }
                Ok(rank)
            });
            worker.node.register(handler).unwrap();
        }
        // In a tree rank 0 has others to answer for.
        let cohort = team.cohort.within(Duration::from_secs(2));
        let reduced = cohort.reduce::<(), usize>("slow_at_0", |_| (), usize::max);
        let error = soon("the deadline", reduced).await.unwrap_err();
        assert_eq!(error.stragglers(), [0], "{error}");
        assert_eq!(error.to_string(), "1 of 4 ranks failed; not done by the deadline: ranks 0");
        team.end().await;
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_at_all_ranks() {
    for width in [1, usize::MAX] {
        let team = Team::in_process(LeaderWorkerCohort::builder().fan_out_width(width), 8).await;
        let (running, cancelled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for worker in &team.workers {
            let (running, cancelled) = (running.clone(), cancelled.clone());
            let handler = Handler::unary("endless", move |cx, (): ()| {
                let (running, cancelled) = (running.clone(), cancelled.clone());
                async move {
                    running.fetch_add(1, Ordering::SeqCst);
                    cx.cancelled().await;
                    cancelled.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }
            });
            worker.node.register(handler).unwrap();
        }
        let cohort = team.cohort.clone();
        let call = tokio::spawn(async move { cohort.broadcast_acked("endless", &()).await });
        until("all run", || running.load(Ordering::SeqCst) == 8).await;
        call.abort();
        until("all are cancelled", || cancelled.load(Ordering::SeqCst) == 8).await;
        team.end().await;
    }
}

#[tokio::test]
async fn a_worker_that_does_not_relay_or_listens_nowhere_is_called_by_the_leader_itself() {
    let leader = common::server().await;
    let cohort = wide().size(9).start(&leader.client()).unwrap();
    let mut workers = Vec::new();
    for rank in 0..9 {
        let builder = ActiveMessageManager::builder();
        // Three listen nowhere, three hand nothing on.
        let builder = if rank % 3 == 0 { builder } else { builder.listen("tcp://127.0.0.1:0") };
        let node = builder.start().await.unwrap();
        team::register(&node, rank);
        let options = JoinOptions { rank: Some(rank), relays: rank % 3 != 1, ..JoinOptions::default() };
        let membership = node.client().join_cohort_with(&leader.endpoints()[0], options).await.unwrap();
        workers.push(team::Worker { node, membership });
    }
    let team = Team { leader, cohort, workers };
    let answers = soon("answers", team.cohort.par_map::<usize, usize>("rank_plus", |rank| rank)).await;
    assert_eq!(answers, (0..9).map(|rank| Ok(2 * rank)).collect::<Vec<_>>());
    assert_eq!(links(&team), 2, "rank 2 hands on to rank 5, and nobody else to anybody");
    team.end().await;
}
