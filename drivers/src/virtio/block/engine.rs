//! The disk's request engine: splits operations into parts, keeps the queue full, collects answers.
//!
//! An *operation* is what a caller asked for; a *part* is one request to the device. An operation leaves the
//! slab only when no part of it is in flight, and its buffers with it: that is what makes lending their memory
//! to the device sound, whatever becomes of the caller.

use super::limits::{Limits, WANTED, capacity_blocks};
use super::requests::{IDENTITY_BYTES, Kind, Slots, Status};
use super::{BLOCK_SIZE, Block, BlockError, remember};
use crate::virtio::SetupError;
use crate::virtio::queue::{Completion, Fault, Queue};
use crate::virtio::segment::Segment;
use crate::virtio::slab::Slab;
use crate::virtio::transport::{DeviceStatus, DeviceTransport, negotiate, open_queue, reset};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem::{self, ManuallyDrop};
use core::task::Waker;

const QUEUE: u16 = 0;
/// Segments of an indirect table: a table is 1 KiB and a request up to 62 scattered blocks.
const TABLE_ENTRIES: u16 = 64;
/// Header and status, which every part has beside its data.
const FRAME_SEGMENTS: usize = 2;
/// Blocks of one part, however well they lie side by side: parts stay small enough to overlap.
const PART_BLOCKS_MAX: usize = 256;

/// An operation that is over.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) buffers: Vec<Block>,
    pub(super) outcome: Result<(), BlockError>,
    pub(super) identity: [u8; IDENTITY_BYTES],
}

#[derive(Debug)]
struct Operation {
    kind: Kind,
    start: u64,
    count: u64,
    /// Blocks that parts have been made for.
    begun: u64,
    parts_in_flight: u32,
    waiting: bool,
    abandoned: bool,
    waker: Option<Waker>,
    finished: Finished,
}

impl Operation {
    fn is_over(&self) -> bool {
        !self.waiting && self.parts_in_flight == 0
    }
}

/// What comes back with a part.
#[derive(Clone, Copy, Debug)]
struct Part {
    operation: usize,
    slot: u16,
    /// Bytes the device must have written for an answer of `Ok`.
    written: u32,
}

#[derive(Debug)]
pub(super) struct Engine<T: DeviceTransport> {
    transport: T,
    queue: Queue<Part>,
    /// Not freed on drop, for the same reason as a queue's rings.
    slots: ManuallyDrop<Slots>,
    limits: Limits,
    operations: Slab<Operation>,
    /// Operations with parts still to be made, first come, first served.
    waiting: VecDeque<usize>,
    /// Segments of the part being made; kept for its memory.
    segments: Vec<Segment>,
    woken: Vec<Waker>,
    fault: Option<Fault>,
    /// Buffers of a device that did not even come out of reset: it may write them for ever.
    lost: ManuallyDrop<Vec<Vec<Block>>>,
}

impl<T: DeviceTransport> Engine<T> {
    pub(super) fn new(mut transport: T, depth: u16) -> Result<Self, SetupError> {
        let features = negotiate(&mut transport, WANTED)?;
        let limits = Limits::read(&transport, features)?;
        let ring = open_queue(&mut transport, QUEUE, depth)?;
        transport.route_configuration()?;
        let depth = ring.size();
        let queue = Queue::new(ring, features.queue(), depth, TABLE_ENTRIES)?;
        let slots = ManuallyDrop::new(Slots::allocate(depth)?);
        transport.finish_init();
        let segments = Vec::with_capacity(usize::from(TABLE_ENTRIES));
        let engine = Self {
            transport,
            queue,
            slots,
            limits,
            operations: Slab::new(),
            waiting: VecDeque::new(),
            segments,
            woken: Vec::new(),
            fault: None,
            lost: ManuallyDrop::new(Vec::new()),
        };
        let one_block = (BLOCK_SIZE as u64).div_ceil(u64::from(engine.limits.segment_bytes_max));
        if one_block > engine.data_segments_max() as u64 {
            Err(SetupError::LimitsTooSmall)
        } else {
            Ok(engine)
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    pub(super) fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// Wakers that became due; to be woken once the engine is not borrowed.
    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        mem::take(&mut self.woken)
    }

    /// Gives back the vector that [`Engine::take_woken`] took, for its memory.
    pub(super) fn reuse(&mut self, woken: Vec<Waker>) {
        if self.woken.is_empty() {
            self.woken = woken;
        }
    }

    /// Segments a part may use for data.
    fn data_segments_max(&self) -> usize {
        (self.queue.longest_chain().saturating_sub(FRAME_SEGMENTS)).min(self.limits.segments_max as usize)
    }

    pub(super) fn submit(&mut self, kind: Kind, start: u64, count: u64, buffers: Vec<Block>) -> usize {
        let outcome = self.admit(kind, start, count);
        let nothing_to_do = match kind {
            Kind::Flush => !self.limits.flush,
            Kind::Identify => false,
            _ => count == 0,
        };
        let waiting = outcome.is_ok() && !nothing_to_do;
        let finished = Finished { buffers, outcome, identity: [0; IDENTITY_BYTES] };
        let key = self.operations.insert(Operation {
            kind,
            start,
            count: if matches!(kind, Kind::Flush | Kind::Identify) { 1 } else { count },
            begun: 0,
            parts_in_flight: 0,
            waiting,
            abandoned: false,
            waker: None,
            finished,
        });
        if waiting {
            self.waiting.push_back(key);
            self.start_waiting();
            // An idle device starts at once; a busy one hears of everything new at the next poll.
            if self.queue.in_flight() == 1 {
                self.announce();
            }
        }
        key
    }

    fn admit(&self, kind: Kind, start: u64, count: u64) -> Result<(), BlockError> {
        let supported = match kind {
            Kind::Discard => self.limits.discard_blocks_max > 0,
            Kind::WriteZeroes { .. } => self.limits.write_zeroes_blocks_max > 0,
            _ => true,
        };
        let inside = start.checked_add(count).is_some_and(|end| end <= self.limits.blocks);
        match () {
            () if self.fault.is_some() => Err(BlockError::Broken),
            () if self.limits.read_only && kind.changes_the_disk() => Err(BlockError::ReadOnly),
            () if !supported => Err(BlockError::Unsupported),
            () if !inside => Err(BlockError::OutOfRange),
            () => Ok(()),
        }
    }

    /// Makes parts until the queue is full or nothing waits.
    fn start_waiting(&mut self) {
        while let Some(&key) = self.waiting.front() {
            match self.start_part(key) {
                Some(more) if more => {}
                Some(_) => drop(self.waiting.pop_front()),
                None => break,
            }
        }
    }

    /// Makes the next part of an operation. True if more are to come, none if there was no room for it.
    fn start_part(&mut self, key: usize) -> Option<bool> {
        let segments_max = self.data_segments_max();
        let Some(operation) = self.operations.get_mut(key) else { return Some(false) };
        if operation.finished.outcome.is_err() || operation.begun == operation.count {
            operation.waiting = false;
            self.settle(key);
            return Some(false);
        }
        if !self.slots.any_free() || !self.queue.has_room(1) {
            return None;
        }
        let slot = self.slots.take()?;
        let block = operation.start + operation.begun;
        self.segments.clear();
        self.segments.push(self.slots.header(slot, operation.kind));
        let (count, data) = operation.lay_out(&self.limits, segments_max, &mut self.segments);
        if operation.kind == Kind::Identify {
            self.segments.push(self.slots.identity_segment(slot));
        }
        self.segments.push(self.slots.status_segment(slot));
        if !self.queue.has_room(self.segments.len()) {
            self.slots.release(slot);
            return None;
        }
        self.slots.prepare(slot, operation.kind, block, count);
        let part = Part { operation: key, slot, written: data };
        // SAFETY: the slot's region belongs to the engine, which resets the device before it goes. The blocks
        // belong to the operation, which stays in the slab, its buffers unmoved and untouched, until
        // `parts_in_flight` is zero again. Header and written data come first.
        unsafe { self.queue.submit(&self.segments, part) };
        operation.parts_in_flight += 1;
        operation.begun += count;
        operation.waiting = operation.begun < operation.count;
        Some(operation.waiting)
    }

    fn announce(&mut self) {
        if self.fault.is_none() && self.queue.take_notification() {
            self.transport.notify(QUEUE);
        }
    }

    pub(super) fn poll(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if self.transport.take_configuration_change()
            && let Err(fault) = self.look_at_configuration()
        {
            self.stop(fault);
            return true;
        }
        let progress = self.collect();
        self.start_waiting();
        self.announce();
        progress
    }

    fn look_at_configuration(&mut self) -> Result<(), Fault> {
        if self.transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            return Err(Fault::NeedsReset);
        }
        self.limits.blocks = capacity_blocks(&self.transport).ok_or(Fault::WrongAnswer)?;
        Ok(())
    }

    fn collect(&mut self) -> bool {
        let mut progress = false;
        loop {
            match self.queue.complete() {
                Ok(None) => return progress,
                Ok(Some(completion)) => self.end_part(&completion),
                Err(fault) => self.stop(fault),
            }
            progress = true;
            if self.fault.is_some() {
                return true;
            }
        }
    }

    fn end_part(&mut self, completion: &Completion<Part>) {
        let part = completion.owner;
        let status = self.slots.status(part.slot);
        self.slots.release(part.slot);
        let Some(operation) = self.operations.get_mut(part.operation) else { return };
        if operation.kind == Kind::Identify {
            operation.finished.identity = self.slots.identity(part.slot);
        }
        operation.parts_in_flight -= 1;
        let (outcome, fault) = match status {
            Status::Ok if completion.written < part.written => {
                (Err(BlockError::Broken), Some(Fault::WrongLength))
            }
            Status::Ok => (Ok(()), None),
            Status::IoError => (Err(BlockError::Io), None),
            Status::Unsupported => (Err(BlockError::Unsupported), None),
            Status::Meaningless => (Err(BlockError::Broken), Some(Fault::WrongAnswer)),
        };
        // The first error of an operation is the one reported.
        operation.finished.outcome = operation.finished.outcome.and(outcome);
        if let Some(fault) = fault {
            self.stop(fault);
        }
        self.settle(part.operation);
    }

    /// Wakes or forgets an operation that is over.
    fn settle(&mut self, key: usize) {
        match self.operations.get_mut(key) {
            Some(operation) if !operation.is_over() => {}
            Some(operation) if operation.abandoned => drop(self.operations.remove(key)),
            Some(operation) => self.woken.extend(operation.waker.take()),
            None => {}
        }
    }

    /// Stops a device that broke the protocol. Once it is reset, all memory is the driver's again.
    fn stop(&mut self, fault: Fault) {
        self.fault = Some(self.queue.fail(fault));
        let silent = reset(&mut self.transport);
        if silent {
            // SAFETY: the device was just reset.
            unsafe { self.queue.reclaim() }.for_each(drop);
        }
        self.waiting.clear();
        let mut over = Vec::new();
        for (key, operation) in self.operations.iter_mut().filter(|(_, operation)| !operation.is_over()) {
            if operation.parts_in_flight > 0 && !silent {
                self.lost.push(mem::take(&mut operation.finished.buffers));
            }
            (operation.waiting, operation.parts_in_flight) = (false, 0);
            operation.finished.outcome = Err(BlockError::Broken);
            over.push(key);
        }
        over.into_iter().for_each(|key| self.settle(key));
    }

    /// The result of an operation that is over.
    pub(super) fn take_finished(&mut self, key: usize) -> Option<Finished> {
        self.operations.get_mut(key).filter(|operation| operation.is_over())?;
        self.operations.remove(key).map(|operation| operation.finished)
    }

    pub(super) fn wait(&mut self, key: usize, waker: &Waker) {
        if let Some(operation) = self.operations.get_mut(key) {
            remember(&mut operation.waker, waker);
        }
    }

    pub(super) fn abandon(&mut self, key: usize) {
        if let Some(operation) = self.operations.get_mut(key) {
            operation.abandoned = true;
            operation.waker = None;
            self.settle(key);
        }
    }

    pub(super) fn arm(&mut self) -> bool {
        self.fault.is_none() && self.queue.enable_interrupts()
    }

    pub(super) fn disarm(&mut self) {
        self.queue.suppress_interrupts();
    }
}

impl Operation {
    /// Lays out the data of the next part. Gives the blocks it covers and the bytes the device must write.
    fn lay_out(&mut self, limits: &Limits, segments_max: usize, segments: &mut Vec<Segment>) -> (u64, u32) {
        let rest = self.count - self.begun;
        match self.kind {
            Kind::Flush => (1, 0),
            Kind::Identify => (1, IDENTITY_BYTES as u32 + 1),
            Kind::Discard => (rest.min(limits.discard_blocks_max), 0),
            Kind::WriteZeroes { .. } => (rest.min(limits.write_zeroes_blocks_max), 0),
            Kind::Read | Kind::Write => {
                let blocks = self.push_blocks(limits.segment_bytes_max, segments_max, segments);
                let written = if self.kind == Kind::Read { blocks * BLOCK_SIZE + 1 } else { 0 };
                (blocks as u64, written as u32)
            }
        }
    }

    /// Adds whole blocks as long as their segments fit; neighbours in memory share one. Returns how many.
    fn push_blocks(&mut self, bytes_max: u32, segments_max: usize, segments: &mut Vec<Segment>) -> usize {
        let (first, reads) = (segments.len(), self.kind == Kind::Read);
        let blocks = self.finished.buffers.iter_mut().skip(self.begun as usize).take(PART_BLOCKS_MAX);
        let mut taken = 0;
        for block in blocks {
            let before = segments.len();
            let last = segments.last().copied();
            push_block(block, reads, bytes_max, first, segments);
            if segments.len() - first > segments_max {
                segments.truncate(before);
                if let (Some(slot), Some(last)) = (segments.last_mut(), last) {
                    *slot = last;
                }
                break;
            }
            taken += 1;
        }
        taken
    }
}

/// Adds one block in pieces of at most `bytes_max`, joining the first to what lies just before it.
fn push_block(
    block: &mut Block,
    device_writes: bool,
    bytes_max: u32,
    first: usize,
    segments: &mut Vec<Segment>,
) {
    let address = block.as_mut_ptr().expose_provenance() as u64;
    let mut offset = 0;
    while offset < BLOCK_SIZE as u32 {
        let length = bytes_max.min(BLOCK_SIZE as u32 - offset);
        let at = address + u64::from(offset);
        let piece = if device_writes {
            Segment::device_writes(at, length)
        } else {
            Segment::device_reads(at, length)
        };
        let joined =
            segments.len() > first && segments.last_mut().is_some_and(|last| last.absorb(&piece, bytes_max));
        if !joined {
            segments.push(piece);
        }
        offset += length;
    }
}

impl<T: DeviceTransport> Drop for Engine<T> {
    fn drop(&mut self) {
        // Buffers may only be freed once the device is silent.
        if !reset(&mut self.transport) {
            let _leaked = ManuallyDrop::new(mem::replace(&mut self.operations, Slab::new()));
        }
    }
}
