//! Memory as a disk. It answers at once and counts what it is asked for, so that nothing but the store is measured.

use datum_store::device::{BLOCK_SIZE, Block, BlockDevice, DeviceError, Geometry, Transfer};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A disk that all its clones share.
#[derive(Clone)]
pub struct Memory(Rc<Disk>);

struct Disk {
    blocks: RefCell<Vec<[u8; BLOCK_SIZE]>>,
    counts: Cell<Counts>,
}

/// What a disk was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
    /// Blocks that those carried.
    pub written_blocks: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Memory {
    /// So many blocks of zeroes.
    pub fn new(blocks: u64) -> Self {
        let blocks = RefCell::new(vec![[0; BLOCK_SIZE]; blocks as usize]);
        Self(Rc::new(Disk { blocks, counts: Cell::default() }))
    }

    /// What it was asked for since it was last told; counts from nothing then.
    pub fn take_counts(&self) -> Counts {
        self.0.counts.take()
    }

    fn count(&self, more: impl FnOnce(&mut Counts)) {
        let mut counts = self.0.counts.get();
        more(&mut counts);
        self.0.counts.set(counts);
    }
}

impl BlockDevice for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn geometry(&self) -> Geometry {
        Geometry { blocks: self.0.blocks.borrow().len() as u64, read_only: false, discard: false }
    }

    async fn read(&self, start: u64, mut into: Vec<Block>) -> Transfer {
        self.count(|counts| counts.reads += 1);
        let blocks = self.0.blocks.borrow();
        into.iter_mut().zip(&blocks[start as usize..]).for_each(|(into, block)| **into = *block);
        (into, Ok(()))
    }

    async fn write(&self, start: u64, from: Vec<Block>) -> Transfer {
        self.count(|counts| {
            counts.writes += 1;
            counts.written_blocks += from.len() as u64;
        });
        let mut blocks = self.0.blocks.borrow_mut();
        blocks[start as usize..].iter_mut().zip(&from).for_each(|(block, from)| *block = **from);
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.count(|counts| counts.flushes += 1);
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}

/// So many blocks to write.
pub fn blocks(count: usize) -> Vec<Block> {
    (0..count).map(|_| Box::new([0x5a; BLOCK_SIZE])).collect()
}
