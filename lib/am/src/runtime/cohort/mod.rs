//! Cohorts: a leader drives ranked workers. [`LeaderWorkerCohort`] is the leader's side, [`WorkerMembership`] a
//! worker's.
//!
//! All of it is built over the public API: joining is a call to a handler of the leader, an order a call to a handler
//! of the worker, a loss a link event. Who has which rank is kept by [`proto::membership`](crate::proto::membership).
//!
//! ```
//! use std::time::Duration;
//! use dynamo_am::cohort::LeaderWorkerCohort;
//! use dynamo_am::{ActiveMessageManager, Handler};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let leader = ActiveMessageManager::builder().listen("ipc://*").start().await?;
//! let cohort = LeaderWorkerCohort::builder().size(1).start(&leader.client())?;
//!
//! let worker = ActiveMessageManager::builder().start().await?;
//! worker.register(Handler::unary("double", |_cx, n: i64| async move { Ok(n * 2) }))?;
//! let membership = worker.client().join_cohort(&leader.endpoints()[0], Some(0)).await?;
//!
//! cohort.wait_ready(Duration::from_secs(5)).await?;
//! let doubled = cohort.par_map::<i64, i64>("double", |rank| rank as i64 + 21).await;
//! assert_eq!(doubled, [Ok(42)]);
//! # drop(membership);
//! # Ok(())
//! # }
//! ```

mod answer;
mod barrier;
mod call;
mod collective;
mod core;
mod error;
mod events;
mod forming;
mod hand_on;
mod ledger;
mod queue;
mod relay;
mod relay_words;
mod settings;
mod shutdown;
mod tree;
mod words;
mod worker;

pub use crate::proto::membership::{JoinRefusal, MemberInfo, MembershipEvent};
pub use collective::{MapResults, RankResult};
pub use core::LeaderWorkerCohort;
pub use error::{
    AddWorkerError, BarrierError, CohortError, CollectiveError, JoinError, StartCohortError, WaitReadyError,
};
pub use events::{CohortEvent, CohortEvents};
pub use forming::{HandlerPresence, MissingHandler};
pub use queue::{DynamicResults, ItemResult};
pub use settings::{CohortBuilder, CohortLimits, FailurePolicy, JoinRequest};
pub use shutdown::{ShutdownIncomplete, ShutdownReport};
pub use worker::{JoinOptions, MembershipEnd, RankError, WorkerMembership, rank_from_env};

/// A cohort's name where none is given.
pub const DEFAULT_NAME: &str = "default";
