//! What is on a disk without power: sparse, and told from any other by a digest.

use crate::model::content::digest;
use crate::rng::mix;
use datum_store::device::{BLOCK_SIZE, Geometry};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

/// A block on a disk, with a digest of its bytes, so that whole images are told apart cheaply.
pub(super) struct Stored {
    pub(super) bytes: [u8; BLOCK_SIZE],
    pub(super) digest: u64,
}

impl Stored {
    pub(super) fn new(bytes: [u8; BLOCK_SIZE]) -> Rc<Self> {
        Rc::new(Self { digest: digest(&bytes), bytes })
    }

    /// What it adds to the digest of an image.
    pub(super) fn weight(&self, at: u64) -> u64 {
        mix(self.digest ^ mix(at + 1))
    }
}

pub(super) type Contents = HashMap<u64, Rc<Stored>>;

/// What is on a disk that has no power.
#[derive(Clone)]
pub struct DiskImage {
    pub(super) geometry: Geometry,
    pub(super) blocks: Contents,
}

impl DiskImage {
    /// A disk full of zeros.
    pub fn blank(blocks: u64) -> Self {
        let geometry = Geometry { blocks, read_only: false, discard: true };
        Self { geometry, blocks: Contents::new() }
    }

    /// What a raw image file holds.
    ///
    /// # Errors
    /// The file cannot be read, or ends within a block.
    pub fn read_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut image = Self::blank(file.metadata()?.len() / BLOCK_SIZE as u64);
        let mut block = [0; BLOCK_SIZE];
        for at in 0..image.blocks() {
            file.read_exact(&mut block)?;
            if block != [0; BLOCK_SIZE] {
                image.blocks.insert(at, Stored::new(block));
            }
        }
        Ok(image)
    }

    /// Disks of `blocks` blocks each, of what lies one after the other on this one.
    pub fn split(self, blocks: u64) -> Vec<Self> {
        let mut parts = vec![Self::blank(blocks); (self.geometry.blocks / blocks) as usize];
        for (at, block) in self.blocks {
            parts[(at / blocks) as usize].blocks.insert(at % blocks, block);
        }
        parts
    }

    /// The same contents on a disk of another size: cut off, or followed by zeros.
    #[must_use]
    pub fn resized(mut self, blocks: u64) -> Self {
        self.blocks.retain(|at, _| *at < blocks);
        self.geometry.blocks = blocks;
        self
    }

    /// The same contents on a disk that refuses writes.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.geometry.read_only = true;
        self
    }

    /// The same contents on a disk without discard.
    #[must_use]
    pub fn without_discard(mut self) -> Self {
        self.geometry.discard = false;
        self
    }

    /// Blocks the disk holds.
    pub fn blocks(&self) -> u64 {
        self.geometry.blocks
    }

    /// Addresses ever written, ascending.
    pub fn written(&self) -> Vec<u64> {
        let mut written: Vec<u64> = self.blocks.keys().copied().collect();
        written.sort_unstable();
        written
    }

    /// One block.
    pub fn block(&self, at: u64) -> [u8; BLOCK_SIZE] {
        self.blocks.get(&at).map_or([0; BLOCK_SIZE], |block| block.bytes)
    }

    /// A digest of all blocks and where they lie.
    pub fn digest(&self) -> u64 {
        weight_of(&self.blocks)
    }

    /// Changes one block behind everyone's back.
    pub fn alter(&mut self, at: u64, change: impl FnOnce(&mut [u8; BLOCK_SIZE])) {
        let mut block = self.block(at);
        change(&mut block);
        self.blocks.insert(at, Stored::new(block));
    }
}

pub(super) fn weight_of(blocks: &Contents) -> u64 {
    blocks.iter().fold(0, |sum: u64, (at, block)| sum.wrapping_add(block.weight(*at)))
}
