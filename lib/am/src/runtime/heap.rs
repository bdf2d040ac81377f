//! Gives the process's heap back to the system after a burst: [`HeapWatch`].
//!
//! It looks at what is free in the heap, on a thread that may block, since looking takes the heap's locks. All nodes of
//! a process share its heap, so one looks for all. It goes by real time, as the heap does, whatever a simulation makes
//! of the runtime's clock.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::spawner::Spawner;

/// Less than this is kept for the next burst, in octets.
const TRIM_LEN_MIN: u64 = 8 << 20;
/// What is free stays so if it has not grown by more than this between two looks: messages that pass make it go up and
/// down.
const GROWTH_LEN_MAX: u64 = 1 << 20;
/// How often the heap is looked at while messages pass, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looking at a heap in many pieces takes long: no more than one part in so many of the time goes into it.
const LOOK_SHARE: u32 = 50;
/// Looks after the last message.
const LOOKS_AFTER: u32 = 3;

static HEAP: Mutex<Heap> = Mutex::new(Heap { base_len: u64::MAX, last_len: 0, next_look: None });

/// Trims the heap when much of it has become free and stays so.
#[derive(Debug, Default)]
pub(crate) struct HeapWatch {
    looks_left: u32,
}

#[derive(Debug)]
struct Heap {
    /// Free octets after the last trim, or fewer since.
    base_len: u64,
    /// Free octets at the last look.
    last_len: u64,
    next_look: Option<Instant>,
}

impl HeapWatch {
    /// Looks, if it is time to; `is_busy` while messages pass.
    pub(crate) fn look(&mut self, spawner: &Spawner, is_busy: bool) {
        if is_busy {
            self.looks_left = LOOKS_AFTER;
        }
        if self.looks_left == 0 {
            return;
        }
        // Whoever holds it is looking.
        let Some(mut heap) = HEAP.try_lock() else { return };
        let now = Instant::now();
        if heap.next_look.is_some_and(|at| now < at) {
            return;
        }
        heap.next_look = Some(now + LOOK_INTERVAL);
        self.looks_left -= 1;
        drop(heap);
        spawner.spawn_blocking(|| HEAP.lock().look());
    }
}

impl Heap {
    fn look(&mut self) {
        let began = Instant::now();
        let free_len = dynamo_am_heap_trim::free_len();
        self.base_len = self.base_len.min(free_len);
        if free_len >= self.base_len + TRIM_LEN_MIN
            && free_len <= self.last_len.saturating_add(GROWTH_LEN_MAX)
        {
            self.base_len = free_len;
            dynamo_am_heap_trim::trim();
        }
        self.last_len = free_len;
        self.next_look = Some(began + LOOK_INTERVAL.max(began.elapsed() * LOOK_SHARE));
    }
}
