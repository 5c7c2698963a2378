//! The store's only way to the outside: one asynchronous block device. Its documentation is the durability
//! contract; the virtio-blk adapter, the host's file device and the simulated disk all implement it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;

/// Bytes in a block, the unit of everything the store does.
pub const BLOCK_SIZE: usize = 4096;

/// One block of bytes. Buffers change hands by value, so that a device may read or fill one while the
/// future that asked for it is long gone.
pub type Block = Box<[u8; BLOCK_SIZE]>;

/// So many blocks of zeros, for a request that decides how many; `None` where there is no memory for all of them.
pub fn zeroed_blocks(count: usize) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count).ok()?;
    for _ in 0..count {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(BLOCK_SIZE).ok()?;
        bytes.resize(BLOCK_SIZE, 0);
        blocks.push(Block::try_from(bytes.into_boxed_slice()).ok()?);
    }
    Some(blocks)
}

/// What a device is like. Fixed while a pool has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Whole blocks the device holds.
    pub blocks: u64,
    /// The device refuses writes.
    pub read_only: bool,
    /// The device takes discards.
    pub discard: bool,
}

/// Why a device did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The device reported an error for this request.
    Io,
    /// The device refuses writes.
    ReadOnly,
    /// The request reaches past the end of the device.
    OutOfRange,
    /// The device does not know this kind of request.
    Unsupported,
    /// The device broke its protocol or is gone; nothing more can be expected of it.
    Broken,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "the device reported an I/O error",
            Self::ReadOnly => "the device is read-only",
            Self::OutOfRange => "the request reaches past the end of the device",
            Self::Unsupported => "the device does not support this request",
            Self::Broken => "the device no longer answers as it must",
        })
    }
}

/// Buffers handed back, with what became of the request.
pub type Transfer = (Vec<Block>, Result<(), DeviceError>);

/// An asynchronous block device with a volatile write cache.
///
/// - A completed write is visible to every read submitted later. It is *durable* only once a flush that was
///   submitted after its completion has completed successfully. Until then a power loss may leave of it any
///   subset of its 512-byte sectors, each either old or new, in any order relative to other unflushed writes.
/// - A write that failed leaves its blocks undefined, and nothing else.
/// - A flush that failed says nothing about what is durable; it must not be retried and trusted. The device may have lost what
///   that flush was for, and then no other makes it durable, one that was asked for before the failure was known included.
/// - Requests in flight together are not ordered. Requests may be submitted concurrently without bound; the
///   device queues what it cannot start.
/// - A request goes on when its future is dropped: the device owns the buffers until it has finished.
/// - Discarded blocks read as anything until written again.
pub trait BlockDevice {
    /// The operator's name for the device, as in `device.list`.
    fn name(&self) -> &str;
    /// Size and abilities.
    fn geometry(&self) -> Geometry;
    /// Reads `into.len()` blocks from block `start` on.
    fn read(&self, start: u64, into: Vec<Block>) -> impl Future<Output = Transfer>;
    /// Writes `from` to the blocks from `start` on.
    fn write(&self, start: u64, from: Vec<Block>) -> impl Future<Output = Transfer>;
    /// Makes every write that completed before this call durable.
    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>>;
    /// Tells the device that the contents of these blocks are no longer needed.
    fn discard(&self, start: u64, count: u64) -> impl Future<Output = Result<(), DeviceError>>;
}
