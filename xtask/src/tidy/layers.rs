//! The direction of dependencies inside `lib/am/src`, and what the pure layers may not name.
//!
//! `cli -> runtime -> {zmq, transport, api}`, `zmq -> transport -> proto -> wire`, `api -> proto`, and at the
//! bottom `error`, `limits`, `id` and `endpoint`. The compiler sees one crate and would allow any cycle; this
//! does not. `cli` is a crate of its own, so the compiler holds it to the public API.

use super::Finding;
use super::source::{Source, leading_word};

const SOURCES: &str = "lib/am/src/";
/// Every layer may use these, and they only each other.
const BOTTOM: [&str; 4] = ["error", "limits", "id", "endpoint"];
/// Each layer, with all that it may use besides itself and the bottom.
const LAYERS: [(&str, &[&str]); 9] = [
    ("clock", &[]),
    ("wire", &[]),
    ("proto", &["wire"]),
    ("api", &["clock", "proto", "wire"]),
    ("transport", &["clock", "proto", "wire"]),
    ("zmq", &["clock", "transport", "proto", "wire"]),
    ("runtime", &["clock", "zmq", "transport", "api", "proto", "wire"]),
    ("test_node", &["runtime", "api"]),
    ("inspect", &["runtime", "transport", "api", "clock"]),
];
const PURE: [&str; 2] = ["wire", "proto"];
/// The one place of the runtime that picks transports.
const MANAGER: &str = "lib/am/src/runtime/manager";

pub(crate) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let Some(file) = source.path.strip_prefix(SOURCES) else { return };
    if file == "lib.rs" {
        return;
    }
    let layer = file.split(['/', '.']).next().unwrap_or_default();
    if !is_known(layer) {
        let text =
            format!("`{layer}` has no place among the layers; move it into one, or name it in {}", file!());
        findings.push(source.finding_in_line(1, text));
        return;
    }
    direction(source, layer, findings);
    if PURE.contains(&layer) {
        purity(source, layer, findings);
    }
    if layer == "runtime" && !source.path.starts_with(MANAGER) {
        concrete_transports(source, findings);
    }
}

fn is_known(layer: &str) -> bool {
    BOTTOM.contains(&layer) || LAYERS.iter().any(|(name, _)| *name == layer)
}

fn may_use(layer: &str, other: &str) -> bool {
    let below = LAYERS.iter().find(|(name, _)| *name == layer).map_or(&[] as &[&str], |(_, below)| below);
    other == layer || BOTTOM.contains(&other) || below.contains(&other)
}

fn direction(source: &Source, layer: &str, findings: &mut Vec<Finding>) {
    for (at, name) in names_at_root(source) {
        if may_use(layer, &name) {
            continue;
        }
        // The runtime may use all there is, by whichever name.
        let text = if is_known(&name) {
            format!("`{layer}` may not use `{name}`: dependencies point down; move what both need below both")
        } else if layer == "runtime" {
            continue;
        } else {
            format!("`crate::{name}` hides which layer it is of; write the path of its module")
        };
        findings.push(source.finding(at, text));
    }
}

/// The names that the file takes from the root of the crate: by `crate::`, by the crate's own name, or by as
/// many `super::` as lead there.
fn names_at_root(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate", "dynamo_am"] {
        for at in source.words(root) {
            if let Some(path) = source.code_from(at + root.len()).trim_start().strip_prefix("::") {
                found.extend(first_names(path).into_iter().map(|name| (at, name)));
            }
        }
    }
    let file = source.path.trim_start_matches(SOURCES).trim_end_matches(".rs").trim_end_matches("/mod");
    let file_depth = file.split('/').count();
    for at in source.words("super") {
        if source.code_before(at).trim_end().ends_with("super::") {
            continue; // counted with the first of its chain
        }
        let (mut count, mut path) = (0, source.code_from(at));
        while let Some(rest) =
            path.trim_start().strip_prefix("super").and_then(|rest| rest.trim_start().strip_prefix("::"))
        {
            count += 1;
            path = rest;
        }
        if count > 0 && count >= file_depth + source.inline_depth(at) {
            found.extend(first_names(path).into_iter().map(|name| (at, name)));
        }
    }
    found
}

/// The first segments of a path or of a group of paths; macros, which have no module, are left out.
fn first_names(path: &str) -> Vec<String> {
    let path = path.trim_start();
    let Some(group) = path.strip_prefix('{') else {
        let name = if path.starts_with('*') { "*" } else { leading_word(path) };
        let is_macro = path.get(name.len()..).is_some_and(|rest| rest.starts_with('!'));
        return if is_macro || name.is_empty() { Vec::new() } else { vec![name.to_owned()] };
    };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut is_start = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if is_start && !c.is_whitespace() => {
                names.extend(first_names(group.get(at..).unwrap_or_default()));
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

fn purity(source: &Source, layer: &str, findings: &mut Vec<Finding>) {
    for word in ["tokio", "async", "await", "rand"] {
        for at in source.words(word) {
            let text = format!(
                "`{word}` in `{layer}`, which is pure; let the caller bring in time, tasks and chance"
            );
            findings.push(source.finding(at, text));
        }
    }
    for clock in ["Instant", "SystemTime"] {
        for at in source.words(clock) {
            let reads = source.code_from(at + clock.len()).trim_start().starts_with("::now");
            // A test has no other way to make an instant; what it tests takes it as an argument.
            if reads && !source.is_test(at) {
                findings.push(
                    source.finding(
                        at,
                        format!("a clock in `{layer}`, which is pure; take `now` as an argument"),
                    ),
                );
            }
        }
    }
}

fn concrete_transports(source: &Source, findings: &mut Vec<Finding>) {
    for word in ["zmq", "inproc", "TcpTransport", "IpcTransport", "InprocTransport"] {
        for at in source.words(word) {
            // A module or a type, not a variable; a test may run over whichever transport suits it.
            let is_path = word.starts_with(char::is_uppercase)
                || source.code_before(at).ends_with("::")
                || source.code_from(at + word.len()).starts_with("::");
            if is_path && !source.is_test(at) {
                let text = format!(
                    "`{word}` names a transport; only {MANAGER}*.rs may, the rest uses `ThinTransport`"
                );
                findings.push(source.finding(at, text));
            }
        }
    }
}
