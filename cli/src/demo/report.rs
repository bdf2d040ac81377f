//! What the demo found, for people and for programs.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::exit::Failure;

/// A file or folder that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FileError {
    pub(crate) path: String,
    pub(crate) error: String,
}

/// One worker's share.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct WorkerReport {
    pub(crate) worker: u32,
    pub(crate) pid: u32,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
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
    pub(crate) seconds: f64,
}

impl Report {
    /// The table per worker, the totals, and what went wrong.
    pub(crate) fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
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
        println!("{table}");
        let Totals { files, bytes, lines, words, blake3 } = &self.totals;
        println!("{files} files, {bytes} bytes, {lines} lines, {words} words in {:.2} s", self.seconds);
        println!("blake3 {blake3}");
        for FileError { path, error } in &self.errors {
            eprintln!("am: {path}: {error}");
        }
    }
}

/// Writes JSON to a file, or to standard output for `-`.
pub(crate) fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Failure> {
    let written = if path == Path::new("-") {
        writeln!(std::io::stdout().lock(), "{value}")
    } else {
        std::fs::write(path, format!("{value}\n"))
    };
    written.map_err(|error| Failure::usage(format!("cannot write {}: {error}", path.display())))
}
