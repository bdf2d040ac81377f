//! Spawned handlers: messages of one turn share a task, which polls each once; those that are not done by then go
//! on in tasks of their own.
//!
//! Spawning costs about a microsecond, more than most handlers do, so it is paid once for up to 16 messages.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::job::{Job, answer_len};
use super::runner::Runner;
use crate::api::handler_call::{Answered, Failure};
use crate::runtime::node::Node;
use crate::runtime::registry::Entry;
use crate::wire::codes::NackCode;

/// Messages that share a task.
pub(crate) const GROUP_LEN: usize = 16;

/// Jobs that a task runs before it lets others have their turn: those that wait at a gate or in a lane may be many.
pub(crate) const TURN_COUNT_MAX: usize = 128;

/// Runs jobs that have entered their gates.
pub(crate) fn spawn_group(node: &Arc<Node>, jobs: Vec<Job>) {
    node.spawner.spawn_handler(Group::new(node, jobs.into(), Runner::new()));
}

/// A task that runs jobs one after the other: written by hand, since what an `async` block moves about it keeps twice,
/// and a parked one of these is what an unfinished message costs.
struct Group {
    node: Arc<Node>,
    /// The first of them is running.
    jobs: VecDeque<Job>,
    runner: Runner,
    /// A handler, and the places at its gate that are free and not given back yet.
    left: Option<(Arc<Entry>, usize)>,
}

impl Future for Group {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..TURN_COUNT_MAX {
            let Some(job) = this.jobs.front_mut() else {
                this.give_back();
                if this.jobs.is_empty() {
                    return Poll::Ready(());
                }
                continue;
            };
            match this.runner.poll(job, cx) {
                Poll::Ready(answered) => this.end(answered),
                Poll::Pending => {
                    this.give_back();
                    // The last one goes on right here.
                    if this.jobs.len() == 1 {
                        this.jobs.shrink_to_fit();
                        return Poll::Pending;
                    }
                    this.park();
                }
            }
        }
        this.give_back();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Group {
    fn new(node: &Arc<Node>, jobs: VecDeque<Job>, runner: Runner) -> Self {
        Self { node: node.clone(), jobs, runner, left: None }
    }

    /// The job that was running is done.
    fn end(&mut self, answered: Answered) {
        let Some(job) = self.jobs.pop_front() else { return };
        let entry = &job.route.entry;
        if job.mode().is_answered() {
            // Whoever gets the answer may send the next message, for which there must be a place then.
            entry.gate.leave_many(1, &mut self.jobs);
        } else {
            match &mut self.left {
                Some((left, count)) if Arc::ptr_eq(left, entry) => *count += 1,
                _ => {
                    self.leave();
                    self.left = Some((entry.clone(), 1));
                }
            }
        }
        if let Some(answered) = self.runner.end(&job, answered) {
            self.node.spawner.spawn_handler(complete_with_room(job, answered));
        }
    }

    /// The job that is running has to wait, and others come behind it: it goes on in a task of its own.
    fn park(&mut self) {
        let Some(job) = self.jobs.pop_front() else { return };
        let parked = Self::new(&self.node, VecDeque::from([job]), self.runner.split());
        self.node.spawner.spawn_handler(parked);
    }

    /// Owed before the task waits or ends. Those that waited for a place are behind the others then.
    fn give_back(&mut self) {
        self.runner.give_back();
        self.leave();
    }

    fn leave(&mut self) {
        if let Some((entry, count)) = self.left.take() {
            entry.gate.leave_many(count, &mut self.jobs);
        }
    }
}

/// A response waits for room in the send buffer until its caller stops waiting for it; meanwhile it is charged to
/// the node's memory, and when there is none, its caller is told so instead. Its handler's place is free by then,
/// else peers that read no answers would take all places from those that do.
pub(crate) async fn complete_with_room(job: Job, mut answered: Answered) {
    let deadline = tokio::time::Instant::from_std(job.facts().deadline);
    let mut hold = None;
    while job.needs_room(&answered) {
        if hold.is_none() {
            hold = job.hold_answer(&answered);
        }
        let text = if hold.is_none() {
            "there was no memory to keep the answer until it can be sent"
        } else if tokio::time::timeout_at(deadline, job.route.place.link.room(answer_len(&answered)))
            .await
            .is_err()
        {
            "the answer could not be sent before the deadline: the link took no more"
        } else {
            continue;
        };
        tracing::debug!(id = %job.id(), "dropped an answer: {text}");
        // A failure is short, and what it says of the handler must stay true.
        if answered.is_ok() {
            answered = Err(Failure { code: NackCode::HandlerError, text: text.to_owned() });
        }
        break;
    }
    job.complete_alone(answered);
}

/// Ends a job where nobody may wait.
pub(crate) fn complete_soon(node: &Arc<Node>, job: Job, answered: Answered) {
    if job.needs_room(&answered) {
        node.spawner.spawn_handler(complete_with_room(job, answered));
    } else {
        job.complete_alone(answered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_message_is_small() {
        assert!(size_of::<Group>() + size_of::<Job>() <= 384, "{}", size_of::<Group>());
    }
}
