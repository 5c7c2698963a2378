//! A volume as the model sees it: for every block what it holds and when it last changed.
//!
//! Kept as runs, so that a hole of 64 TiB is one entry. Data blocks have contents of their own, so a data run is
//! one block long.

use crate::model::content::ContentId;
use std::collections::BTreeMap;

/// State of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// What it holds; `None` is a hole.
    pub content: Option<ContentId>,
    /// The volume's clock at its last change.
    pub change: u64,
}

/// A run of blocks in equal state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First block.
    pub first: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Their state.
    pub cell: Cell,
}

/// All blocks of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockMap {
    size: u64,
    /// Each entry reaches to the next one.
    runs: BTreeMap<u64, Cell>,
}

impl BlockMap {
    /// `size` holes.
    pub fn new(size: u64, change: u64) -> Self {
        Self { size, runs: BTreeMap::from([(0, Cell { content: None, change })]) }
    }

    /// Number of blocks.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// State of one block.
    pub fn get(&self, block: u64) -> Cell {
        assert!(block < self.size, "block {block} lies in a volume of {} blocks", self.size);
        *self.runs.range(..=block).next_back().expect("a run starts at block 0").1
    }

    /// Sets `blocks` blocks from `first` on.
    pub fn set(&mut self, first: u64, blocks: u64, cell: Cell) {
        let end = first + blocks;
        assert!(blocks > 0 && end <= self.size, "{first}+{blocks} lies in {} blocks", self.size);
        if end < self.size {
            let after = self.get(end);
            self.runs.insert(end, after);
        }
        let inside: Vec<u64> = self.runs.range(first..end).map(|(at, _)| *at).collect();
        for at in inside {
            self.runs.remove(&at);
        }
        self.runs.insert(first, cell);
    }

    /// Cuts or grows; what is added are holes that changed at `change`.
    pub fn resize(&mut self, size: u64, change: u64) {
        let old = std::mem::replace(&mut self.size, size);
        if size > old {
            self.runs.insert(old, Cell { content: None, change });
        } else {
            self.runs.retain(|at, _| *at < size);
        }
    }

    /// The runs, ascending and adjacent.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        let ends = self.runs.keys().skip(1).copied().chain([self.size]);
        self.runs.iter().zip(ends).map(|((first, cell), end)| Run {
            first: *first,
            blocks: end - first,
            cell: *cell,
        })
    }

    /// Number of blocks with data.
    pub fn data_blocks(&self) -> u64 {
        self.runs().filter(|run| run.cell.content.is_some()).map(|run| run.blocks).sum()
    }

    /// Where two maps run in parallel: segments in which both are constant, over the shorter length.
    pub fn segments<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (Run, Cell)> + 'a {
        let size = self.size.min(other.size);
        let mut borders: Vec<u64> =
            self.runs.keys().chain(other.runs.keys()).copied().filter(|at| *at < size).collect();
        borders.sort_unstable();
        borders.dedup();
        let ends: Vec<u64> = borders.iter().skip(1).copied().chain([size]).collect();
        borders
            .into_iter()
            .zip(ends)
            .map(|(first, end)| (Run { first, blocks: end - first, cell: self.get(first) }, other.get(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(content: u64, change: u64) -> Cell {
        Cell { content: (content > 0).then_some(content), change }
    }

    #[test]
    fn runs_agree_with_an_array() {
        let mut rng = crate::rng::Rng::new(9);
        let (mut map, mut array) = (BlockMap::new(40, 0), vec![cell(0, 0); 40]);
        for change in 1..500 {
            let size = array.len() as u64;
            let first = rng.below(size);
            let blocks = rng.between(1, size - first);
            match rng.below(10) {
                0 => {
                    let size = rng.between(1, 60);
                    map.resize(size, change);
                    array.resize(size as usize, cell(0, change));
                }
                _ => {
                    let new = cell(rng.below(2), change);
                    map.set(first, blocks, new);
                    array[first as usize..(first + blocks) as usize].fill(new);
                }
            }
            assert!((0..map.size()).all(|at| map.get(at) == array[at as usize]));
            assert_eq!(map.runs().map(|run| run.blocks).sum::<u64>(), array.len() as u64);
        }
    }
}
