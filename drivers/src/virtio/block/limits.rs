//! What a virtio-blk device says of itself (virtio 1.2, 5.2.4), turned into blocks of 4 KiB.

use super::BLOCK_SIZE;
use crate::virtio::SetupError;
use crate::virtio::transport::{DeviceTransport, Features, config_u8, config_u32};

pub(super) const SIZE_MAX: u64 = 1 << 1;
pub(super) const SEG_MAX: u64 = 1 << 2;
pub(super) const READ_ONLY: u64 = 1 << 5;
pub(super) const BLK_SIZE: u64 = 1 << 6;
pub(super) const FLUSH: u64 = 1 << 9;
pub(super) const DISCARD: u64 = 1 << 13;
pub(super) const WRITE_ZEROES: u64 = 1 << 14;

/// Features the driver knows what to do with.
pub(super) const WANTED: u64 = SIZE_MAX | SEG_MAX | READ_ONLY | BLK_SIZE | FLUSH | DISCARD | WRITE_ZEROES;

pub(super) const SECTOR_SIZE: u64 = 512;
pub(super) const SECTORS_PER_BLOCK: u64 = BLOCK_SIZE as u64 / SECTOR_SIZE;

/// Reads of a configuration that changes under each: far more than an honest change takes.
const SETTLING_READS_MAX: u32 = 1000;

const CAPACITY_LOW: usize = 0;
const CAPACITY_HIGH: usize = 4;
const SIZE_MAX_OFFSET: usize = 8;
const SEG_MAX_OFFSET: usize = 12;
const BLK_SIZE_OFFSET: usize = 20;
const MAX_DISCARD_SECTORS: usize = 36;
const DISCARD_SECTOR_ALIGNMENT: usize = 44;
const MAX_WRITE_ZEROES_SECTORS: usize = 48;
const WRITE_ZEROES_MAY_UNMAP: usize = 56;

/// Size, abilities and limits of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whole blocks of 4 KiB.
    pub blocks: u64,
    /// The device refuses writes.
    pub read_only: bool,
    /// The device has a volatile cache and takes flushes; without, a completed write is durable.
    pub flush: bool,
    /// Blocks one discard may name; 0 where the device takes none.
    pub discard_blocks_max: u64,
    /// Blocks one write-zeroes may name; 0 where the device takes none.
    pub write_zeroes_blocks_max: u64,
    /// Zeroed blocks may be unmapped.
    pub write_zeroes_may_unmap: bool,
    /// Bytes of a logical sector of the device.
    pub sector_size: u32,
    /// Data segments one request may have.
    pub segments_max: u32,
    /// Bytes one segment may have.
    pub segment_bytes_max: u32,
}

impl Limits {
    pub(super) fn read<T: DeviceTransport>(transport: &T, features: Features) -> Result<Self, SetupError> {
        let field = |feature, offset, absent| {
            if features.has(feature) { config_u32(transport, offset) } else { absent }
        };
        let sector_size = field(BLK_SIZE, BLK_SIZE_OFFSET, SECTOR_SIZE as u32);
        if !(SECTOR_SIZE as u32..=BLOCK_SIZE as u32).contains(&sector_size) || !sector_size.is_power_of_two()
        {
            return Err(SetupError::LimitsTooSmall);
        }
        let alignment = field(DISCARD, DISCARD_SECTOR_ALIGNMENT, 1);
        Ok(Self {
            blocks: capacity_blocks(transport).ok_or(SetupError::NeverSettles)?,
            read_only: features.has(READ_ONLY),
            flush: features.has(FLUSH),
            discard_blocks_max: whole_blocks(field(DISCARD, MAX_DISCARD_SECTORS, 0), alignment),
            write_zeroes_blocks_max: whole_blocks(field(WRITE_ZEROES, MAX_WRITE_ZEROES_SECTORS, 0), 1),
            write_zeroes_may_unmap: features.has(WRITE_ZEROES)
                && config_u8(transport, WRITE_ZEROES_MAY_UNMAP) != 0,
            sector_size,
            // A device that names no limit is given one segment, as Linux does.
            segments_max: field(SEG_MAX, SEG_MAX_OFFSET, 1).max(1),
            segment_bytes_max: field(SIZE_MAX, SIZE_MAX_OFFSET, u32::MAX).max(1),
        })
    }
}

/// The capacity is eight bytes that may change between two reads of four, unless the generation stays. None where it
/// never stays.
pub(super) fn capacity_blocks<T: DeviceTransport>(transport: &T) -> Option<u64> {
    (0..SETTLING_READS_MAX).find_map(|_| {
        let before = transport.read_config_generation();
        let (high, low) = (config_u32(transport, CAPACITY_HIGH), config_u32(transport, CAPACITY_LOW));
        let sectors = u64::from(high) << 32 | u64::from(low);
        (transport.read_config_generation() == before).then_some(sectors / SECTORS_PER_BLOCK)
    })
}

/// Blocks in a limit given in sectors, such that a range cut there stays aligned as the device likes it.
fn whole_blocks(sectors: u32, alignment: u32) -> u64 {
    let sectors = u64::from(sectors);
    let unit = u64::from(alignment.max(1)).next_multiple_of(SECTORS_PER_BLOCK);
    let aligned = sectors - sectors % unit;
    if aligned > 0 { aligned / SECTORS_PER_BLOCK } else { sectors / SECTORS_PER_BLOCK }
}
