//! What `am demo` owes to its cohort: large files in parts, a worker killed halfway, and the same totals from one
//! process alone.

#[allow(dead_code, reason = "each file of tests uses its part")]
mod support;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod tree;

use std::fs::{self, File};

use serde_json::{Value, json};
use support::run;
use tree::Tree;
use tree::processes::{Demo, is_running};

const MIB: usize = 1 << 20;

fn report(arguments: &[&str]) -> Value {
    run(&[&["demo", "--json", "-"], arguments].concat()).expect(0).json().remove(0)
}

fn workers(report: &Value) -> &[Value] {
    report["workers"].as_array().unwrap()
}

fn sum_of(report: &Value, field: &str) -> u64 {
    workers(report).iter().map(|worker| worker[field].as_u64().unwrap()).sum()
}

/// Words and lines of many lengths, none of which a part's boundary respects.
fn text(len: usize) -> Vec<u8> {
    let words = (0..).flat_map(|n: usize| {
        let end = [" ", "\n", "", "\t\u{e4}\u{e4} ", "\u{1} "][n % 5];
        format!("{:x}{end}", n.wrapping_mul(2_654_435_761) % 100_003).into_bytes()
    });
    words.take(len).collect()
}

/// Files around the length from which they are cut, and small ones between them.
fn large_tree() -> Tree {
    let tree = Tree::new();
    tree.write("a-whole", text(8 * MIB - 1));
    tree.write("b-two-parts", text(8 * MIB));
    tree.write("c-three-parts", text(8 * MIB + 1));
    tree.write("d-one-word", vec![b'x'; 9 * MIB]);
    tree.write("e-no-word", vec![b' '; 12 * MIB]);
    for n in 0..40 {
        tree.write(format!("small/{n}"), text(n * 100));
    }
    tree
}

#[test]
fn large_files_are_read_in_parts_by_several_workers_and_the_totals_are_those_of_the_whole() {
    let tree = large_tree();
    let truth = tree.truth();
    assert_eq!(tree.wc(), [truth.lines, truth.words, truth.bytes]);
    let many = report(&[tree.root(), "--workers", "3", "--in-flight", "2"]);
    assert_eq!(many["totals"], truth.totals());
    assert_eq!(many["errors"], json!([]));
    assert_eq!(sum_of(&many, "parts"), 2 + 3 + 3 + 3);
    assert_eq!((sum_of(&many, "files"), sum_of(&many, "bytes")), (truth.files, truth.bytes));
    assert!(workers(&many).iter().filter(|worker| worker["parts"] != 0).count() > 1, "{many}");
    // Alone, a worker gains nothing by parts.
    let one = report(&[tree.root(), "--workers", "1"]);
    assert_eq!((&one["totals"], sum_of(&one, "parts")), (&many["totals"], 0));
}

#[test]
fn a_killed_worker_changes_no_total_and_each_file_is_counted_once() {
    let small = Tree::new();
    for n in 0..500 {
        small.write(format!("{}/{n}", n % 9), text(n * 7));
    }
    let single = Tree::new();
    single.write("file", "one two\n");
    let large = large_tree();
    for (tree, workers_count) in [(&small, "2"), (&small, "5"), (&large, "2"), (&large, "4"), (&single, "3")]
    {
        let truth = tree.truth();
        let report = report(&[tree.root(), "--workers", workers_count, "--kill-one"]);
        assert_eq!(report["totals"], truth.totals(), "{report}");
        assert_eq!(report["errors"], json!([]));
        assert_eq!((sum_of(&report, "files"), sum_of(&report, "bytes")), (truth.files, truth.bytes));
        let lost: Vec<_> = workers(&report).iter().filter(|worker| worker["lost"] == true).collect();
        assert_eq!(lost.len(), 1, "{report}");
        assert_eq!(lost[0]["worker"], report["killed"]);
        assert!(!is_running(u32::try_from(lost[0]["pid"].as_u64().unwrap()).unwrap()));
    }
    let shown = run(&["demo", small.root(), "--workers", "2", "--kill-one"]).expect(0);
    assert!(shown.text().contains("killed"), "{}", shown.text());
}

#[test]
fn nobody_is_killed_where_nobody_would_be_left_or_nobody_asked() {
    let tree = Tree::new();
    tree.write("file", "text");
    let ended = run(&["demo", tree.root(), "--kill-one", "--workers", "1"]).expect(2);
    assert!(ended.stderr.contains("--workers 2") && ended.text().is_empty(), "{}", ended.stderr);
    let report = report(&[tree.root(), "--workers", "2"]);
    assert!(report.get("killed").is_none() && report.get("verified").is_none(), "{report}");
    assert!(workers(&report).iter().all(|worker| worker["lost"] == false), "{report}");
}

#[test]
fn one_process_alone_finds_the_same_also_when_a_worker_was_killed() {
    let tree = large_tree();
    let report = report(&[tree.root(), "--workers", "3", "--verify", "--kill-one"]);
    assert_eq!(report["totals"], tree.truth().totals());
    assert_eq!(
        (&report["verified"]["equal"], &report["verified"]["totals"]),
        (&json!(true), &report["totals"])
    );
    let small = Tree::new();
    small.write("file", "text");
    let shown = run(&["demo", small.root(), "--verify"]).expect(0);
    assert!(shown.text().contains("one process alone finds the same"), "{}", shown.text());
}

#[test]
fn totals_that_one_process_does_not_find_are_an_error() {
    let tree = Tree::new();
    tree.write("a", "as the worker reads it");
    tree.write_endless("b");
    let demo = Demo::start(&[tree.root(), "--workers", "1", "--in-flight", "1", "--verify", "--json", "-"]);
    // It reads `b`, so it has read `a`.
    demo.readers_of("b");
    tree.write("a", "as it is now");
    tree.cut("b");
    let ended = demo.0.finish().expect(1);
    let report = ended.json().remove(0);
    assert_eq!(report["verified"]["equal"], false);
    assert_eq!(report["verified"]["totals"], tree.truth().totals());
    assert_ne!(report["totals"], report["verified"]["totals"]);
    let error = ended.error();
    assert!(error["message"].as_str().unwrap().contains("other totals"), "{error}");
}

#[test]
fn a_file_that_changes_while_it_is_read_in_parts_is_read_again_as_a_whole() {
    let tree = Tree::new();
    tree.write_endless("endless");
    tree.write("small", "text\n");
    let demo = Demo::start(&[tree.root(), "--workers", "2", "--json", "-"]);
    demo.readers_of("endless");
    // Long enough for parts that were begun to find all their octets.
    let file = File::options().write(true).open(tree.at("endless")).unwrap();
    file.set_len(10 * MIB as u64 + 7).unwrap();
    let report = demo.0.finish().expect(0).json().remove(0);
    assert_eq!(report["totals"], tree.truth().totals());
    assert_eq!((&report["errors"], sum_of(&report, "parts")), (&json!([]), 0));
}

#[test]
fn a_file_that_vanishes_between_its_parts_is_one_error_and_stops_nothing() {
    let tree = Tree::new();
    tree.write_endless("endless");
    for n in 0..20 {
        tree.write(format!("small/{n}"), text(n * 50));
    }
    let demo = Demo::start(&[tree.root(), "--workers", "3", "--json", "-"]);
    demo.readers_of("endless");
    fs::remove_file(tree.at("endless")).unwrap();
    let report = demo.0.finish().expect(0).json().remove(0);
    let errors = report["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[0]["path"]), (1, &json!("endless")));
    assert!(errors[0]["error"].as_str().unwrap().contains("No such file"), "{errors:?}");
    assert_eq!(report["totals"], tree.truth().totals());
    assert_eq!((sum_of(&report, "files"), sum_of(&report, "parts")), (20, 0));
}
