//! The seeds that every change must pass; the same seed is the same run; and runs that once found something.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dynamo_am_sim::run;

/// Runs seeds on two threads; gives what was wrong.
fn run_all(seeds: impl Iterator<Item = u64>) -> Vec<String> {
    let seeds: Arc<Vec<u64>> = Arc::new(seeds.collect());
    let (next, found) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let workers: Vec<_> = (0..2)
        .map(|number| {
            let (seeds, next, found) = (seeds.clone(), next.clone(), found.clone());
            let work = move || {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let report = run::seed(*seed);
                    if let Some(violation) = report.violations.first() {
                        let text =
                            format!("seed {seed}: {violation}\n  again: sim/run --seed {seed} --trace");
                        found.lock().unwrap().push(text);
                    }
                }
            };
            std::thread::Builder::new().name(format!("seeds-{number}")).spawn(work).unwrap()
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    let found = found.lock().unwrap();
    found.clone()
}

#[test]
fn five_hundred_seeds_keep_every_promise() {
    let violations = run_all(0..500);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let (first, second) = (run::seed(seed), run::seed(seed));
        let differs = first.entries.iter().zip(&second.entries).find(|(a, b)| a != b);
        assert!(differs.is_none(), "seed {seed}: {differs:?}");
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
}

#[test]
fn different_seeds_are_different_runs() {
    assert_ne!(run::seed(0).hash, run::seed(1).hash);
}
