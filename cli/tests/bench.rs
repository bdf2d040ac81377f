//! `am bench` as processes: what it refuses before it measures, and that what it measures ends with figures of both
//! systems. What the figures are is the machine's affair.

#[allow(dead_code, reason = "each file of tests uses its part")]
mod support;

use std::fs;
use std::time::Instant;

use serde_json::Value;
use support::{LIMIT, Running, run};

#[test]
fn bad_input_is_refused_before_anything_is_measured() {
    let cases: &[&[&str]] = &[
        &["nonsense"],
        &["--quick", "rtt"],
        &["--quick", "--runs", "0"],
        &["--quick", "--workers", "none"],
        &["--quick", "--transport", "udp"],
        &["--quick", "--payload", "67108865"],
        &["rtt", "--count", "0"],
        &["rtt", "--busy-poll", "--transport", "inproc"],
        &["--quick", "--json", "/no/such/folder/report.json"],
    ];
    for case in cases {
        let ended = run(&[&["bench"], *case].concat()).expect(2);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{case:?}");
    }
    assert_eq!(run(&["bench", "nonsense", "--json", "-"]).expect(2).error()["error"], "usage");
    assert_ne!(run(&["bench-role", "nonsense"]).code, Some(0));
}

/// The keys that a row has in any case.
const KEYS: [&str; 11] = [
    "workload",
    "transport",
    "payload_bytes",
    "system",
    "rate_per_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "cpu_us_per_msg",
    "peak_rss_kib",
    "lost",
];

/// Checks that each row is whole and lost nothing, and gives the rows.
#[track_caller]
fn rows(report: &Value) -> &[Value] {
    assert!(report["host"].is_object(), "{report}");
    let rows = report["results"].as_array().unwrap();
    for row in rows {
        assert!(KEYS.iter().all(|key| row.get(key).is_some()), "{row}");
        assert!(row["rate_per_s"].as_f64() > Some(0.0) && row["lost"] == 0, "{row}");
    }
    rows
}

#[test]
fn the_short_set_measures_both_systems_and_writes_what_it_prints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let ended = run(&["bench", "--quick", "--runs", "1", "--json", path.to_str().unwrap()]).expect(0);
    let report: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for system in ["raw", "dynamo-am"] {
        let of_system: Vec<_> = rows(&report).iter().filter(|row| row["system"] == system).collect();
        for workload in ["rtt", "concurrent", "oneway", "bulk"] {
            assert!(of_system.iter().any(|row| row["workload"] == workload), "{workload}: {report}");
        }
    }
    let text = ended.text();
    for part in ["raw", "dynamo-am", "ratio", "rtt tcp", "x64", "oneway", "1 MiB"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn each_transport_carries_what_was_asked_for() {
    for transport in ["tcp", "ipc", "inproc"] {
        let arguments = ["--transport", transport, "--payload", "100", "--count", "300", "--runs", "1"];
        let all = [&["bench", "rtt", "oneway", "--json", "-"][..], &arguments].concat();
        let ended = run(&all).expect(0);
        let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
        let rows = rows(&report);
        assert_eq!(rows.len(), 2 * (2 + 3), "two systems: {report}");
        assert!(
            rows.iter().all(|row| row["transport"] == transport && row["payload_bytes"] == 100),
            "{report}"
        );
    }
}

#[test]
fn busy_polling_is_measured_beside_sleeping() {
    let ended =
        run(&["bench", "rtt", "--busy-poll", "--count", "100", "--runs", "1", "--json", "-"]).expect(0);
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let busy = rows(&report).iter().filter(|row| row["busy_poll"] == true);
    assert_eq!((busy.count(), rows(&report).len()), (4, 8), "{report}");
}

#[test]
fn a_cohort_is_measured_flat_and_as_a_tree_beside_plain_calls() {
    let ended = run(&["bench", "cohort", "--count", "20", "--runs", "1", "--json", "-"]).expect(0);
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let rows = rows(&report);
    for ranks in [1, 4, 16, 64] {
        for route in ["flat", "tree"] {
            for system in ["raw", "dynamo-am"] {
                let is_it =
                    |row: &&Value| row["ranks"] == ranks && row["route"] == route && row["system"] == system;
                let row = rows.iter().find(is_it).unwrap();
                assert!(row["leader_cpu_us_per_msg"].as_f64() > Some(0.0), "{row}");
                assert!(row["p999_us"].as_f64() > Some(0.0), "{row}");
            }
        }
    }
    assert_eq!(rows.len(), 16, "{report}");
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let tasks = format!("/proc/{parent}/task/{parent}/children");
    let listed = fs::read_to_string(tasks).unwrap_or_default();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn no_process_outlives_a_conductor_that_is_killed_in_a_long_phase() {
    let mut bench = Running::start(&["bench", "rtt", "--count", "100000000", "--runs", "1"]);
    let started = Instant::now();
    let measured = loop {
        let measured = children(bench.child.id());
        if measured.len() == 2 {
            break measured;
        }
        assert!(started.elapsed() < LIMIT, "it never started two processes");
        std::thread::yield_now();
    };
    bench.child.kill().unwrap();
    bench.child.wait().unwrap();
    let lives = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
    };
    while measured.iter().any(lives) {
        assert!(started.elapsed() < LIMIT, "processes are left: {measured:?}");
        std::thread::yield_now();
    }
}
