//! Ordered handlers: one lane for each handler and sender, run one message at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::group::run_one;
use super::job::Job;
use crate::id::InstanceId;
use crate::runtime::node::Node;

/// Messages of one sender for one ordered handler.
#[derive(Debug, Default)]
pub(crate) struct Lane(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    is_running: bool,
}

/// The lanes of one sender, by handler. They outlive its links, and what the node knows of it meanwhile: after a
/// reconnect the next message still waits for the one that is running.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<HashMap<u64, Arc<Lane>>>);

impl Lanes {
    /// Queues a job for its handler; gives it back when too many wait. `accepted` is called before the job can start,
    /// and only if it is accepted.
    pub(crate) fn push(
        self: &Arc<Self>,
        node: &Arc<Node>,
        handler: u64,
        job: Job,
        accepted: impl FnOnce(),
    ) -> Option<Job> {
        let lane = self.0.lock().entry(handler).or_default().clone();
        match lane.push(node, job, accepted) {
            Pushed::Refused(job) => Some(job),
            Pushed::Waits => None,
            Pushed::First => {
                let lanes = self.clone();
                node.spawner.spawn_handler(async move {
                    lane.run().await;
                    drop(lanes);
                });
                None
            }
        }
    }
}

/// The lanes of all senders that are known or have something running.
#[derive(Debug, Default)]
pub(crate) struct AllLanes(Mutex<HashMap<InstanceId, Weak<Lanes>>>);

impl AllLanes {
    /// Those of one sender.
    pub(crate) fn of(&self, sender: InstanceId) -> Arc<Lanes> {
        let mut all = self.0.lock();
        if let Some(known) = all.get(&sender).and_then(Weak::upgrade) {
            return known;
        }
        if all.len() == all.capacity() {
            // Rather than grow it forgets those that are gone.
            all.retain(|_, lanes| lanes.strong_count() > 0);
        }
        let lanes = Arc::default();
        all.insert(sender, Arc::downgrade(&lanes));
        lanes
    }
}

/// What became of a job.
enum Pushed {
    Refused(Job),
    Waits,
    /// Nobody runs the lane yet.
    First,
}

impl Lane {
    fn push(&self, node: &Node, job: Job, accepted: impl FnOnce()) -> Pushed {
        let queue_len_max = node.limits.handler_queue_len;
        let mut state = self.0.lock();
        let wants_answer = job.request.mode.is_answered();
        let is_at_limit = state.is_running || job.entry.permits.available_permits() == 0;
        let nested_at_limit = job.request.depth > 0 && is_at_limit;
        if nested_at_limit || (wants_answer && state.waiting.len() >= queue_len_max) {
            return Pushed::Refused(job);
        }
        accepted();
        state.waiting.push_back(job);
        if std::mem::replace(&mut state.is_running, true) { Pushed::Waits } else { Pushed::First }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let job = {
                let mut state = self.0.lock();
                match state.waiting.pop_front() {
                    Some(job) => job,
                    None => {
                        state.is_running = false;
                        return;
                    }
                }
            };
            // The handler's limit holds across its senders. The permits are never closed.
            let entry = job.entry.clone();
            let _permit = entry.permits.acquire().await;
            run_one(job).await;
        }
    }
}
