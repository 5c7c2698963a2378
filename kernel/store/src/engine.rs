//! The engine's memory: everything between the disks and the interface, without a single request to a disk.
//!
//! All of it changes in synchronous steps that either happen whole or not at all (see `forest`), so no lock
//! is ever held and a freeze sees one instant of everything.

use crate::cache::{Cache, Tree};
use crate::contradiction::{Witness, contradiction};
use crate::device::BLOCK_SIZE;
use crate::error::{Error, ErrorKind, Result};
use crate::forest::{Forest, Step, Stop};
use crate::format::journal::{Body, Operation, Run};
use crate::format::object::{Bound, Record, VersionKind, VersionRecord};
use crate::format::superblock::Superblock;
use crate::format::{Address, Pointer};
use crate::journal::Journal;
use crate::limits::VOLUME_SIZE_MAX;
use crate::pool::Config;
use crate::release::Walk;
use crate::space::{Space, Urgency};
use crate::transaction::Transaction;
use crate::trim::TrimRange;
use crate::types::{BlockIndex, ChangeId, Counters, Epoch, ObjectId};
use alloc::collections::{BTreeMap, BTreeSet};

/// The live state of a volume. Memory leads; its records follow at each freeze.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) version: ObjectId,
    pub(crate) root: Pointer,
    /// The change id that writes carry now.
    pub(crate) clock: ChangeId,
    pub(crate) size: u64,
    pub(crate) allocated: u64,
    pub(crate) parent: ObjectId,
    /// Blocks born up to here belong to the parent too.
    pub(crate) parent_epoch: Epoch,
    /// The records do not show this state yet.
    pub(crate) dirty: bool,
}

impl Head {
    /// Blocks of the volume.
    pub(crate) fn blocks(&self) -> u64 {
        self.size / BLOCK_SIZE as u64
    }
}

/// A release or drop job under way.
#[derive(Clone, Debug)]
pub(crate) struct ActiveRelease {
    pub(crate) version: ObjectId,
    /// For a drop job: the volume whose data blocks it counts, and the head that lost them, which after a
    /// revert is not the volume's any more.
    pub(crate) volume: ObjectId,
    pub(crate) head: ObjectId,
    pub(crate) walk: Walk,
}

/// Readers that came in the same interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readers {
    pub(crate) count: usize,
    /// What the queue of freed extents lists before this they cannot meet.
    pub(crate) listed: u64,
}

/// The state of an open pool.
pub(crate) struct Engine {
    pub(crate) forest: Forest,
    pub(crate) objects: Pointer,
    pub(crate) map: Pointer,
    pub(crate) heads: BTreeMap<ObjectId, Head>,
    pub(crate) next_object: u64,
    /// Versions put since the last freeze: their records may hold a root without its checksum.
    pub(crate) unresolved_roots: BTreeSet<ObjectId>,
    /// The version being released: one at a time, also across openings.
    pub(crate) active: Option<ActiveRelease>,
    /// The drop job under way. It looks at nodes that versions share, so no release goes on meanwhile.
    pub(crate) dropping: Option<ActiveRelease>,
    /// Pointers a background step looks at.
    pub(crate) step_pointers: usize,
    /// Bitmaps that one commit returns freed extents to.
    pub(crate) sweep_bitmaps: usize,
    /// A revert's new contents that are being built now.
    pub(crate) building: Option<ObjectId>,
    /// Checkpoints that somebody has open.
    pub(crate) open_versions: BTreeMap<ObjectId, usize>,
    /// Number of freezes so far; readers note it, so that what they may still read is not reused.
    pub(crate) interval: u64,
    pub(crate) readers: BTreeMap<u64, Readers>,
    /// Up to here in the queue of freed extents, nothing is in use in the durable commit either.
    pub(crate) listed: u64,
    /// Blocks of the queue to which nothing is added any more.
    pub(crate) closed_lists: u64,
    pub(crate) journal: Journal,
    /// The newest durable superblock.
    pub(crate) superblock: Superblock,
    pub(crate) incarnation: u64,
    /// Why nothing is written any more.
    pub(crate) failed: Option<Error>,
    pub(crate) counters: Counters,
    /// Objects changed in ways the intent log does not carry (releases, purges).
    pub(crate) dirty_aside: bool,
}

/// What applying an operation came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    /// The object it made, or else changed.
    pub(crate) object: ObjectId,
}

impl Engine {
    pub(crate) fn new(superblock: Superblock, config: Config, incarnation: u64) -> Self {
        let witness = Witness::default();
        Self {
            forest: Forest {
                cache: Cache::new(config.cache_blocks),
                space: Space::new(&superblock, witness.clone()),
                sums: crate::format::pointer::Checksummer::new(superblock.pool),
                epoch: superblock.epoch,
                witness,
            },
            objects: superblock.objects,
            map: superblock.map,
            heads: BTreeMap::new(),
            next_object: superblock.next_object,
            unresolved_roots: BTreeSet::new(),
            active: None,
            dropping: None,
            step_pointers: config.step_pointers,
            sweep_bitmaps: config.sweep_bitmaps,
            building: None,
            open_versions: BTreeMap::new(),
            interval: 0,
            readers: BTreeMap::new(),
            listed: superblock.freed.next,
            closed_lists: 0,
            journal: Journal::new(superblock.log),
            superblock,
            incarnation,
            failed: None,
            counters: Counters::default(),
            dirty_aside: false,
        }
    }

    /// Fails where the pool takes no writes.
    pub(crate) fn check_writable(&self) -> Step<()> {
        match &self.failed {
            Some(error) => Err(Stop::Failed(error.clone())),
            None => Ok(()),
        }
    }

    /// The operation with what it draws from the engine as it stands.
    pub(crate) fn operation(&self, body: Body) -> Step<Operation> {
        self.admits_draws(&body)?;
        Ok(Operation { epoch: self.forest.epoch, first_object: ObjectId(self.next_object), body })
    }

    /// The live state of a volume, brought into memory.
    pub(crate) fn load_head(&mut self, volume: ObjectId) -> Step<Head> {
        if let Some(head) = self.heads.get(&volume) {
            return Ok(*head);
        }
        let mut transaction = Transaction::new(self);
        match transaction.find_record(volume)? {
            Some(Record::Volume(record)) if record.head != ObjectId::NONE => {}
            _ => return Err(Stop::Failed(volume_gone())),
        }
        let head = transaction.head(volume)?;
        self.heads.insert(volume, head);
        Ok(head)
    }

    /// Up to which epoch the blocks of a child of `parent` belong to other versions too. While the parent is
    /// being released, what the release has passed belongs to the grandparent at most.
    pub(crate) fn bound_below(&self, parent: ObjectId, parent_epoch: Epoch) -> Bound {
        match &self.active {
            Some(active) if active.version == parent => Bound {
                before: active.walk.bound.before,
                after: parent_epoch,
                split: BlockIndex(active.walk.cursor),
            },
            _ => Bound::same(parent_epoch),
        }
    }

    /// Applies an operation, live or in a replay.
    pub(crate) fn apply(&mut self, operation: &Operation) -> Step<Applied> {
        if operation.epoch < self.forest.epoch {
            let what = format_args!("epoch {} follows epoch {}", operation.epoch, self.forest.epoch);
            return Err(Stop::Failed(contradiction(what)));
        }
        // A replay advances by its operations. What belongs to an earlier epoch moves when it is changed, and is counted as such.
        self.forest.epoch = operation.epoch;
        self.next_object = self.next_object.max(operation.first_object.0);
        match &operation.body {
            Body::Write { volume, first, runs, checksums } => {
                self.apply_write(operation, *volume, *first, runs, checksums)
            }
            Body::Trim { volume, first, count } => {
                let head = self.load_head(*volume)?;
                check_range(first.0, *count, &head)?;
                let range = TrimRange::new(first.0, *count, head.blocks());
                self.apply_trim(operation, *volume, range, *count, head.size)
            }
            Body::ResizeVolume { volume, size } => self.apply_resize(operation, *volume, *size),
            body => {
                let mut transaction = Transaction::of(self, operation);
                let applied = transaction.perform(body)?;
                let removes = matches!(
                    body,
                    Body::DeleteVolume { .. }
                        | Body::ConvertCheckpoint { .. }
                        | Body::DeleteCheckpoint { .. }
                        | Body::DeleteRefpoint { .. }
                );
                let urgency = if removes { Urgency::Removal } else { Urgency::Administration };
                transaction.finish(urgency)?.apply(self);
                Ok(applied)
            }
        }
    }

    fn apply_write(
        &mut self,
        operation: &Operation,
        volume: ObjectId,
        first: BlockIndex,
        runs: &[Run],
        checksums: &[u64],
    ) -> Step<Applied> {
        let mut head = self.load_head(volume)?;
        let count = checksums.len() as u64;
        check_range(first.0, count, &head)?;
        check_clock(volume, &head)?;
        let last = first.0 + count - 1;
        let nodes = self.forest.prepare(Tree::Volume, &head.root, first.0, last, false)?;
        self.forest.require(nodes, Urgency::Administration)?;
        let (bound, change) = (self.bound_below(head.parent, head.parent_epoch), head.clock);
        let mut blocks = runs.iter().flat_map(|run| (0..run.blocks).map(|b| Address(run.address.0 + b)));
        let mut added = 0;
        head.root =
            self.forest.update(Tree::Volume, head.root, first.0, last, &bound, &mut |forest, index, old| {
                if old.is_hole() {
                    added += 1;
                } else {
                    forest.release_block(&old, index + 1, &bound);
                }
                let Some(address) = blocks.next() else { panic!("a write with fewer blocks than checksums") };
                let checksum = checksums[(index - first.0) as usize];
                Pointer { address, birth: operation.epoch, change, checksum }
            });
        head.allocated += added;
        self.heads.insert(volume, Head { dirty: true, ..head });
        Ok(Applied { object: volume })
    }

    fn apply_trim(
        &mut self,
        operation: &Operation,
        volume: ObjectId,
        range: TrimRange,
        count: u64,
        new_size: u64,
    ) -> Step<Applied> {
        let head = self.load_head(volume)?;
        check_clock(volume, &head)?;
        let bound = self.bound_below(head.parent, head.parent_epoch);
        let mut transaction = Transaction::of(self, operation);
        let job = transaction.draw()?;
        transaction.start_drop_job(job, volume, &head, bound)?;
        let mut plan = transaction.finish(Urgency::Administration)?;
        let nodes = self.forest.prepare_trim(&head.root, range, count)?;
        self.forest.require(nodes + plan.nodes, Urgency::Administration)?;
        let trimmed = self.forest.trim(head.root, range, count, head.clock, &bound);
        let head = Head {
            root: trimmed.root,
            allocated: self.forest.witness.subtract(head.allocated, trimmed.removed, "a volume's data"),
            size: new_size,
            dirty: true,
            ..head
        };
        self.heads.insert(volume, head);
        if !trimmed.dropped.is_hole() {
            plan.set_version_root(job, trimmed.dropped);
            plan.apply(self);
        }
        Ok(Applied { object: volume })
    }

    /// Growth and shrinking count as a trim of what comes or goes.
    fn apply_resize(&mut self, operation: &Operation, volume: ObjectId, size: u64) -> Step<Applied> {
        let head = self.load_head(volume)?;
        check_size(size)?;
        let blocks = size / BLOCK_SIZE as u64;
        let (low, high) = (blocks.min(head.blocks()), blocks.max(head.blocks()));
        if low == high {
            return Ok(Applied { object: volume });
        }
        let range = TrimRange::new(low, high - low, high);
        self.apply_trim(operation, volume, range, high - low, size)
    }

    /// The root of a version that is no head.
    pub(crate) fn version(&self, id: ObjectId) -> Step<VersionRecord> {
        let version = Transaction::new(self).version(id)?;
        // A head's record lags behind memory.
        match version.kind {
            VersionKind::Head => {
                Err(Stop::Failed(contradiction(format_args!("version {id} is a live head"))))
            }
            _ => Ok(version),
        }
    }

    /// Notes a reader: what is freed from now on is not reused before it has gone, nor what a commit under way has
    /// freed, for windows are filled from the map of the durable one.
    pub(crate) fn enter(&mut self) -> u64 {
        let listed = self.listed;
        self.readers.entry(self.interval).or_insert(Readers { count: 0, listed }).count += 1;
        self.interval
    }

    /// The reader of that interval has gone.
    pub(crate) fn leave(&mut self, interval: u64) {
        if let Some(readers) = self.readers.get_mut(&interval) {
            readers.count -= 1;
            if readers.count == 0 {
                self.readers.remove(&interval);
            }
        }
    }

    /// Whether a commit would change anything on disk.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty_aside || self.forest.cache.dirty_count() > 0 || !self.journal.is_empty()
    }
}

/// Fails where a range does not lie in the volume.
pub(crate) fn check_range(first: u64, count: u64, head: &Head) -> Step<()> {
    if count == 0 || first.checked_add(count).is_none_or(|end| end > head.blocks()) {
        let message = format_args!("blocks {first} and {count} on lie beyond the end of the volume");
        return Err(Stop::Failed(Error::new(ErrorKind::Invalid, message)));
    }
    Ok(())
}

/// Fails where no volume can have this size.
pub(crate) fn check_size(size: u64) -> Result<()> {
    if size > VOLUME_SIZE_MAX {
        return Err(Error::new(
            ErrorKind::Limit,
            format_args!("a volume has at most 64 TiB; {size} bytes are more"),
        ));
    }
    let valid =
        (BLOCK_SIZE as u64..=VOLUME_SIZE_MAX).contains(&size) && size.is_multiple_of(BLOCK_SIZE as u64);
    if !valid {
        let message =
            format_args!("a volume's size must be a multiple of 4096 bytes and not 0; {size} is not");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// Fails where a volume's contents are newer than what is written to it now.
fn check_clock(volume: ObjectId, head: &Head) -> Step<()> {
    if head.root.change > head.clock {
        let (newest, clock) = (head.root.change, head.clock);
        let what = format_args!("volume {volume} is at change {clock} and holds change {newest}");
        return Err(Stop::Failed(contradiction(what)));
    }
    Ok(())
}

pub(crate) fn volume_gone() -> Error {
    Error::new(ErrorKind::NotFound, "the volume was deleted; open another")
}
