//! A disk in memory. Durability is the simulator's subject; here every write stays.

use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

#[derive(Clone)]
pub struct MemoryDisk {
    inner: Rc<Inner>,
    troubles: Rc<Troubles>,
}

struct Inner {
    name: String,
    geometry: Geometry,
    blocks: RefCell<BTreeMap<u64, Block>>,
}

/// What one machine has with a disk that others may reach without.
#[derive(Default)]
struct Troubles {
    /// Every request fails.
    failing: Cell<bool>,
    /// The next write that begins here fails.
    refusing: Cell<Option<u64>>,
    /// Reads that begin here wait.
    stuck: Cell<Option<u64>>,
    /// All reads wait.
    silent: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl MemoryDisk {
    pub fn blank(name: &str, mebibytes: u64) -> Self {
        Self::with_geometry(name, Geometry { blocks: mebibytes * 256, read_only: false, discard: true })
    }

    pub fn with_geometry(name: &str, geometry: Geometry) -> Self {
        let inner = Inner { name: name.into(), geometry, blocks: RefCell::default() };
        Self { inner: Rc::new(inner), troubles: Rc::default() }
    }

    /// A disk that holds something else.
    pub fn foreign(name: &str, mebibytes: u64) -> Self {
        let disk = Self::blank(name, mebibytes);
        disk.inner.blocks.borrow_mut().insert(0, Box::new([0xeb; 4096]));
        disk
    }

    /// The same contents under another name.
    pub fn copy(&self, name: &str) -> Self {
        let copy = Self::with_geometry(name, self.inner.geometry);
        *copy.inner.blocks.borrow_mut() = self.inner.blocks.borrow().clone();
        copy
    }

    /// Every request fails from here on.
    pub fn fail(&self) {
        self.troubles.failing.set(true);
    }

    /// The same disk, as another machine reaches it.
    pub fn elsewhere(&self) -> Self {
        Self { inner: self.inner.clone(), troubles: Rc::default() }
    }

    /// The next write that begins at a block fails.
    pub fn refuse_write_at(&self, block: u64) {
        self.troubles.refusing.set(Some(block));
    }

    /// Reads that begin at a block wait until nobody calls it stuck any more.
    pub fn stick_reads_at(&self, block: Option<u64>) {
        self.troubles.stuck.set(block);
        self.troubles.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Reads wait, wherever they begin, or do so no more.
    pub fn be_silent(&self, silent: bool) {
        self.troubles.silent.set(silent);
        self.troubles.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Where these contents lie.
    pub fn find(&self, contents: &[u8; 4096]) -> u64 {
        let blocks = self.inner.blocks.borrow();
        let mut places = blocks.iter().filter(|(_, block)| ***block == *contents).map(|(at, _)| *at);
        let at = places.next().expect("the contents are there");
        assert_eq!(places.next(), None, "they are there once");
        at
    }

    /// Changes a bit of a block, behind everybody's back.
    pub fn rot(&self, block: u64) {
        self.inner.blocks.borrow_mut().get_mut(&block).expect("a block that was written")[77] ^= 0x10;
    }

    pub fn written(&self) -> usize {
        self.inner.blocks.borrow().len()
    }

    fn check(&self, start: u64, count: u64) -> Result<(), DeviceError> {
        if self.troubles.failing.get() {
            return Err(DeviceError::Io);
        }
        let end = start.checked_add(count).ok_or(DeviceError::OutOfRange)?;
        if end <= self.inner.geometry.blocks { Ok(()) } else { Err(DeviceError::OutOfRange) }
    }
}

impl BlockDevice for MemoryDisk {
    fn name(&self) -> &str {
        &self.inner.name
    }
    fn geometry(&self) -> Geometry {
        self.inner.geometry
    }
    async fn read(&self, start: u64, mut into: Vec<Block>) -> Transfer {
        poll_fn(|context| {
            if self.troubles.stuck.get() != Some(start) && !self.troubles.silent.get() {
                return Poll::Ready(());
            }
            self.troubles.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
        let result = self.check(start, into.len() as u64);
        if result.is_ok() {
            let blocks = self.inner.blocks.borrow();
            for (at, block) in (start..).zip(&mut into) {
                **block = blocks.get(&at).map_or([0; 4096], |stored| **stored);
            }
        }
        (into, result)
    }
    async fn write(&self, start: u64, from: Vec<Block>) -> Transfer {
        let mut result = self.check(start, from.len() as u64);
        if self.inner.geometry.read_only {
            result = Err(DeviceError::ReadOnly);
        }
        if self.troubles.refusing.get() == Some(start) {
            self.troubles.refusing.set(None);
            result = Err(DeviceError::Io);
        }
        if result.is_ok() {
            let mut blocks = self.inner.blocks.borrow_mut();
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
        let mut blocks = self.inner.blocks.borrow_mut();
        let kept: Vec<u64> = blocks.range(start..start + count).map(|(at, _)| *at).collect();
        kept.iter().for_each(|at| drop(blocks.insert(*at, Box::new([0xdd; 4096]))));
        Ok(())
    }
}
