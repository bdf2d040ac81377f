//! What the tests of cohorts share: a leader, its cohort, and workers in this process.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

use dynamo_am::cohort::{CohortBuilder, LeaderWorkerCohort, WorkerMembership};
use dynamo_am::{ActiveMessageManager, Endpoint, Handler};

use crate::common::{PATIENCE, server, soon, unique};

/// A leader with its cohort and the workers that have joined.
pub(crate) struct Team {
    pub(crate) leader: ActiveMessageManager,
    pub(crate) cohort: LeaderWorkerCohort,
    pub(crate) workers: Vec<Worker>,
}

pub(crate) struct Worker {
    pub(crate) node: ActiveMessageManager,
    pub(crate) membership: WorkerMembership,
}

/// A node that can be a worker, and listens nowhere.
pub(crate) async fn worker() -> ActiveMessageManager {
    let node = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
    let me = node.instance_id().to_string();
    node.register(Handler::unary("who", move |_cx, (): ()| {
        let me = me.clone();
        async move { Ok(me) }
    }))
    .unwrap();
    node
}

/// The handlers of a worker that knows its rank.
pub(crate) fn register(node: &ActiveMessageManager, rank: usize) {
    node.register(Handler::unary("rank_plus", move |_cx, n: usize| async move { Ok(rank + n) })).unwrap();
}

impl Team {
    /// With so many workers, who ask for the ranks from 0.
    pub(crate) async fn start(builder: CohortBuilder, workers: usize) -> Self {
        Self::form(builder, (0..workers).map(Some)).await
    }

    /// With so many workers, who ask for none.
    pub(crate) async fn start_unranked(builder: CohortBuilder, workers: usize) -> Self {
        Self::form(builder, (0..workers).map(|_| None)).await
    }

    async fn form(builder: CohortBuilder, ranks: impl Iterator<Item = Option<usize>>) -> Self {
        let leader = server().await;
        let cohort = builder.start(&leader.client()).unwrap();
        let mut team = Self { leader, cohort, workers: Vec::new() };
        for rank in ranks {
            let node = worker().await;
            register(&node, team.workers.len());
            let membership = soon("joining", node.client().join_cohort(team.endpoint(), rank)).await.unwrap();
            team.workers.push(Worker { node, membership });
        }
        team
    }

    /// A whole cohort whose nodes are linked within this process; the workers can be reached by each other.
    pub(crate) async fn in_process(builder: CohortBuilder, workers: usize) -> Self {
        let at = format!("inproc://{}", unique("leader"));
        let leader = ActiveMessageManager::builder().listen(at).start().await.unwrap();
        let cohort = builder.size(workers).start(&leader.client()).unwrap();
        let mut team = Self { leader, cohort, workers: Vec::new() };
        for rank in 0..workers {
            let at = format!("inproc://{}", unique("worker"));
            let node = ActiveMessageManager::builder().listen(at).start().await.unwrap();
            register(&node, rank);
            let joining = node.client().join_cohort(team.endpoint(), Some(rank)).await;
            team.workers.push(Worker { node, membership: joining.unwrap() });
        }
        soon("readiness", team.cohort.wait_ready(PATIENCE)).await.unwrap();
        team
    }

    /// Where workers join.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.leader.endpoints()[0].clone()
    }

    /// Ends all in good order: no worker fails to answer.
    pub(crate) async fn end(self) {
        let Self { leader, cohort, workers } = self;
        let going = workers.into_iter().map(|worker| {
            tokio::spawn(async move {
                worker.membership.ended().await;
                worker.node.shutdown().await.unwrap();
            })
        });
        let going: Vec<_> = going.collect();
        let report = soon("the cohort's end", cohort.shutdown(PATIENCE)).await.unwrap();
        assert_eq!(report.lingering, []);
        for gone in going {
            soon("a worker's end", gone).await.unwrap();
        }
        soon("the leader's end", leader.shutdown()).await.unwrap();
    }
}
