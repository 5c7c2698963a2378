//! The superblock: 512 bytes, so that one sector write decides a commit.
//!
//! Commit `n` writes slot `n % 2` at both ends of every member. The newest valid one on *any* member counts:
//! all it names was flushed on all members before it was written.

use super::codec::{Reader, Writer};
use super::journal::Run;
use super::owner::OWNER_BLOCKS;
use super::pointer::Address;
use super::pointer::{Checksummer, Pointer};
use crate::limits::{FREED_SEGMENT_LISTS, MEMBER_BLOCKS_MIN, MEMBERS_MAX, RECORD_BLOCKS_MAX};
use crate::types::{Epoch, Name};
use core::ops::Range;

/// Bytes of a superblock; the rest of its block is zero.
pub(crate) const SUPERBLOCK_SIZE: usize = 512;
/// Blocks kept for superblock slots at each end of a member.
pub(crate) const SLOTS: u64 = 2;
const MAGIC: [u8; 8] = *b"DATUMSB\x01";
const CHECKSUM_PURPOSE: u64 = 0x7375_7065_7262_6c6b;
/// Incompatible features this version knows: none yet.
const KNOWN_INCOMPATIBLE: u64 = 0;
const KNOWN_READ_ONLY_COMPATIBLE: u64 = 0;
/// Blocks that an address can count on a member.
const MEMBER_BLOCKS_MAX: u64 = 1 << 56;
/// Positions of the queue of freed extents, far beyond what can be reached.
const POSITION_MAX: u64 = 1 << 62;

/// Where the intent log goes on from a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// Block within the log's ring.
    pub(crate) block: u64,
    /// Sequence number of the next record.
    pub(crate) sequence: u64,
    /// Checksum of the record before it.
    pub(crate) chain: u64,
}

/// The queue of freed extents: list blocks in the free map's tree, by position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FreedQueue {
    /// The oldest list block, and the end of those that are being swept.
    pub(crate) first: u64,
    pub(crate) sweeping: u64,
    /// Where the next list block goes.
    pub(crate) next: u64,
    /// Blocks in the extents that wait behind those being swept.
    pub(crate) waiting: u64,
    /// Extents being swept that lie below this address are in the bitmaps already.
    pub(crate) cursor: u64,
}

/// The root of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) pool: u128,
    pub(crate) name: Name,
    /// This member's place in the pool; the only field that differs between members.
    pub(crate) member: u8,
    /// 0 while the pool is being created.
    pub(crate) commit: u64,
    pub(crate) epoch: Epoch,
    pub(crate) created: u64,
    pub(crate) objects: Pointer,
    pub(crate) map: Pointer,
    /// Records of an older generation are never valid.
    pub(crate) log_generation: u64,
    pub(crate) log: LogPosition,
    /// The log's ring on member 0: first block and length.
    pub(crate) log_first: u64,
    pub(crate) log_blocks: u64,
    pub(crate) freed: FreedQueue,
    pub(crate) next_object: u64,
    /// Blocks of each member; as many as there are members.
    pub(crate) members: alloc::vec::Vec<u64>,
    /// Features set: compatible, read-only-compatible, incompatible.
    pub(crate) features: [u64; 3],
}

/// Why a slot's bytes are no superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// No trace of Datum.
    NotDatum,
    /// Datum's magic, but the bytes are damaged.
    Damaged,
    /// Made by a later version with features unknown here.
    Unknown,
    /// Whole, and what it says cannot be true together.
    Contradictory,
}

impl Superblock {
    /// Whether this version may write to the pool.
    pub(crate) fn writable(&self) -> bool {
        self.features[1] & !KNOWN_READ_ONLY_COMPATIBLE == 0
    }

    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK_SIZE] {
        let mut w = Writer::default();
        w.bytes(&MAGIC).u8(self.member).u8(self.members.len() as u8).u8(0);
        w.u8(self.name.as_str().len() as u8).u32(0);
        self.features.iter().for_each(|&f| {
            w.u64(f);
        });
        w.u128(self.pool).u64(self.commit).u64(self.epoch.0).u64(self.created);
        w.bytes(&self.objects.to_bytes()).bytes(&self.map.to_bytes());
        w.u64(self.log_generation).u64(self.log.block).u64(self.log.sequence).u64(self.log.chain);
        w.u64(self.log_first).u64(self.log_blocks);
        let FreedQueue { first, sweeping, next, waiting, cursor } = self.freed;
        w.u64(first).u64(sweeping).u64(next).u64(waiting).u64(cursor).u64(self.next_object);
        (0..MEMBERS_MAX).for_each(|m| {
            w.u64(self.members.get(m).copied().unwrap_or(0));
        });
        w.bytes(self.name.as_str().as_bytes()).pad_to(SUPERBLOCK_SIZE - 8);
        let sum = Checksummer::new(self.pool).bytes(CHECKSUM_PURPOSE, &w.0);
        w.u64(sum);
        let mut bytes = [0; SUPERBLOCK_SIZE];
        bytes.copy_from_slice(&w.0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SUPERBLOCK_SIZE]) -> Result<Self, Defect> {
        if bytes[..8] != MAGIC {
            return Err(Defect::NotDatum);
        }
        let decoded = Self::fields(&bytes[8..]).ok_or(Defect::Damaged)?;
        let (body, sum) = bytes.split_at(SUPERBLOCK_SIZE - 8);
        if Checksummer::new(decoded.pool).bytes(CHECKSUM_PURPOSE, body).to_le_bytes() != *sum {
            return Err(Defect::Damaged);
        }
        if decoded.features[2] & !KNOWN_INCOMPATIBLE != 0 {
            return Err(Defect::Unknown);
        }
        if !decoded.is_possible() {
            return Err(Defect::Contradictory);
        }
        Ok(decoded)
    }

    /// Whether sizes, places and counts fit together.
    fn is_possible(&self) -> bool {
        let sizes = self.members.iter().all(|blocks| (MEMBER_BLOCKS_MIN..MEMBER_BLOCKS_MAX).contains(blocks));
        let first = SLOTS + OWNER_BLOCKS;
        let log_end = self.log_first.checked_add(self.log_blocks);
        let log_fits = log_end.is_some_and(|end| end <= self.members[0].saturating_sub(SLOTS));
        let ring = self.log_first >= first && self.log_blocks > RECORD_BLOCKS_MAX && log_fits;
        if !sizes || !ring || self.log.block > self.log_blocks {
            return false;
        }
        let total: u64 = self.members.iter().sum();
        let FreedQueue { first, sweeping, next, waiting, .. } = self.freed;
        // Each list takes a block, so there are fewer than blocks.
        let queue = first <= sweeping && sweeping <= next && next - first <= total && next < POSITION_MAX;
        queue && sweeping - first <= FREED_SEGMENT_LISTS && waiting <= total && self.map.change.0 <= total
    }

    /// Blocks of a member in which anything but superblocks, marks and log can lie.
    pub(crate) fn usable(&self, member: usize) -> Range<u64> {
        let first = if member == 0 { self.log_first + self.log_blocks } else { SLOTS };
        first..self.members[member] - SLOTS
    }

    /// The runs that superblocks, marks and log take, which the free map shows as allocated.
    pub(crate) fn system_runs(&self) -> alloc::vec::Vec<Run> {
        let mut runs = alloc::vec::Vec::new();
        for member in 0..self.members.len() {
            let usable = self.usable(member);
            runs.push(Run { address: Address::new(member, 0), blocks: usable.start });
            runs.push(Run { address: Address::new(member, usable.end), blocks: SLOTS });
        }
        runs
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let (member, members, _, name_length) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
        r.u32()?;
        let features = [r.u64()?, r.u64()?, r.u64()?];
        let (pool, commit, epoch, created) = (r.u128()?, r.u64()?, Epoch(r.u64()?), r.u64()?);
        let (objects, map) = (Pointer::read(&mut r)?, Pointer::read(&mut r)?);
        let log_generation = r.u64()?;
        let log = LogPosition { block: r.u64()?, sequence: r.u64()?, chain: r.u64()? };
        let (log_first, log_blocks) = (r.u64()?, r.u64()?);
        let (first, sweeping, next, waiting, cursor) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let freed = FreedQueue { first, sweeping, next, waiting, cursor };
        let next_object = r.u64()?;
        let mut sizes = alloc::vec::Vec::with_capacity(MEMBERS_MAX);
        for _ in 0..MEMBERS_MAX {
            sizes.push(r.u64()?);
        }
        let name = core::str::from_utf8(r.bytes(usize::from(name_length))?).ok().and_then(Name::new)?;
        let counts_fit = (1..=MEMBERS_MAX).contains(&usize::from(members)) && member < members;
        if !counts_fit {
            return None;
        }
        sizes.truncate(usize::from(members));
        Some(Self {
            pool,
            name,
            member,
            commit,
            epoch,
            created,
            objects,
            map,
            log_generation,
            log,
            log_first,
            log_blocks,
            freed,
            next_object,
            members: sizes,
            features,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChangeId;

    fn sample() -> Superblock {
        Superblock {
            pool: 0x1234,
            name: Name::new("tank").unwrap(),
            member: 1,
            commit: 77,
            epoch: Epoch(99),
            created: 5,
            objects: Pointer { address: Address(8), birth: Epoch(1), change: ChangeId(2), checksum: 3 },
            map: Pointer { address: Address(9), change: ChangeId(500), ..Pointer::default() },
            log_generation: 4,
            log: LogPosition { block: 1, sequence: 2, chain: 3 },
            log_first: 4,
            log_blocks: 256,
            freed: FreedQueue { first: 3, sweeping: 4, next: 9, waiting: 300, cursor: 12 },
            next_object: 17,
            members: alloc::vec![10_000, 20_000],
            features: [0; 3],
        }
    }

    #[test]
    fn round_trip() {
        assert_eq!(Superblock::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_cannot_be_true_together_is_told_from_damage() {
        let log = LogPosition { block: 257, ..sample().log };
        let freed = sample().freed;
        for impossible in [
            Superblock { members: alloc::vec![10_000, 3], ..sample() },
            Superblock { members: alloc::vec![10_000, u64::MAX], ..sample() },
            Superblock { log_first: 0, ..sample() },
            Superblock { log_first: u64::MAX - 3, ..sample() },
            Superblock { log_blocks: 10_000, ..sample() },
            Superblock { log_blocks: 0, log: LogPosition::default(), ..sample() },
            Superblock { log, ..sample() },
            Superblock { map: Pointer { change: ChangeId(30_001), ..sample().map }, ..sample() },
            Superblock { freed: FreedQueue { first: 5, ..freed }, ..sample() },
            Superblock { freed: FreedQueue { next: u64::MAX, ..freed }, ..sample() },
            Superblock { freed: FreedQueue { sweeping: 100, next: 100, ..freed }, ..sample() },
            Superblock { freed: FreedQueue { waiting: 30_001, ..freed }, ..sample() },
        ] {
            assert_eq!(
                Superblock::decode(&impossible.encode()),
                Err(Defect::Contradictory),
                "{impossible:?}"
            );
        }
    }

    #[test]
    fn unknown_incompatible_feature_is_refused() {
        let future = Superblock { features: [0, 0, 1], ..sample() };
        assert_eq!(Superblock::decode(&future.encode()), Err(Defect::Unknown));
        assert!(!Superblock { features: [0, 1, 0], ..sample() }.writable());
    }
}
