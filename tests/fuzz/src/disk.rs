//! A disk in memory that does at once what it is told. Clones of an image share what neither has changed.

use datum_store::device::{BLOCK_SIZE, Block, BlockDevice, DeviceError, Geometry, Transfer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What lies on a disk: block numbers and contents; the rest is zero.
pub(crate) type Blocks = BTreeMap<u64, Rc<[u8; BLOCK_SIZE]>>;

/// A disk; clones are the same one.
#[derive(Clone)]
pub(crate) struct MemoryDisk {
    geometry: Geometry,
    blocks: Rc<RefCell<Blocks>>,
}

impl MemoryDisk {
    pub(crate) fn new(size: u64, blocks: Blocks) -> Self {
        let geometry = Geometry { blocks: size, read_only: false, discard: true };
        Self { geometry, blocks: Rc::new(RefCell::new(blocks)) }
    }

    /// What lies on it now.
    pub(crate) fn image(&self) -> Blocks {
        self.blocks.borrow().clone()
    }

    fn check(&self, start: u64, count: u64) -> Result<(), DeviceError> {
        let end = start.checked_add(count);
        if end.is_some_and(|end| end <= self.geometry.blocks) { Ok(()) } else { Err(DeviceError::OutOfRange) }
    }
}

impl BlockDevice for MemoryDisk {
    fn name(&self) -> &str {
        "vd0"
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    async fn read(&self, start: u64, mut into: Vec<Block>) -> Transfer {
        let result = self.check(start, into.len() as u64);
        if result.is_ok() {
            let blocks = self.blocks.borrow();
            for (at, block) in (start..).zip(&mut into) {
                **block = blocks.get(&at).map_or([0; BLOCK_SIZE], |stored| **stored);
            }
        }
        (into, result)
    }

    async fn write(&self, start: u64, from: Vec<Block>) -> Transfer {
        let result = self.check(start, from.len() as u64);
        if result.is_ok() {
            self.blocks.borrow_mut().extend((start..).zip(from.iter().map(|block| Rc::new(**block))));
        }
        (from, result)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    async fn discard(&self, start: u64, count: u64) -> Result<(), DeviceError> {
        self.check(start, count)?;
        // What was discarded may read as anything.
        let rubbish = Rc::new([0xdd; BLOCK_SIZE]);
        for (_, block) in self.blocks.borrow_mut().range_mut(start..start + count) {
            *block = rubbish.clone();
        }
        Ok(())
    }
}
