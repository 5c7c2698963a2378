//! A disk in memory. Durability is the simulator's subject; here every write stays.

use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Clone)]
pub struct MemoryDisk(Rc<Inner>);

struct Inner {
    name: String,
    geometry: Geometry,
    blocks: RefCell<BTreeMap<u64, Block>>,
    failing: Cell<bool>,
}

impl MemoryDisk {
    pub fn blank(name: &str, mebibytes: u64) -> Self {
        Self::with_geometry(name, Geometry { blocks: mebibytes * 256, read_only: false, discard: true })
    }

    pub fn with_geometry(name: &str, geometry: Geometry) -> Self {
        let (blocks, failing) = (RefCell::default(), Cell::new(false));
        Self(Rc::new(Inner { name: name.into(), geometry, blocks, failing }))
    }

    /// A disk that holds something else.
    pub fn foreign(name: &str, mebibytes: u64) -> Self {
        let disk = Self::blank(name, mebibytes);
        disk.0.blocks.borrow_mut().insert(0, Box::new([0xeb; 4096]));
        disk
    }

    /// The same contents under another name.
    pub fn copy(&self, name: &str) -> Self {
        let copy = Self::with_geometry(name, self.0.geometry);
        *copy.0.blocks.borrow_mut() = self.0.blocks.borrow().clone();
        copy
    }

    /// Every request fails from here on.
    pub fn fail(&self) {
        self.0.failing.set(true);
    }

    pub fn written(&self) -> usize {
        self.0.blocks.borrow().len()
    }

    fn check(&self, start: u64, count: u64) -> Result<(), DeviceError> {
        if self.0.failing.get() {
            return Err(DeviceError::Io);
        }
        let end = start.checked_add(count).ok_or(DeviceError::OutOfRange)?;
        if end <= self.0.geometry.blocks { Ok(()) } else { Err(DeviceError::OutOfRange) }
    }
}

impl BlockDevice for MemoryDisk {
    fn name(&self) -> &str {
        &self.0.name
    }
    fn geometry(&self) -> Geometry {
        self.0.geometry
    }
    async fn read(&self, start: u64, mut into: Vec<Block>) -> Transfer {
        let result = self.check(start, into.len() as u64);
        if result.is_ok() {
            let blocks = self.0.blocks.borrow();
            for (at, block) in (start..).zip(&mut into) {
                **block = blocks.get(&at).map_or([0; 4096], |stored| **stored);
            }
        }
        (into, result)
    }
    async fn write(&self, start: u64, from: Vec<Block>) -> Transfer {
        let mut result = self.check(start, from.len() as u64);
        if self.0.geometry.read_only {
            result = Err(DeviceError::ReadOnly);
        }
        if result.is_ok() {
            let mut blocks = self.0.blocks.borrow_mut();
            blocks.extend((start..).zip(from.iter().cloned()));
        }
        (from, result)
    }
    async fn flush(&self) -> Result<(), DeviceError> {
        self.check(0, 0)
    }
    async fn discard(&self, start: u64, count: u64) -> Result<(), DeviceError> {
        self.check(start, count)?;
        // What was discarded may read as anything: make it something.
        let mut blocks = self.0.blocks.borrow_mut();
        let kept: Vec<u64> = blocks.range(start..start + count).map(|(at, _)| *at).collect();
        kept.iter().for_each(|at| drop(blocks.insert(*at, Box::new([0xdd; 4096]))));
        Ok(())
    }
}
