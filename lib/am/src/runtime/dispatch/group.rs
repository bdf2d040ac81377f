//! Spawned handlers: messages of one turn share a task, which polls each once; those that are not done by then go
//! on in tasks of their own.
//!
//! Spawning costs about a microsecond, more than most handlers do, so it is paid once for up to 16 messages.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::job::{Caught, Job, Place, answer_len, start};
use crate::api::handler_call::{Answered, Failure, HandlerCall};
use crate::proto::credit::Charge;
use crate::runtime::node::Node;
use crate::wire::codes::NackCode;

/// Messages that share a task.
pub(crate) const GROUP_LEN: usize = 16;

/// Jobs that a task runs before it lets others have their turn: those that wait at a gate may be many.
const TURN_COUNT_MAX: usize = 128;

/// Runs jobs that have entered their gates.
pub(crate) fn spawn_group(node: &Arc<Node>, jobs: Vec<Job>) {
    let Some(place) = jobs.first().map(|job| job.place.clone()) else { return };
    let group =
        Group { node: node.clone(), place, jobs: jobs.into_iter(), running: None, done: Charge::default() };
    node.spawner.spawn_handler(group);
}

/// A task that runs jobs one after the other: written by hand, since what an `async` block moves about it keeps twice,
/// and a parked one of these is what an unfinished message costs.
struct Group {
    node: Arc<Node>,
    place: Arc<Place>,
    /// The first of them is running; a job is not moved until it is done.
    jobs: std::vec::IntoIter<Job>,
    /// What the first of them has begun.
    running: Option<Caught>,
    /// Finished without an answer, and not told yet: only what came by the link of `place`.
    done: Charge,
}

impl Future for Group {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..TURN_COUNT_MAX {
            let Some(job) = this.jobs.as_mut_slice().first_mut() else {
                this.give_back();
                return Poll::Ready(());
            };
            let future = this.running.get_or_insert_with(|| begin(job));
            match Pin::new(future).poll(cx) {
                Poll::Ready(answered) => this.end(answered),
                // The last one goes on right here.
                Poll::Pending if this.jobs.len() == 1 => {
                    this.give_back();
                    return Poll::Pending;
                }
                Poll::Pending => this.park(),
            }
        }
        this.give_back();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Group {
    /// The job that was running is done: the next that waits for its place runs instead.
    fn end(&mut self, answered: Answered) {
        self.running = None;
        let Some(job) = self.jobs.as_mut_slice().first_mut() else { return };
        let late = if job.needs_room(&answered) {
            Some(answered)
        } else {
            if Arc::ptr_eq(&job.place, &self.place) {
                job.complete(answered, &mut self.done);
            } else {
                job.complete_alone(answered);
            }
            None
        };
        let done = match job.entry.gate.leave() {
            Some(next) => Some(std::mem::replace(job, next)),
            None => self.jobs.next(),
        };
        if let (Some(job), Some(answered)) = (done, late) {
            self.node.spawner.spawn_handler(complete_with_room(job, answered));
        }
    }

    /// The job that is running has to wait, and others come behind it: it goes on in a task of its own.
    fn park(&mut self) {
        let Some(job) = self.jobs.next() else { return };
        let parked = Self {
            node: self.node.clone(),
            place: job.place.clone(),
            jobs: vec![job].into_iter(),
            running: self.running.take(),
            done: Charge::default(),
        };
        self.node.spawner.spawn_handler(parked);
    }

    fn give_back(&mut self) {
        if !self.done.is_zero() {
            self.place.link.finish_messages(std::mem::take(&mut self.done));
        }
    }
}

/// Runs one job in the current task, without its gate; [`complete_with_room`] is owed.
pub(crate) async fn run_one(mut job: Job) -> (Job, Answered) {
    let answered = begin(&mut job).await;
    (job, answered)
}

/// A response waits for room in the send buffer until its caller stops waiting for it; meanwhile it is charged to
/// the node's memory, and when there is none, its caller is told so instead. Its handler's place is free by then,
/// else peers that read no answers would take all places from those that do.
pub(crate) async fn complete_with_room(job: Job, mut answered: Answered) {
    let deadline = tokio::time::Instant::from_std(job.request.deadline);
    let mut hold = None;
    while job.needs_room(&answered) {
        if hold.is_none() {
            hold = job.hold_answer(&answered);
        }
        let text = if hold.is_none() {
            "there was no memory to keep the answer until it can be sent"
        } else if tokio::time::timeout_at(deadline, job.place.link.room(answer_len(&answered))).await.is_err()
        {
            "the answer could not be sent before the deadline: the link took no more"
        } else {
            continue;
        };
        tracing::debug!(id = %job.request.id(), "dropped an answer: {text}");
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

/// Starts a job's handler.
fn begin(job: &mut Job) -> Caught {
    if let Some(failure) = job.too_late() {
        return Caught(Box::pin(std::future::ready(Err(failure))));
    }
    let context = job.context();
    let payload = job.take_payload();
    match &job.entry.call {
        HandlerCall::Spawned { call, .. } => start(|| call(context, payload)),
        // Only spawned handlers come here; see the dispatcher.
        HandlerCall::Inline(_)
        | HandlerCall::Blocking(_)
        | HandlerCall::Batched { .. }
        | HandlerCall::Deferred(_) => {
            let text = format!("`{}` is no spawned handler", job.entry.name);
            let failure = Failure { code: NackCode::HandlerError, text };
            Caught(Box::pin(std::future::ready(Err(failure))))
        }
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
