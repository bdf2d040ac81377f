//! The one place that spawns tasks: each is counted, and ends with its node.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns a node's tasks on the runtime that the node was started on.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    handle: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Spawner {
    /// Must be called on a tokio runtime.
    pub(crate) fn new() -> Self {
        Self { handle: Handle::current(), tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// A task that ends when the node stops, wherever it waits then.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn_on(
            async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = task => {}
                }
            },
            &self.handle,
        );
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
        self.stop.cancel();
    }

    /// Resolves when all tasks have ended.
    pub(crate) async fn stopped(&self) {
        self.tracker.wait().await;
    }

    /// Fires when the node stops.
    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }
}
