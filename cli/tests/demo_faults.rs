//! `am demo` when workers are killed, stopped or all gone, when the leader ends in whatever way, and when files
//! may not be read. A file that takes minutes to read holds the moment at which it happens.

#[allow(dead_code, reason = "each file of tests uses its part")]
mod support;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod tree;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use support::{Running, run};
use tree::Tree;
use tree::processes::{Demo, is_running, kill, open_files, until, until_ended};

/// A user without rights, where tests run as root.
const NOBODY: u32 = 65_534;

/// Small files, and what is true of them, and a file `endless` that is found first.
fn busy_tree() -> (Tree, tree::Truth) {
    let tree = Tree::new();
    for n in 0..400 {
        tree.write(format!("small/{n}"), format!("file {n}\n").repeat(n));
    }
    let truth = tree.truth();
    tree.write_endless("endless");
    (tree, truth)
}

/// Ends the endless file when `reader`, or whoever, has it, and sees that nothing was lost.
fn finish_whole(demo: Demo, tree: &Tree, mut truth: tree::Truth) -> Value {
    tree.cut("endless");
    let report = demo.0.finish().expect(0).json().remove(0);
    let zeros = report["totals"]["bytes"].as_u64().unwrap() - truth.bytes;
    truth.add_zeros("endless", zeros);
    assert_eq!(report["totals"], truth.totals());
    assert_eq!(report["errors"], json!([]));
    let workers = report["workers"].as_array().unwrap();
    let files: u64 = workers.iter().map(|worker| worker["files"].as_u64().unwrap()).sum();
    assert_eq!(files, truth.files);
    report
}

fn lost_pids(report: &Value) -> Vec<u64> {
    let workers = report["workers"].as_array().unwrap().iter();
    workers.filter(|worker| worker["lost"] == true).map(|worker| worker["pid"].as_u64().unwrap()).collect()
}

/// Waits until another worker has taken over the endless file.
fn until_taken_over(demo: &Demo, from: u32) {
    until("another worker reads it", || {
        demo.readers_of("endless").iter().any(|pid| *pid != from).then_some(())
    });
}

#[test]
fn a_worker_killed_halfway_loses_nothing() {
    let (tree, truth) = busy_tree();
    let demo = Demo::start(&[tree.root(), "--workers", "3", "--in-flight", "2", "--json", "-"]);
    let victim = demo.readers_of("endless")[0];
    kill(victim, Signal::KILL);
    until_taken_over(&demo, victim);
    let report = finish_whole(demo, &tree, truth);
    assert_eq!(lost_pids(&report), [u64::from(victim)]);
}

#[test]
fn a_worker_that_stands_still_is_given_up_and_does_not_stay() {
    let (tree, truth) = busy_tree();
    let demo = Demo::start(&[tree.root(), "--workers", "2", "--json", "-"]);
    let victim = demo.readers_of("endless")[0];
    kill(victim, Signal::STOP);
    until_taken_over(&demo, victim);
    let report = finish_whole(demo, &tree, truth);
    assert_eq!(lost_pids(&report), [u64::from(victim)]);
    until_ended(&[victim]);
}

#[test]
fn workers_hold_as_many_files_as_was_said_and_when_all_die_that_is_the_error() {
    let tree = Tree::new();
    for n in 0..12 {
        tree.write_endless(&format!("endless{n}"));
    }
    let held = |pid: u32| open_files(pid).iter().filter(|name| name.starts_with("endless")).count();
    let demo = Demo::start(&[tree.root(), "--workers", "2", "--in-flight", "3"]);
    // Between two parts a worker has none open, so this is one look, and more is never seen.
    let workers = until("each worker reads", || {
        let workers = demo.workers();
        let seen: Vec<_> = workers.iter().map(|pid| held(*pid)).collect();
        assert!(seen.iter().all(|count| *count <= 3), "{seen:?}");
        (seen == [3, 3]).then_some(workers)
    });
    for pid in &workers {
        kill(*pid, Signal::KILL);
    }
    let ended = demo.0.finish().expect(3);
    assert!(ended.stderr.contains("am: all workers were lost"), "{}", ended.stderr);
    assert_eq!(ended.text(), "");
}

#[test]
fn no_worker_outlives_its_leader() {
    for (signal, code) in [(Signal::KILL, None), (Signal::INT, Some(130)), (Signal::TERM, Some(130))] {
        let (tree, _) = busy_tree();
        let demo = Demo::start(&[tree.root(), "--workers", "2"]);
        demo.readers_of("endless");
        let workers = demo.workers();
        assert_eq!(workers.len(), 2);
        demo.0.signal(signal);
        let ended = demo.0.finish();
        assert_eq!(ended.code, code, "{signal:?}: {}", ended.stderr);
        until_ended(&workers);
    }
}

#[test]
fn ctrl_c_in_a_terminal_is_the_leaders_to_answer() {
    let (tree, truth) = busy_tree();
    let demo = Demo::start(&[tree.root(), "--workers", "2", "--json", "-"]);
    demo.readers_of("endless");
    // A terminal sends it to the whole group: the workers must not die of it by themselves.
    for pid in demo.workers() {
        kill(pid, Signal::INT);
    }
    let report = finish_whole(demo, &tree, truth);
    assert_eq!(lost_pids(&report), [0u64; 0]);
}

#[test]
fn a_worker_that_nobody_awaits_is_turned_away() {
    let (tree, truth) = busy_tree();
    let demo = Demo::start(&[tree.root(), "--workers", "1", "--json", "-"]);
    let worker = demo.readers_of("endless")[0];
    let arguments = fs::read_to_string(format!("/proc/{worker}/cmdline")).unwrap();
    let leader = arguments.split('\0').find(|argument| argument.starts_with("ipc://")).unwrap();
    let ended = run(&["demo-worker", "--leader", leader, "--number", "1"]).expect(1);
    assert!(ended.stderr.contains("no worker is awaited any more"), "{}", ended.stderr);
    assert!(is_running(worker));
    let report = finish_whole(demo, &tree, truth);
    assert_eq!(lost_pids(&report), [0u64; 0]);
}

#[test]
fn a_worker_without_a_leader_ends() {
    run(&["demo-worker", "--leader", "ipc:///no/such/socket", "--number", "1"]).expect(3);
    run(&["demo-worker", "--leader", "nonsense", "--number", "1"]).expect(2);
    run(&["demo-worker"]).expect(2);
}

#[test]
fn files_and_folders_that_may_not_be_read_are_reported_each_and_stop_nothing() {
    let tree = Tree::new();
    tree.write("readable/file", "text\n");
    let truth = tree.truth();
    tree.write("readable/locked", "text\n");
    tree.write("shut/file", "text\n");
    let program = Tree::new();
    fs::copy(env!("CARGO_BIN_EXE_am"), program.at("am")).unwrap();
    fs::create_dir(program.at("run")).unwrap();
    let mode = |path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for (path, bits) in [
        (tree.at(""), 0o755),
        (program.at(""), 0o755),
        (program.at("run"), 0o700),
        (tree.at("readable/locked"), 0),
        (tree.at("shut"), 0),
    ] {
        mode(path, bits);
    }
    let mut command = Command::new(program.at("am"));
    if geteuid().is_root() {
        // Root may read everything.
        chown(program.at("run"), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    command.args(["demo", tree.root(), "--workers", "2", "--json", "-"]);
    command.env("XDG_RUNTIME_DIR", program.at("run")).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = Running::of(command.spawn().unwrap()).finish();
    // So that whoever may not read it can remove it.
    mode(tree.at("shut"), 0o700);
    let report = ended.expect(0).json().remove(0);
    assert_eq!(report["totals"], truth.totals());
    let errors = report["errors"].as_array().unwrap();
    let paths: Vec<_> = errors.iter().map(|error| error["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["readable/locked", "shut"]);
    assert!(errors.iter().all(|error| error["error"].as_str().unwrap().contains("denied")), "{errors:?}");
}
