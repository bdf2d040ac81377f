//! The one place that spawns tasks: each is counted, and ends with its node.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// Spawns a node's tasks on the runtime that the node was started on.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    handle: Handle,
    tracker: TaskTracker,
    stop: Arc<Stop>,
}

/// Says when all tasks end.
#[derive(Debug, Default)]
struct Stop {
    /// The same as the token, without its lock.
    is_over: AtomicBool,
    token: CancellationToken,
}

impl Spawner {
    /// Must be called on a tokio runtime.
    pub(crate) fn new() -> Self {
        Self { handle: Handle::current(), tracker: TaskTracker::new(), stop: Arc::default() }
    }

    /// A task that ends when the node stops, wherever it waits then.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(Stoppable { task, stop: self.stop.clone(), stopping: None }, &self.handle);
    }

    /// A task of a handler. Its end is awaited by the drain, and it is dropped when the node stops.
    pub(crate) fn spawn_handler(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(task);
    }

    /// A task that waits for the others, and so is not one of them; it must watch the stop token itself.
    pub(crate) fn spawn_untracked(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Work on a thread that may block; it is never waited for.
    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.handle.spawn_blocking(work);
    }

    /// Ends all tasks.
    pub(crate) fn stop(&self) {
        self.tracker.close();
        self.stop.is_over.store(true, Ordering::Release);
        self.stop.token.cancel();
    }

    /// Resolves when all tasks have ended.
    pub(crate) async fn stopped(&self) {
        self.tracker.wait().await;
    }

    /// Fires when the node stops.
    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop.token
    }
}

pin_project! {
    /// A task that ends when it is told to. It asks to be told only once it has to wait: most tasks never do.
    struct Stoppable<T> {
        #[pin]
        task: T,
        stop: Arc<Stop>,
        #[pin]
        stopping: Option<WaitForCancellationFutureOwned>,
    }
}

impl<T: Future<Output = ()>> Future for Stoppable<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.stop.is_over.load(Ordering::Acquire) || this.task.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if this.stopping.is_none() {
            this.stopping.set(Some(this.stop.token.clone().cancelled_owned()));
        }
        this.stopping.as_mut().as_pin_mut().map_or(Poll::Pending, |stopping| stopping.poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_end_where_they_wait_and_none_begins_after_the_stop() {
        let spawner = Spawner::new();
        let (began, begins) = tokio::sync::oneshot::channel();
        spawner.spawn(async move {
            let _ = began.send(());
            std::future::pending::<()>().await;
        });
        begins.await.unwrap();
        spawner.stop();
        let late = Arc::new(AtomicBool::new(false));
        let told = late.clone();
        spawner.spawn(async move { told.store(true, Ordering::Relaxed) });
        spawner.stopped().await;
        assert!(!late.load(Ordering::Relaxed));
    }
}
