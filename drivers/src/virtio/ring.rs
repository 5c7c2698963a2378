//! The shared memory of one split virtqueue: where each field lies, and how it is read and written.
//!
//! Layout and flags follow virtio 1.2, sections 2.7.5 to 2.7.8. Nothing here decides anything: [`super::queue`]
//! keeps its own copy of every link and length and takes from this memory only what it then checks.

use super::SetupError;
use super::dma::DmaRegion;
use super::segment::{Access, Segment};
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

const DESCRIPTOR_BYTES: usize = 16;
const FLAG_NEXT: u16 = 1;
const FLAG_DEVICE_WRITES: u16 = 2;
const FLAG_INDIRECT: u16 = 4;
const AVAILABLE_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// Descriptor table, available ring and used ring of one queue, in one region.
#[derive(Debug)]
pub struct Ring {
    /// Not freed on drop, whether or not a queue was made of it: the device knows these addresses.
    region: ManuallyDrop<DmaRegion>,
    size: u16,
}

/// One used element as the device wrote it: nothing in it is checked yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct UncheckedUsed {
    pub(super) id: u32,
    pub(super) length: u32,
}

impl Ring {
    /// A zeroed ring of `size` entries, a power of two of at most 32,768.
    pub fn allocate(size: u16) -> Result<Self, SetupError> {
        assert!(size.is_power_of_two(), "a split queue's size is a power of two");
        let bytes = Self::used_offset(size) + 6 + 8 * usize::from(size);
        Ok(Self { region: ManuallyDrop::new(DmaRegion::allocate(bytes)?), size })
    }

    fn available_offset(size: u16) -> usize {
        DESCRIPTOR_BYTES * usize::from(size)
    }

    /// After the available ring and its `used_event`, aligned to four bytes.
    fn used_offset(size: u16) -> usize {
        (Self::available_offset(size) + 6 + 2 * usize::from(size)).next_multiple_of(4)
    }

    /// Entries in the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The device's addresses of the descriptor table, the available ring and the used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [0, Self::available_offset(self.size), Self::used_offset(self.size)]
            .map(|offset| self.region.address(offset))
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    pub(super) fn write_descriptor(&self, index: u16, segment: &Segment, next: Option<u16>) {
        let flags = access_flag(segment.access) | if next.is_some() { FLAG_NEXT } else { 0 };
        write_entry(&self.region, DESCRIPTOR_BYTES * self.slot(index), segment, flags, next.unwrap_or(0));
    }

    pub(super) fn write_indirect(&self, index: u16, table: u64, entries: usize) {
        let whole = Segment::device_reads(table, (entries * DESCRIPTOR_BYTES) as u32);
        write_entry(&self.region, DESCRIPTOR_BYTES * self.slot(index), &whole, FLAG_INDIRECT, 0);
    }

    /// Puts a chain's head where the device looks for entry `index`, without showing it yet.
    pub(super) fn write_available(&self, index: u16, head: u16) {
        let offset = Self::available_offset(self.size) + 4 + 2 * self.slot(index);
        self.region.u16(offset).store(head.to_le(), Ordering::Relaxed);
    }

    /// Shows the device every entry before `index`, and all that was written for them.
    pub(super) fn publish(&self, index: u16) {
        self.region.u16(Self::available_offset(self.size) + 2).store(index.to_le(), Ordering::Release);
    }

    pub(super) fn used_index(&self) -> u16 {
        u16::from_le(self.region.u16(Self::used_offset(self.size) + 2).load(Ordering::Acquire))
    }

    pub(super) fn used_element(&self, index: u16) -> UncheckedUsed {
        let offset = Self::used_offset(self.size) + 4 + 8 * self.slot(index);
        let word = |offset| u32::from_le(self.region.u32(offset).load(Ordering::Relaxed));
        UncheckedUsed { id: word(offset), length: word(offset + 4) }
    }

    /// The index after which the device wants to be told of the next entry (with EVENT_IDX).
    pub(super) fn available_event(&self) -> u16 {
        let offset = Self::used_offset(self.size) + 4 + 8 * usize::from(self.size);
        u16::from_le(self.region.u16(offset).load(Ordering::Relaxed))
    }

    /// The device asks not to be told of new entries (without EVENT_IDX).
    pub(super) fn device_declines_notification(&self) -> bool {
        u16::from_le(self.region.u16(Self::used_offset(self.size)).load(Ordering::Relaxed)) & USED_NO_NOTIFY
            != 0
    }

    /// Asks for an interrupt when entry `index` is used (with EVENT_IDX).
    pub(super) fn set_used_event(&self, index: u16) {
        let offset = Self::available_offset(self.size) + 4 + 2 * usize::from(self.size);
        self.region.u16(offset).store(index.to_le(), Ordering::Relaxed);
    }

    /// Asks for interrupts, or for none (without EVENT_IDX).
    pub(super) fn set_interrupts(&self, wanted: bool) {
        let flags = if wanted { 0 } else { AVAILABLE_NO_INTERRUPT };
        self.region.u16(Self::available_offset(self.size)).store(flags.to_le(), Ordering::Relaxed);
    }
}

/// Tables for indirect chains, made once: a chain takes one, fills it and gives it back.
#[derive(Debug)]
pub(super) struct IndirectTables {
    region: DmaRegion,
    entries: u16,
    free: alloc::vec::Vec<u16>,
}

impl IndirectTables {
    pub(super) fn allocate(tables: u16, entries: u16) -> Result<Self, SetupError> {
        let bytes = usize::from(tables) * usize::from(entries) * DESCRIPTOR_BYTES;
        Ok(Self { region: DmaRegion::allocate(bytes)?, entries, free: (0..tables).rev().collect() })
    }

    pub(super) fn entries(&self) -> usize {
        usize::from(self.entries)
    }

    pub(super) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Writes a chain into a free table; gives the table's number and its address.
    pub(super) fn fill(&mut self, segments: &[Segment]) -> Option<(u16, u64)> {
        assert!(segments.len() <= self.entries(), "a chain fits its table");
        let table = self.free.pop()?;
        let start = usize::from(table) * self.entries() * DESCRIPTOR_BYTES;
        for (index, segment) in segments.iter().enumerate() {
            let more = index + 1 < segments.len();
            let (chained, next) = if more { (FLAG_NEXT, index as u16 + 1) } else { (0, 0) };
            let flags = access_flag(segment.access) | chained;
            write_entry(&self.region, start + index * DESCRIPTOR_BYTES, segment, flags, next);
        }
        Some((table, self.region.address(start)))
    }

    pub(super) fn release(&mut self, table: u16) {
        self.free.push(table);
    }
}

fn access_flag(access: Access) -> u16 {
    match access {
        Access::DeviceReads => 0,
        Access::DeviceWrites => FLAG_DEVICE_WRITES,
    }
}

fn write_entry(region: &DmaRegion, offset: usize, segment: &Segment, flags: u16, next: u16) {
    let tail = u64::from(segment.length) | u64::from(flags) << 32 | u64::from(next) << 48;
    region.u64(offset).store(segment.address.to_le(), Ordering::Relaxed);
    region.u64(offset + 8).store(tail.to_le(), Ordering::Relaxed);
}
