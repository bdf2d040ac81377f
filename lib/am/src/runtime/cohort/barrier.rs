//! A barrier of a leader and all its ranks: nobody passes before everybody has come.
//!
//! Two rounds: each worker answers the first when it has come, and is let on by the second. Both go down the tree
//! where the cohort is wide.

use super::LeaderWorkerCohort;
use super::answer::Done;
use super::collective::all_of;
use super::error::CollectiveError;
use super::words::{Control, Order, control_name};

impl LeaderWorkerCohort {
    /// Waits until the worker of each rank has called [`WorkerMembership::barrier`](super::WorkerMembership::barrier),
    /// and lets all of them on. Workers that were named by their endpoints take no part.
    ///
    /// # Errors
    ///
    /// When a rank has not come by the deadline, or is lost; those that wait get an error, too. The next barrier is
    /// another one.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the last has come, the workers wait until the next barrier of the leader.
    pub async fn barrier(&self) -> Result<(), CollectiveError> {
        let barrier = self.core.update(|book| {
            book.barriers += 1;
            book.barriers
        });
        let arrived = self.ordered(Order::Arrive { barrier }).await;
        let error = arrived.as_ref().err().map(ToString::to_string);
        let released = self.ordered(Order::Release { barrier, error }).await;
        arrived.and(released)
    }

    async fn ordered(&self, order: Order) -> Result<(), CollectiveError> {
        let core = &self.core;
        let name = control_name(&core.settings.name, core.client.instance_id());
        let mut all = self.clone();
        all.view.ranks = None;
        let mut ranks = all.needed_ranks();
        core.read(|book| {
            let named = |worker| book.workers.get(&worker).is_some_and(|worker| worker.is_named);
            let members = book.membership.members();
            let named: Vec<_> = members.iter().filter(|member| named(member.worker)).collect();
            ranks.retain(|rank| named.iter().all(|member| member.rank != Some(*rank)));
        });
        let control = Control { token: core.token.clone(), order };
        let requests = all.same_for_all(&control, ranks);
        all_of(all.run::<Done>(&name, requests).await).map(drop)
    }
}
