//! For each rule a snippet that breaks it and must be found, and one that does not and must be left alone.

use super::*;

const WIRE: &str = "lib/am/src/wire/header.rs";
const RUNTIME: &str = "lib/am/src/runtime/dispatcher.rs";

/// Checks `code`, in the file `path`, behind a good first line; returns the lines found, from 0 for `code`.
fn found(path: &str, code: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    check(&Source::new(path, format!("//! A file.\n{code}")), &mut findings);
    findings.into_iter().map(|finding| (finding.line.saturating_sub(2), finding.text)).collect()
}

fn assert_found(path: &str, code: &str, what: &str) {
    let findings = found(path, code);
    assert!(findings.len() == 1, "{code}: {findings:?}");
    assert!(findings.iter().all(|(line, text)| *line == 0 && text.contains(what)), "{code}: {findings:?}");
}

fn assert_clean(path: &str, code: &str) {
    assert_eq!(found(path, code), [], "{code}");
}

#[test]
fn dependencies_point_down() {
    for (path, code) in [
        ("lib/am/src/api/client.rs", "use crate::runtime::Manager;"),
        ("lib/am/src/transport/link.rs", "use crate::runtime::Manager;"),
        ("lib/am/src/transport/link.rs", "use crate::zmq::TcpTransport;"),
        ("lib/am/src/zmq/tcp.rs", "fn f() { crate::runtime::g(); }"),
        ("lib/am/src/proto/pending.rs", "use crate::{id::InstanceId, runtime::{Manager, wire}};"),
        ("lib/am/src/proto/pending.rs", "use super::super::api::Status;"),
        (WIRE, "use dynamo_am::proto::Pending;"),
        (WIRE, "pub(in crate::transport) fn f() {}"),
        ("lib/am/src/error.rs", "use super::wire::Header;"),
    ] {
        assert_found(path, code, "may not use");
    }
    for (path, code) in [
        ("lib/am/src/api/client.rs", "use crate::{error::Error, proto::{a, runtime}, wire::Header};"),
        (RUNTIME, "use crate::{api, proto, transport, wire}; use crate::Anything;"),
        (WIRE, "use super::super::error::X; use super::runtime; // crate::runtime"),
        ("lib/am/src/error.rs", "mod tests { use super::*; } crate::macros!();"),
        ("cli/src/main.rs", "use crate::runtime::x;"),
    ] {
        assert_clean(path, code);
    }
}

#[test]
fn a_path_that_hides_its_layer_is_found() {
    assert_found(WIRE, "use crate::Manager;", "hides which layer");
    assert_found(WIRE, "use crate::*;", "hides which layer");
    assert_found("lib/am/src/error.rs", "use super::*;", "hides which layer");
}

#[test]
fn a_module_without_a_layer_is_found() {
    assert!(
        found("lib/am/src/misc.rs", "").iter().any(|(_, text)| text.contains("no place among the layers"))
    );
    assert_clean("lib/am/src/lib.rs", "use crate::runtime::Manager;");
}

#[test]
fn the_pure_layers_have_no_clock_no_tasks_and_no_randomness() {
    for code in ["use tokio::io;", "async fn f() {}", "fn f() { x.await }", "use rand::Rng;"] {
        assert_found(WIRE, code, "is pure");
        assert_clean(RUNTIME, code);
    }
    assert_found("lib/am/src/proto/session.rs", "fn f() { Instant::now(); }", "take `now`");
    assert_found("lib/am/src/proto/session.rs", "fn f() { SystemTime::now(); }", "take `now`");
    assert_clean("lib/am/src/proto/session.rs", "#[cfg(test)] mod tests { fn f() { Instant::now(); } }");
    assert_clean(WIRE, "/// Unlike tokio, no async.\nfn operand(now: Instant) {}");
}

#[test]
fn the_runtime_names_transports_in_its_manager_only() {
    assert_found(RUNTIME, "use crate::zmq::host;", "names a transport");
    assert_found(RUNTIME, "use crate::transport::inproc;", "names a transport");
    assert_found(RUNTIME, "fn f(t: TcpTransport) {}", "names a transport");
    assert_clean("lib/am/src/runtime/manager.rs", "use crate::zmq::TcpTransport;");
    assert_clean("lib/am/src/runtime/manager_builder.rs", "use crate::zmq::TcpTransport;");
    assert_clean(RUNTIME, "use crate::transport::ThinTransport; // zmq::TcpTransport");
    assert_clean(RUNTIME, "#[cfg(test)] mod tests { use crate::transport::inproc::pair; }");
}

#[test]
fn features_are_gated_in_two_files_only() {
    for code in [
        "#[cfg(feature = \"runtime\")]",
        "#[cfg(all(unix, feature = \"runtime\"))]",
        "#[cfg_attr(feature = \"runtime\", derive(Debug))]",
        "const X: bool = cfg!(feature = \"runtime\");",
    ] {
        assert_found(RUNTIME, code, "cfg(feature");
        assert_clean("lib/am/src/lib.rs", code);
        assert_clean("lib/am/src/transport/mod.rs", code);
        assert_clean("bench/peers/src/systems/mod.rs", code);
    }
    assert_clean(RUNTIME, "#[cfg(test)]\nfn f() { let feature = 1; }");
}

#[test]
fn every_file_says_what_it_is_for() {
    let check_whole = |text: &str| {
        let mut findings = Vec::new();
        check(&Source::new("cli/src/main.rs", text.to_owned()), &mut findings);
        findings.len()
    };
    assert_eq!(check_whole("use a;\n//! Late.\n"), 1);
    assert_eq!(check_whole("// Not for rustdoc.\n"), 1);
    assert_eq!(check_whole(""), 1);
    assert_eq!(check_whole("\n//! The command.\n"), 0);
}

#[test]
fn files_and_lines_have_a_length() {
    assert_clean("cli/src/main.rs", &"x;\n".repeat(799));
    assert!(
        matches!(found("cli/src/main.rs", &"x;\n".repeat(800)).as_slice(), [(799, text)] if text.contains("801 lines"))
    );
    assert_clean("cli/src/main.rs", &"\u{e9}".repeat(120));
    assert_found("cli/src/main.rs", &"e".repeat(121), "121 characters");
}

#[test]
fn no_test_is_ignored() {
    assert_found("cli/src/main.rs", "#[ignore] fn f() {}", "ignored test");
    assert_found("cli/src/main.rs", "#[ignore = \"slow\"] fn f() {}", "ignored test");
    assert_found("cli/src/main.rs", "#[cfg_attr(miri, ignore)] fn f() {}", "ignored test");
    let elsewhere = "//! x\n#[ignore = \"ends its process; run by another test\"]\nfn f() {}";
    assert_clean("cli/src/main.rs", elsewhere);
    assert_clean("cli/src/main.rs", "fn f() { let x = [ignore]; } // #[ignore]");
}

#[test]
fn no_test_sleeps() {
    assert_found("lib/am/tests/calls.rs", "fn f() { std::thread::sleep(x); }", "sleep in a test");
    assert_found("cli/src/main.rs", "#[cfg(test)] mod tests { fn f() { sleep (x); } }", "sleep in a test");
    assert_found("lib/am/src/runtime/tests.rs", "fn f() { sleep(x); }", "sleep in a test");
    assert_found("lib/am/src/transport/conformance.rs", "fn f() { sleep(x); }", "sleep in a test");
    assert_clean("cli/src/main.rs", "fn f() { sleep(x); }\nmod tests {}");
}

#[test]
fn no_queue_is_unbounded() {
    assert_found(RUNTIME, "use tokio::sync::mpsc::unbounded_channel;", "has a limit");
    assert_found(RUNTIME, "struct X(UnboundedSender<u8>);", "has a limit");
    assert_found("bench/src/lib.rs", "fn f() { channel::unbounded(); }", "has a limit");
    assert_clean(RUNTIME, "fn f() { Bound::Unbounded; } // unbounded");
}

#[test]
fn nothing_is_left_unfinished() {
    for code in ["fn f() { todo!() }", "fn f() { unimplemented!(); }", "fn f() { dbg!(x); }"] {
        assert_found("cli/src/main.rs", code, "finish it");
    }
    assert_clean("cli/src/main.rs", "fn f(todo: X) { /* todo!() */ \"dbg!()\"; }");
}

#[test]
fn every_task_has_an_owner() {
    assert_found(RUNTIME, "fn f() { tokio::spawn(x); }", "nobody owns");
    assert_found("lib/am/src/zmq/tcp.rs", "use tokio::task::spawn;", "nobody owns");
    assert_clean("lib/am/src/runtime/spawner.rs", "fn f() { tokio::spawn(x); }");
    assert_clean(RUNTIME, "fn f(s: Spawner) { s.spawn(x); std::thread::spawn(y); }");
    assert_clean(RUNTIME, "#[cfg(test)] mod tests { fn f() { tokio::spawn(x); } }");
    assert_clean("cli/src/main.rs", "fn f() { tokio::spawn(x); }");
}

#[test]
fn no_text_has_a_path_of_one_machine() {
    let [work, root] = ["work", "root"].map(|name| format!("/{name}"));
    let home = ["", "home", "me"].join("/");
    for text in [&format!("see {work}/x"), &format!("`{root}`"), &format!("ipc://{root}/x"), &home] {
        for path in ["docs/a.md", "cli/src/main.rs", ".ci/run"] {
            let code = if path.ends_with(".rs") { format!("// {text}") } else { text.clone() };
            assert_found(path, &code, "path of one machine");
        }
    }
    for text in ["a{}/x", "x/work", "https:/{}.org", "{}s", "../{}"] {
        assert_clean("docs/a.md", &text.replace("{}", &work));
    }
    assert_clean("docs/a.md", "under /home or in ~/work");
}

#[test]
fn white_space_is_plain() {
    for path in ["docs/a.md", "cli/src/main.rs"] {
        assert_found(path, "//\ta", "tab");
        assert_found(path, "// a\x20", "end of the line");
    }
    assert_clean("justfile", "\ta ");
}

#[test]
fn the_change_log_has_a_place_for_the_next_release() {
    for (text, expected) in
        [(None, 1), (Some("# Changes\n## [0.1.0]\n"), 1), (Some("# Changes\n## [Unreleased]\n"), 0)]
    {
        let mut findings = Vec::new();
        repository::changelog(text, &mut findings);
        assert_eq!(findings.len(), expected, "{text:?}");
    }
}

#[test]
fn the_readme_names_the_compiler_that_the_manifest_demands() {
    let count = |manifest: &str, readme: Option<&str>| {
        let mut findings = Vec::new();
        repository::rust_version(manifest, readme, &mut findings);
        findings.len()
    };
    let manifest = "[workspace.package]\nrust-version = \"1.95\"\n";
    assert_eq!(count(manifest, None), 0);
    assert_eq!(count(manifest, Some("Written in Rust. Needs Rust 1.95.\n")), 0);
    assert_eq!(count(manifest, Some("Needs Rust 1.94 or later.\n")), 1);
    assert_eq!(count("[workspace.package]\n", None), 1);
}
