//! What the demo found, for people and for programs.

use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::digest::Digest;
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
    /// Files whose figures it was the last to complete.
    pub(crate) files: u64,
    /// Parts of large files that it has read; a file that it read as a whole is none.
    pub(crate) parts: u64,
    pub(crate) bytes: u64,
    /// Whether it was gone before the work was done.
    pub(crate) lost: bool,
}

/// All files together. `blake3` is the hash of the sorted list of `HEX  relative/path` lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) words: u64,
    pub(crate) blake3: String,
}

/// Adds files up.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) totals: Totals,
    /// `HEX  relative/path` of each file, without an end of line: sorting is by the line alone.
    lines: Vec<Vec<u8>>,
}

impl Sum {
    pub(crate) fn add(&mut self, path: &Path, digest: &Digest) {
        let totals = &mut self.totals;
        totals.files += 1;
        totals.bytes += digest.bytes;
        totals.lines += digest.lines;
        totals.words += digest.words;
        let mut line = format!("{}  ", digest.blake3).into_bytes();
        line.extend_from_slice(path.as_os_str().as_bytes());
        self.lines.push(line);
    }

    pub(crate) fn finish(mut self) -> Totals {
        self.lines.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        for line in &self.lines {
            hasher.update(line).update(b"\n");
        }
        Totals { blake3: hasher.finalize().to_hex().to_string(), ..self.totals }
    }
}

/// What one process alone has found, with `--verify`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verified {
    /// Whether the totals are the same.
    pub(crate) equal: bool,
    pub(crate) totals: Totals,
    pub(crate) seconds: f64,
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
    /// The worker, by its number, that `--kill-one` has killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) killed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Verified>,
}

impl Report {
    /// The table per worker and the totals.
    pub(crate) fn summary(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(["worker", "pid", "files", "parts", "bytes", "share", ""]);
        for worker in &self.workers {
            let share = 100.0 * worker.bytes as f64 / self.totals.bytes.max(1) as f64;
            table.add_row([
                worker.worker.to_string(),
                worker.pid.to_string(),
                worker.files.to_string(),
                worker.parts.to_string(),
                worker.bytes.to_string(),
                format!("{share:.1} %"),
                match (self.killed == Some(worker.worker), worker.lost) {
                    (true, _) => "killed".to_owned(),
                    (false, true) => "lost".to_owned(),
                    (false, false) => String::new(),
                },
            ]);
        }
        for column in table.column_iter_mut().take(6) {
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
        if let Some(Verified { equal: true, seconds, .. }) = self.verified {
            let _ = writeln!(text, "one process alone finds the same, in {seconds:.2} s");
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
