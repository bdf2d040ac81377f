//! Ordered handlers: one lane for each handler and sender, run one message at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Context;

use parking_lot::{Mutex, MutexGuard};

use super::group::{GROUP_LEN, TURN_COUNT_MAX, complete_with_room};
use super::job::Job;
use super::runner::Runner;
use crate::id::InstanceId;
use crate::runtime::node::Node;

/// Messages of one sender for one ordered handler.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    state: Mutex<State>,
    /// Messages that have not started: those that wait, and those that the lane's task has taken out.
    unstarted: AtomicUsize,
}

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
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.state.lock().is_running);
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
        let state = self.state.lock();
        let is_at_limit = state.is_running || job.route.entry.permits.available_permits() == 0;
        let is_full = self.unstarted.load(Ordering::Relaxed) >= node.limits.handler_queue_len;
        if (job.facts().depth > 0 && is_at_limit) || (job.mode().is_answered() && is_full) {
            return Some(job);
        }
        accepted();
        self.queue(state, lanes, node, std::iter::once(job));
        None
    }

    /// Queues one-way messages that are nested in no others: their senders' credit alone bounds those.
    pub(crate) fn push_all(self: &Arc<Self>, lanes: &Arc<Lanes>, node: &Arc<Node>, jobs: &mut Vec<Job>) {
        self.queue(self.state.lock(), lanes, node, jobs.drain(..));
    }

    fn queue(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        lanes: &Arc<Lanes>,
        node: &Arc<Node>,
        jobs: impl ExactSizeIterator<Item = Job>,
    ) {
        self.unstarted.fetch_add(jobs.len(), Ordering::Relaxed);
        state.waiting.extend(jobs);
        let was_running = std::mem::replace(&mut state.is_running, true);
        drop(state);
        if !was_running {
            let (lane, lanes) = (self.clone(), lanes.clone());
            node.spawner.spawn_handler(async move {
                lane.run().await;
                drop(lanes);
            });
        }
    }

    /// Takes all that waits; at the end nothing runs any more.
    fn take(&self, jobs: &mut VecDeque<Job>) -> bool {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.waiting, jobs);
        state.is_running = !jobs.is_empty();
        state.is_running
    }

    async fn run(&self) {
        let mut runner = Runner::new();
        let mut jobs = VecDeque::new();
        let mut count = 0;
        while self.take(&mut jobs) {
            // All are for one handler.
            let Some(entry) = jobs.front().map(|job| job.route.entry.clone()) else { return };
            while let Some(mut job) = jobs.pop_front() {
                self.unstarted.fetch_sub(1, Ordering::Relaxed);
                // The handler's limit holds across its senders. The permits are never closed.
                let permit = match entry.permits.try_acquire() {
                    Ok(permit) => Some(permit),
                    Err(_) => {
                        runner.give_back();
                        entry.permits.acquire().await.ok()
                    }
                };
                let poll = |cx: &mut Context<'_>| {
                    let polled = runner.poll(&mut job, cx);
                    if polled.is_pending() {
                        runner.give_back();
                    }
                    polled
                };
                let answered = poll_fn(poll).await;
                drop(permit);
                if let Some(answered) = runner.end(&job, answered) {
                    runner.give_back();
                    complete_with_room(job, answered).await;
                }
                count += 1;
                if count % GROUP_LEN == 0 {
                    runner.give_back();
                }
                if count % TURN_COUNT_MAX == 0 {
                    tokio::task::yield_now().await;
                }
            }
            runner.give_back();
        }
    }
}
