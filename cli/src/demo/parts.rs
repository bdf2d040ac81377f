//! Large files in parts: how they are cut, and how what workers found out about the parts becomes the file's.
//!
//! **Invariant**: what comes out is what reading the file as a whole gives, to the last octet of its hash. A part is a
//! whole branch of the BLAKE3 tree: its length is a power of two, and it begins at a multiple of it.

use blake3::hazmat::{ChainingValue, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::digest::{Counts, Digest, PartDigest, Stamp};

/// Shorter parts would cost more to give out than they save.
const PART_LEN_MIN: u64 = 4 << 20;
/// Parts of one file, at most: what is kept of each bounds the memory, however long the file.
const PARTS_MAX: u64 = 4096;

/// How a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    len: u64,
    part_len: u64,
}

impl Cut {
    /// How to cut a file of `len` octets; `None` where it is better read by one worker.
    pub(crate) fn of(len: u64) -> Option<Self> {
        if len < 2 * PART_LEN_MIN {
            return None;
        }
        let part_len = len.div_ceil(PARTS_MAX).checked_next_power_of_two()?.max(PART_LEN_MIN);
        Some(Self { len, part_len })
    }

    /// How many parts: at least two.
    pub(crate) const fn count(&self) -> u64 {
        self.len.div_ceil(self.part_len)
    }

    /// Start and length of the part of that number, from 0.
    pub(crate) fn part(&self, number: u64) -> (u64, u64) {
        let start = number.saturating_mul(self.part_len).min(self.len);
        (start, self.part_len.min(self.len - start))
    }
}

/// What has come of a file's parts so far.
#[derive(Debug)]
pub(crate) struct Gathered {
    parts: Vec<Option<(ChainingValue, Counts)>>,
    missing: usize,
    stamp: Option<Stamp>,
}

impl Gathered {
    pub(crate) fn new(cut: &Cut) -> Self {
        let missing = usize::try_from(cut.count()).unwrap_or(usize::MAX);
        Self { parts: vec![None; missing], missing, stamp: None }
    }

    /// Takes a part in; `false` if it belongs to another state of the file than the others do.
    pub(crate) fn put(&mut self, number: u64, part: PartDigest) -> bool {
        if *self.stamp.get_or_insert(part.stamp) != part.stamp {
            return false;
        }
        let slot = usize::try_from(number).ok().and_then(|number| self.parts.get_mut(number));
        if let Some(slot @ None) = slot {
            *slot = Some((part.chaining_value, part.counts));
            self.missing -= 1;
        }
        true
    }

    /// The whole file's figures, when no part is missing.
    pub(crate) fn whole(&self) -> Option<Digest> {
        if self.missing > 0 {
            return None;
        }
        let parts: Vec<_> = self.parts.iter().flatten().collect();
        let mut counts = Counts::default();
        parts.iter().for_each(|(_, part)| counts.join(part));
        let values: Vec<ChainingValue> = parts.iter().map(|(value, _)| *value).collect();
        let (left, right) = values.split_at_checked(left_len(values.len()))?;
        let hash = merge_subtrees_root(&branch(left)?, &branch(right)?, Mode::Hash);
        let blake3 = hash.to_hex().to_string();
        Some(Digest { blake3, bytes: counts.bytes, lines: counts.lines(), words: counts.all_words() })
    }
}

/// The value of the branch over these parts; `None` over none.
fn branch(values: &[ChainingValue]) -> Option<ChainingValue> {
    if let [value] = values {
        return Some(*value);
    }
    let (left, right) = values.split_at_checked(left_len(values.len()))?;
    if left.is_empty() || right.is_empty() {
        return None;
    }
    Some(merge_subtrees_non_root(&branch(left)?, &branch(right)?, Mode::Hash))
}

/// The left side of BLAKE3's tree is the largest power of two that leaves something for the right one.
const fn left_len(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::demo::digest::{digest_file, digest_part};

    const LEN: u64 = 1024;

    fn gather(path: &Path, cut: &Cut, numbers: impl Iterator<Item = u64>) -> Option<Digest> {
        let mut gathered = Gathered::new(cut);
        for number in numbers {
            assert_eq!(gathered.whole(), None, "before part {number}");
            let (start, len) = cut.part(number);
            let part = digest_part(path, start, len).unwrap().unwrap();
            assert!(gathered.put(number, part.clone()) && gathered.put(number, part), "twice is once");
        }
        gathered.whole()
    }

    #[test]
    fn parts_in_any_order_give_what_the_whole_gives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let words = b"some words \xC3\xA4\n of lengths\t that \x01 meet no boundary ".repeat(400);
        for count in 2..=17 {
            for beyond in [1, 1023, 1024] {
                let len = (count - 1) * LEN + beyond;
                std::fs::write(&path, &words[..usize::try_from(len).unwrap()]).unwrap();
                let cut = Cut { len, part_len: LEN };
                assert_eq!(cut.count(), count);
                let whole = digest_file(&path).unwrap();
                assert_eq!(gather(&path, &cut, 0..count).as_ref(), Some(&whole), "{len}");
                assert_eq!(gather(&path, &cut, (0..count).rev()).as_ref(), Some(&whole), "{len}");
            }
        }
    }

    #[test]
    fn every_cut_covers_the_file_with_parts_of_the_tree() {
        let lens = [8 << 20, (8 << 20) + 1, (9 << 20) - 1, 1 << 34, (1 << 34) + 1, 1 << 36, u64::MAX >> 1];
        for len in lens {
            let cut = Cut::of(len).unwrap();
            assert!((2..=PARTS_MAX).contains(&cut.count()), "{cut:?}");
            assert!(cut.part_len.is_power_of_two() && cut.part_len >= PART_LEN_MIN);
            let mut end = 0;
            for number in 0..cut.count() {
                let (start, part_len) = cut.part(number);
                assert!(start == end && part_len > 0, "{cut:?} {number}");
                end = start + part_len;
            }
            assert_eq!(end, len);
        }
        assert_eq!(Cut::of((8 << 20) - 1), None);
    }

    #[test]
    fn parts_of_two_states_of_a_file_are_not_put_together() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::write(&one, [b'x'; 2048]).unwrap();
        std::fs::write(&other, [b'x'; 2048]).unwrap();
        let mut gathered = Gathered::new(&Cut { len: 2048, part_len: LEN });
        assert!(gathered.put(0, digest_part(&one, 0, LEN).unwrap().unwrap()));
        assert!(!gathered.put(1, digest_part(&other, LEN, LEN).unwrap().unwrap()));
        assert_eq!(gathered.whole(), None);
    }
}
