//! Ordered handlers: one lane for each handler and sender, run one message at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::group::{complete_with_room, run_one};
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

/// The lanes of one sender, by handler. They outlive its links for as long as anything runs in them: after a
/// reconnect the next message still waits for the one that is running.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<HashMap<u64, Arc<Lane>>>);

impl Lanes {
    pub(crate) fn of(&self, handler: u64) -> Arc<Lane> {
        let mut lanes = self.0.lock();
        // Handlers that are registered anew leave the lanes of old ones behind.
        if lanes.len() >= IDLE_LANES_MAX && !lanes.contains_key(&handler) {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.0.lock().is_running);
        }
        lanes.entry(handler).or_default().clone()
    }
}

/// Lanes of a sender in which nothing runs are forgotten when it has so many.
const IDLE_LANES_MAX: usize = 1024;

/// The lanes of all senders that are linked or have something running here.
#[derive(Debug, Default)]
pub(crate) struct LanesBySender(Mutex<BTreeMap<InstanceId, Weak<Lanes>>>);

impl LanesBySender {
    pub(crate) fn of(&self, sender: InstanceId) -> Arc<Lanes> {
        let mut senders = self.0.lock();
        if let Some(lanes) = senders.get(&sender).and_then(Weak::upgrade) {
            return lanes;
        }
        let lanes = Arc::default();
        senders.retain(|_, lanes| lanes.strong_count() > 0);
        senders.insert(sender, Arc::downgrade(&lanes));
        lanes
    }
}

impl Lane {
    /// Queues a job; gives it back when too many wait. `accepted` is called before the job can start, and only if
    /// it is accepted.
    pub(crate) fn push(
        self: &Arc<Self>,
        lanes: &Arc<Lanes>,
        node: &Arc<Node>,
        job: Job,
        accepted: impl FnOnce(),
    ) -> Option<Job> {
        let queue_len_max = node.limits.handler_queue_len;
        {
            let mut state = self.0.lock();
            let wants_answer = job.request.mode.is_answered();
            let is_at_limit = state.is_running || job.entry.permits.available_permits() == 0;
            let nested_at_limit = job.request.depth > 0 && is_at_limit;
            if nested_at_limit || (wants_answer && state.waiting.len() >= queue_len_max) {
                return Some(job);
            }
            accepted();
            state.waiting.push_back(job);
            if std::mem::replace(&mut state.is_running, true) {
                return None;
            }
        }
        let (lane, lanes) = (self.clone(), lanes.clone());
        node.spawner.spawn_handler(async move {
            lane.run().await;
            drop(lanes);
        });
        None
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
            let permit = entry.permits.acquire().await;
            let (job, answered) = run_one(job).await;
            drop(permit);
            complete_with_room(job, answered).await;
        }
    }
}
