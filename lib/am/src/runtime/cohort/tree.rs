//! The shape of the tree that calls go down: binomial, computed by each who hands on.

/// Cuts what is to be handed on into branches: each goes to its first, who hands on the rest. The first branch has
/// half of all, the next half of what is left, so that all are busy until the last has it.
pub(crate) fn branches<T>(targets: &[T]) -> Vec<&[T]> {
    let mut rest = targets;
    let mut branches = Vec::new();
    while !rest.is_empty() {
        let (branch, after) = rest.split_at(rest.len().div_ceil(2));
        branches.push(branch);
        rest = after;
    }
    branches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everybody who is reached, with how many hops it took.
    fn reached(targets: &[usize], hops: u32) -> Vec<(usize, u32)> {
        let mut all = Vec::new();
        for branch in branches(targets) {
            let (first, rest) = branch.split_first().unwrap();
            all.push((*first, hops));
            all.extend(reached(rest, hops + 1));
        }
        all
    }

    #[test]
    fn the_leader_sends_and_waits_for_the_logarithm_of_all() {
        for count in 0..200usize {
            let targets: Vec<_> = (0..count).collect();
            let logarithm = usize::BITS - count.leading_zeros();
            assert_eq!(branches(&targets).len(), logarithm as usize, "{count}");
            let mut all = reached(&targets, 1);
            assert!(all.iter().all(|(_, hops)| *hops <= logarithm), "{count}");
            all.sort_unstable();
            assert_eq!(all.into_iter().map(|(target, _)| target).collect::<Vec<_>>(), targets);
        }
    }
}
