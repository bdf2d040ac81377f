//! A payload with a buffer of its own, while it comes: [`LargeIn`].
//!
//! What is announced costs nothing: the buffer grows, and is charged to the node's budget, in steps as octets come.
//! When the budget has no more, what is left of the payload is skipped and the message refused.

use std::sync::Arc;

use crate::proto::budget::{Budget, Hold};

/// A buffer grows by so many octets at a time.
const STEP_LEN: usize = 1 << 20;

/// Where a large payload goes.
#[derive(Debug, Default)]
pub struct LargeBuffer {
    /// Octets that came before, to which these are appended.
    pub buffer: Vec<u8>,
    /// The peer's grant covers it, so that it needs no memory besides.
    pub is_granted: bool,
}

/// Why a payload was skipped instead of kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// It is longer than this node takes.
    TooLarge,
    /// The node's memory for all its peers is used up.
    NoMemory,
}

/// A payload on its way.
#[derive(Debug)]
pub(super) struct LargeIn {
    buffer: Vec<u8>,
    /// Octets of `buffer` that are counted in `remaining` already.
    counted: usize,
    remaining: u64,
    payload_len: u64,
    is_granted: bool,
    hold: Option<Hold>,
    skipped: Option<Skipped>,
}

impl LargeIn {
    pub(super) fn new(place: LargeBuffer, payload_len: u64) -> Self {
        Self {
            counted: place.buffer.len(),
            buffer: place.buffer,
            remaining: payload_len,
            payload_len,
            is_granted: place.is_granted,
            hold: None,
            skipped: None,
        }
    }

    /// One that is dropped as it comes.
    pub(super) fn too_large(payload_len: u64) -> Self {
        Self { skipped: Some(Skipped::TooLarge), ..Self::new(LargeBuffer::default(), payload_len) }
    }

    /// Counts what was read into the buffer directly, and takes what `input` has of the rest; gives how much of
    /// `input` was consumed.
    pub(super) fn take(&mut self, input: &[u8], budget: &Arc<Budget>) -> usize {
        self.count();
        let len = self.missing().min(input.len());
        if len > 0 && self.make_room(len, budget) {
            self.buffer.extend_from_slice(input.get(..len).unwrap_or_default());
            self.counted = self.buffer.len();
        }
        self.remaining -= len as u64;
        len
    }

    /// Where to read to directly, and how much; `None` when the octets are skipped.
    pub(super) fn room(&mut self, budget: &Arc<Budget>) -> Option<(&mut Vec<u8>, usize)> {
        self.count();
        if self.skipped.is_some()
            || (self.buffer.len() == self.buffer.capacity() && !self.make_room(1, budget))
        {
            return None;
        }
        let len = (self.buffer.capacity() - self.buffer.len()).min(self.missing());
        Some((&mut self.buffer, len))
    }

    pub(super) fn is_whole(&self) -> bool {
        self.remaining == 0
    }

    /// The payload and what it holds, or its length and why it was skipped.
    pub(super) fn finish(self) -> Result<(Vec<u8>, Option<Hold>), (u64, Skipped)> {
        match self.skipped {
            None => Ok((self.buffer, self.hold)),
            Some(why) => Err((self.payload_len, why)),
        }
    }

    fn missing(&self) -> usize {
        usize::try_from(self.remaining).unwrap_or(usize::MAX)
    }

    fn count(&mut self) {
        self.remaining -= (self.buffer.len() - self.counted) as u64;
        self.counted = self.buffer.len();
    }

    /// Makes room for `len` octets; `false` when they are to be skipped.
    fn make_room(&mut self, len: usize, budget: &Arc<Budget>) -> bool {
        if self.skipped.is_some() {
            return false;
        }
        if self.buffer.capacity() - self.buffer.len() >= len {
            return true;
        }
        let step = self.missing().min(STEP_LEN).max(len);
        if self.is_granted || self.charge(step as u64, budget) {
            self.buffer.reserve_exact(step);
            return true;
        }
        self.skipped = Some(Skipped::NoMemory);
        self.buffer = Vec::new();
        self.counted = 0;
        self.hold = None;
        false
    }

    fn charge(&mut self, len: u64, budget: &Arc<Budget>) -> bool {
        match &mut self.hold {
            Some(hold) => hold.extend(len),
            None => {
                self.hold = budget.hold(len);
                self.hold.is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_announced_costs_nothing_and_what_comes_is_charged() {
        let budget = Arc::new(Budget::new(8 * MIB as u64));
        let mut large = LargeIn::new(LargeBuffer::default(), u64::MAX >> 1);
        assert_eq!(large.take(&[7; 100], &budget), 100);
        assert_eq!((budget.used(), large.buffer.capacity()), (MIB as u64, MIB));
        let (buffer, len) = large.room(&budget).unwrap();
        assert_eq!(len, MIB - 100);
        buffer.resize(MIB, 8);
        assert_eq!(large.take(&[9; 10], &budget), 10);
        assert_eq!(budget.used(), 2 * MIB as u64);
        drop(large);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn without_memory_the_rest_is_skipped_and_nothing_stays_held() {
        let budget = Arc::new(Budget::new(MIB as u64));
        let mut large = LargeIn::new(LargeBuffer::default(), 1000);
        assert_eq!(large.take(&[7; 100], &budget), 100);
        let _other = budget.hold(budget.used() * 400).unwrap();
        let mut large_two = LargeIn::new(LargeBuffer::default(), 2 * MIB as u64);
        assert_eq!(large_two.take(&[7; 100], &budget), 100);
        assert!(large_two.room(&budget).is_none());
        assert_eq!(large_two.take(&vec![7; 2 * MIB], &budget), 2 * MIB - 100);
        assert!(large_two.is_whole());
        assert_eq!(large_two.finish().unwrap_err(), (2 * MIB as u64, Skipped::NoMemory));
        assert_eq!(large.take(&[7; 900], &budget), 900);
        let (buffer, hold) = large.finish().unwrap();
        assert_eq!((buffer.len(), hold.unwrap().len()), (1000, 1000));
    }
}
