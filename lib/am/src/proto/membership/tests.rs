//! The rules of joining, losing and replacing, and a random walk that keeps the invariants.

use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(2);

fn rules() -> Rules {
    Rules { size: Some(4), ranks_max: 64, spares_max: 0, grace: GRACE, replaces: false, assigns: false }
}

fn id(number: u8) -> InstanceId {
    InstanceId::from_bytes([number.max(1); 16]).unwrap()
}

fn start(number: u8) -> Incarnation {
    Incarnation::from_bytes([number; 16])
}

fn candidate(number: u8, rank: Option<usize>) -> Candidate {
    Candidate { worker: id(number), start: start(number), rank, is_spare: false, assigned: None }
}

fn events(membership: &mut Membership) -> Vec<MembershipEvent> {
    std::iter::from_fn(|| membership.poll_event()).collect()
}

fn joined(rules: Rules, ranks: &[Option<usize>]) -> Membership {
    let mut membership = Membership::new(rules);
    for (number, rank) in (1..).zip(ranks) {
        membership.join(candidate(number, *rank)).unwrap();
    }
    events(&mut membership);
    membership
}

#[test]
fn each_wrong_join_is_refused_by_its_own_reason_and_changes_nothing() {
    let mut membership = Membership::new(rules());
    assert_eq!(
        membership.join(candidate(1, Some(4))),
        Err(JoinRefusal::RankOutOfRange { rank: 4, end: 4 }),
        "the first joiner, too"
    );
    // What was refused has not settled how ranks are named.
    membership.join(candidate(1, Some(0))).unwrap();
    let refusals = [
        (candidate(2, Some(0)), JoinRefusal::RankTaken { rank: 0, by: id(1) }),
        (candidate(2, Some(9)), JoinRefusal::RankOutOfRange { rank: 9, end: 4 }),
        (candidate(2, None), JoinRefusal::Mixed { cohort_is_ranked: true }),
        (candidate(1, Some(1)), JoinRefusal::OtherRank { has: Some(0), asked: Some(1) }),
        (candidate(1, None), JoinRefusal::OtherRank { has: Some(0), asked: None }),
    ];
    for (wrong, refusal) in refusals {
        assert_eq!(membership.join(wrong), Err(refusal));
    }
    assert_eq!(membership.members().len(), 1);
    membership.close();
    assert_eq!(membership.join(candidate(2, Some(1))), Err(JoinRefusal::Closed));
    assert_eq!(membership.join(candidate(1, Some(0))), Ok(Place { rank: Some(0), is_new: false }));
}

#[test]
fn unranked_workers_take_their_position_until_the_cohort_is_full() {
    let mut membership = joined(rules(), &[None, None, None]);
    assert_eq!(membership.join(candidate(9, Some(3))), Err(JoinRefusal::Mixed { cohort_is_ranked: false }));
    assert_eq!(membership.missing(), [3]);
    assert_eq!(membership.join(candidate(4, None)), Ok(Place { rank: Some(3), is_new: true }));
    assert_eq!(events(&mut membership).last(), Some(&MembershipEvent::Ready));
    assert_eq!(membership.join(candidate(5, None)), Err(JoinRefusal::Full { size: 4 }));
    assert!(membership.handle_leave(id(2)));
    assert_eq!(membership.join(candidate(5, None)), Ok(Place { rank: Some(1), is_new: true }));
}

#[test]
fn joining_twice_alike_is_joining_once() {
    let mut membership = joined(rules(), &[Some(2)]);
    assert_eq!(membership.join(candidate(1, Some(2))), Ok(Place { rank: Some(2), is_new: false }));
    assert_eq!(events(&mut membership), []);
    assert_eq!(membership.members().len(), 1);
}

#[test]
fn the_leader_may_give_the_ranks() {
    let mut membership = Membership::new(Rules { assigns: true, ..rules() });
    let given = |number, rank, assigned| Candidate { assigned: Some(assigned), ..candidate(number, rank) };
    assert_eq!(membership.join(given(1, Some(0), 3)).unwrap().rank, Some(3));
    assert_eq!(membership.join(given(2, None, 1)).unwrap().rank, Some(1));
    assert_eq!(membership.join(given(3, None, 1)), Err(JoinRefusal::RankTaken { rank: 1, by: id(2) }));
    assert!(!membership.join(given(1, Some(0), 3)).unwrap().is_new);
}

#[test]
fn a_lost_worker_has_its_rank_for_the_grace_period_and_no_longer() {
    let now = Instant::now();
    let mut membership = joined(rules(), &[Some(0), Some(1)]);
    membership.handle_lost(now, id(2));
    assert_eq!(membership.holder(1), Holder::Awaited(id(2)));
    assert!(matches!(membership.join(candidate(3, Some(1))), Err(JoinRefusal::RankTaken { .. })));
    membership.handle_timeout(now + GRACE / 2);
    let place = membership.join(Candidate { start: start(77), ..candidate(2, Some(1)) });
    assert_eq!(place, Ok(Place { rank: Some(1), is_new: false }));
    let back = MembershipEvent::Returned { rank: Some(1), worker: id(2), restarted: true };
    assert_eq!(events(&mut membership), [MembershipEvent::Away { rank: 1, worker: id(2) }, back]);
    membership.handle_lost(now, id(2));
    assert_eq!(membership.poll_timeout(), Some(now + GRACE));
    membership.handle_timeout(now + GRACE);
    assert_eq!(membership.holder(1), Holder::Lost(id(2)));
    assert_eq!(membership.join(candidate(3, Some(1))), Ok(Place { rank: Some(1), is_new: true }));
}

#[test]
fn leaving_and_removing_free_the_rank_and_are_no_loss() {
    let mut membership = joined(Rules { replaces: true, spares_max: 2, ..rules() }, &[Some(0), Some(1)]);
    membership.join(Candidate { is_spare: true, ..candidate(8, None) }).unwrap();
    assert!(membership.handle_leave(id(1)) && membership.remove(id(2)));
    assert!(!membership.remove(id(2)));
    assert_eq!((membership.holder(0), membership.holder(1)), (Holder::GivenBack, Holder::GivenBack));
    assert_eq!(membership.poll_assignment(), None, "no spare takes a rank that was given back");
    let events = events(&mut membership);
    let left = MembershipEvent::Left { rank: Some(0), worker: id(1) };
    let removed = MembershipEvent::Removed { rank: Some(1), worker: id(2) };
    assert_eq!(events.get(1..), Some(&[left, removed][..]));
}

#[test]
fn a_spare_takes_a_lost_rank_once_it_knows() {
    let mut membership = joined(
        Rules { replaces: true, spares_max: 2, grace: Duration::ZERO, ..rules() },
        &[Some(0), Some(1)],
    );
    membership.handle_lost(Instant::now(), id(2));
    assert_eq!(membership.holder(1), Holder::Lost(id(2)));
    for number in [8, 9] {
        membership.join(Candidate { is_spare: true, ..candidate(number, None) }).unwrap();
    }
    let first = membership.poll_assignment().unwrap();
    assert_eq!(first, Assignment { rank: 1, spare: id(8) });
    assert_eq!(membership.holder(1), Holder::Awaited(id(8)));
    // It is lost before it knows: the next one.
    membership.handle_assigned(first, false);
    let second = membership.poll_assignment().unwrap();
    assert_eq!(second, Assignment { rank: 1, spare: id(9) });
    membership.handle_assigned(second, true);
    assert!(matches!(membership.holder(1), Holder::Present { worker, .. } if worker == id(9)));
    let replaced = MembershipEvent::Replaced { rank: 1, old: id(2), new: id(9) };
    assert_eq!(events(&mut membership).last(), Some(&replaced));
}

#[test]
fn surplus_workers_stand_by_only_where_losses_are_replaced() {
    let mut membership =
        joined(Rules { size: Some(1), replaces: true, spares_max: 1, ..rules() }, &[None, None]);
    assert_eq!(membership.members().iter().map(|member| member.rank).collect::<Vec<_>>(), [Some(0), None]);
    assert_eq!(membership.join(candidate(3, None)), Err(JoinRefusal::TooManySpares { limit: 1 }));
}

#[test]
fn an_open_cohort_grows_and_knows_its_holes() {
    let mut membership = joined(Rules { size: None, ..rules() }, &[Some(0), Some(2)]);
    assert_eq!((membership.ranks(), membership.missing()), (vec![0, 2], vec![1]));
    assert_eq!(
        membership.join(candidate(9, Some(64))),
        Err(JoinRefusal::RankOutOfRange { rank: 64, end: 64 })
    );
    membership.join(candidate(9, Some(1))).unwrap();
    assert_eq!(events(&mut membership).last(), Some(&MembershipEvent::Ready));
}

proptest! {
    #[test]
    fn ranks_and_members_always_agree(
        steps in proptest::collection::vec((0u8..7, 1u8..9, proptest::option::of(0usize..5)), 0..80),
        replaces: bool,
    ) {
        let mut now = Instant::now();
        let mut membership = Membership::new(Rules { replaces, spares_max: 3, ..rules() });
        for (step, number, rank) in steps {
            match step {
                0 | 1 => drop(membership.join(candidate(number, rank))),
                2 => drop(membership.join(Candidate { is_spare: true, ..candidate(number, None) })),
                3 => membership.handle_lost(now, id(number)),
                4 => drop(membership.handle_leave(id(number))),
                5 => {
                    now += GRACE / 2;
                    membership.handle_timeout(now);
                }
                _ => {
                    if let Some(assignment) = membership.poll_assignment() {
                        membership.handle_assigned(assignment, rank.is_some());
                    }
                }
            }
            let members = membership.members();
            let ranked: Vec<_> = members.iter().filter_map(|member| member.rank).collect();
            prop_assert!(ranked.windows(2).all(|pair| pair[0] < pair[1]), "a rank is held once: {ranked:?}");
            prop_assert_eq!(&ranked, &membership.ranks.keys().copied().collect::<Vec<_>>());
            prop_assert!(ranked.iter().all(|rank| *rank < 4));
            let present = members.iter().filter(|member| member.is_present && member.rank.is_some()).count();
            prop_assert_eq!(4 - membership.missing().len(), present);
            prop_assert!(members.len() - ranked.len() <= 3);
        }
    }
}
