//! Which memory is free: the machine's map, which may be unsorted and overlapping, cut down to what nobody else uses.
//!
//! Pure arithmetic, tested on the host.

use core::ops::Range;

/// Most ranges kept. Machines report a dozen or so; what does not fit is left unused, which is safe.
pub(crate) const RANGES_MAX: usize = 64;
const PAGE_BYTES: u64 = 4096;

/// A set of disjoint, page-aligned, ascending ranges of memory.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    ranges: [Range<u64>; RANGES_MAX],
    count: usize,
}

impl Ranges {
    pub(crate) const fn new() -> Self {
        Self { ranges: [const { 0..0 }; RANGES_MAX], count: 0 }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges[..self.count].iter().cloned()
    }

    /// Adds the whole pages of `range`, except those already there.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        let end = range.end & !(PAGE_BYTES - 1);
        let Some(start) = range.start.checked_next_multiple_of(PAGE_BYTES) else { return };
        // Cut what overlaps first, so that the ranges stay disjoint whatever the machine says.
        self.remove(start..end);
        if start < end && self.count < RANGES_MAX {
            let at = self.ranges[..self.count].partition_point(|other| other.start < start);
            self.insert(at, start..end);
        }
    }

    /// Takes every page out that `range` touches.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        let start = range.start & !(PAGE_BYTES - 1);
        let end = range.end.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
        if range.is_empty() {
            return;
        }
        let mut at = 0;
        while at < self.count {
            let old = self.ranges[at].clone();
            let (below, above) = (old.start..old.end.min(start), old.start.max(end)..old.end);
            match (below.is_empty(), above.is_empty()) {
                (true, true) => {
                    self.ranges[at..self.count].rotate_left(1);
                    self.count -= 1;
                    continue;
                }
                (false, true) => self.ranges[at] = below,
                (true, false) => self.ranges[at] = above,
                (false, false) => {
                    self.ranges[at] = below;
                    if self.count < RANGES_MAX {
                        self.insert(at + 1, above);
                    }
                    return;
                }
            }
            at += 1;
        }
    }

    fn insert(&mut self, at: usize, range: Range<u64>) {
        self.ranges[self.count] = range;
        self.count += 1;
        self.ranges[at..self.count].rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &Ranges) -> Vec<Range<u64>> {
        ranges.iter().collect()
    }

    #[test]
    fn keeps_whole_pages_sorted_and_apart() {
        let mut ranges = Ranges::new();
        ranges.add(0x10_0001..0x20_0fff);
        ranges.add(0x1000..0x9_fc00);
        ranges.add(0x1f_0000..0x30_0000);
        ranges.add(0x5000..0x5800);
        assert_eq!(list(&ranges), [0x1000..0x9_f000, 0x10_1000..0x1f_0000, 0x1f_0000..0x30_0000]);
    }

    #[test]
    fn a_hole_splits_trims_and_swallows() {
        let mut ranges = Ranges::new();
        ranges.add(0x1000..0x9000);
        ranges.remove(0x3800..0x4001);
        assert_eq!(list(&ranges), [0x1000..0x3000, 0x5000..0x9000]);
        ranges.remove(0x2000..0x6000);
        assert_eq!(list(&ranges), [0x1000..0x2000, 0x6000..0x9000]);
        ranges.remove(0..0x7000);
        assert_eq!(list(&ranges), [0x7000..0x9000]);
        ranges.remove(0..u64::MAX);
        assert!(list(&ranges).is_empty());
    }

    #[test]
    fn a_map_with_too_many_ranges_loses_memory_and_nothing_else() {
        let mut ranges = Ranges::new();
        for index in 0..200 {
            ranges.add(index * 0x4000..index * 0x4000 + 0x3000);
        }
        assert_eq!(ranges.iter().count(), RANGES_MAX);
        ranges.remove(0x1000..0x2000);
        assert_eq!(ranges.iter().next(), Some(0..0x1000));
    }
}
