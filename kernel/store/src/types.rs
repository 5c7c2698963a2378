//! A type for each kind of number, and the names and descriptions that operators see.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Position of a 4 KiB block in a volume or another block tree.
    BlockIndex
);
number!(
    /// The pool's physical clock: advances at every checkpoint and commit; tells in which interval a block
    /// was allocated. Never leaves the pool.
    Epoch
);
number!(
    /// A volume's logical clock: names the interval between two points in which a block last changed. Never
    /// repeats, never goes back, travels with the volume.
    ChangeId
);
number!(
    /// Name of a record in the object table. Drawn in ascending order, never reused.
    ObjectId
);

impl ObjectId {
    /// No object.
    pub const NONE: Self = Self(0);

    /// `None` for [`ObjectId::NONE`].
    pub fn some(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// Identity of a volume's line of history; a clone starts one of its own. Drawn at random by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(pub u128);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A valid name of a pool, volume, checkpoint or reference point: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Longest name in bytes.
    pub const MAX: usize = 64;

    /// `None` where `text` does not match the pattern.
    pub fn new(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let first = bytes.first()?;
        let valid = bytes.len() <= Self::MAX
            && first.is_ascii_alphanumeric()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
        valid.then(|| Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A volume as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its name.
    pub name: Name,
    /// Its record.
    pub id: ObjectId,
    /// Its line of history.
    pub timeline: TimelineId,
    /// Size in bytes, a multiple of the block size.
    pub size: u64,
    /// Bytes of data blocks that the live volume reaches, shared ones included. After a trim of more than
    /// 16 MiB the count follows as background work gets through it.
    pub allocated_bytes: u64,
    /// The change id that writes carry now.
    pub change: ChangeId,
    /// Whether requests are held.
    pub suspended: bool,
    /// Creation time as given, nanoseconds since 1970.
    pub created: u64,
    /// For a clone: the volume and checkpoint names it came from, as they were then.
    pub origin: Option<(Name, Name)>,
}

/// State of a checkpoint or of a version that is no longer shown under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// Restorable.
    Ready,
}

/// A checkpoint as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// The volume it belongs to.
    pub volume: Name,
    /// Its name.
    pub name: Name,
    /// Its record.
    pub id: ObjectId,
    /// Size in bytes of the volume at that instant.
    pub size: u64,
    /// Newest change id it holds.
    pub change: ChangeId,
    /// Creation time as given, nanoseconds since 1970.
    pub created: u64,
    /// Its state.
    pub state: CheckpointState,
    /// What would keep its space from being freed at once, as in [`Holders::by`].
    pub held_by: Vec<String>,
}

/// What keeps a version's space from coming back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Each in words: `checkpoint VOLUME@NAME`, `volume NAME`, readers, what waits or is under way. Empty where nothing does.
    pub by: Vec<String>,
    /// Checkpoints or volumes are among them: the space stays until somebody removes those.
    pub versions: bool,
    /// Readers are among them, who may stay for as long as they like.
    pub readers: bool,
}

/// A version that is no longer shown, and whose space is still to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldVersion {
    /// The version.
    pub version: ObjectId,
    /// The volume it was of; absent once that has gone.
    pub volume: Option<Name>,
    /// The checkpoint it was; absent for what a volume held when it was deleted or reverted.
    pub name: Option<Name>,
    /// What holds its space, as in [`Holders::by`]; empty where it is being released or its turn comes next.
    pub held_by: Vec<String>,
}

/// A reference point as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefpointInfo {
    /// The volume it belongs to.
    pub volume: Name,
    /// Its name.
    pub name: Name,
    /// Its record.
    pub id: ObjectId,
    /// The line of history on which it was made.
    pub timeline: TimelineId,
    /// The opening of the pool in which it was made.
    pub incarnation: u64,
    /// Changes with a higher id came later.
    pub change: ChangeId,
    /// Creation time as given, nanoseconds since 1970.
    pub created: u64,
}

/// What a run of blocks holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Blocks of data.
    Data,
    /// Holes: they read as zeros.
    Zero,
}

/// A run of blocks that are alike under the asked [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub first: BlockIndex,
    /// Number of blocks, at least 1.
    pub blocks: u64,
    /// Data or holes. Under [`View::Changes`] meaningful only where `changed`.
    pub content: Content,
    /// Under [`View::Changes`]: changed after the given id. Else true.
    pub changed: bool,
    /// Under [`View::ChangeIds`]: the change id all blocks share. Else the newest one seen in the run.
    pub change: ChangeId,
}

/// Which blocks an extent query tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Data from holes.
    Allocation,
    /// Blocks changed after this id, data from holes; what did not change is one run.
    Changes(ChangeId),
    /// Every change id, and data from holes.
    ChangeIds,
}

/// One page of an extent query. The extents cover the asked range from its start, without gap or overlap,
/// up to `next`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentPage {
    /// Ascending, adjacent, neighbours differ.
    pub extents: Vec<Extent>,
    /// Where the next page starts; `None` when the range is covered.
    pub next: Option<BlockIndex>,
}

/// A member device as `pool.status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// The device's name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes allocated on it.
    pub allocated_bytes: u64,
}

/// A block that was not what was written, where it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The first read that met it, counting all that met damage since the pool was opened. Names the place for good.
    pub first_met: u64,
    /// The last read that met it.
    pub last_met: u64,
    /// The device's name.
    pub disk: String,
    /// Which of its blocks.
    pub block: u64,
    /// Whose contents they are, where that is known; what shares them is damaged too.
    pub volume: Option<Name>,
    /// The checkpoint in which they were read; absent for the live volume.
    pub checkpoint: Option<Name>,
    /// Where in it, in bytes; for a block of metadata the first byte it leads to.
    pub offset: Option<u64>,
}

/// Damage that reads have met since the pool was opened and that no scrub has disproved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// How often a block was not what was written.
    pub read_errors: u64,
    /// Where, each place once, in the order of the first meeting; bounded.
    pub places: Vec<DamagedPlace>,
}

/// The pool as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Its name.
    pub name: Name,
    /// Its identity, drawn at creation.
    pub id: u128,
    /// Its devices, in member order.
    pub members: Vec<MemberInfo>,
    /// Bytes that volumes, checkpoints and metadata can use in all.
    pub total_bytes: u64,
    /// Bytes in use.
    pub allocated_bytes: u64,
    /// Bytes that client writes can still take.
    pub available_bytes: u64,
    /// Bytes freed and not yet back in the free map. That happens in batches, at the latest when space is short.
    pub freeing_bytes: u64,
    /// Number of the newest durable commit.
    pub commit: u64,
    /// The current epoch.
    pub epoch: Epoch,
    /// This opening's random number.
    pub incarnation: u64,
    /// Why the pool takes no writes, if it does not.
    pub read_only: Option<String>,
    /// Versions whose space is being returned or waits for it.
    pub releases_pending: u64,
    /// What reads have met.
    pub damage: Damage,
}

/// What was counted since the pool was opened. All are plain totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks of metadata read from devices.
    pub node_reads: u64,
    /// Lookups of metadata blocks answered from memory.
    pub node_hits: u64,
    /// Data blocks read.
    pub data_blocks_read: u64,
    /// Data blocks written.
    pub data_blocks_written: u64,
    /// Device read requests.
    pub device_reads: u64,
    /// Device write requests.
    pub device_writes: u64,
    /// Blocks that device read requests asked for.
    pub device_blocks_read: u64,
    /// Blocks that device write requests carried.
    pub device_blocks_written: u64,
    /// Device flushes.
    pub device_flushes: u64,
    /// Device discards.
    pub device_discards: u64,
    /// Intent-log records written.
    pub log_records: u64,
    /// Commits made durable.
    pub commits: u64,
    /// Metadata blocks written by commits.
    pub node_writes: u64,
    /// Blocks freed by releases.
    pub blocks_released: u64,
    /// Device reads it took to open the pool.
    pub open_reads: u64,
    /// Records replayed at opening.
    pub replayed_records: u64,
    /// Checksum mismatches found.
    pub checksum_errors: u64,
}

/// What a check or scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Number of errors, also of those not listed.
    pub errors: u64,
    /// A sentence for each of the first errors, bounded.
    pub findings: Vec<String>,
    /// Blocks that were looked at.
    pub blocks_checked: u64,
    /// Volumes that lost blocks, or whose checkpoints did, each once; bounded.
    pub volumes: Vec<Name>,
}
