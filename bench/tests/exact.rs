//! The programs that count what a message costs: what they print, and with what code they end.

#![allow(clippy::unwrap_used, reason = "test helpers fail by panicking; clippy exempts only test functions")]

use std::path::Path;
use std::process::{Command, Output};

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |octets| String::from_utf8(octets).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_one_way_message_allocates_nothing_and_every_path_has_a_figure() {
    let (code, printed, errors) = run(&mut Command::new(env!("CARGO_BIN_EXE_am-allocations")));
    assert_eq!(code, Some(0), "{printed}{errors}");
    for way in ["one-way, inline handler", "echo, 64 outstanding", "echo, one at a time"] {
        assert_eq!(printed.matches(way).count(), 2, "both sides: {printed}");
    }
    assert!(printed.contains("all targets are met"), "{printed}");
}

#[test]
fn what_cannot_be_counted_is_not_taken_for_a_target_that_is_met() {
    let program = env!("CARGO_BIN_EXE_am-instructions");
    let (code, printed, errors) = run(Command::new(program).arg("--quick").env("PATH", "/nonexistent"));
    assert!(code == Some(2) && printed.is_empty() && errors.contains("valgrind"), "{printed}{errors}");
    let (code, _, errors) = run(Command::new(program).arg("--slow"));
    assert!(code == Some(2) && errors.contains("--quick"), "{errors}");
}

#[test]
fn the_script_says_how_to_get_a_valgrind_that_is_missing() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions");
    let (code, _, errors) = run(Command::new("/bin/bash").arg(script).env("PATH", "/nonexistent"));
    assert!(code == Some(2) && errors.contains("apt-get install valgrind"), "{errors}");
}
