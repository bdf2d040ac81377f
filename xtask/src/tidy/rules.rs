//! The rules that concern one file, the layers aside.

use super::Finding;
use super::source::{Source, is_word_char, leading_word};

const FILE_LINES_MAX: usize = 800;
const LINE_CHARS_MAX: usize = 120;

/// Where tasks may be started without the tracked spawner: in the spawner.
const SPAWNER: &str = "lib/am/src/runtime/spawner.rs";
/// Where `cfg(feature = …)` may stand, so that one look shows what a feature switches.
const FEATURE_GATES: [&str; 2] = ["lib/am/src/lib.rs", "lib/am/src/transport/mod.rs"];
/// A workspace of its own, in which each feature is another system to compare with.
const PEERS: &str = "bench/peers/";

/// First directories below the root of a file system that only one machine has. What has a `*` behind it is
/// a home directory, of which only those with a name count.
const MACHINE_DIRECTORIES: [&str; 4] = ["work", "root", "home*", "Users*"];

/// No path of one machine in any text.
pub(crate) fn machine_paths(source: &Source, findings: &mut Vec<Finding>) {
    for (number, line) in source.text.lines().enumerate() {
        for (at, _) in line.match_indices('/') {
            let (before, behind) =
                (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default());
            if is_path_start(before) && is_machine_directory(behind) {
                let text = "a path of one machine; make it relative, or take it from the environment";
                findings.push(source.finding_in_line(number + 1, text));
            }
        }
    }
}

/// Whether a `/` behind `before` begins an absolute path, and neither goes on with one nor divides words.
fn is_path_start(before: &str) -> bool {
    before.ends_with("://")
        || !before.ends_with(|c: char| {
            is_word_char(c) || matches!(c, '/' | '.' | '-' | '~' | '*' | ')' | '}' | ']' | '>')
        })
}

fn is_machine_directory(behind: &str) -> bool {
    MACHINE_DIRECTORIES.into_iter().any(|directory| {
        let name = directory.trim_end_matches('*');
        behind.strip_prefix(name).is_some_and(|rest| {
            if name == directory {
                !rest.starts_with(|c: char| is_word_char(c) || matches!(c, '-' | '.'))
            } else {
                rest.strip_prefix('/').is_some_and(|rest| rest.starts_with(is_word_char))
            }
        })
    })
}

/// No tabs, and nothing invisible at the end of a line.
pub(crate) fn whitespace(source: &Source, findings: &mut Vec<Finding>) {
    for (number, line) in source.text.lines().enumerate() {
        if line.contains('\t') {
            findings.push(source.finding_in_line(number + 1, "a tab; use spaces"));
        }
        if line.ends_with(char::is_whitespace) {
            findings
                .push(source.finding_in_line(number + 1, "white space at the end of the line; remove it"));
        }
    }
}

/// How a file begins, and how long it and its lines may be.
pub(crate) fn shape(source: &Source, findings: &mut Vec<Finding>) {
    let first = source.text.lines().position(|line| !line.trim().is_empty());
    if !first.and_then(|index| source.text.lines().nth(index)).is_some_and(|line| line.starts_with("//!")) {
        let text =
            "does not open with `//!`; say what the file is for and where it stands in a message's way";
        findings.push(source.finding_in_line(1, text));
    }
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        let text =
            format!("{lines} lines, the limit is {FILE_LINES_MAX}; cut it where a reader would expect it");
        findings.push(source.finding_in_line(FILE_LINES_MAX + 1, text));
    }
    for (number, line) in source.text.lines().enumerate() {
        let chars = line.chars().count();
        // The examples are shown as they are.
        if chars > LINE_CHARS_MAX && !source.path.starts_with("lib/am/examples/") {
            let text = format!("{chars} characters, the limit is {LINE_CHARS_MAX}; break the line");
            findings.push(source.finding_in_line(number + 1, text));
        }
    }
}

/// The words that no code, or no code of some places, may have.
pub(crate) fn words(source: &Source, findings: &mut Vec<Finding>) {
    unfinished(source, findings);
    ignored_tests(source, findings);
    sleeping_tests(source, findings);
    queues_without_limit(source, findings);
    bare_spawns(source, findings);
    feature_gates(source, findings);
}

fn unfinished(source: &Source, findings: &mut Vec<Finding>) {
    for name in ["todo", "unimplemented", "dbg"] {
        for at in source.words(name) {
            if source.code_from(at + name.len()).starts_with('!') {
                findings.push(source.finding(at, format!("`{name}!`; finish it, or take it out")));
            }
        }
    }
}

fn ignored_tests(source: &Source, findings: &mut Vec<Finding>) {
    for at in source.words("ignore") {
        let attribute = attribute_before(source, at);
        // One that another test runs in a process of its own is run all the same.
        let line = source.text.get(at..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        if line.contains("run by another test") {
            continue;
        }
        if attribute.trim_start() == "#[" || attribute.contains("cfg_attr") {
            findings.push(source.finding(at, "an ignored test; make it fit for every run, or delete it"));
        }
    }
}

/// What stands between the `#[` or `#![` that `at` is in and `at` itself; empty if it is in no attribute.
fn attribute_before(source: &Source, at: usize) -> &str {
    let before = source.code_before(at);
    let start = before.rfind("#[").max(before.rfind("#!["));
    let attribute = start.and_then(|start| before.get(start..)).unwrap_or_default();
    if attribute.matches('[').count() > attribute.matches(']').count() { attribute } else { "" }
}

fn sleeping_tests(source: &Source, findings: &mut Vec<Finding>) {
    for at in source.words("sleep") {
        let called = source.code_from(at + "sleep".len()).trim_start().starts_with('(');
        if called && source.is_test(at) {
            findings.push(source.finding(at, "a sleep in a test; wait for the event itself, with a limit"));
        }
    }
}

fn queues_without_limit(source: &Source, findings: &mut Vec<Finding>) {
    for (at, _) in source.code.match_indices(['u', 'U']) {
        if source.code_before(at).ends_with(is_word_char) {
            continue;
        }
        let word = leading_word(source.code_from(at));
        let is_range_bound = word == "Unbounded" && source.code_before(at).ends_with("Bound::");
        if word.to_ascii_lowercase().starts_with("unbounded") && !is_range_bound {
            let text = format!("`{word}`; every queue has a limit, with a name in limits.rs");
            findings.push(source.finding(at, text));
        }
    }
}

fn bare_spawns(source: &Source, findings: &mut Vec<Finding>) {
    if !source.path.starts_with("lib/am/src/") || source.path == SPAWNER {
        return;
    }
    for at in source.words("spawn") {
        let before = source.code_before(at);
        let is_bare = ["tokio::", "task::", "Handle::current()."].iter().any(|end| before.ends_with(end));
        if is_bare && !source.is_test(at) {
            let text = format!("a task that nobody owns; start it through the tracked spawner ({SPAWNER})");
            findings.push(source.finding(at, text));
        }
    }
}

fn feature_gates(source: &Source, findings: &mut Vec<Finding>) {
    if FEATURE_GATES.contains(&source.path.as_str()) || source.path.starts_with(PEERS) {
        return;
    }
    for at in source.words("feature") {
        let is_condition = source.code_from(at + "feature".len()).trim_start().starts_with('=');
        let line = source.code_before(at).rsplit('\n').next().unwrap_or_default();
        if is_condition && (line.contains("cfg") || attribute_before(source, at).contains("cfg")) {
            let text = format!(
                "`cfg(feature`; gate the whole module in {} or {}",
                FEATURE_GATES[0], FEATURE_GATES[1]
            );
            findings.push(source.finding(at, text));
        }
    }
}
