//! Numbered block contents: every block the tests write is different, and a block read back names its number.
//!
//! So a model holds numbers instead of bytes, and a stale, torn or misplaced block is recognised as what it is.

use crate::rng::mix;
use std::collections::HashMap;

/// Bytes in a block. Repeated here so that the model side knows nothing of the store.
pub const BLOCK_SIZE: usize = 4096;

/// Number of a block's contents.
pub type ContentId = u64;

/// A 64-bit digest of a block: four sums side by side, for a multiplication waits for the one before.
pub fn digest(block: &[u8; BLOCK_SIZE]) -> u64 {
    let add = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let (words, _) = block.as_chunks::<8>();
    let mut sums = [0x1234_5678; 4];
    for four in words.as_chunks::<4>().0 {
        for (sum, word) in sums.iter_mut().zip(four) {
            *sum = add(*sum, u64::from_le_bytes(*word));
        }
    }
    sums.into_iter().fold(0, add)
}

/// All contents made so far.
#[derive(Clone, Default)]
pub struct Contents {
    count: ContentId,
    by_digest: HashMap<u64, ContentId>,
    /// Contents that are not the plain pattern of their number.
    composed: HashMap<ContentId, Box<[u8; BLOCK_SIZE]>>,
}

impl Contents {
    /// New contents: a pattern of its number.
    pub fn draw(&mut self) -> ContentId {
        self.count += 1;
        self.by_digest.insert(digest(&pattern(self.count)), self.count);
        self.count
    }

    /// New contents: those of `base` (zeros for a hole) with `bytes` laid over them at `offset`.
    pub fn compose(&mut self, base: Option<ContentId>, offset: usize, bytes: &[u8]) -> ContentId {
        let mut block = base.map_or_else(|| Box::new([0; BLOCK_SIZE]), |base| self.bytes(base));
        block[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.count += 1;
        self.by_digest.insert(digest(&block), self.count);
        self.composed.insert(self.count, block);
        self.count
    }

    /// The bytes of some contents.
    pub fn bytes(&self, content: ContentId) -> Box<[u8; BLOCK_SIZE]> {
        self.composed.get(&content).cloned().unwrap_or_else(|| pattern(content))
    }

    /// Which contents these bytes are, if any that were ever made.
    pub fn identify(&self, block: &[u8; BLOCK_SIZE]) -> Option<ContentId> {
        self.by_digest.get(&digest(block)).copied()
    }
}

fn pattern(content: ContentId) -> Box<[u8; BLOCK_SIZE]> {
    let mut block = Box::new([0; BLOCK_SIZE]);
    let (words, _) = block.as_chunks_mut::<8>();
    let start = mix(content);
    for (i, word) in (0..).zip(words) {
        *word = start.wrapping_add(i).to_le_bytes();
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_recognised() {
        let mut contents = Contents::default();
        let (a, b) = (contents.draw(), contents.draw());
        let c = contents.compose(Some(a), 100, b"hello");
        for content in [a, b, c] {
            assert_eq!(contents.identify(&contents.bytes(content)), Some(content));
        }
        let mut torn = contents.bytes(a);
        torn[512..1024].copy_from_slice(&contents.bytes(b)[512..1024]);
        assert_eq!(contents.identify(&torn), None);
    }
}
