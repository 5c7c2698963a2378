//! Buffers that requests have done with, kept for the next ones: what is about to be overwritten as a whole need not be
//! cleared first.

use crate::device::{Block, zeroed_blocks};
use crate::limits::SPARE_BLOCKS_MAX;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Blocks of any contents.
pub(crate) struct Spare(RefCell<Vec<Block>>);

impl Spare {
    pub(crate) fn new() -> Self {
        Self(RefCell::new(Vec::with_capacity(SPARE_BLOCKS_MAX)))
    }

    /// So many blocks; `None` where there is no memory for all of them.
    pub(crate) fn take(&self, count: usize) -> Option<Vec<Block>> {
        let mut spare = self.0.borrow_mut();
        let kept = spare.len().saturating_sub(count);
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count).ok()?;
        blocks.extend(zeroed_blocks(count - (spare.len() - kept))?);
        blocks.extend(spare.drain(kept..));
        Some(blocks)
    }

    /// Keeps blocks, as far as there is room.
    pub(crate) fn give(&self, blocks: impl IntoIterator<Item = Block>) {
        let mut spare = self.0.borrow_mut();
        let room = SPARE_BLOCKS_MAX - spare.len();
        spare.extend(blocks.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_taken_again() {
        let spare = Spare::new();
        let mut blocks = spare.take(3).expect("memory");
        blocks.iter_mut().for_each(|block| block[0] = 1);
        spare.give(blocks);
        let blocks = spare.take(4).expect("memory");
        assert_eq!(blocks.iter().map(|block| block[0]).sum::<u8>(), 3);
        assert_eq!((blocks.len(), spare.0.borrow().len()), (4, 0));
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let spare = Spare::new();
        for _ in 0..3 {
            spare.give(zeroed_blocks(SPARE_BLOCKS_MAX / 2 + 1).expect("memory"));
        }
        assert_eq!(spare.0.borrow().len(), SPARE_BLOCKS_MAX);
    }
}
