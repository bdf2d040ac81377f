//! The files that wait for a worker: [`Feed`]. Those that a lost worker had come first.

use std::path::PathBuf;
use std::sync::Mutex;

use tokio::sync::mpsc;

use super::report::FileError;
use super::walk::Found;

/// Files that are found and wait to be asked for; the walk stands still beyond.
pub(crate) const FOUND_LEN: usize = 1024;

/// Where workers' slots get their files.
#[derive(Debug)]
pub(crate) struct Feed {
    found: tokio::sync::Mutex<mpsc::Receiver<Found>>,
    returned: Mutex<Vec<PathBuf>>,
    errors: Mutex<Vec<FileError>>,
}

impl Feed {
    pub(crate) fn new(found: mpsc::Receiver<Found>) -> Self {
        Self { found: tokio::sync::Mutex::new(found), returned: Mutex::default(), errors: Mutex::default() }
    }

    /// The next file; `None` when the walk is over and nothing was given back.
    pub(crate) async fn next(&self) -> Option<PathBuf> {
        loop {
            if let Some(path) = lock(&self.returned).pop() {
                return Some(path);
            }
            match self.found.lock().await.recv().await {
                Some(Found::File(path)) => return Some(path),
                Some(Found::Error(error)) => self.fail(error),
                None => return lock(&self.returned).pop(),
            }
        }
    }

    /// A file that its worker did not finish.
    pub(crate) fn give_back(&self, path: PathBuf) {
        lock(&self.returned).push(path);
    }

    pub(crate) fn fail(&self, error: FileError) {
        lock(&self.errors).push(error);
    }

    /// Whether files were given back that nobody has asked for yet.
    pub(crate) fn has_returned(&self) -> bool {
        !lock(&self.returned).is_empty()
    }

    pub(crate) fn take_errors(&self) -> Vec<FileError> {
        std::mem::take(&mut lock(&self.errors))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
