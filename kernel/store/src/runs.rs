//! A set of block addresses kept as runs: what is taken, what was freed.

use crate::format::Address;
use crate::format::journal::Run;
use alloc::collections::BTreeMap;

/// Disjoint runs of addresses; neighbours are joined, but never across `boundary` (a power of two), so that
/// every run lies in one chunk of the free map.
#[derive(Clone, Debug)]
pub(crate) struct RunSet {
    runs: BTreeMap<u64, u64>,
    blocks: u64,
    boundary: u64,
}

impl RunSet {
    /// An empty set whose runs do not cross multiples of `boundary`.
    pub(crate) fn new(boundary: u64) -> Self {
        assert!(boundary.is_power_of_two());
        Self { runs: BTreeMap::new(), blocks: 0, boundary }
    }

    /// Blocks in the set.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Runs in the set.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds blocks, none of which may be in the set yet. False, and not all are added, where one is.
    #[must_use]
    pub(crate) fn insert(&mut self, run: Run) -> bool {
        let (mut start, end) = (run.address.0, run.address.0 + run.blocks);
        while start < end {
            let stop = end.min((start | (self.boundary - 1)) + 1);
            if !self.insert_within(start, stop - start) {
                return false;
            }
            start = stop;
        }
        true
    }

    fn insert_within(&mut self, start: u64, length: u64) -> bool {
        let end = start + length;
        let joins = |at: u64| at & (self.boundary - 1) != 0;
        let mut below = self.runs.range_mut(..=end);
        let mut before = below.next_back();
        let mut after = None;
        if let Some((&first, &mut blocks)) = before
            && first == end
        {
            after = joins(end).then_some(blocks);
            before = below.next_back();
        }
        let whole = length + after.unwrap_or(0);
        match before {
            Some((&first, blocks)) if first + *blocks > start => return false,
            Some((&first, blocks)) if first + *blocks == start && joins(start) => *blocks += whole,
            _ => drop(self.runs.insert(start, whole)),
        }
        if after.is_some() {
            self.runs.remove(&end);
        }
        self.blocks += length;
        true
    }

    /// Takes blocks out, all of which must be in the set. False, and not all are taken out, where one is not.
    #[must_use]
    pub(crate) fn remove(&mut self, run: Run) -> bool {
        let (mut start, end) = (run.address.0, run.address.0 + run.blocks);
        while start < end {
            let Some((&first, &blocks)) = self.runs.range(..=start).next_back() else { return false };
            let stop = end.min(first + blocks);
            if stop <= start {
                return false;
            }
            self.runs.remove(&first);
            if first < start {
                self.runs.insert(first, start - first);
            }
            if stop < first + blocks {
                self.runs.insert(stop, first + blocks - stop);
            }
            self.blocks -= stop - start;
            start = stop;
        }
        true
    }

    /// The first run that reaches past `address`.
    pub(crate) fn next_from(&self, address: u64) -> Option<Run> {
        if let Some((&start, &blocks)) = self.runs.range(..=address).next_back()
            && start + blocks > address
        {
            return Some(Run { address: Address(start), blocks });
        }
        self.runs.range(address..).next().map(|(&start, &blocks)| Run { address: Address(start), blocks })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().map(|(&start, &blocks)| Run { address: Address(start), blocks })
    }

    /// The lowest run, taken out if it is wanted.
    pub(crate) fn pop_first_if(&mut self, wanted: impl FnOnce(Run) -> bool) -> Option<Run> {
        let first = self.runs.first_entry()?;
        let run = Run { address: Address(*first.key()), blocks: *first.get() };
        if !wanted(run) {
            return None;
        }
        first.remove();
        self.blocks -= run.blocks;
        Some(run)
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.blocks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, blocks: u64) -> Run {
        Run { address: Address(start), blocks }
    }

    #[test]
    fn joins_within_a_chunk_only() {
        let mut set = RunSet::new(16);
        assert!(set.insert(run(1, 2)) && set.insert(run(5, 1)) && set.insert(run(3, 2)));
        assert_eq!(set.iter().collect::<alloc::vec::Vec<_>>(), [run(1, 5)]);
        assert!(set.insert(run(6, 20)));
        assert_eq!(set.iter().collect::<alloc::vec::Vec<_>>(), [run(1, 15), run(16, 10)]);
        assert!(set.remove(run(14, 4)));
        assert_eq!(set.iter().collect::<alloc::vec::Vec<_>>(), [run(1, 13), run(18, 8)]);
        assert_eq!(set.blocks(), 21);
        assert_eq!([13, 14].map(|at| set.next_from(at)), [Some(run(1, 13)), Some(run(18, 8))]);
    }

    #[test]
    fn nothing_is_in_it_twice() {
        let mut set = RunSet::new(16);
        assert!(set.insert(run(4, 4)));
        let before: alloc::vec::Vec<_> = set.iter().collect();
        for (start, blocks) in [(4, 4), (3, 2), (7, 1), (7, 3), (5, 1), (0, 12)] {
            assert!(!set.insert(run(start, blocks)), "{start} and {blocks} on");
        }
        for (start, blocks) in [(3, 1), (8, 1), (0, 2)] {
            assert!(!set.remove(run(start, blocks)), "{start} and {blocks} on");
        }
        assert_eq!((set.iter().collect::<alloc::vec::Vec<_>>(), set.blocks()), (before, 4));
    }
}
