//! The wire format of virtio-blk requests (virtio 1.2, 5.2.6), and the small parts of each that are not data.
//!
//! A request in flight uses one 64-byte slot: header, range, status and identity. Slots are made once.

use super::limits::SECTORS_PER_BLOCK;
use crate::virtio::SetupError;
use crate::virtio::dma::DmaRegion;
use crate::virtio::segment::Segment;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

const SLOT_BYTES: usize = 64;
const HEADER_BYTES: u32 = 16;
const RANGE: usize = 16;
const RANGE_BYTES: u32 = 16;
const STATUS: usize = 32;
const IDENTITY: usize = 40;
/// Bytes of a serial number.
pub(super) const IDENTITY_BYTES: usize = 20;
const _: () = assert!(IDENTITY + IDENTITY_BYTES <= SLOT_BYTES);

const UNMAP: u32 = 1;
/// No device answers this, so a status that was not written cannot pass for an answer.
const NO_STATUS: u8 = 0xff;

/// What is asked of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Identify,
    Discard,
    WriteZeroes { unmap: bool },
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 4,
            Self::Identify => 8,
            Self::Discard => 11,
            Self::WriteZeroes { .. } => 13,
        }
    }

    pub(super) fn changes_the_disk(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes { .. })
    }
}

/// The device's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
    /// Nothing that the specification knows.
    Meaningless,
}

/// Slots for the small parts of requests in flight.
#[derive(Debug)]
pub(super) struct Slots {
    region: DmaRegion,
    free: Vec<u16>,
}

impl Slots {
    pub(super) fn allocate(count: u16) -> Result<Self, SetupError> {
        Ok(Self {
            region: DmaRegion::allocate(usize::from(count) * SLOT_BYTES)?,
            free: (0..count).rev().collect(),
        })
    }

    pub(super) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub(super) fn release(&mut self, slot: u16) {
        self.free.push(slot);
    }

    fn at(slot: u16) -> usize {
        usize::from(slot) * SLOT_BYTES
    }

    /// Writes the header, and the range of a discard or write-zeroes.
    pub(super) fn prepare(&self, slot: u16, kind: Kind, block: u64, count: u64) {
        let (at, sector) = (Self::at(slot), block * SECTORS_PER_BLOCK);
        let ranged = matches!(kind, Kind::Discard | Kind::WriteZeroes { .. });
        let of_data = matches!(kind, Kind::Read | Kind::Write);
        let word = |offset, value: u32| self.region.u32(at + offset).store(value.to_le(), Ordering::Relaxed);
        let long = |offset, value: u64| self.region.u64(at + offset).store(value.to_le(), Ordering::Relaxed);
        word(0, kind.code());
        word(4, 0);
        long(8, if of_data { sector } else { 0 });
        if ranged {
            long(RANGE, sector);
            word(RANGE + 8, (count * SECTORS_PER_BLOCK) as u32);
            word(RANGE + 12, if kind == (Kind::WriteZeroes { unmap: true }) { UNMAP } else { 0 });
        }
        self.region.u8(at + STATUS).store(NO_STATUS, Ordering::Relaxed);
    }

    /// What the device reads before any data.
    pub(super) fn header(&self, slot: u16, kind: Kind) -> Segment {
        let ranged = matches!(kind, Kind::Discard | Kind::WriteZeroes { .. });
        let length = HEADER_BYTES + if ranged { RANGE_BYTES } else { 0 };
        Segment::device_reads(self.region.address(Self::at(slot)), length)
    }

    /// Where the device writes a serial number.
    pub(super) fn identity_segment(&self, slot: u16) -> Segment {
        Segment::device_writes(self.region.address(Self::at(slot) + IDENTITY), IDENTITY_BYTES as u32)
    }

    /// Where the device writes its answer.
    pub(super) fn status_segment(&self, slot: u16) -> Segment {
        Segment::device_writes(self.region.address(Self::at(slot) + STATUS), 1)
    }

    pub(super) fn status(&self, slot: u16) -> Status {
        match self.region.u8(Self::at(slot) + STATUS).load(Ordering::Relaxed) {
            0 => Status::Ok,
            1 => Status::IoError,
            2 => Status::Unsupported,
            _ => Status::Meaningless,
        }
    }

    pub(super) fn identity(&self, slot: u16) -> [u8; IDENTITY_BYTES] {
        let mut copy = [0; IDENTITY_BYTES];
        self.region.copy_out(Self::at(slot) + IDENTITY, &mut copy);
        copy
    }
}
