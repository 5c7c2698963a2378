//! TEMPORARY: the store's public interface while the engine is being written; signatures are final.
#![allow(unused)]

use crate::device::*;
use crate::error::*;
use crate::types::*;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;

/// Memory the pool may use, fixed at opening.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Metadata blocks held in memory, at least 256. About a quarter may be dirty before a commit starts.
    pub cache_blocks: usize,
}

/// What a new pool is to be.
#[derive(Clone, Debug)]
pub struct NewPool {
    pub name: Name,
    /// Random.
    pub id: u128,
    /// Random: the number of this opening.
    pub incarnation: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
}

/// What lies on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// First and last MiB are zero.
    Blank,
    /// A member of a created pool.
    Member { pool: u128, name: Name, index: u8, members: u8, commit: u64 },
    /// Left by a pool creation that did not finish; holds nothing.
    Unfinished { pool: u128 },
    /// Neither blank nor Datum's (or a Datum member made unreadable: the text says).
    Foreign(String),
    /// Too small to be a member.
    TooSmall,
}

/// Looks what lies on a disk. Writes nothing.
pub async fn probe<D: BlockDevice>(device: &D) -> Result<Probe> { todo!() }

/// What a change query starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// A reference point or checkpoint of the volume (or, for a clone, of an ancestor: by token only).
    Point(Name),
    Token(Token),
}

/// A reference point as a text that a client holds by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token { pub timeline: TimelineId, pub incarnation: u64, pub change: ChangeId }
impl Token {
    /// `datum:1:…`.
    pub fn encode(&self) -> String { todo!() }
    /// `TokenInvalid` where the text is altered, cut or of another format.
    pub fn decode(text: &str) -> Result<Self> { todo!() }
}

/// Progress of long work and the wish to stop it.
#[derive(Clone, Default)]
pub struct Progress(Rc<(Cell<f32>, Cell<bool>)>);
impl Progress {
    pub fn new() -> Self { Self::default() }
    /// 0 to 1.
    pub fn fraction(&self) -> f32 { self.0.0.get() }
    /// Asks the work to end with `Cancelled`.
    pub fn cancel(&self) { self.0.1.set(true) }
}

/// An open pool; clones share it. Every administrative method returns once its effect is durable.
pub struct Pool<D: BlockDevice>(Rc<D>);
impl<D: BlockDevice> Clone for Pool<D> { fn clone(&self) -> Self { Self(self.0.clone()) } }

impl<D: BlockDevice> Pool<D> {
    /// Makes a pool of 1 to 16 devices and opens it. Refuses devices that are not blank or an unfinished creation.
    pub async fn create(devices: Vec<D>, new: NewPool, config: Config) -> Result<Self> { todo!() }
    /// Opens the pool whose members these devices all are (any order). `incarnation`: random, of this opening.
    /// Where a loss is proven the pool opens read-only and `status().read_only` says why.
    pub async fn open(devices: Vec<D>, incarnation: u64, config: Config) -> Result<Self> { todo!() }
    /// Runs commits (by dirty memory and log fill), releases and space reclaim; never returns. Spawn exactly one.
    pub async fn background(&self) { todo!() }
    /// Everything so far into a durable commit. The caller also calls this by time (every few seconds when dirty).
    pub async fn commit(&self) -> Result<()> { todo!() }
    /// Whether a commit would have anything to do.
    pub fn is_dirty(&self) -> bool { todo!() }
    /// NBD FLUSH: everything acknowledged so far is durable on return.
    pub async fn flush(&self) -> Result<()> { todo!() }
    /// Last commit, then read-only.
    pub async fn close(&self) -> Result<()> { todo!() }
    pub fn status(&self) -> PoolStatus { todo!() }
    pub fn counters(&self) -> Counters { todo!() }
    /// Proves the pool sound; reads all metadata. Runs beside load.
    pub async fn check(&self, progress: &Progress) -> Result<CheckReport> { todo!() }
    /// Reads and verifies every block, data too.
    pub async fn scrub(&self, progress: &Progress) -> Result<CheckReport> { todo!() }

    pub async fn create_volume(&self, name: &Name, size: u64, timeline: TimelineId, time: u64) -> Result<VolumeInfo> { todo!() }
    pub async fn volumes(&self, after: Option<&Name>, limit: usize) -> Result<Vec<VolumeInfo>> { todo!() }
    pub async fn volume(&self, name: &Name) -> Result<VolumeInfo> { todo!() }
    pub async fn rename_volume(&self, name: &Name, new_name: &Name) -> Result<VolumeInfo> { todo!() }
    /// Size in bytes, a multiple of 4096. Open images see the new size.
    pub async fn resize_volume(&self, name: &Name, size: u64) -> Result<VolumeInfo> { todo!() }
    /// Refuses (`InUse`) while checkpoints exist? No: deletes its checkpoints and reference points with it.
    pub async fn delete_volume(&self, name: &Name) -> Result<()> { todo!() }
    pub async fn clone_volume(&self, volume: &Name, checkpoint: &Name, name: &Name, timeline: TimelineId, time: u64) -> Result<VolumeInfo> { todo!() }
    /// Suspends the volume meanwhile; open images see the reverted contents.
    pub async fn revert_volume(&self, volume: &Name, checkpoint: &Name, progress: &Progress) -> Result<VolumeInfo> { todo!() }
    /// Returns once no request is under way; later requests on the live volume wait until resumed.
    pub async fn suspend_volume(&self, name: &Name) -> Result<()> { todo!() }
    pub async fn resume_volume(&self, name: &Name) -> Result<()> { todo!() }

    /// One instant for all.
    pub async fn create_checkpoint(&self, volumes: &[Name], name: &Name, time: u64) -> Result<Vec<CheckpointInfo>> { todo!() }
    pub async fn checkpoints(&self, volume: &Name, after: Option<&Name>, limit: usize) -> Result<Vec<CheckpointInfo>> { todo!() }
    pub async fn checkpoint(&self, volume: &Name, name: &Name) -> Result<CheckpointInfo> { todo!() }
    pub async fn delete_checkpoint(&self, volume: &Name, name: &Name) -> Result<Release> { todo!() }
    /// Turns a checkpoint into a reference point named `refpoint`; durable on return. The space follows.
    pub async fn convert_checkpoint(&self, volume: &Name, name: &Name, refpoint: &Name) -> Result<(RefpointInfo, Release)> { todo!() }
    /// Bytes that deleting the checkpoint would free.
    pub async fn unique_bytes(&self, volume: &Name, checkpoint: &Name) -> Result<u64> { todo!() }

    pub async fn create_refpoint(&self, volume: &Name, name: &Name, time: u64) -> Result<RefpointInfo> { todo!() }
    pub async fn refpoints(&self, volume: &Name, after: Option<&Name>, limit: usize) -> Result<Vec<RefpointInfo>> { todo!() }
    pub async fn refpoint(&self, volume: &Name, name: &Name) -> Result<RefpointInfo> { todo!() }
    pub async fn delete_refpoint(&self, volume: &Name, name: &Name) -> Result<()> { todo!() }
    pub async fn token(&self, volume: &Name, refpoint: &Name) -> Result<Token> { todo!() }

    /// The change id to compare with; checks that `since` applies to the volume (or its checkpoint `until`).
    /// The result goes into `View::Changes`.
    pub async fn resolve_since(&self, volume: &Name, until: Option<&Name>, since: &Since) -> Result<ChangeId> { todo!() }

    /// Opens the live volume (writable) or a checkpoint (read-only).
    pub async fn open_image(&self, volume: &Name, checkpoint: Option<&Name>) -> Result<Image<D>> { todo!() }
}

/// Watches a version's space being returned.
#[derive(Clone, Debug)]
pub struct Release { pub version: ObjectId }
impl Release {
    /// 0 to 1; 1 when all space is back.
    pub async fn progress<D: BlockDevice>(&self, pool: &Pool<D>) -> Result<f32> { todo!() }
    /// What holds it up: clones by volume name, readers.
    pub async fn held_by<D: BlockDevice>(&self, pool: &Pool<D>) -> Result<Vec<String>> { todo!() }
}

/// An open volume or checkpoint. Any number may be open; calls run concurrently. An open checkpoint keeps its space.
/// After the volume is deleted every call fails with `NotFound`.
pub struct Image<D: BlockDevice>(Pool<D>);
impl<D: BlockDevice> Image<D> {
    /// Bytes, now.
    pub fn size(&self) -> u64 { todo!() }
    pub fn read_only(&self) -> bool { todo!() }
    /// One entry a block; `None` is a hole. At most `limits::READ_BLOCKS_MAX`(256) a call.
    pub async fn read(&self, first: BlockIndex, count: u64) -> Result<Vec<Option<Block>>> { todo!() }
    /// Writes whole blocks, at most 256 a call. Atomic per block. Not durable before a flush.
    pub async fn write(&self, first: BlockIndex, blocks: Vec<Block>) -> Result<()> { todo!() }
    /// Replaces `bytes` within one block at `offset`; atomic against concurrent writers.
    pub async fn write_partial(&self, block: BlockIndex, offset: usize, bytes: &[u8]) -> Result<()> { todo!() }
    /// Makes holes: NBD TRIM and WRITE_ZEROES. Any length. Every block counts as changed.
    pub async fn trim(&self, first: BlockIndex, count: u64) -> Result<()> { todo!() }
    /// Extents of `first..end` under `view`, at most `limit` of them (the last may be cut at any block).
    pub async fn extents(&self, first: BlockIndex, end: BlockIndex, view: View, limit: usize) -> Result<ExtentPage> { todo!() }
    /// As `Pool::flush`.
    pub async fn flush(&self) -> Result<()> { todo!() }
}
