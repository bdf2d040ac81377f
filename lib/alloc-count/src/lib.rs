//! A global allocator that counts. Tests install it to show that a message costs no allocation and that payloads
//! are not copied: both are claims about what does *not* happen, which only counting can show.
//!
//! ```
//! use dynamo_am_alloc_count::{Counting, counts};
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! let before = counts();
//! drop(Vec::<u8>::with_capacity(1 << 20));
//! let cost = counts().since(before);
//! assert!(cost.allocations >= 1 && cost.large >= 1 && cost.octets >= 1 << 20);
//! ```
//!
//! It is a package of its own since an allocator needs `unsafe`, which the library forbids.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static OCTETS: AtomicU64 = AtomicU64::new(0);
static LARGE: AtomicU64 = AtomicU64::new(0);
static LARGE_LEN: AtomicUsize = AtomicUsize::new(16 * 1024);

/// What the process has allocated since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Allocations, and reallocations.
    pub allocations: u64,
    /// Octets asked for; a reallocation counts its whole new size, as its octets may be moved.
    pub octets: u64,
    /// Allocations and reallocations of at least the length that [`set_large_len`] says.
    pub large: u64,
}

impl Counts {
    /// What came between `earlier` and these counts.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            allocations: self.allocations.wrapping_sub(earlier.allocations),
            octets: self.octets.wrapping_sub(earlier.octets),
            large: self.large.wrapping_sub(earlier.large),
        }
    }
}

/// The counts of this moment.
#[must_use]
pub fn counts() -> Counts {
    Counts {
        allocations: ALLOCATIONS.load(Ordering::Relaxed),
        octets: OCTETS.load(Ordering::Relaxed),
        large: LARGE.load(Ordering::Relaxed),
    }
}

/// From now on an allocation of `len` octets is a large one. Default 16 KiB.
pub fn set_large_len(len: usize) {
    LARGE_LEN.store(len, Ordering::Relaxed);
}

fn count(len: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    OCTETS.fetch_add(len as u64, Ordering::Relaxed);
    if len >= LARGE_LEN.load(Ordering::Relaxed) {
        LARGE.fetch_add(1, Ordering::Relaxed);
    }
}

/// The system's allocator, counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

// SAFETY: every method hands its arguments on to `System` unchanged and gives what that gives; counting only adds to
// atomic numbers, so it neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: `place` came from `System` by one of the other methods, with this layout.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        count(new_len);
        // SAFETY: `place` came from `System` by one of the other methods, with this layout.
        unsafe { System.realloc(place, layout, new_len) }
    }
}
