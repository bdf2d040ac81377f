//! Gives the process's heap back to the system after a burst: [`HeapWatch`].
//!
//! It looks at what is free in the heap, on a thread that may block, since looking takes the heap's locks. It goes by
//! real time, as the heap does, whatever a simulation makes of the runtime's clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::spawner::Spawner;

/// Less than this is kept for the next burst, in octets.
const TRIM_LEN_MIN: u64 = 8 << 20;
/// How often the heap is looked at while messages pass.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks after the last message.
const LOOKS_AFTER: u32 = 3;

/// Trims the heap when much of it has become free and stays so.
#[derive(Debug)]
pub(crate) struct HeapWatch {
    looked: Instant,
    looks_left: u32,
    heap: Arc<Mutex<Heap>>,
}

#[derive(Debug)]
struct Heap {
    /// Free octets after the last trim, or fewer since.
    base_len: u64,
    /// Free octets at the last look.
    last_len: u64,
}

impl HeapWatch {
    pub(crate) fn new() -> Self {
        let heap = Heap { base_len: u64::MAX, last_len: 0 };
        Self { looked: Instant::now(), looks_left: 0, heap: Arc::new(Mutex::new(heap)) }
    }

    /// Looks, if it is time to; `is_busy` while messages pass.
    pub(crate) fn look(&mut self, spawner: &Spawner, is_busy: bool) {
        if is_busy {
            self.looks_left = LOOKS_AFTER;
        }
        if self.looks_left == 0 || self.looked.elapsed() < LOOK_INTERVAL {
            return;
        }
        self.looked = Instant::now();
        self.looks_left -= 1;
        let heap = self.heap.clone();
        spawner.spawn_blocking(move || heap.lock().look());
    }
}

impl Heap {
    fn look(&mut self) {
        let free_len = dynamo_am_heap_trim::free_len();
        self.base_len = self.base_len.min(free_len);
        if free_len >= self.base_len + TRIM_LEN_MIN && free_len <= self.last_len {
            self.base_len = free_len;
            dynamo_am_heap_trim::trim();
        }
        self.last_len = free_len;
    }
}
