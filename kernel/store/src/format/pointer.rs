//! The one pointer of every block tree, and the node that holds 128 of them.

use super::codec::Reader;
use crate::device::{BLOCK_SIZE, Block};
use crate::types::{ChangeId, Epoch};
use core::fmt;
use twox_hash::XxHash64;

/// Pointers in a node.
pub(crate) const NODE_FANOUT: usize = 128;
/// Bytes of a pointer: address, birth, change, checksum.
pub(crate) const POINTER_SIZE: usize = 32;
const _: () = assert!(NODE_FANOUT * POINTER_SIZE == BLOCK_SIZE);

/// Where a block lies: member in the top byte, block on that member below. 0 is no block at all (every
/// member's block 0 holds a superblock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    const BLOCK_BITS: u32 = 56;

    pub(crate) fn new(member: usize, block: u64) -> Self {
        debug_assert!(block >> Self::BLOCK_BITS == 0);
        Self((member as u64) << Self::BLOCK_BITS | block)
    }

    pub(crate) fn member(self) -> usize {
        (self.0 >> Self::BLOCK_BITS) as usize
    }

    pub(crate) fn block(self) -> u64 {
        self.0 & ((1 << Self::BLOCK_BITS) - 1)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} block {}", self.member(), self.block())
    }
}

/// What a parent knows of a child: where it lies, when it was allocated, the newest change at or below, and
/// what its bytes must hash to. A hole has address 0 and still carries its change id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) address: Address,
    pub(crate) birth: Epoch,
    /// In the free map, which has no history, this field counts the allocated blocks below instead.
    pub(crate) change: ChangeId,
    pub(crate) checksum: u64,
}

impl Pointer {
    pub(crate) fn hole(change: ChangeId) -> Self {
        Self { change, ..Self::default() }
    }

    pub(crate) fn is_hole(&self) -> bool {
        self.address == Address(0)
    }

    /// Whether both name what was once written to a place, or a hole.
    pub(crate) fn is_same_block(&self, other: &Self) -> bool {
        (self.address, self.birth) == (other.address, other.birth)
    }

    pub(crate) fn to_bytes(self) -> [u8; POINTER_SIZE] {
        let mut bytes = [0; POINTER_SIZE];
        for (field, value) in
            bytes.chunks_exact_mut(8).zip([self.address.0, self.birth.0, self.change.0, self.checksum])
        {
            field.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            address: Address(from.u64()?),
            birth: Epoch(from.u64()?),
            change: ChangeId(from.u64()?),
            checksum: from.u64()?,
        })
    }
}

/// The pointer in `slot` of a node's block.
#[inline]
pub(crate) fn pointer_at(node: &[u8; BLOCK_SIZE], slot: usize) -> Pointer {
    let field = |n: usize| field_at(node, slot, n);
    Pointer {
        address: Address(field(0)),
        birth: Epoch(field(1)),
        change: ChangeId(field(2)),
        checksum: field(3),
    }
}

/// The change id of the pointer in `slot` alone, for walks that pass over most.
#[inline]
pub(crate) fn change_at(node: &[u8; BLOCK_SIZE], slot: usize) -> ChangeId {
    ChangeId(field_at(node, slot, 2))
}

#[inline]
fn field_at(node: &[u8; BLOCK_SIZE], slot: usize, field: usize) -> u64 {
    let at = slot * POINTER_SIZE + field * 8;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&node[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Puts a pointer into `slot` of a node's block.
#[inline]
pub(crate) fn set_pointer_at(node: &mut [u8; BLOCK_SIZE], slot: usize, pointer: Pointer) {
    node[slot * POINTER_SIZE..(slot + 1) * POINTER_SIZE].copy_from_slice(&pointer.to_bytes());
}

/// A pool's way of hashing its blocks: a stale, misplaced or foreign block does not verify.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checksummer {
    pool_seed: u64,
}

impl Checksummer {
    pub(crate) fn new(pool: u128) -> Self {
        Self { pool_seed: XxHash64::oneshot(0, &pool.to_le_bytes()) }
    }

    /// xxh64 seeded with pool, address and birth.
    pub(crate) fn block(&self, address: Address, birth: Epoch, bytes: &[u8; BLOCK_SIZE]) -> u64 {
        // Odd multipliers keep distinct (address, birth) pairs from cancelling each other out.
        let seed = self.pool_seed
            ^ address.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ birth.0.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32);
        XxHash64::oneshot(seed, bytes)
    }

    /// For structures without an address of their own (superblock, log records).
    pub(crate) fn bytes(&self, purpose: u64, bytes: &[u8]) -> u64 {
        XxHash64::oneshot(self.pool_seed ^ purpose, bytes)
    }

    pub(crate) fn verifies(&self, pointer: &Pointer, bytes: &[u8; BLOCK_SIZE]) -> bool {
        self.block(pointer.address, pointer.birth, bytes) == pointer.checksum
    }
}

/// A block of zeros.
pub(crate) fn zeroed_block() -> Block {
    alloc::boxed::Box::new([0; BLOCK_SIZE])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_bytes_are_golden() {
        let pointer = Pointer {
            address: Address::new(3, 0x0102),
            birth: Epoch(7),
            change: ChangeId(9),
            checksum: 0x1122_3344_5566_7788,
        };
        let bytes = pointer.to_bytes();
        assert_eq!(bytes[..8], [0x02, 0x01, 0, 0, 0, 0, 0, 3]);
        assert_eq!(bytes[8], 7);
        assert_eq!(bytes[16], 9);
        assert_eq!(bytes[24..], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        let mut node = zeroed_block();
        set_pointer_at(&mut node, 127, pointer);
        assert_eq!(pointer_at(&node, 127), pointer);
    }

    #[test]
    fn checksum_depends_on_place_and_time() {
        let sums = Checksummer::new(1);
        let block = zeroed_block();
        let here = sums.block(Address(5), Epoch(1), &block);
        assert_ne!(here, sums.block(Address(6), Epoch(1), &block));
        assert_ne!(here, sums.block(Address(5), Epoch(2), &block));
        assert_ne!(here, Checksummer::new(2).block(Address(5), Epoch(1), &block));
    }
}
