//! Receive chunks, lent to readers while they read: an idle link owns none.

use parking_lot::Mutex;

/// Length of a receive chunk, in octets: a turn of about 700 short messages, and what a socket buffer gives at
/// once.
pub(super) const CHUNK_LEN: usize = 64 * 1024;
/// Chunks kept for the next reader; more than that many readers at once allocate.
const IDLE_COUNT_MAX: usize = 32;

static IDLE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An empty chunk with room for [`CHUNK_LEN`] octets.
pub(super) fn take() -> Vec<u8> {
    let idle = IDLE.lock().pop();
    idle.unwrap_or_else(|| Vec::with_capacity(CHUNK_LEN))
}

/// Gives a chunk back.
pub(super) fn give(mut chunk: Vec<u8>) {
    if chunk.capacity() != CHUNK_LEN {
        return;
    }
    chunk.clear();
    let mut idle = IDLE.lock();
    if idle.len() < IDLE_COUNT_MAX {
        idle.push(chunk);
    }
}
