//! Ordered handlers: one lane for each handler and sender, run one message at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::group::run_one;
use super::job::Job;
use crate::runtime::node::Node;

/// Messages of one sender for one ordered handler.
#[derive(Debug, Default)]
pub(crate) struct Lane(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    is_running: bool,
}

/// The lanes of one sender, by handler. They outlive its link: after a reconnect the next message still waits for
/// the one that is running.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<HashMap<u64, Arc<Lane>>>);

impl Lanes {
    pub(crate) fn of(&self, handler: u64) -> Arc<Lane> {
        self.0.lock().entry(handler).or_default().clone()
    }
}

impl Lane {
    /// Queues a job; gives it back when too many wait. `accepted` is called before the job can start, and only if
    /// it is accepted.
    pub(crate) fn push(self: &Arc<Self>, node: &Arc<Node>, job: Job, accepted: impl FnOnce()) -> Option<Job> {
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
        let lane = self.clone();
        node.spawner.spawn_handler(async move { lane.run().await });
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
            let _permit = entry.permits.acquire().await;
            run_one(job).await;
        }
    }
}
