//! Which blocks of a stretch of the pool a check has met.

use crate::device::Block;
use crate::format::Address;
use crate::space::CHUNK_BLOCKS;
use alloc::vec::Vec;

/// Bytes of marks held at a time: they cover 128 GiB of a pool.
const MARKS_BYTES: usize = 4 << 20;
/// Blocks that the marks can cover.
pub(crate) const STRETCH_BLOCKS: u64 = MARKS_BYTES as u64 * 8;
/// Bytes of marks, or of a bitmap, for one chunk of the free map.
const CHUNK_BYTES: usize = (CHUNK_BLOCKS / 8) as usize;

/// Adjacent blocks of one member, whole chunks but at the member's end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) start: Address,
    pub(crate) blocks: u64,
}

impl Stretch {
    pub(crate) fn contains(&self, address: Address) -> bool {
        (self.start.0..self.start.0 + self.blocks).contains(&address.0)
    }

    /// The first block of each chunk in it.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Address> + use<> {
        let start = self.start.0;
        (0..self.blocks).step_by(CHUNK_BLOCKS as usize).map(move |block| Address(start + block))
    }
}

/// A bit for each block of one stretch.
#[derive(Default)]
pub(crate) struct Marks {
    pub(crate) stretch: Stretch,
    bits: Vec<u8>,
}

impl Marks {
    pub(crate) fn cover(&mut self, stretch: Stretch) {
        self.stretch = stretch;
        self.bits.clear();
        self.bits.resize((stretch.blocks.div_ceil(CHUNK_BLOCKS) as usize) * CHUNK_BYTES, 0);
    }

    /// Marks a block; false if it was marked. One that lies elsewhere is none of this stretch's business.
    pub(crate) fn mark(&mut self, address: Address) -> bool {
        if !self.stretch.contains(address) {
            return true;
        }
        let at = address.0 - self.stretch.start.0;
        let (byte, bit) = (&mut self.bits[(at / 8) as usize], 1 << (at % 8));
        let new = *byte & bit == 0;
        *byte |= bit;
        new
    }

    /// Blocks of a chunk on which marks and bitmap disagree, with what the marks say. A chunk without bitmap is
    /// all free.
    pub(crate) fn differences(&self, chunk: Address, bitmap: Option<&Block>) -> Vec<(Address, bool)> {
        let at = ((chunk.0 - self.stretch.start.0) / 8) as usize;
        let marks = &self.bits[at..at + CHUNK_BYTES];
        let map = |byte: usize| bitmap.map_or(0, |bits| bits[byte]);
        let mut found = Vec::new();
        for (byte, &marked) in marks.iter().enumerate().filter(|&(byte, &marked)| marked != map(byte)) {
            let differs = marked ^ map(byte);
            let bits = (0..8).filter(|bit| differs >> bit & 1 == 1);
            let block = |bit: u64| Address(chunk.0 + byte as u64 * 8 + bit);
            found.extend(bits.map(|bit| (block(bit), marked >> bit & 1 == 1)));
        }
        found
    }
}
