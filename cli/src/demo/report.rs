//! What the demo found, for people and for programs.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{print, printable};

/// A file or folder that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FileError {
    /// Relative to the folder that was asked for; octets that are no text are replaced.
    pub(crate) path: String,
    pub(crate) error: String,
}

impl FileError {
    pub(crate) fn new(path: &Path, error: &impl ToString) -> Self {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Self { path: path.to_string_lossy().into_owned(), error: error.to_string() }
    }
}

/// One worker's share.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct WorkerReport {
    pub(crate) worker: u32,
    pub(crate) pid: u32,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Whether it was gone before the work was done.
    pub(crate) lost: bool,
}

/// All files together. `blake3` is the hash of the sorted list of `HEX  relative/path` lines.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) words: u64,
    pub(crate) blake3: String,
}

/// Everything.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) totals: Totals,
    pub(crate) workers: Vec<WorkerReport>,
    pub(crate) errors: Vec<FileError>,
    /// Symbolic links, sockets, pipes and devices: seen, and not read.
    pub(crate) skipped: u64,
    pub(crate) seconds: f64,
}

impl Report {
    /// The table per worker and the totals.
    pub(crate) fn summary(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(["worker", "pid", "files", "bytes", "share", ""]);
        for worker in &self.workers {
            let share = 100.0 * worker.bytes as f64 / self.totals.bytes.max(1) as f64;
            table.add_row([
                worker.worker.to_string(),
                worker.pid.to_string(),
                worker.files.to_string(),
                worker.bytes.to_string(),
                format!("{share:.1} %"),
                if worker.lost { "lost".to_owned() } else { String::new() },
            ]);
        }
        for column in table.column_iter_mut().take(5) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let Totals { files, bytes, lines, words, blake3 } = &self.totals;
        let mut text = format!(
            "{table}\n{files} files, {bytes} bytes, {lines} lines, {words} words in {:.2} s\nblake3 {blake3}\n",
            self.seconds
        );
        if self.skipped > 0 {
            let _ = writeln!(text, "{} symbolic links or special files not read", self.skipped);
        }
        text
    }

    /// A line for each file that could not be read.
    pub(crate) fn complaints(&self) -> String {
        let mut text = String::new();
        for FileError { path, error } in &self.errors {
            let _ = writeln!(text, "am: {}: {}", printable(path), printable(error));
        }
        text
    }
}

/// Refuses a place where [`write_json`] could not write, before work is done for it.
///
/// # Errors
///
/// When `path` is a folder, or lies in none.
pub(crate) fn check_json_path(path: &Path) -> Result<(), Failure> {
    if path == Path::new("-") {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let reason = if path.is_dir() {
        "it is a folder".to_owned()
    } else {
        match folder.metadata() {
            Ok(metadata) if metadata.is_dir() => return Ok(()),
            Ok(_) => format!("{} is no folder", folder.display()),
            Err(error) => error.to_string(),
        }
    };
    Err(cannot_write(path, reason))
}

/// Writes JSON to a file, or to standard output for `-`.
///
/// # Errors
///
/// When it cannot be written.
pub(crate) fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Failure> {
    if path == Path::new("-") {
        return Ok(print(format!("{value}\n"))?);
    }
    std::fs::write(path, format!("{value}\n")).map_err(|error: io::Error| cannot_write(path, error))
}

fn cannot_write(path: &Path, reason: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("cannot write {}: {reason}", path.display()))
        .hint("give --json a file that can be written, or - for standard output")
}
