//! The demo against ground truth: real files, real worker processes, and one that is killed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The command, with no terminal.
fn am(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_am"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    am(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

struct Truth {
    files: u64,
    bytes: u64,
    lines: u64,
    words: u64,
    blake3: String,
}

/// Walks and counts by itself, with the hash of the `blake3` crate and the counts of `wc`.
fn truth(root: &Path) -> Truth {
    let (mut lines, mut all) = (Vec::new(), Vec::new());
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => all.push(entry.path()),
                _ => {}
            }
        }
    }
    let mut sums = Truth { files: 0, bytes: 0, lines: 0, words: 0, blake3: String::new() };
    for path in all {
        let octets = fs::read(&path).unwrap();
        let mut line = format!("{}  ", blake3::hash(&octets).to_hex()).into_bytes();
        line.extend_from_slice(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
        line.push(b'\n');
        lines.push(line);
        let mut wc = Command::new("wc");
        wc.arg("-lwc").env("LC_ALL", "C").stdin(fs::File::open(&path).unwrap());
        let wc = wc.output().unwrap();
        let counts: Vec<u64> = text(&wc.stdout).split_whitespace().map(|n| n.parse().unwrap()).collect();
        sums.files += 1;
        sums.lines += counts[0];
        sums.words += counts[1];
        sums.bytes += counts[2];
    }
    lines.sort();
    sums.blake3 = blake3::hash(&lines.concat()).to_hex().to_string();
    sums
}

fn check(report: &Value, truth: &Truth) {
    let totals = &report["totals"];
    for (name, expected) in
        [("files", truth.files), ("bytes", truth.bytes), ("lines", truth.lines), ("words", truth.words)]
    {
        assert_eq!(totals[name].as_u64(), Some(expected), "{name}: {report}");
    }
    assert_eq!(totals["blake3"].as_str(), Some(truth.blake3.as_str()));
}

/// A folder with odd names, binary and empty files, and links that must not be followed.
fn folder(files: u32, len: usize) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("a folder/deeper")).unwrap();
    let mut state = 1u32;
    for number in 0..files {
        let octets: Vec<u8> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let place = if number % 2 == 0 { "a folder" } else { "a folder/deeper" };
        fs::write(root.path().join(place).join(format!("f{number}")), octets).unwrap();
    }
    fs::write(root.path().join("empty"), b"").unwrap();
    fs::write(root.path().join("line\nbreak"), b"no newline at the end").unwrap();
    fs::write(root.path().join(OsStr::from_bytes(b"not \xFF text")), b"two words\n").unwrap();
    fs::write(root.path().join(".hidden"), b"\ta\x0Bb\x0Cc\rd  \n\n").unwrap();
    symlink("empty", root.path().join("link")).unwrap();
    symlink("..", root.path().join("a folder/loop")).unwrap();
    root
}

fn demo(root: &Path, more: &[&str]) -> Output {
    run(&[&["demo", root.to_str().unwrap(), "--json", "-"], more].concat())
}

#[test]
fn totals_are_those_of_wc_and_blake3() {
    let root = folder(40, 5000);
    let output = demo(root.path(), &["--workers", "3"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    check(&report, &truth(root.path()));
    let workers = report["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 3);
    assert_eq!(workers.iter().map(|worker| worker["files"].as_u64().unwrap()).sum::<u64>(), 44);
    assert!(report["errors"].as_array().unwrap().is_empty() && report["seconds"].is_number());
}

#[test]
fn an_empty_folder_has_totals_too() {
    let root = tempfile::tempdir().unwrap();
    let report: Value = serde_json::from_slice(&demo(root.path(), &["--workers", "1"]).stdout).unwrap();
    check(&report, &truth(root.path()));
}

#[test]
fn what_is_no_folder_is_an_error() {
    for path in ["/no/such/folder", "/etc/hostname"] {
        let output = run(&["demo", path]);
        assert!(code(&output) == 2 && text(&output.stderr).contains(path), "{}", text(&output.stderr));
    }
}

/// The worker processes of a demo.
fn workers_of(leader: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{leader}/task/{leader}/children"));
    if let Ok(listed) = listed {
        return listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    }
    // Kernels without that file: ask every process for its parent.
    let status = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let is_child = |pid: &str| status(pid).lines().any(|line| line == format!("PPid:\t{leader}"));
    let pids = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    pids.filter(|pid| pid.parse::<u32>().is_ok() && is_child(pid)).map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn a_killed_worker_loses_nothing() {
    let root = folder(400, 200_000);
    let mut leader = am(&["demo", root.path().to_str().unwrap(), "--workers", "3", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One of them, whatever it is doing, as soon as it is there.
    let victim = loop {
        match workers_of(leader.id()).first() {
            Some(pid) if reads_files(*pid, root.path()) => break *pid,
            _ if leader.try_wait().unwrap().is_some() => {
                panic!("the demo ended before a worker was seen at work")
            }
            _ => std::thread::yield_now(),
        }
    };
    assert!(Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
    let output = leader.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    check(&report, &truth(root.path()));
    let lost = report["workers"].as_array().unwrap().iter().filter(|worker| worker["lost"] == true).count();
    assert_eq!(lost, 1, "{report}");
}

/// Whether a process has a file below `root` open.
fn reads_files(pid: u32, root: &Path) -> bool {
    let root = root.canonicalize().unwrap();
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&root)))
}

#[test]
fn no_worker_outlives_a_killed_leader() {
    let root = folder(400, 200_000);
    let mut leader =
        am(&["demo", root.path().to_str().unwrap(), "--workers", "2"]).stdout(Stdio::null()).spawn().unwrap();
    let workers = loop {
        let workers = workers_of(leader.id());
        if workers.len() == 2 && workers.iter().any(|pid| reads_files(*pid, root.path())) {
            break workers;
        }
        assert!(leader.try_wait().unwrap().is_none(), "the demo ended before its workers were seen at work");
        std::thread::yield_now();
    };
    leader.kill().unwrap();
    leader.wait().unwrap();
    let began = std::time::Instant::now();
    let is_there = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while workers.iter().any(is_there) {
        assert!(began.elapsed().as_secs() < 20, "a worker lives on");
        std::thread::yield_now();
    }
}
