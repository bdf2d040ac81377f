//! Forming a cohort: ranks, refusals, events, leaving, coming back; leader and workers are nodes of this process.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;
mod team;

use std::time::Duration;

use common::{PATIENCE, caller, server, soon, until};
use dynamo_am::cohort::{
    AddWorkerError, CohortBuilder, CohortError, CohortEvent, CohortEvents, FailurePolicy, JoinError,
    JoinOptions, JoinRefusal, LeaderWorkerCohort, MemberInfo, MembershipEnd, MembershipEvent,
    StartCohortError, WaitReadyError, WorkerMembership,
};
use dynamo_am::{ActiveMessageManager, Handler, InstanceId};
use team::{Team, Worker, register, worker};

async fn refused(team: &Team, rank: Option<usize>) -> JoinRefusal {
    let node = worker().await;
    match soon("an answer", node.client().join_cohort(team.endpoint(), rank)).await {
        Err(JoinError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

async fn next(events: &mut CohortEvents) -> CohortEvent {
    soon("an event", events.next()).await.unwrap()
}

async fn next_membership(events: &mut CohortEvents) -> MembershipEvent {
    loop {
        if let CohortEvent::Membership(event) = next(events).await {
            return event;
        }
    }
}

fn fixed(size: usize) -> CohortBuilder {
    LeaderWorkerCohort::builder().size(size)
}

fn info(cohort: &LeaderWorkerCohort) -> Vec<Option<usize>> {
    cohort.members().iter().map(|member| member.rank).collect()
}

#[tokio::test]
async fn a_rank_that_is_taken_is_refused_and_named() {
    let team = Team::start(fixed(2), 1).await;
    let by = team.workers[0].node.instance_id();
    assert_eq!(refused(&team, Some(0)).await, JoinRefusal::RankTaken { rank: 0, by });
    team.end().await;
}

#[tokio::test]
async fn a_rank_out_of_range_is_refused_from_the_first_joiner_on() {
    let team = Team::start(fixed(2), 0).await;
    let mut events = team.cohort.events();
    assert_eq!(refused(&team, Some(2)).await, JoinRefusal::RankOutOfRange { rank: 2, end: 2 });
    assert!(matches!(next(&mut events).await, CohortEvent::Refused { .. }));
    assert_eq!(team.cohort.members(), []);
    team.end().await;
}

#[tokio::test]
async fn ranked_and_unranked_workers_do_not_mix() {
    let team = Team::start(fixed(2), 1).await;
    assert_eq!(refused(&team, None).await, JoinRefusal::Mixed { cohort_is_ranked: true });
    team.end().await;
    let team = Team::start_unranked(fixed(2), 1).await;
    assert_eq!(refused(&team, Some(1)).await, JoinRefusal::Mixed { cohort_is_ranked: false });
    team.end().await;
}

#[tokio::test]
async fn who_comes_too_late_is_told_so() {
    let team = Team::start_unranked(fixed(2), 2).await;
    assert_eq!(refused(&team, None).await, JoinRefusal::Full { size: 2 });
    team.end().await;
    let team = Team::start_unranked(LeaderWorkerCohort::builder(), 1).await;
    team.cohort.close();
    assert_eq!(refused(&team, None).await, JoinRefusal::Closed);
    team.end().await;
}

#[tokio::test]
async fn the_same_instance_with_another_rank_is_refused_and_alike_it_is_one_joining() {
    let team = Team::start(fixed(3), 1).await;
    let client = team.workers[0].node.client();
    let again = client.join_cohort(team.endpoint(), Some(2)).await.unwrap_err();
    let expected = JoinRefusal::OtherRank { has: Some(0), asked: Some(2) };
    assert!(matches!(&again, JoinError::Refused(refusal) if *refusal == expected), "{again}");
    let twice = client.join_cohort(team.endpoint(), Some(0)).await.unwrap();
    assert_eq!((twice.rank(), info(&team.cohort)), (Some(0), vec![Some(0)]));
    // Of two handles of one membership the first to be dropped ends nothing.
    drop(twice);
    assert_eq!(team.cohort.call::<usize>(0, "rank_plus", &5).await, Ok(5));
    team.end().await;
}

#[tokio::test]
async fn the_leader_decides_who_may_join_and_says_why_not() {
    let builder = fixed(2).admit(|request| match request.rank {
        Some(0) => Ok(()),
        _ => Err("only rank 0 is welcome".to_owned()),
    });
    let team = Team::start(builder, 1).await;
    let reason = "only rank 0 is welcome".to_owned();
    assert_eq!(refused(&team, Some(1)).await, JoinRefusal::NotAdmitted { reason });
    team.end().await;
}

#[tokio::test]
async fn the_leader_may_give_the_ranks() {
    let team = Team::start(fixed(3).assign_ranks(|request| request.rank.map(|wish| 2 - wish)), 3).await;
    let ranks: Vec<_> = team.workers.iter().map(|worker| worker.membership.rank()).collect();
    assert_eq!(ranks, [Some(2), Some(1), Some(0)]);
    team.end().await;
}

#[tokio::test]
async fn unranked_workers_have_their_joining_position_in_every_collective() {
    let team = Team::start_unranked(fixed(3), 3).await;
    for (position, worker) in team.workers.iter().enumerate() {
        assert_eq!((worker.membership.rank(), worker.membership.size()), (Some(position), Some(3)));
    }
    let ids: Vec<_> = team.workers.iter().map(|worker| worker.node.instance_id().to_string()).collect();
    let answers = team.cohort.gather::<String>("who").await;
    assert_eq!(answers, ids.into_iter().map(Ok).collect::<Vec<_>>());
    team.end().await;
}

#[tokio::test]
async fn an_open_cohort_takes_whoever_comes() {
    let team = Team::start_unranked(LeaderWorkerCohort::builder(), 5).await;
    let doubled = team.cohort.par_map::<usize, usize>("rank_plus", |rank| rank).await;
    assert_eq!(doubled, (0..5).map(|rank| Ok(2 * rank)).collect::<Vec<_>>());
    team.end().await;
}

#[tokio::test]
async fn waiting_names_the_ranks_that_are_missing() {
    let team = Team::start(fixed(6), 1).await;
    let error = team.cohort.wait_ready(Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(&error, WaitReadyError::Missing { missing, .. } if *missing == [1, 2, 3, 4, 5]));
    assert!(error.to_string().contains("ranks 1-5"), "{error}");
    team.end().await;
}

#[tokio::test]
async fn a_node_leads_several_cohorts_and_joins_several() {
    let leader = server().await;
    let at = leader.endpoints()[0].clone();
    let names = ["red", "blue"];
    let cohorts = names.map(|name| fixed(1).name(name).start(&leader.client()).unwrap());
    let taken = fixed(1).name("red").start(&leader.client()).unwrap_err();
    assert!(matches!(taken, StartCohortError::Register { .. }), "{taken}");
    let node = worker().await;
    register(&node, 0);
    let mut memberships = Vec::new();
    for name in names {
        let options = JoinOptions { cohort: name.to_owned(), rank: Some(0), ..JoinOptions::default() };
        memberships.push(node.client().join_cohort_with(&at, options).await.unwrap());
    }
    for cohort in &cohorts {
        assert_eq!(cohort.call::<usize>(0, "rank_plus", &1).await, Ok(1));
    }
    // One cohort's end is not the other's.
    let [red, blue] = cohorts;
    let red_membership = memberships.remove(0);
    let ended = tokio::spawn(async move { red_membership.ended().await });
    soon("the end of red", red.shutdown(PATIENCE)).await.unwrap();
    assert_eq!(soon("the word of it", ended).await.unwrap(), MembershipEnd::ShutDown);
    assert_eq!(blue.call::<usize>(0, "rank_plus", &1).await, Ok(1));
    // The name is free again.
    drop(fixed(1).name("red").start(&leader.client()).unwrap());
}

#[tokio::test]
async fn a_cohort_of_no_workers_or_with_a_bad_name_does_not_start() {
    let node = caller().await;
    let size = fixed(0).start(&node.client()).unwrap_err();
    assert!(matches!(size, StartCohortError::Size { size: 0, .. }), "{size}");
    let name = fixed(1).name("a/b").start(&node.client()).unwrap_err();
    assert!(matches!(name, StartCohortError::Name { .. }), "{name}");
}

#[tokio::test]
async fn a_cohort_that_is_not_led_is_waited_for_and_then_an_error() {
    let leader = server().await;
    let node = caller().await;
    let options = JoinOptions { wait_for_cohort: Duration::from_millis(20), ..JoinOptions::default() };
    let error = node.client().join_cohort_with(&leader.endpoints()[0], options).await.unwrap_err();
    assert!(matches!(error, JoinError::NoSuchCohort { .. }), "{error}");
    let early = node.client();
    let at = leader.endpoints()[0].clone();
    let joining = tokio::spawn(async move { early.join_cohort(at, None).await });
    until("the worker is linked", || !leader.client().peers().is_empty()).await;
    let cohort = fixed(1).start(&leader.client()).unwrap();
    let membership = soon("the joining", joining).await.unwrap().unwrap();
    assert_eq!((membership.rank(), cohort.members().len()), (Some(0), 1));
}

#[tokio::test]
async fn leaving_and_removing_free_the_rank_are_events_and_no_failure() {
    let team = Team::start(fixed(3).on_failure(FailurePolicy::FailAll), 3).await;
    let mut events = team.cohort.events();
    let Team { leader, cohort, mut workers } = team;
    let Worker { node, membership } = workers.pop().unwrap();
    let leaver = node.instance_id();
    soon("leaving", membership.leave()).await;
    let left = MembershipEvent::Left { rank: Some(2), worker: leaver };
    assert_eq!(next_membership(&mut events).await, left);

    let removed = workers[1].node.instance_id();
    assert!(cohort.remove(removed).await && !cohort.remove(removed).await);
    let event = MembershipEvent::Removed { rank: Some(1), worker: removed };
    assert_eq!(next_membership(&mut events).await, event);
    assert_eq!(soon("the word of it", workers[1].membership.ended()).await, MembershipEnd::Removed);

    // The rest goes on, and the free ranks can be taken; who left may come back.
    let sum = cohort.reduce::<usize, usize>("rank_plus", |rank| rank, |a, b| a + b).await;
    assert_eq!(sum, Ok(0));
    let slots = cohort.par_map::<usize, usize>("rank_plus", |rank| rank).await;
    assert!(matches!(&slots[..], [Ok(0), Err(CohortError::Vacant { .. }), Err(CohortError::Vacant { .. })]));
    let back = node.client().join_cohort(&leader.endpoints()[0], Some(1)).await.unwrap();
    assert_eq!(back.rank(), Some(1));
    assert_eq!(cohort.call::<usize>(1, "rank_plus", &1).await, Ok(3));
}

#[tokio::test]
async fn a_worker_named_by_its_endpoint_needs_to_know_nothing() {
    let team = Team::start(fixed(2), 1).await;
    let plain = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").start().await.unwrap();
    plain.register(Handler::unary("rank_plus", |_cx, n: usize| async move { Ok(n + 100) })).unwrap();
    let taken = team.cohort.add_worker(&plain.endpoints()[0], Some(0)).await.unwrap_err();
    assert!(matches!(taken, AddWorkerError::Refused(JoinRefusal::RankTaken { rank: 0, .. })), "{taken}");
    let member = team.cohort.add_worker(&plain.endpoints()[0], Some(1)).await.unwrap();
    let expected = (Some(1), plain.instance_id());
    assert_eq!((member.rank, member.worker), expected);
    soon("readiness", team.cohort.wait_ready(PATIENCE)).await.unwrap();
    let answers = team.cohort.par_map::<usize, usize>("rank_plus", |rank| rank).await;
    assert_eq!(answers, [Ok(0), Ok(101)]);
    let dead = team.cohort.add_worker("inproc://nobody-is-here", None).await.unwrap_err();
    assert!(matches!(dead, AddWorkerError::Connect(_)), "{dead}");
    team.end().await;
}

#[tokio::test]
async fn a_handler_that_one_worker_lacks_is_not_on_all_and_it_is_named() {
    let team = Team::start(fixed(3), 3).await;
    let special = || Handler::unary("special", |_cx, (): ()| async move { Ok(()) });
    for rank in [0, 2] {
        team.workers[rank].node.register(special()).unwrap();
    }
    let found = team.cohort.await_handler_on_all("special", Duration::from_millis(20)).await;
    assert!(!found.is_on_all());
    assert_eq!(found.missing.iter().map(|missing| missing.rank).collect::<Vec<_>>(), [1]);
    let cohort = team.cohort.clone();
    let waiting = tokio::spawn(async move { cohort.await_handler_on_all("special", PATIENCE).await });
    team.workers[1].node.register(special()).unwrap();
    assert!(soon("the handler", waiting).await.unwrap().is_on_all());
    team.end().await;
}

async fn join_as(identity: InstanceId, team: &Team, rank: usize) -> (ActiveMessageManager, WorkerMembership) {
    let node = ActiveMessageManager::builder().identity(identity).start().await.unwrap();
    node.register(Handler::unary("rank_plus", move |_cx, n: usize| async move { Ok(rank + n) })).unwrap();
    let membership = soon("joining", node.client().join_cohort(team.endpoint(), Some(rank))).await.unwrap();
    (node, membership)
}

#[tokio::test]
async fn a_worker_that_comes_back_under_its_identity_has_its_rank_back() {
    let team = Team::start(fixed(2).on_failure(FailurePolicy::FailAll).grace(PATIENCE), 1).await;
    let mut events = team.cohort.events();
    let identity: InstanceId = "5d1c4f2e-9f1f-4c3a-8a0e-0b6f5d6a7c11".parse().unwrap();
    let (node, membership) = join_as(identity, &team, 1).await;
    assert!(matches!(next_membership(&mut events).await, MembershipEvent::Joined { rank: Some(1), .. }));
    assert_eq!(next_membership(&mut events).await, MembershipEvent::Ready);
    // As a kill would.
    drop(node);
    assert_eq!(next_membership(&mut events).await, MembershipEvent::Away { rank: 1, worker: identity });
    let away = team.cohort.members().remove(1);
    assert_eq!((away.rank, away.is_present), (Some(1), false));
    assert_eq!(refused(&team, Some(1)).await, JoinRefusal::RankTaken { rank: 1, by: identity });
    // A call to the rank waits for it.
    let cohort = team.cohort.clone();
    let waiting = tokio::spawn(async move { cohort.call::<usize>(1, "rank_plus", &41).await });
    let (again, second) = join_as(identity, &team, 1).await;
    let back = MembershipEvent::Returned { rank: Some(1), worker: identity, restarted: true };
    assert_eq!(next_membership(&mut events).await, back);
    assert_eq!(soon("the answer", waiting).await.unwrap(), Ok(42));
    drop((membership, second));
    again.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_whose_link_breaks_goes_back_to_its_rank_by_itself() {
    let team = Team::start(fixed(1).grace(PATIENCE), 1).await;
    let mut events = team.cohort.events();
    let client = team.leader.client();
    let peer = client.peer(team.workers[0].node.instance_id()).unwrap();
    client.disconnect(&peer).await;
    assert!(matches!(next_membership(&mut events).await, MembershipEvent::Away { rank: 0, .. }));
    let back = next_membership(&mut events).await;
    assert!(matches!(back, MembershipEvent::Returned { rank: Some(0), restarted: false, .. }), "{back:?}");
    assert_eq!(team.cohort.call::<usize>(0, "rank_plus", &3).await, Ok(3));
    team.end().await;
}

#[tokio::test]
async fn a_membership_that_is_dropped_is_a_loss_without_grace() {
    let team = Team::start(fixed(2).grace(PATIENCE), 2).await;
    let mut events = team.cohort.events();
    let Team { leader, cohort, mut workers } = team;
    let Worker { node, membership } = workers.pop().unwrap();
    drop(membership);
    let lost = MembershipEvent::Lost { rank: Some(1), worker: node.instance_id() };
    assert_eq!(next_membership(&mut events).await, lost);
    let slot = cohort.call::<usize>(1, "rank_plus", &1).await.unwrap_err();
    assert!(matches!(slot, CohortError::Vacant { rank: 1, .. }) && slot.is_retry_safe(), "{slot}");
    leader.shutdown().await.unwrap();
}

#[tokio::test]
async fn shutdown_ends_when_the_last_worker_is_gone_and_says_how_they_went() {
    let team = Team::start(fixed(3), 3).await;
    let Team { leader: _leader, cohort, workers } = team;
    let mut ended = Vec::new();
    let mut keeper = None;
    for worker in workers {
        if worker.membership.rank() == Some(2) {
            keeper = Some(worker);
            continue;
        }
        ended.push(tokio::spawn(async move {
            let end = worker.membership.ended().await;
            worker.node.shutdown().await.unwrap();
            end
        }));
    }
    let report = soon("the end", cohort.shutdown(Duration::from_millis(300))).await.unwrap();
    let ranks = |members: &[MemberInfo]| members.iter().map(|member| member.rank).collect::<Vec<_>>();
    assert_eq!((ranks(&report.gone), ranks(&report.lingering)), (vec![Some(0), Some(1)], vec![Some(2)]));
    for end in ended {
        assert_eq!(end.await.unwrap(), MembershipEnd::ShutDown);
    }
    assert_eq!(keeper.unwrap().membership.ended().await, MembershipEnd::ShutDown);
    let after = cohort.call::<usize>(0, "rank_plus", &1).await.unwrap_err();
    assert!(matches!(after, CohortError::Ended { .. }), "{after}");
    let late = cohort.wait_ready(PATIENCE).await.unwrap_err();
    assert!(matches!(late, WaitReadyError::Over(CohortError::Ended { .. })), "{late}");
}

#[tokio::test]
async fn the_last_handle_dropped_lets_the_workers_go() {
    let team = Team::start(fixed(1), 1).await;
    let mut events = team.cohort.events();
    drop(team.cohort);
    assert_eq!(soon("the end", team.workers[0].membership.ended()).await, MembershipEnd::ShutDown);
    assert_eq!(next(&mut events).await, CohortEvent::Ended);
    assert_eq!(soon("the end of events", events.next()).await, None);
}

#[tokio::test]
async fn a_lost_leader_is_noticed_by_its_workers() {
    let team = Team::start(fixed(2).grace(Duration::from_millis(50)), 2).await;
    let Team { leader, cohort, workers } = team;
    drop(leader);
    for worker in &workers {
        assert_eq!(soon("the end", worker.membership.ended()).await, MembershipEnd::LeaderLost);
    }
    drop(cohort);
}

#[tokio::test]
async fn a_worker_named_by_its_endpoint_that_comes_back_has_its_rank_back() {
    let leader = server().await;
    let cohort = fixed(1).grace(PATIENCE).start(&leader.client()).unwrap();
    let identity: InstanceId = "5d1c4f2e-9f1f-4c3a-8a0e-0b6f5d6a7c13".parse().unwrap();
    let at = format!("inproc://{}", common::unique("named"));
    let start = async || {
        let node = ActiveMessageManager::builder().identity(identity).listen(&at).start().await.unwrap();
        register(&node, 0);
        node
    };
    let first = start().await;
    cohort.add_worker(&at, None).await.unwrap();
    let mut events = cohort.events();
    drop(first);
    assert_eq!(next_membership(&mut events).await, MembershipEvent::Away { rank: 0, worker: identity });
    let second = start().await;
    let back = MembershipEvent::Returned { rank: Some(0), worker: identity, restarted: true };
    assert_eq!(next_membership(&mut events).await, back);
    assert_eq!(soon("an answer", cohort.call::<usize>(0, "rank_plus", &4)).await, Ok(4));
    // It knows of no end, and is gone all the same.
    let report = soon("the end", cohort.shutdown(PATIENCE)).await.unwrap();
    assert_eq!(report.gone.len(), 1);
    drop(second);
}

#[tokio::test]
async fn a_membership_that_ends_leaves_room_for_the_next_one_on_the_same_node() {
    let team = Team::start(fixed(1), 1).await;
    let Team { leader, cohort, mut workers } = team;
    let Worker { node, membership } = workers.remove(0);
    let at = leader.endpoints()[0].clone();
    assert!(cohort.remove(node.instance_id()).await);
    assert_eq!(soon("the word of it", membership.ended()).await, MembershipEnd::Removed);
    let next = soon("joining", node.client().join_cohort(&at, Some(0))).await.unwrap();
    // The old one's end is not the new one's.
    drop(membership);
    assert_eq!(cohort.call::<usize>(0, "rank_plus", &1).await, Ok(1));
    assert_eq!(
        soon("the end", cohort.shutdown(Duration::from_millis(200))).await.unwrap().lingering.len(),
        1
    );
    assert_eq!(soon("the word of it", next.ended()).await, MembershipEnd::ShutDown);
}
