//! `am bench` as processes: what it refuses before it measures, and that the short set ends with figures of both
//! systems. What the figures are is the machine's affair.

#[allow(dead_code, reason = "each file of tests uses its part")]
mod support;

use std::fs;

use serde_json::Value;
use support::run;

#[test]
fn bad_input_is_refused_before_anything_is_measured() {
    let cases: &[&[&str]] = &[
        &[],
        &["--quick", "--runs", "0"],
        &["--quick", "--workers", "none"],
        &["--quick", "--json", "/no/such/folder/report.json"],
    ];
    for case in cases {
        let ended = run(&[&["bench"], *case].concat()).expect(2);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{case:?}");
    }
    assert_eq!(run(&["bench", "--json", "-"]).expect(2).error()["error"], "usage");
    assert_ne!(run(&["bench-role", "nonsense"]).code, Some(0));
}

#[test]
fn the_short_set_measures_both_systems_and_writes_what_it_prints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let ended = run(&["bench", "--quick", "--runs", "1", "--json", path.to_str().unwrap()]).expect(0);
    let report: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let results = report["results"].as_array().unwrap();
    for system in ["raw", "dynamo-am"] {
        let of_system = results.iter().filter(|result| result["system"] == system);
        assert!(of_system.clone().count() >= 4, "{report}");
        assert!(of_system.clone().all(|result| result["rate_per_s"].as_f64() > Some(0.0)), "{report}");
    }
    let text = ended.text();
    for part in ["raw", "dynamo-am", "ratio", "rtt tcp", "x64", "oneway", "1 MiB"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
