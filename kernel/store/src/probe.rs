//! What lies on a disk, told by its superblocks; nothing is written.

use crate::commit::superblock_places;
use crate::device::{Block, BlockDevice, Geometry};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pointer::zeroed_block;
use crate::format::superblock::{Defect, SUPERBLOCK_SIZE, Superblock};
use crate::limits::MEMBER_BLOCKS_MIN;
use crate::types::Name;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What a disk is whose superblock verifies and cannot be true.
pub(crate) const CONTRADICTORY: &str = "a pool member whose superblocks contradict themselves";

/// Blocks at each end of a disk that must be zero for it to count as blank.
const BLANK_BLOCKS: u64 = 256;

/// What lies on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// First and last MiB are zero.
    Blank,
    /// A member of a created pool.
    Member {
        /// The pool's identity.
        pool: u128,
        /// The pool's name.
        name: Name,
        /// Place in the pool.
        index: u8,
        /// Members in all.
        members: u8,
        /// The newest commit found.
        commit: u64,
    },
    /// Left by a pool creation that did not finish; holds nothing.
    Unfinished {
        /// The pool that was to be.
        pool: u128,
    },
    /// Neither blank nor a readable member: the text says what it is.
    Foreign(String),
    /// Too small to be a member.
    TooSmall,
}

/// Looks what lies on a disk. Writes nothing.
///
/// # Errors
/// The disk cannot be read.
pub async fn probe<D: BlockDevice>(device: &D) -> Result<Probe> {
    let Geometry { blocks, .. } = device.geometry();
    if blocks < MEMBER_BLOCKS_MIN {
        return Ok(Probe::TooSmall);
    }
    let (newest, defect) = newest_superblock(device).await?;
    Ok(match newest {
        Some(s) if s.commit == 0 => Probe::Unfinished { pool: s.pool },
        Some(s) => Probe::Member {
            pool: s.pool,
            name: s.name,
            index: s.member,
            members: s.members.len() as u8,
            commit: s.commit,
        },
        None => match defect {
            Some(Defect::Damaged) => Probe::Foreign("a pool member whose superblocks are damaged".into()),
            Some(Defect::Unknown) => Probe::Foreign("a pool member of a later version of Datum".into()),
            Some(Defect::Contradictory) => Probe::Foreign(CONTRADICTORY.into()),
            _ if is_blank(device, blocks).await? => Probe::Blank,
            _ => Probe::Foreign("not empty, and not Datum's".into()),
        },
    })
}

async fn read<D: BlockDevice>(device: &D, start: u64, count: u64) -> Result<Vec<Block>> {
    let (blocks, result) = device.read(start, (0..count).map(|_| zeroed_block()).collect()).await;
    result.map_err(|e| Error::device(device.name(), &format!("reading block {start}"), e))?;
    Ok(blocks)
}

async fn is_blank<D: BlockDevice>(device: &D, blocks: u64) -> Result<bool> {
    for start in [0, blocks - BLANK_BLOCKS] {
        let read = read(device, start, BLANK_BLOCKS).await?;
        if read.iter().any(|block| block.iter().any(|&byte| byte != 0)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The newest valid superblock of a device, and the worst that was found instead. A place that cannot be
/// read counts as damaged, as long as another one can.
pub(crate) async fn newest_superblock<D: BlockDevice>(
    device: &D,
) -> Result<(Option<Superblock>, Option<Defect>)> {
    let (mut newest, mut worst, mut unread) = (None::<Superblock>, None, None);
    for place in superblock_places(device.geometry().blocks) {
        let block = match read(device, place, 1).await {
            Ok(blocks) => blocks,
            Err(error) => {
                unread = Some(error);
                continue;
            }
        };
        let Some(bytes) = block.first().and_then(|b| b[..SUPERBLOCK_SIZE].try_into().ok()) else { continue };
        match Superblock::decode(bytes) {
            Ok(found) if newest.as_ref().is_none_or(|n| n.commit < found.commit) => newest = Some(found),
            Ok(_) => {}
            Err(Defect::NotDatum) => {}
            Err(defect) if worst != Some(Defect::Contradictory) => worst = Some(defect),
            Err(_) => {}
        }
    }
    match unread {
        Some(error) if newest.is_none() => Err(error),
        _ => Ok((newest, worst)),
    }
}

/// These disks are not what is needed: the message says which, why, and what to do.
pub(crate) fn refuse<T>(message: impl core::fmt::Display) -> Result<T> {
    Err(Error::new(ErrorKind::Device, message))
}
