//! What is to be read, as the work queue takes it: an item for each file, or for each part of a large one.
//!
//! The queue reads on only when a worker is free, and with it the walk goes on; [`Book`] has what was given out and
//! not answered.
//!
//! **Invariant**: a file that was found is answered for exactly once. What comes for one that is settled already, with
//! a part's failure, is let fall.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use tokio::sync::mpsc;

use super::parts::{Cut, Gathered};
use super::report::FileError;
use super::walk::Found;
use super::worker::Request;

/// What an item was about.
#[derive(Debug, Clone)]
pub(crate) enum Task {
    Whole(PathBuf),
    /// The file's number, and the part's.
    Part(u64, u64),
}

/// A large file, until its last part has come.
#[derive(Debug)]
pub(crate) struct LargeFile {
    pub(crate) path: PathBuf,
    pub(crate) gathered: Gathered,
    /// Parts and octets by the rank that has read them.
    pub(crate) shares: HashMap<usize, (u64, u64)>,
}

/// What was given out, and what the walk has met besides files.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// By the item's place in the input.
    pub(crate) tasks: HashMap<u64, Task>,
    pub(crate) large: HashMap<u64, LargeFile>,
    pub(crate) errors: Vec<FileError>,
    pub(crate) skipped: u64,
    /// Files that the queue has met so far.
    pub(crate) found: u64,
    next_index: u64,
}

impl Book {
    fn give(&mut self, task: Task) {
        self.tasks.insert(self.next_index, task);
        self.next_index += 1;
    }
}

/// The book, in the hands of the queue's input and of whoever takes the results. It is held for no longer than a look.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedBook(Arc<Mutex<Book>>);

impl SharedBook {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The items of all that is found below `root`. Large files are cut if `cuts`.
pub(crate) fn items(
    root: &Path,
    found: mpsc::Receiver<Found>,
    cuts: bool,
    book: &SharedBook,
) -> impl Stream<Item = Request> + Send + 'static {
    let source =
        Source { root: root.to_owned(), found, cuts, book: book.clone(), current: None, next_file: 0 };
    futures::stream::unfold(source, |mut source| async move {
        let request = source.next().await?;
        Some((request, source))
    })
}

/// The items of files that are to be read again, each as a whole.
pub(crate) fn again(
    root: &Path,
    paths: Vec<PathBuf>,
    book: &SharedBook,
) -> impl Stream<Item = Request> + Send + 'static {
    // Its places in the input begin anew.
    book.lock().next_index = 0;
    let (root, book) = (root.to_owned(), book.clone());
    futures::stream::iter(paths.into_iter().map(move |path| {
        let request = request(&root, &path, None);
        book.lock().give(Task::Whole(path));
        request
    }))
}

fn request(root: &Path, path: &Path, part: Option<(u64, u64)>) -> Request {
    Request { path: root.join(path).as_os_str().as_bytes().to_vec(), part }
}

struct Source {
    root: PathBuf,
    found: mpsc::Receiver<Found>,
    cuts: bool,
    book: SharedBook,
    /// The file that is being given out in parts, and the next part's number.
    current: Option<(u64, PathBuf, Cut, u64)>,
    next_file: u64,
}

impl Source {
    async fn next(&mut self) -> Option<Request> {
        loop {
            if let Some(request) = self.next_part() {
                return Some(request);
            }
            let found = self.found.recv().await?;
            let mut book = self.book.lock();
            match found {
                Found::Other => book.skipped += 1,
                Found::Error(error) => book.errors.push(error),
                Found::File(path, len) => {
                    book.found += 1;
                    let Some(cut) = Cut::of(len).filter(|_| self.cuts) else {
                        let request = request(&self.root, &path, None);
                        book.give(Task::Whole(path));
                        return Some(request);
                    };
                    let file = LargeFile {
                        path: path.clone(),
                        gathered: Gathered::new(&cut),
                        shares: HashMap::new(),
                    };
                    book.large.insert(self.next_file, file);
                    self.current = Some((self.next_file, path, cut, 0));
                    self.next_file += 1;
                }
            }
        }
    }

    fn next_part(&mut self) -> Option<Request> {
        let (file, path, cut, number) = self.current.as_mut()?;
        let mut book = self.book.lock();
        // A file that is settled needs no more parts.
        if *number >= cut.count() || !book.large.contains_key(file) {
            self.current = None;
            return None;
        }
        book.give(Task::Part(*file, *number));
        let request = request(&self.root, path, Some(cut.part(*number)));
        *number += 1;
        Some(request)
    }
}
