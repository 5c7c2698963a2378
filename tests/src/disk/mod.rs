//! A simulated disk with a volatile write cache: the durability contract of `datum_store::device`, taken at
//! its worst.
//!
//! What always holds: a write is visible once completed and durable only after a flush that was *submitted*
//! after its completion has completed. Requests finish in an order the executor's seed chooses. At a power loss
//! any unflushed write, finished or not, may have landed, whole, torn between 512-byte sectors, or not at all, and
//! in any order; `PowerLoss` says which. Requests are submitted when the method is called, the strictest reading.
//! The disk is sparse, so 16 TiB cost nothing. Its inside is `drive`; faults are the business of `fault`.

mod drive;
pub mod fault;
pub mod forge;
pub mod held;
mod image;
pub mod layout;
pub mod memory;
mod moment;

pub use image::DiskImage;
pub use moment::{Fate, Moment};

use crate::executor::Hardware;
use crate::rng::Rng;
use datum_store::device::{BLOCK_SIZE, Block, BlockDevice, DeviceError, Geometry, Transfer};
use drive::{Command, Completion, State, Unflushed, land};
use image::Stored;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

/// What a disk loses or tears as one.
pub const SECTOR_SIZE: usize = 512;

/// Which unflushed writes a power loss leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLoss {
    /// None of them.
    Nothing,
    /// All of them, whole.
    Everything,
    /// All but one block.
    DropOne,
    /// One block alone.
    KeepOne,
    /// Those submitted before some moment, whole.
    Prefix,
    /// Any subset, some torn, in any order.
    Any,
}

impl PowerLoss {
    /// Every policy.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Everything, Self::DropOne, Self::KeepOne, Self::Prefix, Self::Any];
}

/// A block that a power loss could still take.
#[derive(Clone, Copy, Debug)]
pub struct Volatile<'a> {
    /// Where it lies.
    pub at: u64,
    /// When its request was submitted, by the disk's clock.
    pub submitted: u64,
    /// When it completed; `None` while in flight.
    pub completed: Option<u64>,
    /// What was written, or what a discard left.
    pub bytes: &'a [u8; BLOCK_SIZE],
    /// Whether a discard left it.
    pub rubbish: bool,
}

/// Requests that take long: they are carried out late, while others go on.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// Which are.
    pub sort: Sort,
    /// How many of those that are submitted next.
    pub requests: u64,
    /// Of which this one in so many is, ending with the last.
    pub one_in: u64,
    /// For so many submissions and completions of this disk, unless nothing else is left to do.
    pub lasting: u64,
}

/// Sorts of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Reads.
    Reads,
    /// Everything that changes the disk, flushes among it.
    Changes,
    /// Flushes alone.
    Flushes,
}

impl Slow {
    /// Some requests of a sort.
    pub fn pick(rng: &mut Rng, sort: Sort) -> Self {
        let (requests, one_in) = *rng.pick(&[(1, 1), (2, 1), (4, 1), (30, 7)]);
        Self { sort, requests, one_in, lasting: *rng.pick(&[30, 300, 3000]) }
    }
}

/// The disk while it has power. Clones are handles to one disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    name: Rc<str>,
    state: Rc<RefCell<State>>,
}

impl SimulatedDisk {
    /// Powers an image on.
    pub fn power_on(name: &str, image: DiskImage) -> Self {
        Self { name: name.into(), state: Rc::new(RefCell::new(State::power_on(image))) }
    }

    /// A new disk full of zeros.
    pub fn blank(name: &str, blocks: u64) -> Self {
        Self::power_on(name, DiskImage::blank(blocks))
    }

    /// What the disk would hold if the power failed now. The disk itself goes on.
    pub fn power_loss(&self, policy: PowerLoss, rng: &mut Rng) -> DiskImage {
        let state = self.state.borrow();
        let mut blocks = state.durable.clone();
        let mut order: Vec<usize> = (0..state.unflushed.len()).collect();
        if policy == PowerLoss::Any {
            rng.shuffle(&mut order);
        }
        let chosen = rng.below(order.len().max(1) as u64) as usize;
        let survival = *rng.pick(&[10, 50, 90]);
        for (position, index) in order.into_iter().enumerate() {
            let write = &state.unflushed[index];
            let sectors = match policy {
                PowerLoss::Nothing => 0,
                PowerLoss::Everything => 0xff,
                PowerLoss::DropOne => {
                    if position == chosen {
                        0
                    } else {
                        0xff
                    }
                }
                PowerLoss::KeepOne => {
                    if position == chosen {
                        0xff
                    } else {
                        0
                    }
                }
                PowerLoss::Prefix => {
                    if position < chosen {
                        0xff
                    } else {
                        0
                    }
                }
                PowerLoss::Any => surviving_sectors(rng, survival),
            };
            land(&mut blocks, write, sectors);
        }
        DiskImage { geometry: state.geometry, blocks }
    }

    /// The machine is reset and the disk keeps its power: of what is in flight some requests still happen and
    /// some never do. What no flush covers stays in the cache, where a later power loss can find it.
    pub fn reset(&self, rng: &mut Rng) {
        let mut state = self.state.borrow_mut();
        while !state.in_flight.is_empty() {
            let index = rng.below(state.in_flight.len() as u64) as usize;
            let request = state.in_flight.remove(index);
            if rng.chance(50) {
                state.finish(request);
            } else {
                state.unflushed.retain(|write| write.request != request.id);
            }
        }
    }

    /// Loses everything completed that no flush has made durable, and shows what lies on the medium again. The disk itself
    /// goes on, requests in flight with it.
    pub fn lose_cache(&self) {
        let state = &mut *self.state.borrow_mut();
        let (lost, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.unflushed).into_iter().partition(|write| write.completed.is_some());
        state.unflushed = kept;
        state.changes += u64::from(!lost.is_empty());
        for write in lost {
            match state.durable.get(&write.at) {
                Some(block) => state.visible.insert(write.at, block.clone()),
                None => state.visible.remove(&write.at),
            };
        }
    }

    /// What the disk shows now, unflushed writes included.
    pub fn visible(&self) -> DiskImage {
        let state = self.state.borrow();
        DiskImage { geometry: state.geometry, blocks: state.visible.clone() }
    }

    /// Bit rot: changes a block on the medium and in the cache.
    pub fn rot(&self, at: u64, change: impl FnOnce(&mut [u8; BLOCK_SIZE])) {
        let mut state = self.state.borrow_mut();
        let mut block = state.visible.get(&at).map_or([0; BLOCK_SIZE], |block| block.bytes);
        change(&mut block);
        let block = Stored::new(block);
        state.durable.insert(at, block.clone());
        state.visible.insert(at, block);
    }

    /// Makes some of the requests to come slow.
    pub fn slow(&self, slow: Slow) {
        self.state.borrow_mut().slow = Some(slow);
    }

    /// A digest of every request so far, in order: equal runs have equal traces.
    pub fn trace(&self) -> u64 {
        self.state.borrow().trace
    }

    /// Requests submitted so far.
    pub fn requests(&self) -> u64 {
        self.state.borrow().requests
    }

    /// Flushes among them.
    pub fn flushes(&self) -> u64 {
        self.state.borrow().flushes
    }

    /// Advances whenever what a power loss could leave has changed: a write or discard was submitted, a flush
    /// has completed. A write's completion alone changes nothing of that.
    pub fn changes(&self) -> u64 {
        self.state.borrow().changes
    }

    /// Blocks that a power loss could still take.
    pub fn unflushed(&self) -> usize {
        self.state.borrow().unflushed.len()
    }

    /// Looks at each block that a power loss could still take.
    pub fn each_volatile(&self, mut look: impl FnMut(Volatile<'_>)) {
        for block in &self.state.borrow().unflushed {
            let Unflushed { request, at, completed, rubbish, .. } = *block;
            look(Volatile { at, submitted: request, completed, bytes: &block.data.bytes, rubbish });
        }
    }

    /// The disk's clock: submissions and completions so far.
    pub fn now(&self) -> u64 {
        self.state.borrow().clock
    }

    /// Its size.
    pub fn blocks(&self) -> u64 {
        self.state.borrow().geometry.blocks
    }

    /// What a disk keeps in memory is not the product's.
    fn submit(&self, start: u64, count: u64, writes: bool, command: Command) -> Completion {
        datum_scarcity::exempt(|| self.state.borrow_mut().take(start, count, writes, command))
    }
}

fn surviving_sectors(rng: &mut Rng, survival: u64) -> u8 {
    if rng.chance(20) {
        return rng.draw() as u8;
    }
    if rng.chance(survival) { 0xff } else { 0 }
}

impl Hardware for SimulatedDisk {
    fn pending(&self) -> usize {
        let state = self.state.borrow();
        state.in_flight.iter().filter(|request| state.is_due(request)).count()
    }

    fn advance(&self, rng: &mut Rng) {
        let mut state = self.state.borrow_mut();
        let due = (0..state.in_flight.len()).filter(|&at| state.is_due(&state.in_flight[at]));
        let due: Vec<usize> = due.collect();
        let index = *rng.pick(&due);
        let request = state.in_flight.remove(index);
        state.finish(request);
    }

    fn hurry(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let slow = state.in_flight.iter().filter(|request| !state.is_due(request));
        let Some(first) = slow.map(|request| request.not_before).min() else { return false };
        state.clock = first;
        true
    }
}

impl BlockDevice for SimulatedDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.state.borrow().geometry
    }

    fn read(&self, start: u64, into: Vec<Block>) -> impl Future<Output = Transfer> {
        self.submit(start, into.len() as u64, false, Command::Read { start, buffers: into })
    }

    fn write(&self, start: u64, from: Vec<Block>) -> impl Future<Output = Transfer> {
        self.submit(start, from.len() as u64, true, Command::Write { buffers: from })
    }

    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> {
        let submitted = self.state.borrow_mut().tick();
        let completion = self.submit(0, 0, false, Command::Flush { submitted });
        async move { completion.await.1 }
    }

    fn discard(&self, start: u64, count: u64) -> impl Future<Output = Result<(), DeviceError>> {
        let supported = self.geometry().discard;
        let completion = supported.then(|| self.submit(start, count, true, Command::Discard));
        async move {
            match completion {
                Some(completion) => completion.await.1,
                None => Err(DeviceError::Unsupported),
            }
        }
    }
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimulatedDisk({})", self.name)
    }
}

#[cfg(test)]
mod tests;
