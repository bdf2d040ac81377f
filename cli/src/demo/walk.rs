//! All regular files below a folder, one after the other, without a list of them all.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::report::FileError;

/// What the walk finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// A regular file, relative to the folder.
    File(PathBuf),
    /// Something that could not be looked at.
    Error(FileError),
}

/// Walks `root` in order of names and sends what it finds; ends early when nobody listens. Symbolic links are not
/// followed, and what is neither file nor folder is passed over. Blocks: for a thread of its own.
pub(crate) fn walk(root: &Path, found: &mpsc::Sender<Found>) {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let mut entries = match list(&root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) => {
                let error =
                    FileError { path: folder.to_string_lossy().into_owned(), error: error.to_string() };
                if found.blocking_send(Found::Error(error)).is_err() {
                    return;
                }
                continue;
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut below = Vec::new();
        for entry in entries {
            let path = folder.join(entry.file_name());
            let sent = match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    below.push(path);
                    continue;
                }
                Ok(kind) if kind.is_file() => Found::File(path),
                Ok(_) => continue,
                Err(error) => Found::Error(FileError {
                    path: path.to_string_lossy().into_owned(),
                    error: error.to_string(),
                }),
            };
            if found.blocking_send(sent).is_err() {
                return;
            }
        }
        folders.extend(below.into_iter().rev());
    }
}

fn list(folder: &Path) -> std::io::Result<Vec<fs::DirEntry>> {
    fs::read_dir(folder)?.collect()
}
