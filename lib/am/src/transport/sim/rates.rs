//! What goes wrong on a simulated network, and how often: [`FaultRates`], drawn per seed with [`Dice`].

use std::time::Duration;

/// A small generator whose numbers never change with a dependency, so that a seed means the same run for ever.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same numbers for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own for part `number` of the same run.
    #[must_use]
    pub fn fork(&self, number: u64) -> Self {
        let mut dice = Self(self.0 ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Self(dice.number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        // The finaliser of SplitMix64 over a Weyl sequence.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.number() % bound }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// `true` so many times in a thousand.
    pub fn per_mille(&mut self, rate: u32) -> bool {
        rate > 0 && self.below(1000) < u64::from(rate)
    }

    /// Milliseconds from `low` to `high`.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// One of `items`; `None` when there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = self.below(items.len() as u64);
        items.get(usize::try_from(index).unwrap_or(0))
    }
}

/// How a network misbehaves. What is said "in a thousand" is asked at each occasion; what is said "a minute" is how
/// often it befalls each connection on average.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct FaultRates {
    /// Reads that give only a part of what is there, in a thousand.
    pub short_read: u32,
    /// Writes that take only a part of what fits, in a thousand.
    pub short_write: u32,
    /// Writes that take nothing although there is room, in a thousand.
    pub blocked_write: u32,
    /// Wake-ups without a reason, in a thousand reads and writes.
    pub idle_wake: u32,
    /// Latency of every connection, in milliseconds.
    pub latency_ms: u64,
    /// On top of it for each write, at most, in milliseconds. Octets stay in order.
    pub jitter_ms: u64,
    /// Octets that one direction holds; drawn for each connection up to this.
    pub capacity_max: usize,
    /// A direction delivers nothing for a while: so often a minute.
    pub stall: u32,
    /// The longest stall, in milliseconds.
    pub stall_ms_max: u64,
    /// One direction is cut for good, and the other works: so often a minute.
    pub cut: u32,
    /// Both ends get an error and what is under way is lost: so often a minute.
    pub reset: u32,
    /// Only one end learns of the reset: so often a minute.
    pub half_reset: u32,
    /// Nothing is delivered either way any more, and nobody is told: so often a minute.
    pub half_open: u32,
    /// A peer that is reset has lost what it had received and not read, in a thousand connections.
    pub reset_discards: u32,
    /// The end of a stream comes later than its last octet, by at most so many milliseconds.
    pub late_end_ms: u64,
    /// Dials that are refused although somebody listens, in a thousand.
    pub refused_dial: u32,
    /// Dials that hear nothing, in a thousand for each try; a try is repeated after a second, as a SYN is.
    pub lost_dial: u32,
}

impl FaultRates {
    /// A network without faults.
    #[must_use]
    pub fn none() -> Self {
        Self { capacity_max: 256 * 1024, ..Self::default() }
    }

    /// Some of the faults, each at a rate of its own: most seeds see about half of them.
    #[must_use]
    pub fn drawn(dice: &mut Dice) -> Self {
        let mut rate = |rates: [u64; 3]| {
            let index = dice.below(6) as usize;
            rates.get(index).copied().unwrap_or(0)
        };
        let mut often = |rates: [u64; 3]| u32::try_from(rate(rates)).unwrap_or(u32::MAX);
        Self {
            short_read: often([20, 200, 700]),
            short_write: often([20, 200, 700]),
            blocked_write: often([10, 100, 400]),
            idle_wake: often([10, 100, 300]),
            latency_ms: often([1, 5, 40]).into(),
            jitter_ms: often([2, 10, 60]).into(),
            capacity_max: [64 * 1024, 4096, 256].get(often([0, 1, 2]) as usize).copied().unwrap_or(4096),
            stall: often([3, 20, 60]),
            stall_ms_max: [200, 1500, 5000].get(often([0, 1, 2]) as usize).copied().unwrap_or(500),
            cut: often([1, 3, 10]),
            reset: often([2, 6, 30]),
            half_reset: often([1, 4, 15]),
            half_open: often([1, 3, 10]),
            reset_discards: often([200, 500, 1000]),
            late_end_ms: often([3, 20, 300]).into(),
            refused_dial: often([20, 150, 500]),
            lost_dial: often([20, 150, 400]),
        }
    }
}
