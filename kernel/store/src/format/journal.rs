//! The intent log's records and the operations in them.
//!
//! A record is a header and a payload of whole operations, padded to blocks. It is valid where its sequence
//! number, generation, the checksum of its predecessor and its own checksum are what the reader expects.

use super::codec::{Reader, Writer};
use super::pointer::{Address, Checksummer};
use crate::device::BLOCK_SIZE;
use crate::limits::RECORD_BLOCKS_MAX;
use crate::types::{BlockIndex, Epoch, Name, ObjectId, TimelineId};
use alloc::vec::Vec;
use core::mem;

/// Bytes of a record's header.
pub(crate) const HEADER_SIZE: usize = 64;
/// Bytes of operations a record can hold.
pub(crate) const PAYLOAD_MAX: usize = RECORD_BLOCKS_MAX as usize * BLOCK_SIZE - HEADER_SIZE;
const MAGIC: u64 = u64::from_le_bytes(*b"DATUMLOG");
const CHECKSUM_PURPOSE: u64 = 0x6c6f_6772_6563_6f72;

/// Adjacent blocks on one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) address: Address,
    pub(crate) blocks: u64,
}

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) generation: u64,
    pub(crate) sequence: u64,
    /// Checksum of the record before.
    pub(crate) chain: u64,
    /// The newest commit durable when this was written.
    pub(crate) commit: u64,
    /// The newest record known flushed: always the one before.
    pub(crate) flushed: u64,
    pub(crate) payload: u32,
}

/// A verified record.
#[derive(Clone, Debug)]
pub(crate) struct LogRecord {
    pub(crate) header: Header,
    pub(crate) checksum: u64,
    pub(crate) operations: Vec<Operation>,
}

impl Header {
    /// Blocks the record takes.
    pub(crate) fn blocks(&self) -> u64 {
        (HEADER_SIZE + self.payload as usize).div_ceil(BLOCK_SIZE) as u64
    }

    /// The record's bytes, whole blocks, and its checksum.
    pub(crate) fn seal(&self, payload: &[u8], sums: &Checksummer) -> (Vec<u8>, u64) {
        assert!(payload.len() == self.payload as usize && payload.len() <= PAYLOAD_MAX);
        let mut w = Writer::default();
        w.u64(MAGIC).u64(0).u64(self.generation).u64(self.sequence).u64(self.chain).u64(self.commit);
        w.u64(self.flushed).u32(self.payload).u32(0).bytes(payload);
        w.pad_to(self.blocks() as usize * BLOCK_SIZE);
        let checksum = sums.bytes(CHECKSUM_PURPOSE, &w.0);
        w.0[8..16].copy_from_slice(&checksum.to_le_bytes());
        (w.0, checksum)
    }

    /// The header at the start of a block, if it can be one. Says nothing yet of the record's checksum.
    pub(crate) fn peek(block: &[u8]) -> Option<(Self, u64)> {
        let mut r = Reader(block);
        if r.u64()? != MAGIC {
            return None;
        }
        let checksum = r.u64()?;
        let header = Self {
            generation: r.u64()?,
            sequence: r.u64()?,
            chain: r.u64()?,
            commit: r.u64()?,
            flushed: r.u64()?,
            payload: r.u32()?,
        };
        (header.payload as usize <= PAYLOAD_MAX).then_some((header, checksum))
    }

    /// Verifies and decodes the record whose blocks these are.
    pub(crate) fn open(blocks: &mut [u8], sums: &Checksummer) -> Option<LogRecord> {
        let (header, checksum) = Self::peek(blocks)?;
        blocks.get_mut(8..16)?.fill(0);
        if sums.bytes(CHECKSUM_PURPOSE, blocks) != checksum {
            return None;
        }
        let mut r = Reader(blocks.get(HEADER_SIZE..HEADER_SIZE + header.payload as usize)?);
        let mut operations = Vec::new();
        while !r.0.is_empty() {
            operations.push(Operation::decode(&mut r)?);
        }
        Some(LogRecord { header, checksum, operations })
    }
}

/// An operation with every value it drew, so that replaying it gives the same result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) epoch: Epoch,
    /// The first object id it may take.
    pub(crate) first_object: ObjectId,
    pub(crate) body: Body,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Write {
        volume: ObjectId,
        first: BlockIndex,
        runs: Vec<Run>,
        checksums: Vec<u64>,
    },
    Trim {
        volume: ObjectId,
        first: BlockIndex,
        count: u64,
    },
    CreateVolume {
        name: Name,
        size: u64,
        timeline: TimelineId,
        time: u64,
    },
    RenameVolume {
        volume: ObjectId,
        name: Name,
    },
    ResizeVolume {
        volume: ObjectId,
        size: u64,
    },
    DeleteVolume {
        volume: ObjectId,
    },
    CloneVolume {
        checkpoint: ObjectId,
        name: Name,
        timeline: TimelineId,
        time: u64,
    },
    Checkpoint {
        volumes: Vec<ObjectId>,
        name: Name,
        time: u64,
        incarnation: u64,
    },
    DeleteCheckpoint {
        checkpoint: ObjectId,
    },
    ConvertCheckpoint {
        checkpoint: ObjectId,
        name: Name,
    },
    CreateRefpoint {
        volume: ObjectId,
        name: Name,
        time: u64,
        incarnation: u64,
    },
    DeleteRefpoint {
        refpoint: ObjectId,
    },
    /// Puts contents that were built aside, and are durable, in the head's place.
    Revert {
        volume: ObjectId,
        building: ObjectId,
    },
}

impl Body {
    /// The volumes whose live state an operation takes part in: contents, size, clock or parent.
    pub(crate) fn changed_heads(&self) -> &[ObjectId] {
        match self {
            Self::Write { volume, .. }
            | Self::Trim { volume, .. }
            | Self::ResizeVolume { volume, .. }
            | Self::DeleteVolume { volume }
            | Self::CreateRefpoint { volume, .. }
            | Self::Revert { volume, .. } => core::slice::from_ref(volume),
            Self::Checkpoint { volumes, .. } => volumes,
            Self::CreateVolume { .. }
            | Self::RenameVolume { .. }
            | Self::CloneVolume { .. }
            | Self::DeleteCheckpoint { .. }
            | Self::ConvertCheckpoint { .. }
            | Self::DeleteRefpoint { .. } => &[],
        }
    }
}

impl Operation {
    /// Appends it to `bytes`.
    pub(crate) fn encode_to(&self, bytes: &mut Vec<u8>) {
        let mut w = Writer(mem::take(bytes));
        w.u64(self.epoch.0).u64(self.first_object.0);
        match &self.body {
            Body::Write { volume, first, runs, checksums } => {
                w.u8(1).u64(volume.0).u64(first.0).u32(runs.len() as u32);
                for run in runs {
                    w.u64(run.address.0).u32(run.blocks as u32);
                }
                for &checksum in checksums {
                    w.u64(checksum);
                }
            }
            Body::Trim { volume, first, count } => {
                w.u8(2).u64(volume.0).u64(first.0).u64(*count);
            }
            Body::CreateVolume { name, size, timeline, time } => {
                w.u8(3).short_name(name).u64(*size).u128(timeline.0).u64(*time);
            }
            Body::RenameVolume { volume, name } => {
                w.u8(4).u64(volume.0).short_name(name);
            }
            Body::ResizeVolume { volume, size } => {
                w.u8(5).u64(volume.0).u64(*size);
            }
            Body::DeleteVolume { volume } => {
                w.u8(6).u64(volume.0);
            }
            Body::CloneVolume { checkpoint, name, timeline, time } => {
                w.u8(7).u64(checkpoint.0).short_name(name).u128(timeline.0).u64(*time);
            }
            Body::Checkpoint { volumes, name, time, incarnation } => {
                w.u8(8).short_name(name).u64(*time).u64(*incarnation).u32(volumes.len() as u32);
                for volume in volumes {
                    w.u64(volume.0);
                }
            }
            Body::DeleteCheckpoint { checkpoint } => {
                w.u8(9).u64(checkpoint.0);
            }
            Body::ConvertCheckpoint { checkpoint, name } => {
                w.u8(10).u64(checkpoint.0).short_name(name);
            }
            Body::CreateRefpoint { volume, name, time, incarnation } => {
                w.u8(11).u64(volume.0).short_name(name).u64(*time).u64(*incarnation);
            }
            Body::DeleteRefpoint { refpoint } => {
                w.u8(12).u64(refpoint.0);
            }
            Body::Revert { volume, building } => {
                w.u8(13).u64(volume.0).u64(building.0);
            }
        }
        *bytes = w.0;
    }

    fn decode(r: &mut Reader<'_>) -> Option<Self> {
        let (epoch, first_object) = (Epoch(r.u64()?), ObjectId(r.u64()?));
        let body = match r.u8()? {
            1 => r.write()?,
            2 => Body::Trim { volume: r.object()?, first: BlockIndex(r.u64()?), count: r.u64()? },
            3 => Body::CreateVolume {
                name: r.short_name()?,
                size: r.u64()?,
                timeline: TimelineId(r.u128()?),
                time: r.u64()?,
            },
            4 => Body::RenameVolume { volume: r.object()?, name: r.short_name()? },
            5 => Body::ResizeVolume { volume: r.object()?, size: r.u64()? },
            6 => Body::DeleteVolume { volume: r.object()? },
            7 => Body::CloneVolume {
                checkpoint: r.object()?,
                name: r.short_name()?,
                timeline: TimelineId(r.u128()?),
                time: r.u64()?,
            },
            8 => r.checkpoint()?,
            9 => Body::DeleteCheckpoint { checkpoint: r.object()? },
            10 => Body::ConvertCheckpoint { checkpoint: r.object()?, name: r.short_name()? },
            11 => Body::CreateRefpoint {
                volume: r.object()?,
                name: r.short_name()?,
                time: r.u64()?,
                incarnation: r.u64()?,
            },
            12 => Body::DeleteRefpoint { refpoint: r.object()? },
            13 => Body::Revert { volume: r.object()?, building: r.object()? },
            _ => return None,
        };
        Some(Self { epoch, first_object, body })
    }
}

impl Writer {
    fn short_name(&mut self, name: &Name) -> &mut Self {
        self.u8(name.as_str().len() as u8).bytes(name.as_str().as_bytes())
    }
}

impl Reader<'_> {
    fn object(&mut self) -> Option<ObjectId> {
        self.u64().map(ObjectId)
    }

    fn short_name(&mut self) -> Option<Name> {
        let length = usize::from(self.u8()?);
        Name::new(core::str::from_utf8(self.bytes(length)?).ok()?)
    }

    fn write(&mut self) -> Option<Body> {
        let (volume, first, count) = (self.object()?, BlockIndex(self.u64()?), self.u32()?);
        let mut runs = Vec::new();
        let mut blocks = 0u64;
        for _ in 0..count {
            let run = Run { address: Address(self.u64()?), blocks: u64::from(self.u32()?) };
            blocks = blocks.checked_add(run.blocks)?;
            runs.push(run);
        }
        let mut checksums = Vec::new();
        for _ in 0..blocks {
            checksums.push(self.u64()?);
        }
        Some(Body::Write { volume, first, runs, checksums })
    }

    fn checkpoint(&mut self) -> Option<Body> {
        let (name, time, incarnation, count) = (self.short_name()?, self.u64()?, self.u64()?, self.u32()?);
        let mut volumes = Vec::new();
        for _ in 0..count {
            volumes.push(self.object()?);
        }
        Some(Body::Checkpoint { volumes, name, time, incarnation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trip_and_every_flip_noticed() {
        let operation = Operation {
            epoch: Epoch(3),
            first_object: ObjectId(12),
            body: Body::Write {
                volume: ObjectId(4),
                first: BlockIndex(77),
                runs: alloc::vec![Run { address: Address::new(1, 99), blocks: 2 }],
                checksums: alloc::vec![5, 6],
            },
        };
        let sums = Checksummer::new(8);
        let mut payload = Vec::new();
        operation.encode_to(&mut payload);
        let header = Header {
            generation: 1,
            sequence: 2,
            chain: 3,
            commit: 4,
            flushed: 1,
            payload: payload.len() as u32,
        };
        let (bytes, checksum) = header.seal(&payload, &sums);
        let record = Header::open(&mut bytes.clone(), &sums).unwrap();
        assert_eq!((record.header, record.checksum), (header, checksum));
        assert_eq!(record.operations, [operation]);
        for bit in 0..(HEADER_SIZE + payload.len()) * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::open(&mut bad, &sums).is_none(), "bit {bit}");
        }
    }
}
