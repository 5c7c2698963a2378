//! Every bound of the store, in one place.

use crate::format::object::RECORDS_PER_BLOCK;
use crate::names::BUCKETS_START;

/// Members of a pool.
pub const MEMBERS_MAX: usize = 16;
/// Blocks in one read or write call.
pub const REQUEST_BLOCKS_MAX: u64 = 256;
/// Smallest member in blocks (16 MiB).
pub const MEMBER_BLOCKS_MIN: u64 = 4096;
/// Largest volume in bytes (64 TiB).
pub const VOLUME_SIZE_MAX: u64 = 64 << 40;
/// Volumes in one checkpoint.
pub const CHECKPOINT_VOLUMES_MAX: usize = 64;
/// Volumes with changes that a commit has not yet seen; more make it start.
pub(crate) const DIRTY_HEADS_MAX: usize = 64;
/// Clones of clones of clones.
pub const CLONE_DEPTH_MAX: usize = 64;
/// Entries a list call returns at most.
pub const LIST_MAX: usize = 1000;
/// Extents a page holds at most.
pub const EXTENTS_MAX: usize = 65_536;
/// End of the change ids, where no point is made of a volume any more. What is written still carries the last.
pub(crate) const CHANGE_IDS_END: u64 = u64::MAX - 1;
/// Epochs at the end that only commits draw: no checkpoint is made any more.
pub(crate) const EPOCHS_FOR_COMMITS: u64 = 1 << 40;
/// Epochs at the very end that are for giving space back and closing: nothing new is written any more.
pub(crate) const EPOCHS_FOR_CLOSING: u64 = 1 << 20;
/// End of the object ids: a record lies where its id says, and name buckets follow.
pub(crate) const OBJECTS_END: u64 = BUCKETS_START * RECORDS_PER_BLOCK;
/// Ids at the end that are for converting checkpoints and trimming: no volume and no point is made any more.
pub(crate) const OBJECTS_FOR_RETURNS: u64 = 1 << 20;
/// Blocks of one intent-log record.
pub(crate) const RECORD_BLOCKS_MAX: u64 = 64;
/// Bytes of operations that wait for a flush before a commit starts instead.
pub(crate) const PENDING_BYTES_MAX: usize = 240 << 10;
/// Nodes that the records of the log have changed at which a commit starts: so many an opening reads, changes and writes
/// again after a crash, however large the pool is.
pub(crate) const REPLAY_NODES_MAX: usize = 1024;
/// Blocks of the log at which a commit starts, each a record that an opening has to replay or a part of one.
pub(crate) const REPLAY_BLOCKS_MAX: u64 = 1024;
/// Leaf nodes that a trim frees on the spot; beyond, a drop job does it.
pub(crate) const TRIM_INLINE_LEAVES: u64 = 32;
/// Pointers a background step looks at before others get their turn: about as much work as four small writes.
pub(crate) const STEP_POINTERS: usize = 32;
/// Pointers that a step of a query looks at.
pub(crate) const QUERY_POINTERS: usize = 4096;
/// Requests of clients that come before a background step, while they work.
pub(crate) const REQUESTS_PER_STEP: u64 = 128;
/// Freed extents in memory at which a commit lists them, and background freeing waits for it.
pub(crate) const FREED_EXTENTS_MAX: usize = 16_384;
/// List blocks (255 extents each) that a sweep takes up at a time.
pub(crate) const FREED_SEGMENT_LISTS: u64 = 64;
/// How many of them it waits for where space is plenty.
pub(crate) const FREED_WORTH_SWEEPING: u64 = 16;
/// Blocks kept for the next requests when a write has done with them (2 MiB).
pub(crate) const SPARE_BLOCKS_MAX: usize = 512;
/// How often who waits for space waits for readers to go, when their going made no more of it.
pub(crate) const OUTWAITED_MAX: usize = 4;
/// Where a failed data write is tried again, how often.
pub(crate) const WRITE_ATTEMPTS: usize = 4;
/// Holders of a version's space that are named; of more it is said that there are.
pub const HOLDERS_MAX: usize = 16;
/// Versions that are looked at for those names.
pub(crate) const HOLDERS_LOOKED_AT_MAX: usize = 256;
/// Versions whose space is still to come back that are listed; more are counted.
pub const HELD_LISTED_MAX: usize = 32;
/// Records that are looked at for that list.
pub const HELD_LOOKED_AT_MAX: usize = 4096;
/// Places of damaged blocks that are listed at a time; what is met elsewhere is only counted.
pub const DAMAGED_PLACES_MAX: usize = 64;
/// Volumes with damage that a check report names.
pub const DAMAGED_VOLUMES_MAX: usize = 64;
/// Findings a check report lists.
pub(crate) const FINDINGS_MAX: usize = 100;
/// Blocks moved into an allocation window at a time, at most (16 MiB); fewer in a small pool, where what lies
/// in one window is missing in the other.
pub(crate) const WINDOW_BLOCKS_MAX: u64 = 4096;
