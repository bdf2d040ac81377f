//! All regular files below a folder, one after the other, without a list of them all.
//!
//! What is held at a time is one folder's entries, and the folders still to be entered on the way down to it. The
//! queue that takes the files is bounded, so the walk keeps pace with the workers.

use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc::Sender;

use super::report::FileError;

/// What the walk finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// A regular file, relative to the folder, and how long it is; 0 where that cannot be found out.
    File(PathBuf, u64),
    /// A symbolic link, which is not followed, or a socket, a pipe or a device.
    Other,
    /// Something that could not be looked at.
    Error(FileError),
}

/// Walks `root` in order of names and sends what it finds; ends early when nobody listens. Blocks: for a thread of
/// its own.
pub(crate) fn walk(root: &Path, found: &Sender<Found>) {
    walk_each(root, |item| found.blocking_send(item).is_ok());
}

/// Walks `root` in order of names, and on for as long as `take` says so. Blocks.
pub(crate) fn walk_each(root: &Path, mut take: impl FnMut(Found) -> bool) {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let (mut entries, errors) = list(&root.join(&folder));
        entries.sort_by_key(DirEntry::file_name);
        let mut below = Vec::new();
        let errors = errors.into_iter().map(|error| Found::Error(FileError::new(&folder, &error)));
        let entries = entries.into_iter().filter_map(|entry| {
            let path = folder.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    below.push(path);
                    None
                }
                Ok(kind) if kind.is_file() => {
                    // Whoever reads it says what is wrong with it.
                    let len = entry.metadata().map_or(0, |metadata| metadata.len());
                    Some(Found::File(path, len))
                }
                Ok(_) => Some(Found::Other),
                Err(error) => Some(Found::Error(FileError::new(&path, &error))),
            }
        });
        for item in errors.chain(entries) {
            if !take(item) {
                return;
            }
        }
        folders.extend(below.into_iter().rev());
    }
}

/// What could be listed, and what went wrong meanwhile.
fn list(folder: &Path) -> (Vec<DirEntry>, Option<io::Error>) {
    let mut entries = Vec::new();
    let reader = match fs::read_dir(folder) {
        Ok(reader) => reader,
        Err(error) => return (entries, Some(error)),
    };
    for entry in reader {
        match entry {
            Ok(entry) => entries.push(entry),
            // A folder that fails once may fail for ever.
            Err(error) => return (entries, Some(error)),
        }
    }
    (entries, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk_all(root: &Path) -> Vec<String> {
        let (send, mut receive) = tokio::sync::mpsc::channel(1);
        let root_of = root.to_owned();
        let root = root.to_owned();
        let walker = std::thread::spawn(move || walk(&root, &send));
        let items = std::iter::from_fn(|| receive.blocking_recv());
        let items = items.map(|item| match item {
            Found::File(path, len) => {
                assert_eq!(root_of.join(&path).metadata().unwrap().len(), len);
                path.display().to_string()
            }
            Found::Other => "other".to_owned(),
            Found::Error(error) => format!("error at {}", error.path),
        });
        let items = items.collect();
        walker.join().unwrap();
        items
    }

    #[test]
    fn every_file_is_found_once_in_order_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/.git/x")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        for name in ["c", ".hidden", "b/2", "b/10", "b/.git/x/HEAD"] {
            fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink("..", at("b/up")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("a-dangling")).unwrap();
        let expected = [".hidden", "other", "c", "b/10", "b/2", "other", "b/.git/x/HEAD"];
        assert_eq!(walk_all(folder.path()), expected);
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_and_not_the_end() {
        assert_eq!(walk_all(Path::new("/no/such/folder")), ["error at ."]);
    }

    #[test]
    fn the_walk_ends_when_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let (send, receive) = tokio::sync::mpsc::channel(1);
        drop(receive);
        walk(folder.path(), &send);
    }
}
