//! The demo's processes, as the system shows them: who has started whom, and who reads what.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{LIMIT, Running};

/// A running demo.
pub(crate) struct Demo(pub(crate) Running);

impl Demo {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self(Running::start(&[&["demo"], arguments].concat()))
    }

    /// Its worker processes, those that have ended left out.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let parent = self.0.child.id();
        let entries = fs::read_dir("/proc").expect("it is there");
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_running(*pid) && stat(*pid).is_some_and(|(_, of)| of == parent)).collect()
    }

    /// Its workers that have the file `name` open; waits until there are some.
    pub(crate) fn readers_of(&self, name: &str) -> Vec<u32> {
        until("a worker reads it", || {
            let mut readers = self.workers();
            readers.retain(|pid| open_files(*pid).iter().any(|file| file == name));
            (!readers.is_empty()).then_some(readers)
        })
    }
}

/// The state and the parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in brackets and may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether it has neither ended nor is a corpse that nobody has collected.
pub(crate) fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| !"ZX".contains(state))
}

/// The last parts of the names of a process's open files.
pub(crate) fn open_files(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let paths = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    paths.filter_map(|path| Some(Path::new(&path).file_name()?.to_str()?.to_owned())).collect()
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, signal).expect("it still runs");
}

/// Waits until there is something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "it never came about that {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Waits until none of these processes runs any more.
#[track_caller]
pub(crate) fn until_ended(pids: &[u32]) {
    until("they have ended", || (!pids.iter().any(|pid| is_running(*pid))).then_some(()));
}
