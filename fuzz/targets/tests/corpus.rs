//! Every input that was worth keeping, replayed as a plain test: the corpora reach what fuzzing has reached, and
//! each input that ever broke a promise is tried again.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dynamo_am_alloc_count::{Counting, counts, set_large_len};
use dynamo_am_fuzz_targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Panics of any thread, those of tasks that nobody awaits included.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Most files of a corpus, and octets of one, so that it stays small.
const FILES_MAX: usize = 60;
const FILE_LEN_MAX: usize = 16 * 1024;
/// Before traffic, and to read a header, nothing needs an allocation of so many octets.
const LARGE_LEN: usize = 64 * 1024;
const FRUGAL: [&str; 4] = ["handshake_listen", "handshake_dial", "properties", "header"];

fn directory(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(kind).join(target)
}

/// The files of a directory in order of name; none if there is no such directory.
fn inputs(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeMap::new() };
    let mut inputs = BTreeMap::new();
    for entry in entries {
        let path = entry.expect("the directory can be read").path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        inputs.insert(name, fs::read(&path).expect("the file can be read"));
    }
    inputs
}

/// Runs an input, and says whether it broke a promise: by a panic here, or in a task.
fn breaks(target: Target, input: &[u8]) -> bool {
    let before = PANICS.load(Ordering::SeqCst);
    let ended = catch_unwind(AssertUnwindSafe(|| target(input)));
    ended.is_err() || PANICS.load(Ordering::SeqCst) != before
}

/// One test for all of them, since the count of panics and of allocations is that of the process.
#[test]
fn no_kept_input_breaks_a_promise() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        default_hook(panic);
    }));
    set_large_len(LARGE_LEN);
    assert!(breaks(|_| panic!("this one is meant to"), &[]), "a panic is noticed");
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        let corpus = inputs(&directory("corpus", name));
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} has no input");
        assert!(corpus.len() <= FILES_MAX, "fuzz/corpus/{name} has {} files: distil it", corpus.len());
        let fixed = inputs(&directory("crashes-fixed", name));
        for (file, input) in corpus.iter().chain(&fixed) {
            assert!(input.len() <= FILE_LEN_MAX, "fuzz/corpus/{name}/{file} is long: distil it");
            let before = counts();
            if breaks(target, input) {
                broken.push(format!("{name}/{file}"));
            }
            let large = counts().since(before).large;
            assert!(large == 0 || !FRUGAL.contains(&name), "{name}/{file} made {large} large allocations");
        }
        println!("{name}: {} inputs and {} that once broke a promise", corpus.len(), fixed.len());
    }
    assert!(broken.is_empty(), "these inputs break a promise again: {broken:?}");
}

#[test]
fn every_directory_of_inputs_belongs_to_a_target() {
    for kind in ["corpus", "crashes-fixed"] {
        let Ok(entries) = fs::read_dir(directory(kind, "")) else { continue };
        for entry in entries {
            let name = entry.expect("the directory can be read").file_name();
            assert!(TARGETS.iter().any(|(target, _)| name == *target), "fuzz/{kind}/{name:?} is nobody's");
        }
    }
}

/// A target in the list and none that fuzzes it would never be fuzzed.
#[test]
fn every_target_is_fuzzed() {
    for (name, _) in TARGETS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fuzz_targets/{name}.rs"));
        let text = fs::read_to_string(&path).expect("the target has a program");
        assert!(text.contains(&format!("dynamo_am_fuzz_targets::{name}(data)")), "{}", path.display());
    }
}
