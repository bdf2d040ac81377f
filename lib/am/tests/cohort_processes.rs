//! Cohorts of real processes: forming, each policy with a worker killed before, during and after its work, a leader
//! killed.
//!
//! This program starts itself again: with a role in its environment, [`as_another_process`] is a leader or a worker.
//! Such a process ends with its parent, whose end of its standard input it watches.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use common::{PATIENCE, server, soon};
use dynamo_am::cohort::{
    CohortBuilder, CohortError, CohortEvent, CohortEvents, FailurePolicy, JoinError, JoinOptions,
    LeaderWorkerCohort, MembershipEvent, WorkerMembership, rank_from_env,
};
use dynamo_am::{ActiveMessageManager, CallError, Handler, InstanceId};
use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const ROLE: &str = "DYNAMO_AM_TEST_ROLE";
const ENDPOINT: &str = "DYNAMO_AM_TEST_ENDPOINT";
const IDENTITY: &str = "DYNAMO_AM_TEST_IDENTITY";
/// Lines meant for the parent begin so; the test harness prints others, and before them on the same line.
const WORD: &str = "told: ";

/// Another process of this program. Killed when dropped.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(role: &str, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "as_another_process", "--nocapture", "--test-threads=1"]);
        for variable in ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"] {
            command.env_remove(variable);
        }
        let command = command.env(ROLE, role).envs(more.iter().copied()).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// A worker that asks for this rank.
    fn worker(endpoint: &str, rank: usize) -> Self {
        Self::ranked("worker", endpoint, rank)
    }

    fn ranked(role: &str, endpoint: &str, rank: usize) -> Self {
        Self::start(role, &[(ENDPOINT, endpoint), ("RANK", &rank.to_string())])
    }

    /// The next line meant for us.
    async fn word(&mut self) -> String {
        soon("a word of another process", async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the process has ended");
                if let Some((_, word)) = line.split_once(WORD) {
                    return word.to_owned();
                }
            }
        })
        .await
    }

    /// As kill -9.
    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends a signal by name.
    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().await.unwrap().success());
    }

    /// Its good end.
    async fn ends_well(mut self) {
        assert!(soon("the end of a process", self.child.wait()).await.unwrap().success());
    }
}

#[test]
fn as_another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut input = tokio::io::stdin();
        let part = async {
            match role.as_str() {
                "leader" => be_leader().await,
                "worker" => be_worker(false).await,
                "spare" => be_worker(true).await,
                "double" => be_double().await,
                "walker" => be_walker().await,
                other => panic!("no role `{other}`"),
            }
        };
        tokio::select! {
            () = part => {}
            _ = input.read_u8() => {}
        }
    });
    // What waits on standard input would keep the runtime.
    runtime.shutdown_background();
}

#[allow(clippy::print_stdout, reason = "the parent reads it")]
fn tell(word: impl std::fmt::Display) {
    println!("\n{WORD}{word}");
}

async fn be_leader() {
    let node = server().await;
    let grace = Duration::from_millis(200);
    let cohort = LeaderWorkerCohort::builder().size(2).grace(grace).start(&node.client()).unwrap();
    tell(&node.endpoints()[0]);
    cohort.wait_ready(PATIENCE).await.unwrap();
    tell("ready");
    std::future::pending::<()>().await;
}

async fn worker_node() -> ActiveMessageManager {
    let mut builder = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0");
    if let Ok(identity) = std::env::var(IDENTITY) {
        builder = builder.identity(identity.parse().unwrap());
    }
    let node = builder.start().await.unwrap();
    for handler in [
        Handler::unary("square", |_cx, n: u64| async move { Ok(n * n) }),
        Handler::unary("pid", |_cx, (): ()| async move { Ok(std::process::id()) }),
        // Works until it is killed, or cancelled.
        Handler::unary("toil", |cx, is_told: bool| async move {
            if is_told {
                tell("toils");
                cx.cancelled().await;
            }
            Ok(std::process::id())
        }),
        Handler::unary("deliver", |_cx, n: u64| async move {
            DELIVERED.store(n, Ordering::SeqCst);
            Ok(())
        }),
        Handler::unary("delivered", |_cx, (): ()| async move { Ok(DELIVERED.load(Ordering::SeqCst)) }),
        Handler::unary("runs", |_cx, (): ()| async move { Ok(RUNS.load(Ordering::SeqCst)) }),
        // How often it ran here; once it is told, it toils.
        Handler::unary("tally", |cx, is_told: bool| async move {
            if is_told {
                tell("toils");
                cx.cancelled().await;
            }
            Ok(RUNS.fetch_add(1, Ordering::SeqCst) + 1)
        }),
        // The same, taking its time.
        Handler::unary("dawdle", |cx, is_told: bool| async move {
            tell(if is_told { "toils" } else { "dawdles" });
            let takes = if is_told { PATIENCE } else { Duration::from_millis(500) };
            let _ = tokio::time::timeout(takes, cx.cancelled()).await;
            Ok(RUNS.fetch_add(1, Ordering::SeqCst) + 1)
        }),
    ] {
        node.register(handler).unwrap();
    }
    node
}

/// How often this process ran a handler that counts.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// What this process was given last.
static DELIVERED: AtomicU64 = AtomicU64::new(0);

async fn join(node: &ActiveMessageManager, is_spare: bool) -> Result<WorkerMembership, JoinError> {
    let options = JoinOptions { rank: rank_from_env().unwrap(), is_spare, ..JoinOptions::default() };
    node.client().join_cohort_with(std::env::var(ENDPOINT).unwrap(), options).await
}

async fn be_worker(is_spare: bool) {
    let node = worker_node().await;
    match join(&node, is_spare).await {
        Ok(membership) => {
            tell("joined");
            tell(format_args!("ended: {:?}", membership.ended().await));
        }
        Err(error) => tell(format_args!("refused: {error}")),
    }
    node.shutdown().await.unwrap();
}

/// Joins with a rank, and again with another.
async fn be_double() {
    let node = worker_node().await;
    let membership = join(&node, false).await.unwrap();
    let again = node.client().join_cohort(std::env::var(ENDPOINT).unwrap(), Some(1)).await;
    tell(format_args!("refused: {}", again.unwrap_err()));
    membership.leave().await;
    node.shutdown().await.unwrap();
}

/// Comes to one barrier after the other, until its membership ends.
async fn be_walker() {
    let node = worker_node().await;
    let membership = join(&node, false).await.unwrap();
    while membership.barrier().await.is_ok() {
        RUNS.fetch_add(1, Ordering::SeqCst);
    }
    node.shutdown().await.unwrap();
}

/// A leader here, and workers in processes of their own.
struct Crew {
    leader: ActiveMessageManager,
    cohort: LeaderWorkerCohort,
    events: CohortEvents,
    workers: Vec<Process>,
    endpoint: String,
}

impl Crew {
    /// Ranks `0..size`, all there; a lost link is a lost worker.
    async fn start(policy: FailurePolicy, size: usize) -> Self {
        let builder = LeaderWorkerCohort::builder().size(size).on_failure(policy).grace(Duration::ZERO);
        Self::with(builder, size).await
    }

    async fn with(builder: CohortBuilder, size: usize) -> Self {
        Self::of("worker", builder, size).await
    }

    async fn of(role: &str, builder: CohortBuilder, size: usize) -> Self {
        let leader = server().await;
        let cohort = builder.start(&leader.client()).unwrap();
        let endpoint = leader.endpoints()[0].to_string();
        let workers = (0..size).map(|rank| Process::ranked(role, &endpoint, rank)).collect();
        soon("readiness", cohort.wait_ready(PATIENCE)).await.unwrap();
        let events = cohort.events();
        Self { leader, cohort, events, workers, endpoint }
    }

    /// A worker that stands by.
    async fn spare(&mut self) -> Process {
        let mut spare = Process::start("spare", &[(ENDPOINT, &self.endpoint)]);
        assert_eq!(spare.word().await, "joined");
        let is_spare = |event: &MembershipEvent| matches!(event, MembershipEvent::Joined { rank: None, .. });
        self.happens(is_spare).await;
        spare
    }

    /// Waits for an event of the members.
    async fn happens(&mut self, is_it: impl Fn(&MembershipEvent) -> bool) {
        soon("the event", async {
            loop {
                match self.events.next().await.expect("the cohort has ended") {
                    CohortEvent::Membership(event) if is_it(&event) => return,
                    _ => {}
                }
            }
        })
        .await;
    }

    /// Kills the worker of a rank, and waits until that is known.
    async fn kill(&mut self, rank: usize) {
        self.workers[rank].kill().await;
        self.happens(
            |event| matches!(event, MembershipEvent::Lost { rank: Some(lost), .. } if *lost == rank),
        )
        .await;
    }

    /// Has all ranks work, with rank 1 toiling, and kills it meanwhile.
    async fn kill_during_work(&mut self, cohort: LeaderWorkerCohort) -> Vec<Result<u32, CohortError>> {
        let work = tokio::spawn(async move { cohort.par_map::<bool, u32>("toil", |rank| rank == 1).await });
        while self.workers[1].word().await != "toils" {}
        self.workers[1].kill().await;
        soon("the results", work).await.unwrap()
    }

    fn pid(&self, rank: usize) -> u32 {
        self.workers[rank].child.id().unwrap()
    }

    async fn pids(&self) -> Vec<Result<u32, CohortError>> {
        soon("answers", self.cohort.gather::<u32>("pid")).await
    }

    /// Ends the leader and whoever lives: all of them answer, and exit well.
    async fn end(mut self) {
        let report = soon("the end", self.cohort.shutdown(PATIENCE)).await.unwrap();
        assert_eq!((&report.lingering[..], &report.unanswered[..]), (&[][..], &[][..]));
        soon("the leader's end", self.leader.shutdown()).await.unwrap();
        for mut worker in self.workers.drain(..) {
            if worker.child.try_wait().unwrap().is_none() {
                worker.ends_well().await;
            }
        }
    }
}

/// 0 to `count - 1` in an order that differs from run to run.
fn shuffled(count: usize) -> Vec<usize> {
    use std::hash::{BuildHasher, RandomState};
    let chance = RandomState::new();
    let mut order: Vec<_> = (0..count).collect();
    order.sort_by_key(|rank| chance.hash_one(rank));
    order
}

#[tokio::test]
async fn sixteen_processes_that_come_in_any_order_form_a_cohort() {
    let leader = server().await;
    let cohort = LeaderWorkerCohort::builder().size(16).start(&leader.client()).unwrap();
    let endpoint = leader.endpoints()[0].to_string();
    let mut workers: Vec<_> =
        shuffled(16).into_iter().map(|rank| (rank, Process::worker(&endpoint, rank))).collect();
    soon("readiness", cohort.wait_ready(PATIENCE)).await.unwrap();
    workers.sort_by_key(|(rank, _)| *rank);
    let pids: Vec<_> = workers.iter().map(|(_, worker)| Ok(worker.child.id().unwrap())).collect();
    assert_eq!(soon("answers", cohort.gather::<u32>("pid")).await, pids);
    let report = soon("the end", cohort.shutdown(PATIENCE)).await.unwrap();
    assert_eq!((report.gone.len(), report.lingering.len()), (16, 0));
    for (_, mut worker) in workers {
        while worker.word().await != "ended: ShutDown" {}
        worker.ends_well().await;
    }
    leader.shutdown().await.unwrap();
}

#[tokio::test]
async fn processes_are_told_why_they_may_not_join() {
    let leader = server().await;
    let strangers = |request: &dynamo_am::cohort::JoinRequest| match request.rank {
        Some(3) => Err("rank 3 is for somebody else".to_owned()),
        _ => Ok(()),
    };
    let cohort = LeaderWorkerCohort::builder().size(4).admit(strangers).start(&leader.client()).unwrap();
    let endpoint = leader.endpoints()[0].to_string();
    let refusal = async |role: &str, rank: Option<&str>| {
        let mut variables = vec![(ENDPOINT, endpoint.as_str())];
        variables.extend(rank.map(|rank| ("RANK", rank)));
        let mut process = Process::start(role, &variables);
        let word = process.word().await;
        process.ends_well().await;
        word.strip_prefix("refused: ").unwrap().to_owned()
    };
    let out_of_range = refusal("worker", Some("4")).await;
    assert_eq!(out_of_range, "rank 4 is out of range: the cohort's ranks are 0 to 3");
    let mut first = Process::worker(&endpoint, 0);
    assert_eq!(first.word().await, "joined");
    let taken = refusal("worker", Some("0")).await;
    assert!(taken.starts_with("rank 0 is taken by "), "{taken}");
    let mixed = refusal("worker", None).await;
    assert!(mixed.contains("name their ranks, and this one does not"), "{mixed}");
    let not_admitted = refusal("worker", Some("3")).await;
    assert!(not_admitted.ends_with("rank 3 is for somebody else"), "{not_admitted}");
    let other_rank = refusal("double", Some("2")).await;
    assert_eq!(other_rank, "this instance is in the cohort as rank 2, and now asks for rank 1");
    cohort.close();
    let late = refusal("worker", Some("1")).await;
    assert!(late.starts_with("too late: "), "{late}");
    drop(cohort);
    first.ends_well().await;
}

#[tokio::test]
async fn fail_all_fails_everything_when_a_worker_was_killed_before_its_work() {
    let mut crew = Crew::start(FailurePolicy::FailAll, 3).await;
    crew.kill(1).await;
    let pids = crew.pids().await;
    assert_eq!(pids.len(), 3);
    for slot in pids {
        assert!(
            matches!(&slot, Err(error @ CohortError::Failed { .. }) if error.is_retry_safe()),
            "{slot:?}"
        );
    }
    crew.end().await;
}

#[tokio::test]
async fn fail_all_ends_running_calls_when_a_worker_is_killed_during_its_work() {
    let mut crew = Crew::start(FailurePolicy::FailAll, 3).await;
    // Rank 0 would work for ever.
    let cohort = crew.cohort.clone();
    let endless = tokio::spawn(async move { cohort.call::<u32>(0, "toil", &true).await });
    while crew.workers[0].word().await != "toils" {}
    let slots = crew.kill_during_work(crew.cohort.clone()).await;
    assert!(slots[1].is_err(), "{slots:?}");
    let error = soon("the failure", endless).await.unwrap().unwrap_err();
    assert!(matches!(&error, CohortError::Failed { reason, .. } if reason.contains("rank 1")), "{error}");
    assert!(!error.is_retry_safe());
    crew.end().await;
}

#[tokio::test]
async fn fail_all_keeps_what_was_done_and_lets_the_workers_go_if_asked_to() {
    let builder =
        LeaderWorkerCohort::builder().size(3).on_failure(FailurePolicy::FailAll).end_workers_on_failure();
    let mut crew = Crew::with(builder.grace(Duration::ZERO), 3).await;
    let squares = soon("answers", crew.cohort.par_map::<u64, u64>("square", |rank| rank as u64)).await;
    assert_eq!(squares, [Ok(0), Ok(1), Ok(4)]);
    crew.kill(1).await;
    assert!(crew.pids().await.iter().all(Result::is_err));
    for rank in [2, 0] {
        let mut worker = crew.workers.remove(rank);
        loop {
            let word = worker.word().await;
            if let Some(end) = word.strip_prefix("ended: ") {
                assert!(end.starts_with("CohortFailed(\"rank 1 was lost"), "{end}");
                break;
            }
        }
        worker.ends_well().await;
    }
}

#[tokio::test]
async fn fail_slot_loses_one_slot_before_during_and_after_work_and_the_rank_can_be_taken_again() {
    let mut crew = Crew::start(FailurePolicy::FailSlot, 3).await;
    let (first, last) = (crew.pid(0), crew.pid(2));
    // After its work: what it did is kept.
    let squares = soon("answers", crew.cohort.par_map::<u64, u64>("square", |rank| rank as u64)).await;
    assert_eq!(squares, [Ok(0), Ok(1), Ok(4)]);
    // During its work: it may have run.
    let slots = crew.kill_during_work(crew.cohort.clone()).await;
    assert_eq!((&slots[0], &slots[2]), (&Ok(first), &Ok(last)));
    let error = slots[1].as_ref().unwrap_err();
    assert!(
        matches!(error, CohortError::Call { rank: 1, source: CallError::PeerLost { .. }, .. }),
        "{error}"
    );
    assert!(!error.is_retry_safe());
    // Before its work: nothing was sent.
    crew.happens(|event| matches!(event, MembershipEvent::Lost { rank: Some(1), .. })).await;
    let slots = crew.pids().await;
    assert_eq!((&slots[0], &slots[2]), (&Ok(first), &Ok(last)));
    assert!(matches!(&slots[1], Err(error @ CohortError::Vacant { .. }) if error.is_retry_safe()));
    // Another process takes the rank.
    crew.workers[1] = Process::worker(&crew.endpoint, 1);
    soon("readiness", crew.cohort.wait_ready(PATIENCE)).await.unwrap();
    assert_eq!(crew.pids().await, [Ok(first), Ok(crew.pid(1)), Ok(last)]);
    crew.end().await;
}

#[tokio::test]
async fn replace_gives_the_rank_of_a_worker_killed_before_or_after_its_work_to_a_spare() {
    let mut crew = Crew::start(FailurePolicy::Replace, 3).await;
    let mut spare = crew.spare().await;
    let spare_pid = spare.child.id().unwrap();
    let squares = soon("answers", crew.cohort.par_map::<u64, u64>("square", |rank| rank as u64)).await;
    assert_eq!(squares, [Ok(0), Ok(1), Ok(4)]);
    crew.kill(1).await;
    // No waiting for the spare: the calls do that.
    let pids = crew.pids().await;
    assert_eq!(pids, [Ok(crew.pid(0)), Ok(spare_pid), Ok(crew.pid(2))]);
    // Without another one the rank stays vacant.
    spare.kill().await;
    crew.happens(|event| matches!(event, MembershipEvent::Lost { rank: Some(1), .. })).await;
    assert!(matches!(crew.pids().await[1], Err(CohortError::Vacant { rank: 1, .. })));
    crew.end().await;
}

#[tokio::test]
async fn replace_makes_a_lost_call_again_only_if_it_is_idempotent() {
    let mut crew = Crew::start(FailurePolicy::Replace, 3).await;
    let spares = [crew.spare().await, crew.spare().await];
    let slots = crew.kill_during_work(crew.cohort.clone()).await;
    let error = slots[1].as_ref().unwrap_err();
    assert!(matches!(error, CohortError::Call { source: CallError::PeerLost { .. }, .. }), "{error}");
    // Two ranks toil at once; the spare that takes the rank of the lost one is killed as well.
    let pids = crew.pids().await;
    let taken = pids[1].clone().unwrap();
    let [mut first, mut second] = spares;
    if first.child.id() != Some(taken) {
        std::mem::swap(&mut first, &mut second);
    }
    let idempotent = crew.cohort.idempotent();
    let work = tokio::spawn(async move { idempotent.call::<u32>(1, "toil", &true).await });
    while first.word().await != "toils" {}
    first.kill().await;
    // The call is made again at the second spare, which toils until it is killed; then there is nobody left.
    while second.word().await != "toils" {}
    second.kill().await;
    let error = soon("the end of it", work).await.unwrap().unwrap_err();
    assert!(matches!(error, CohortError::Call { source: CallError::PeerLost { .. }, .. }), "{error}");
    crew.end().await;
}

#[tokio::test]
async fn a_killed_leader_is_noticed_by_its_workers() {
    let mut leader = Process::start("leader", &[]);
    let endpoint = leader.word().await;
    let mut workers = [Process::worker(&endpoint, 0), Process::worker(&endpoint, 1)];
    assert_eq!(leader.word().await, "ready");
    for worker in &mut workers {
        assert_eq!(worker.word().await, "joined");
    }
    leader.kill().await;
    for worker in &mut workers {
        assert_eq!(worker.word().await, "ended: LeaderLost");
    }
    for worker in workers {
        worker.ends_well().await;
    }
}

#[tokio::test]
async fn a_stopped_worker_is_noticed_by_its_silence_and_has_its_rank_back_when_it_goes_on() {
    let builder = LeaderWorkerCohort::builder().size(2).grace(PATIENCE);
    let crew = Crew::with(builder, 2).await;
    crew.workers[1].signal("-STOP").await;
    let error = loop {
        let mut slots = crew.pids().await;
        assert!(slots[0].is_ok());
        // It may have answered before the signal came to it.
        if let Err(error) = slots.remove(1) {
            break error;
        }
    };
    assert!(matches!(error, CohortError::Call { source: CallError::PeerLost { .. }, .. }), "{error}");
    crew.workers[1].signal("-CONT").await;
    // A call waits for the worker to be back.
    assert_eq!(crew.pids().await, [Ok(crew.pid(0)), Ok(crew.pid(1))]);
    crew.end().await;
}

#[tokio::test]
async fn a_killed_process_that_comes_back_under_its_identity_has_its_rank_back() {
    let leader = server().await;
    let cohort = LeaderWorkerCohort::builder().size(1).grace(PATIENCE).start(&leader.client()).unwrap();
    let endpoint = leader.endpoints()[0].to_string();
    let identity: InstanceId = "5d1c4f2e-9f1f-4c3a-8a0e-0b6f5d6a7c12".parse().unwrap();
    let text = identity.to_string();
    let variables = [(ENDPOINT, endpoint.as_str()), (IDENTITY, text.as_str()), ("RANK", "0")];
    let mut first = Process::start("worker", &variables);
    soon("readiness", cohort.wait_ready(PATIENCE)).await.unwrap();
    let mut events = cohort.events();
    first.kill().await;
    let away = CohortEvent::Membership(MembershipEvent::Away { rank: 0, worker: identity });
    assert_eq!(soon("the loss", events.next()).await, Some(away));
    let second = Process::start("worker", &variables);
    let pid = soon("an answer", cohort.call::<u32>(0, "pid", &())).await.unwrap();
    assert_eq!(Some(pid), second.child.id());
    let back = MembershipEvent::Returned { rank: Some(0), worker: identity, restarted: true };
    assert_eq!(soon("the return", events.next()).await, Some(CohortEvent::Membership(back)));
    soon("the end", cohort.shutdown(PATIENCE)).await.unwrap();
    second.ends_well().await;
}

#[tokio::test]
async fn items_of_a_killed_worker_go_to_others_and_each_is_answered_once() {
    let mut crew = Crew::start(FailurePolicy::FailSlot, 4).await;
    let items = futures::stream::iter(0u64..4000);
    let mut results = crew.cohort.for_each_dynamic::<u64, u64>("square", items, 8);
    let mut seen = vec![false; 4000];
    let mut count = 0;
    while let Some(item) = soon("a result", results.next()).await {
        assert_eq!(item.result, Ok(item.index * item.index));
        let index = usize::try_from(item.index).unwrap();
        assert!(!std::mem::replace(&mut seen[index], true), "item {index} came twice");
        count += 1;
        if count == 1000 {
            crew.workers[2].kill().await;
        }
    }
    assert_eq!(count, 4000);
    drop(results);
    crew.end().await;
}

#[tokio::test]
async fn an_item_that_kills_its_workers_is_given_up_and_without_workers_the_queue_ends() {
    let mut crew = Crew::start(FailurePolicy::FailSlot, 3).await;
    let cohort = crew.cohort.within(Duration::from_millis(500));
    // Endless input: nothing is read ahead.
    let mut results = crew.cohort.for_each_dynamic::<bool, u32>("toil", futures::stream::iter([true]), 1);
    let killing = async {
        for _ in 0..3 {
            let words = crew.workers.iter_mut().enumerate().map(|(at, worker)| {
                Box::pin(async move {
                    while worker.word().await != "toils" {}
                    at
                })
            });
            let (at, ..) = futures::future::select_all(words).await;
            crew.workers.remove(at).kill().await;
        }
    };
    let (item, ()) = soon("giving up", futures::future::join(results.next(), killing)).await;
    let error = item.unwrap().result.unwrap_err();
    assert!(matches!(error, CohortError::Call { source: CallError::PeerLost { .. }, .. }), "{error}");
    assert!(results.next().await.is_none());
    let mut stranded = cohort.for_each_dynamic::<bool, u32>("toil", futures::stream::repeat(true), 1);
    let error = soon("no workers", stranded.next()).await.unwrap().result.unwrap_err();
    assert!(matches!(error, CohortError::NoWorkers { .. }) && error.is_retry_safe(), "{error}");
    assert!(soon("the end", stranded.next()).await.is_none());
}

/// Rank 0 of eight hands on to ranks 1 to 3; it is killed while they work, or have worked.
async fn check_that_a_lost_way_loses_one_rank(others_toil: bool) {
    let builder = LeaderWorkerCohort::builder().size(8).fan_out_width(1).grace(Duration::ZERO);
    let mut crew = Crew::with(builder, 8).await;
    let all: Vec<_> = (0..8).map(|rank| Ok(crew.pid(rank))).collect();
    assert_eq!(crew.pids().await, all);
    let handler = if others_toil { "dawdle" } else { "tally" };
    let cohort = crew.cohort.clone();
    let work = tokio::spawn(async move { cohort.par_map::<bool, u32>(handler, |rank| rank == 0).await });
    while crew.workers[0].word().await != "toils" {}
    if others_toil {
        // The deepest of its branch runs.
        while crew.workers[2].word().await != "dawdles" {}
    }
    crew.workers[0].kill().await;
    let slots = soon("the results", work).await.unwrap();
    let error = slots[0].as_ref().unwrap_err();
    assert!(
        matches!(error, CohortError::Call { rank: 0, source: CallError::PeerLost { .. }, .. }),
        "{error}"
    );
    // Each has run once, and its answer has come.
    assert_eq!(slots[1..], [Ok(1), Ok(1), Ok(1), Ok(1), Ok(1), Ok(1), Ok(1)]);
    // The next call goes another way.
    crew.happens(|event| matches!(event, MembershipEvent::Lost { rank: Some(0), .. })).await;
    assert_eq!(crew.pids().await[1..], all[1..]);
    crew.end().await;
}

#[tokio::test]
async fn a_killed_worker_that_hands_on_loses_no_answer_but_its_own() {
    check_that_a_lost_way_loses_one_rank(false).await;
}

#[tokio::test]
async fn calls_that_a_killed_worker_has_handed_on_run_on_and_run_once() {
    check_that_a_lost_way_loses_one_rank(true).await;
}

#[tokio::test]
async fn processes_reduce_and_meet_at_barriers_alike_flat_and_down_the_tree() {
    for size in [1, 2, 3, 5, 8, 16, 33] {
        let builder = LeaderWorkerCohort::builder().size(size).fan_out_width(1);
        let crew = Crew::of("walker", builder, size).await;
        let flat = crew.cohort.flat();
        let sum: u64 = (0..size as u64).map(|rank| rank * rank).sum();
        for (passed, cohort) in (0..).zip([&crew.cohort, &flat]) {
            let square = |rank| rank as u64;
            let reduced = cohort.all_reduce::<u64, u64>("square", square, |a, b| a + b, "deliver");
            assert_eq!(soon("the sum", reduced).await, Ok(sum));
            let delivered = soon("answers", cohort.gather::<u64>("delivered")).await;
            assert_eq!(delivered, vec![Ok(sum); size]);
            // Nobody passes without the leader, and then everybody does, once.
            assert_eq!(soon("answers", cohort.gather::<u32>("runs")).await, vec![Ok(passed); size]);
            soon("the barrier", cohort.barrier()).await.unwrap();
            soon("the passing", async {
                while cohort.gather::<u32>("runs").await != vec![Ok(passed + 1); size] {}
            })
            .await;
        }
        crew.end().await;
    }
}
