//! `am demo` as processes: its totals against those found out in another way, bad input, and files, workers and
//! leaders that go while it runs.

#[allow(dead_code, reason = "each file of tests uses its part")]
mod support;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod tree;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};
use support::{Ended, Running, am};
use tree::Tree;
use tree::processes::Demo;

fn demo(arguments: &[&str]) -> Ended {
    Demo::start(arguments).0.finish()
}

fn report(ended: Ended) -> Value {
    ended.expect(0).json().remove(0)
}

/// Octets without a pattern, the same in each run.
fn noise(len: usize, mut seed: u32) -> Vec<u8> {
    let octets = std::iter::from_fn(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((seed >> 24) as u8)
    });
    octets.take(len).collect()
}

fn sum_of(report: &Value, field: &str) -> u64 {
    let workers = report["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker[field].as_u64().unwrap()).sum()
}

/// Files of all kinds and names.
fn odd_tree() -> Tree {
    let tree = Tree::new();
    tree.write("plain.txt", "one two\nthree\r\n\n no end");
    tree.write("empty", "");
    tree.write("sub/deep/er/file.rs", "fn main() {}\n");
    tree.write(".hidden", "hidden");
    tree.write(".git/HEAD", "ref: refs/heads/main\n");
    tree.write("target/debug/x", "\x0b\x0c \x0bx\x0c");
    tree.write("long", noise(1_500_000, 1));
    tree.write("controls", (0..=255).flat_map(|octet| [b' ', octet, b' ']).collect::<Vec<u8>>());
    tree.write("unprintable words", b"\x01\x02 \xFF\xFE \x7F\na\x80b \xC3\xA4\n");
    tree.write("new\nline", "a name of two lines");
    tree.write(OsStr::from_bytes(b"no\xFFtext"), "a name that is no text");
    // Equal but for a tail that sorts before an end of line.
    tree.write("same", "the same");
    tree.write("same\ttail", "the same");
    for n in 0..300 {
        tree.write(format!("many/{}/{n}", n % 7), noise(n * 37 % 5000, n as u32));
    }
    symlink("plain.txt", tree.at("link")).unwrap();
    symlink("..", tree.at("sub/loop")).unwrap();
    symlink("nowhere", tree.at("dangling")).unwrap();
    mkfifoat(CWD, tree.at("pipe"), Mode::RUSR).unwrap();
    tree
}

#[test]
fn totals_are_those_of_wc_and_of_the_sorted_list_of_hashes() {
    let tree = odd_tree();
    let truth = tree.truth();
    assert_eq!(tree.wc(), [truth.lines, truth.words, truth.bytes]);
    let report = report(demo(&[tree.root(), "--workers", "3", "--json", "-"]));
    assert_eq!(report["totals"], truth.totals());
    assert_eq!(report["errors"], json!([]));
    assert_eq!(report["skipped"], 4);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    let workers = report["workers"].as_array().unwrap();
    let numbers: Vec<_> = workers.iter().map(|worker| worker["worker"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(workers.iter().all(|worker| worker["lost"] == false && worker["files"] != 0));
    assert_eq!((sum_of(&report, "files"), sum_of(&report, "bytes")), (truth.files, truth.bytes));
}

#[test]
fn the_result_does_not_depend_on_who_works() {
    let tree = odd_tree();
    let one = report(demo(&[tree.root(), "--workers", "1", "--in-flight", "1", "--json", "-"]));
    let many = report(demo(&[tree.root(), "--workers", "8", "--in-flight", "16", "--json", "-"]));
    assert_eq!(one["totals"], many["totals"]);
    assert_eq!((one["workers"].as_array().unwrap().len(), many["workers"].as_array().unwrap().len()), (1, 8));
}

#[test]
fn people_see_a_table_and_programs_a_file_and_the_current_folder_is_the_default() {
    let tree = Tree::new();
    tree.write("a", "one two\n");
    let out = Tree::new();
    let json = out.at("report.json");
    let mut command = am(&["demo", "--workers", "2", "--json", json.to_str().unwrap()]);
    let ended = Running::of(command.current_dir(tree.root()).spawn().unwrap()).finish().expect(0);
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(report["totals"], tree.truth().totals());
    let text = ended.text();
    assert!(text.contains("1 files, 8 bytes, 1 lines, 2 words"), "{text}");
    assert!(text.contains(report["totals"]["blake3"].as_str().unwrap()), "{text}");
    for worker in report["workers"].as_array().unwrap() {
        assert!(text.contains(&worker["pid"].to_string()), "{text}");
    }
    assert!(text.contains("100.0 %") && text.contains("worker") && text.contains("share"), "{text}");
}

#[test]
fn an_empty_folder_is_no_error() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("nothing/below")).unwrap();
    let report = report(demo(&[tree.root(), "--json", "-"]));
    assert_eq!(report["totals"], tree.truth().totals());
    assert_eq!(report["workers"].as_array().unwrap().len(), 4);
}

#[test]
fn bad_input_is_refused_before_anything_starts() {
    let tree = Tree::new();
    tree.write("file", "");
    let file = tree.at("file");
    let (file, none) = (file.to_str().unwrap(), "/no/such/folder");
    let below = format!("{file}/below");
    let far = format!("{none}/report.json");
    let cases: &[&[&str]] = &[
        &[none],
        &[file],
        &[&below],
        &["--workers", "0", tree.root()],
        &["--workers", "many", tree.root()],
        &["--in-flight", "0", tree.root()],
        &[tree.root(), "--json", tree.root()],
        &[tree.root(), "--json", &far],
        &[tree.root(), "--json", &below],
        &[tree.root(), tree.root()],
    ];
    for case in cases {
        let ended = demo(case).expect(2);
        assert_eq!(ended.text(), "", "{case:?}");
    }
    let ended = demo(&[none]).expect(2);
    assert!(ended.stderr.starts_with("am: ") && ended.stderr.contains(none), "{}", ended.stderr);
    let error = demo(&[none, "--json", "-"]).expect(2).error();
    assert_eq!((&error["exit"], &error["error"]), (&json!(2), &json!("usage")));
}

#[test]
fn files_that_go_or_change_their_kind_are_reported_each_and_stop_nothing() {
    let tree = Tree::new();
    for name in ["b-gone", "c-pipe", "d-link", "e-folder"] {
        tree.write(name, "here when it was seen");
    }
    tree.write("f", "here still\n");
    tree.write_endless("a");
    // The one worker reads `a`, so the others, of the same folder, have been seen and not been read.
    let demo = Demo::start(&[tree.root(), "--workers", "1", "--in-flight", "1", "--json", "-"]);
    demo.readers_of("a");
    for name in ["b-gone", "c-pipe", "d-link", "e-folder"] {
        fs::remove_file(tree.at(name)).unwrap();
    }
    mkfifoat(CWD, tree.at("c-pipe"), Mode::RUSR).unwrap();
    symlink("f", tree.at("d-link")).unwrap();
    fs::create_dir(tree.at("e-folder")).unwrap();
    tree.cut("a");
    let report = report(demo.0.finish());
    let errors = report["errors"].as_array().unwrap();
    let paths: Vec<_> = errors.iter().map(|error| error["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["b-gone", "c-pipe", "d-link", "e-folder"]);
    assert!(errors[0]["error"].as_str().unwrap().contains("No such file"), "{errors:?}");
    assert!(errors[1]["error"].as_str().unwrap().contains("no regular file"), "{errors:?}");
    assert_eq!((&report["totals"]["files"], &report["totals"]["lines"]), (&json!(2), &json!(1)));
    assert_eq!(report["workers"][0]["lost"], false);
}
