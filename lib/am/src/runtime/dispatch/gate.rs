//! How many messages of one handler run at once: [`Gate`].

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::job::Job;

/// A handler's limit and those who wait at it.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: usize,
    queue_len_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    waiting: VecDeque<Job>,
}

/// What became of a job at the gate.
#[derive(Debug)]
pub(crate) enum Entered {
    /// It may run now; [`Gate::leave`] is owed.
    Run(Job),
    /// It waits; whoever leaves runs it.
    Waits,
    /// There is no place for it.
    Refused(Job),
}

impl Gate {
    pub(crate) fn new(limit: usize, queue_len_max: usize) -> Self {
        Self { limit: limit.max(1), queue_len_max, state: Mutex::default() }
    }

    /// Lets a job run, or wait. Those that want an answer are refused when too many wait, and nested ones do not
    /// wait at all, as a ring of them could wait for itself; one-way messages keep their sender's credit instead.
    /// `accepted` is called before the job can start, and only if it is accepted.
    pub(crate) fn enter(&self, job: Job, accepted: impl FnOnce()) -> Entered {
        let mut state = self.state.lock();
        if state.running < self.limit {
            state.running += 1;
            accepted();
            return Entered::Run(job);
        }
        let wants_answer = job.mode().is_answered();
        if job.facts().depth > 0 || (wants_answer && state.waiting.len() >= self.queue_len_max) {
            return Entered::Refused(job);
        }
        accepted();
        state.waiting.push_back(job);
        Entered::Waits
    }

    /// Takes a place, if there is one; [`leave`](Self::leave) is owed then. Nobody waits while there is one.
    pub(crate) fn try_enter(&self) -> bool {
        let mut state = self.state.lock();
        let is_free = state.running < self.limit;
        state.running += usize::from(is_free);
        is_free
    }

    /// Takes out all that waits: nobody will run it.
    pub(crate) fn take_waiting(&self) -> VecDeque<Job> {
        std::mem::take(&mut self.state.lock().waiting)
    }

    /// A job is done: gives the next one to run in its place.
    pub(crate) fn leave(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.running -= 1;
        }
        next
    }

    /// The same for many: those that run in their places are added to `jobs`.
    pub(crate) fn leave_many(&self, count: usize, jobs: &mut VecDeque<Job>) {
        let mut state = self.state.lock();
        let next = count.min(state.waiting.len());
        jobs.extend(state.waiting.drain(..next));
        state.running -= count - next;
    }
}
