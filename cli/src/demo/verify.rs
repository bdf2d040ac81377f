//! The same work by this process alone, one file after the other, each as a whole: what the cohort's totals are
//! compared with.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::digest::digest_file;
use super::report::{Sum, Totals, Verified};
use super::walk::{Found, walk_each};
use crate::exit::Failure;

/// Does the work again and compares. Dropped, it ends with the file that it reads.
///
/// # Errors
///
/// When the thread that does it panics.
pub(crate) async fn verify(root: &Path, totals: &Totals) -> Result<Verified, Failure> {
    let began = Instant::now();
    let root = root.to_owned();
    let guard = Guard(Arc::new(AtomicBool::new(true)));
    let is_wanted = guard.0.clone();
    let alone = tokio::task::spawn_blocking(move || sum(&root, &is_wanted)).await;
    let alone = alone.map_err(|error| Failure::handler(format!("cannot verify the totals: {error}")))?;
    Ok(Verified { equal: alone == *totals, totals: alone, seconds: began.elapsed().as_secs_f64() })
}

fn sum(root: &Path, is_wanted: &AtomicBool) -> Totals {
    let mut sum = Sum::default();
    walk_each(root, |found| {
        // What cannot be read is in neither's totals, and has been reported.
        if let Found::File(path, _) = found
            && let Ok(digest) = digest_file(&root.join(&path))
        {
            sum.add(&path, &digest);
        }
        is_wanted.load(Ordering::Relaxed)
    });
    sum.finish()
}

struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
