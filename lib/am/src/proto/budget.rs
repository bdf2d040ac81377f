//! What a node may hold for all its peers together: [`Budget`].
//!
//! Two things draw on it. A link's *grant* is set aside for as long as messages of that link may be held: it is
//! what the peer may have unfinished here. What is *held* besides (queued output, answers that their callers have
//! not taken, payloads that are still coming) is charged as it comes.
//!
//! **Invariants.** What is taken never exceeds the limit, except by answers, each of which was let in while there
//! was room ([`Budget::take_anyway`]). Half of the limit is kept for the smallest grants, and an eighth cannot be
//! used up by what is held, so that neither few busy peers nor many stalled ones keep others out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The smallest grant, in bytes: 32 short messages at what an unfinished one costs.
pub const GRANT_LEN_MIN: u64 = 16 * 1024;

/// The fewest messages of a grant.
pub const GRANT_MESSAGES_MIN: u64 = 32;

/// A node's memory for its peers, in bytes.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    /// Something found no room since this was last asked.
    is_short: AtomicBool,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0), is_short: AtomicBool::new(false) }
    }

    /// Bytes taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `len` bytes if that leaves `reserve` bytes free.
    fn take(&self, len: u64, reserve: u64) -> bool {
        let most = self.limit.saturating_sub(reserve);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(len).filter(|sum| *sum <= most)
        });
        taken.is_ok()
    }

    /// Takes `len` bytes for what is held, if they are there.
    pub fn take_held(&self, len: u64) -> bool {
        let taken = self.take(len, self.limit / 8);
        if !taken {
            self.is_short.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// Takes `len` bytes in any case: for an answer that was let in while there was room.
    pub fn take_anyway(&self, len: u64) {
        self.used.fetch_add(len, Ordering::Relaxed);
    }

    /// Gives `len` bytes back.
    pub fn give(&self, len: u64) {
        self.used.fetch_sub(len, Ordering::Relaxed);
    }

    /// Whether something found no room since this was last asked, so that those who wait may try again.
    pub fn was_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed) && self.is_short.swap(false, Ordering::Relaxed)
    }

    /// Whether nothing more can be held; whoever hears so may wait until [`was_short`](Self::was_short) is seen.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        let is_exhausted = self.used() >= self.limit - self.limit / 8;
        if is_exhausted {
            self.is_short.store(true, Ordering::Relaxed);
        }
        is_exhausted
    }

    /// Sets a first grant of at most `most` bytes aside: a tenth of what is left, or the least that is useful.
    /// `None` when not even that is left.
    #[must_use]
    pub fn first_grant(self: &Arc<Self>, most: u64) -> Option<Grant> {
        let left = self.limit.saturating_sub(self.used());
        let generous = left.saturating_sub(self.limit / 2);
        let floor = GRANT_LEN_MIN.min(most);
        let len = most.min(left / 10).min(generous / 4);
        let taken = if len > floor && self.take(len, self.limit / 2) {
            len
        } else if self.take(floor, 0) {
            floor
        } else {
            return None;
        };
        Some(Grant { budget: Arc::clone(self), len: AtomicU64::new(taken), most })
    }

    /// Holds `len` bytes until the value is dropped; `None` when they are not there.
    #[must_use]
    pub fn hold(self: &Arc<Self>, len: u64) -> Option<Hold> {
        self.take_held(len).then(|| Hold { budget: Arc::clone(self), len })
    }
}

/// What a peer may have unfinished on one link; given back when dropped.
#[derive(Debug)]
pub struct Grant {
    budget: Arc<Budget>,
    len: AtomicU64,
    most: u64,
}

impl Grant {
    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// How many of at most `most` messages go with its size: as large a part as its bytes are of theirs.
    #[must_use]
    pub fn messages(&self, most: u64) -> u64 {
        let share = u128::from(most) * u128::from(self.len()) / u128::from(self.most.max(1));
        u64::try_from(share).unwrap_or(most).max(GRANT_MESSAGES_MIN.min(most))
    }

    /// Whether it grants nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The peer uses it up: doubles it, up to its most, if the budget has that much to spare. Gives the new size
    /// when it has grown.
    pub fn grow(&self) -> Option<u64> {
        let len = self.len();
        let more = len.min(self.most.saturating_sub(len));
        if more == 0 || !self.budget.take(more, self.budget.limit / 2) {
            return None;
        }
        Some(self.len.fetch_add(more, Ordering::Relaxed) + more)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.give(self.len());
    }
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<Budget>,
    len: u64,
}

impl Hold {
    /// Its size in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Holds `len` bytes more; `false` when they are not there.
    pub fn extend(&mut self, len: u64) -> bool {
        let taken = self.budget.take_held(len);
        if taken {
            self.len += len;
        }
        taken
    }

    /// Takes over what `other` holds.
    pub fn absorb(&mut self, mut other: Self) {
        self.len += std::mem::take(&mut other.len);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.give(self.len);
    }
}

/// What one link holds of a budget: taken in steps, so that no message pays for more than a comparison.
#[derive(Debug)]
pub struct Account {
    budget: Arc<Budget>,
    /// Bytes that may be held without asking.
    covered: u64,
}

/// What a link may hold without asking, in bytes: a few calls and their answers.
pub const COVERED_LEN_MIN: u64 = 16 * 1024;
/// Bytes that an account takes at once.
const STEP_LEN: u64 = 32 * 1024;
/// An account gives back what it has above its need and this.
const SLACK_LEN: u64 = 2 * STEP_LEN;

impl Account {
    /// An account that has taken nothing.
    #[must_use]
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, covered: COVERED_LEN_MIN }
    }

    /// Whether `needed` bytes in all may be held; takes what is missing.
    #[inline]
    pub fn covers(&mut self, needed: u64) -> bool {
        needed <= self.covered || self.cover(needed)
    }

    #[cold]
    fn cover(&mut self, needed: u64) -> bool {
        let missing = (needed - self.covered).next_multiple_of(STEP_LEN);
        let taken = self.budget.take_held(missing);
        if taken {
            self.covered += missing;
        }
        taken
    }

    /// The budget that it draws on.
    #[must_use]
    pub const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// `needed` bytes are held, whether the budget has them or not.
    #[inline]
    pub fn cover_anyway(&mut self, needed: u64) {
        if needed > self.covered {
            let missing = (needed - self.covered).next_multiple_of(STEP_LEN);
            self.budget.take_anyway(missing);
            self.covered += missing;
        }
    }

    /// No more than `needed` bytes are held from now on: gives the rest back, but for what is soon needed again.
    #[inline]
    pub fn settle(&mut self, needed: u64) {
        if self.covered > needed.max(COVERED_LEN_MIN) + SLACK_LEN {
            self.release(needed);
        }
    }

    /// Gives back all but `needed` bytes.
    pub fn release(&mut self, needed: u64) {
        let kept = needed.max(COVERED_LEN_MIN);
        if self.covered > kept {
            self.budget.give(self.covered - kept);
            self.covered = kept;
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.release(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn grants_shrink_as_links_come_and_never_exceed_the_budget() {
        let budget = Arc::new(Budget::new(256 * MIB));
        let mut grants: Vec<Grant> = Vec::new();
        while let Some(grant) = budget.first_grant(16 * MIB) {
            assert!(grant.len() >= GRANT_LEN_MIN);
            assert!(grants.last().is_none_or(|last| grant.len() <= last.len()));
            grants.push(grant);
            assert!(budget.used() <= 256 * MIB);
        }
        assert_eq!(grants[0].len(), 16 * MIB);
        assert!(grants.len() > 8000, "{}", grants.len());
        drop(grants);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_grant_grows_to_its_most_while_half_of_the_budget_is_left() {
        let budget = Arc::new(Budget::new(MIB));
        let grant = budget.first_grant(300 * 1024).unwrap();
        while grant.grow().is_some() {}
        assert_eq!(grant.len(), 300 * 1024);
        let second = budget.first_grant(MIB).unwrap();
        while second.grow().is_some() {}
        assert!(budget.used() <= MIB / 2);
        assert!(!second.is_empty() && second.len() < MIB / 4);
    }

    #[test]
    fn what_is_held_leaves_an_eighth_to_new_links() {
        let budget = Arc::new(Budget::new(MIB));
        let mut hold = budget.hold(MIB / 2).unwrap();
        assert!(!budget.was_short() && hold.extend(MIB / 4 + MIB / 8));
        assert!(budget.is_exhausted() && budget.hold(1).is_none() && !hold.extend(1));
        assert!(budget.was_short() && !budget.was_short());
        assert!(budget.first_grant(MIB).is_some());
        drop(hold);
        assert_eq!(budget.used(), 0);
    }

    proptest! {
        #[test]
        fn accounts_give_back_all_that_they_took(needs in prop::collection::vec(0u64..3 * MIB, 1..60)) {
            let budget = Arc::new(Budget::new(2 * MIB));
            let mut account = Account::new(Arc::clone(&budget));
            for need in needs {
                if account.covers(need) {
                    prop_assert!(budget.used() + COVERED_LEN_MIN >= need);
                }
                account.settle(need);
                prop_assert!(budget.used() <= need.max(COVERED_LEN_MIN) + SLACK_LEN);
                prop_assert!(budget.used() <= 2 * MIB);
            }
            account.cover_anyway(3 * MIB);
            prop_assert!(budget.used() + COVERED_LEN_MIN >= 3 * MIB);
            drop(account);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
