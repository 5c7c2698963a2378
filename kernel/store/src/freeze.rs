//! Freezing one instant of everything for a commit: roots, records, free map, log.
//!
//! The order follows the checksums: volumes' nodes first, then the records that hold their roots, the object
//! table, the free map, and the superblock over all. Writing the free map allocates and frees, which changes
//! the free map: that ends, because a commit moves each block of it at most once.

use crate::cache::{LEVELS, Place, Tree};
use crate::contradiction::contradiction;
use crate::counters::next;
use crate::engine::Engine;
use crate::forest::{Step, Stop};
use crate::format::journal::Run;
use crate::format::object::{Record, VersionKind};
use crate::format::pointer::pointer_at;
use crate::format::superblock::Superblock;
use crate::limits::{
    FREED_EXTENTS_MAX, FREED_SEGMENT_LISTS, FREED_WORTH_SWEEPING, REPLAY_BLOCKS_MAX, REPLAY_NODES_MAX,
};
use crate::map::{LIST_EXTENTS, chunk_index, list_indexes};
use crate::space::{Purpose, Urgency};
use crate::transaction::{Transaction, record_place};
use crate::types::{BlockIndex, Epoch, ObjectId};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// What a commit has to write.
pub(crate) struct Frozen {
    /// Blocks of metadata, in the cache until they are written.
    pub(crate) blocks: Vec<Place>,
    /// All but where the log goes on, which is known only when the rest is on disk.
    pub(crate) superblock: Superblock,
}

impl Engine {
    /// Chooses the freed extents that the coming commit returns to the free map. `eager`: space is short.
    pub(crate) fn plan_sweep(&mut self, eager: bool) -> Step<Vec<Run>> {
        if self.forest.space.sweeping.is_empty() {
            self.start_sweep(eager)?;
        }
        let mut chunks = BTreeSet::new();
        let within = |run: &Run| {
            chunks.insert(chunk_index(run.address));
            chunks.len() <= self.sweep_bitmaps
        };
        Ok(self.forest.space.sweeping.iter().take_while(within).collect())
    }

    /// Takes the oldest part of the queue up for sweeping, if that is worth it now.
    fn start_sweep(&mut self, eager: bool) -> Step<()> {
        let space = &self.forest.space;
        let freed = space.freed;
        let end = self.sweepable_end().min(freed.first + FREED_SEGMENT_LISTS);
        if end == freed.first || !(eager || space.is_scarce() || self.sweep_is_worth_it()) {
            return Ok(());
        }
        let runs = self.listed_in(freed.first..end)?;
        let blocks = runs.iter().map(|run| run.blocks).fold(0, u64::saturating_add);
        if blocks > freed.waiting {
            let what = format_args!("{} freed blocks wait, and {blocks} are listed", freed.waiting);
            return Err(Stop::Failed(contradiction(what)));
        }
        let space = &mut self.forest.space;
        space.freed.sweeping = end;
        space.freed.cursor = 0;
        space.freed.waiting -= blocks;
        runs.into_iter().for_each(|run| space.sweep(run));
        Ok(())
    }

    /// Whether so much waits in the queue that its bitmaps have come together.
    fn sweep_is_worth_it(&self) -> bool {
        let freed = &self.forest.space.freed;
        freed.next - freed.first >= FREED_WORTH_SWEEPING || freed.waiting >= 1 << 16
    }

    /// Up to where the queue lists only what no reader may still look at.
    fn sweepable_end(&self) -> u64 {
        self.readers.values().next().map_or(self.forest.space.freed.next, |oldest| oldest.listed)
    }

    /// Whether freed extents wait that only a reader keeps from being swept.
    pub(crate) fn sweep_is_blocked(&self) -> bool {
        self.sweepable_end() < self.forest.space.freed.next
    }

    /// Whether all that was freed waits for readers who came before the last commit: however many more follow, nothing of
    /// it can be taken before they have gone.
    pub(crate) fn freed_waits_for_readers(&self) -> bool {
        let space = &self.forest.space;
        let older = self.readers.keys().next().is_some_and(|&oldest| oldest < self.interval);
        older && space.sweeping.is_empty() && self.sweepable_end() == space.freed.first
    }

    /// Whether a commit brings free space nearer: it returns freed blocks, or lets releases go on that free more.
    pub(crate) fn commit_gains_space(&self) -> bool {
        !self.freed_waits_for_readers() || self.forest.space.fresh.len() > FREED_EXTENTS_MAX
    }

    /// Whether commits would return freed extents that nobody asks for yet.
    pub(crate) fn sweep_is_due(&self) -> bool {
        let space = &self.forest.space;
        let possible = !space.sweeping.is_empty() || self.sweepable_end() > space.freed.sweeping;
        possible && space.freed.next - space.freed.first > FREED_SEGMENT_LISTS
    }

    /// Whether an opening would have as much to replay as it should ever have.
    pub(crate) fn replay_is_long(&self) -> bool {
        let ring = self.superblock.log_blocks;
        let used = self.journal.used(ring);
        used > REPLAY_BLOCKS_MAX.min(ring / 2)
            || used > 0 && self.forest.cache.dirty_count() > REPLAY_NODES_MAX
    }

    /// Freezes everything, or stops with what is missing before anything has changed.
    ///
    /// `advance`: the epoch moves on; not in the middle of a replay, whose operations bring their own.
    pub(crate) fn freeze(&mut self, sweep: &[Run], advance: bool) -> Step<Frozen> {
        let commit = next(self.superblock.commit, "numbers of commits")?;
        let epoch = match advance {
            true => next(self.forest.epoch.0, "epochs of the pool")?,
            false => self.forest.epoch.0,
        };
        let records = self.prepare_records()?;
        let map = self.prepare_map(sweep, records)?;
        self.forest.require(records + map, Urgency::Commit)?;

        let mut blocks = Vec::new();
        self.forest.freeze(Tree::Volume, &mut blocks);
        self.write_records();
        self.forest.freeze(Tree::Objects, &mut blocks);
        self.objects = self.forest.resolve(self.objects);
        self.forest.space.promise(map);
        self.write_map(sweep);
        self.forest.freeze(Tree::Map, &mut blocks);
        self.map = self.forest.resolve(self.map);
        self.forest.space.mapped = self.map.change.0;
        let _its_root_was_just_written = self.count_by_member();
        let (mapped, total) = (self.map.change.0, self.forest.space.total());
        let what = format_args!("{mapped} of {total} blocks are allocated");
        self.forest.witness.demand(mapped <= total, what);

        self.journal.freeze();
        self.dirty_aside = false;
        self.interval += 1;
        self.forest.epoch = Epoch(epoch);
        let superblock = Superblock {
            commit,
            epoch: self.forest.epoch,
            objects: self.objects,
            map: self.map,
            freed: self.forest.space.freed,
            next_object: self.next_object,
            ..self.superblock.clone()
        };
        Ok(Frozen { blocks, superblock })
    }

    /// Takes over what the map's root says is allocated on each member.
    pub(crate) fn count_by_member(&mut self) -> Step<()> {
        let root = self.forest.load(&self.map)?.block();
        let space = &self.forest.space;
        let members = (0..space.members.len()).map(|member| pointer_at(root, member).change.0).collect();
        self.forest.space.mapped_of_members = members;
        Ok(())
    }

    /// Objects whose records lag behind memory.
    fn lagging_records(&self) -> Vec<ObjectId> {
        let mut ids: Vec<ObjectId> = self.unresolved_roots.iter().copied().collect();
        for (&volume, head) in self.heads.iter().filter(|(_, head)| head.dirty) {
            ids.extend([volume, head.version]);
        }
        ids.extend(self.active.iter().chain(&self.dropping).map(|active| active.version));
        ids
    }

    fn prepare_records(&self) -> Step<u64> {
        let places: BTreeSet<u64> = self.lagging_records().iter().map(|&id| record_place(id).0.0).collect();
        let places: Vec<u64> = places.into_iter().collect();
        self.forest.prepare_set(Tree::Objects, &self.objects, &places)
    }

    fn prepare_map(&self, sweep: &[Run], records: u64) -> Step<u64> {
        let space = &self.forest.space;
        let taken = space.allocated.iter().chain(space.window_runs(Purpose::Metadata));
        let runs = taken.chain(sweep.iter().copied());
        // Runs come in long sorted stretches, most of them of the chunk before.
        let mut chunks: Vec<u64> = Vec::new();
        for chunk in runs.map(|run| chunk_index(run.address)) {
            if chunks.last() != Some(&chunk) {
                chunks.push(chunk);
            }
        }
        chunks.sort_unstable();
        chunks.dedup();
        let mut nodes = self.forest.prepare_set(Tree::Map, &self.map, &chunks)?;
        let freed = space.freed;
        let swept = list_indexes(freed.first..freed.sweeping);
        nodes += self.forest.prepare_set(Tree::Map, &self.map, &swept)?;
        // What the freeze itself frees is listed too: what it moves, and the lists it takes out.
        let paths = 4 * (LEVELS as u64 + 1);
        let extents = space.fresh.len() as u64 + records + nodes + swept.len() as u64 + paths;
        let end = freed.next + extents / LIST_EXTENTS as u64 + 3;
        let added = list_indexes(freed.next.saturating_sub(1).max(freed.sweeping)..end);
        nodes += self.forest.prepare_set(Tree::Map, &self.map, &added)?;
        Ok(nodes)
    }

    /// Brings the records of heads, and the roots in versions made since the last freeze, up to date.
    fn write_records(&mut self) {
        let ids = self.lagging_records();
        for head in self.heads.values_mut() {
            head.root = self.forest.resolve(head.root);
        }
        for active in self.active.iter_mut().chain(&mut self.dropping) {
            active.walk.old = self.forest.resolve(active.walk.old);
        }
        let mut transaction = Transaction::new(self);
        let written = ids.into_iter().try_for_each(|id| transaction.bring_up_to_date(id));
        let plan = written.and_then(|()| transaction.finish(Urgency::Commit));
        match plan {
            Ok(plan) => plan.apply(self),
            Err(Stop::Failed(error)) => self.forest.witness.note(error.message()),
            Err(stop) => panic!("a freeze was not prepared: {stop:?}"),
        }
        self.unresolved_roots.clear();
        self.heads.values_mut().for_each(|head| head.dirty = false);
    }

    fn write_map(&mut self, sweep: &[Run]) {
        self.close_lists();
        // What is freed from here on is in use in the durable commit, until this one is.
        self.listed = self.forest.space.freed.next - u64::from(self.last_list_is_open());
        for runs in sweep.chunk_by(|a, b| chunk_index(a.address) == chunk_index(b.address)) {
            for &run in runs {
                self.forest.space.swept(run);
                self.forest.space.freed.cursor = run.address.0 + run.blocks;
            }
            self.map_runs(runs, false);
        }
        if self.forest.space.sweeping.is_empty() {
            self.drop_swept();
        }
        loop {
            let settling = self.forest.space.settle();
            let freed = if settling.is_empty() { self.forest.space.take_fresh() } else { Vec::new() };
            if settling.is_empty() && freed.is_empty() {
                return;
            }
            self.map_runs(&settling, true);
            self.list_freed(&freed);
        }
    }
}

impl Transaction<'_> {
    fn bring_up_to_date(&mut self, id: ObjectId) -> Result<(), Stop> {
        let engine = self.engine;
        match self.find_record(id)? {
            Some(Record::Volume(mut volume)) => {
                if let Some(head) = engine.heads.get(&id) {
                    volume.clock = head.clock;
                    self.put(id, &Record::Volume(volume))?;
                }
            }
            Some(Record::Version(mut version)) => {
                version.root = engine.forest.resolve(version.root);
                if let Some(head) = engine.heads.get(&version.volume).filter(|head| head.version == id) {
                    (version.root, version.size, version.allocated) = (head.root, head.size, head.allocated);
                }
                let mut under_way = engine.active.iter().chain(&engine.dropping);
                if let Some(active) = under_way.find(|active| active.version == id) {
                    version.cursor = BlockIndex(active.walk.cursor);
                    if version.kind == VersionKind::Drop {
                        version.allocated = active.walk.data;
                    }
                }
                self.put(id, &Record::Version(version))?;
            }
            _ => {}
        }
        Ok(())
    }
}
