//! Freezing one instant of everything for a commit: roots, records, free map, log.
//!
//! The order follows the checksums: volumes' nodes first, then the records that hold their roots, the object
//! table, the free map, and the superblock over all. Writing the free map allocates and frees, which changes
//! the free map: that ends, because a commit moves each block of it at most once.

use crate::cache::{LEVELS, Tree};
use crate::engine::Engine;
use crate::forest::{Step, Stop};
use crate::format::Address;
use crate::format::journal::Run;
use crate::format::object::{Record, VersionKind};
use crate::format::superblock::Superblock;
use crate::limits::FREED_EXTENTS_SWEEP;
use crate::map::{LIST_EXTENTS, chunk_index, list_index};
use crate::space::Urgency;
use crate::transaction::{Transaction, record_place};
use crate::types::{BlockIndex, Epoch, ObjectId};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// What a commit has to write.
pub(crate) struct Frozen {
    /// Blocks of metadata, in the cache until they are written.
    pub(crate) blocks: Vec<Address>,
    /// All but where the log goes on, which is known only when the rest is on disk.
    pub(crate) superblock: Superblock,
}

impl Engine {
    /// Chooses the freed extents that the coming commit returns to the free map. `eager`: space is short.
    pub(crate) fn plan_sweep(&mut self, eager: bool) -> Vec<Run> {
        let space = &mut self.forest.space;
        let scarce = eager || space.free() < space.total() / 4;
        let many = space.filling.len() >= FREED_EXTENTS_SWEEP || space.filling.blocks() >= 1 << 16;
        if space.sweeping.is_empty() && !space.filling.is_empty() && (scarce || many) {
            core::mem::swap(&mut space.filling, &mut space.sweeping);
            space.sweeping_freed_in = self.interval;
            self.superblock.filling ^= 1;
            self.superblock.sweep_cursor = 0;
        }
        if self.sweep_blocked() {
            return Vec::new();
        }
        let space = &self.forest.space;
        let chunks_max = (self.forest.cache.capacity() / 16).max(16);
        let mut chunks = BTreeSet::new();
        let within = |run: &Run| {
            chunks.insert(chunk_index(run.address));
            chunks.len() <= chunks_max
        };
        space.sweeping.iter().take_while(within).collect()
    }

    /// Whoever entered before the last of what is being swept was freed may still be reading it.
    pub(crate) fn sweep_blocked(&self) -> bool {
        self.readers.keys().next().is_some_and(|&oldest| oldest < self.forest.space.sweeping_freed_in)
    }

    /// Freezes everything, or stops with what is missing before anything has changed.
    ///
    /// `advance`: the epoch moves on; not in the middle of a replay, whose operations bring their own.
    pub(crate) fn freeze(&mut self, sweep: &[Run], advance: bool) -> Step<Frozen> {
        let records = self.prepare_records()?;
        let estimate = records + self.prepare_map(sweep, records)?;
        self.forest.require(estimate, Urgency::Commit)?;

        let mut blocks = Vec::new();
        self.forest.freeze(Tree::Volume, &mut blocks);
        self.write_records();
        self.forest.freeze(Tree::Objects, &mut blocks);
        self.objects = self.forest.resolve(self.objects);
        self.write_map(sweep);
        self.forest.freeze(Tree::Map, &mut blocks);
        self.map = self.forest.resolve(self.map);
        self.forest.space.mapped = self.map.change.0;

        self.journal.freeze();
        self.dirty_aside = false;
        self.interval += 1;
        self.forest.epoch = Epoch(self.forest.epoch.0 + u64::from(advance));
        let superblock = Superblock {
            commit: self.superblock.commit + 1,
            epoch: self.forest.epoch,
            objects: self.objects,
            map: self.map,
            next_object: self.next_object,
            ..self.superblock.clone()
        };
        blocks.sort_unstable();
        Ok(Frozen { blocks, superblock })
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
        let runs = space.allocated.iter().chain(space.window_runs()).chain(sweep.iter().copied());
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
        let filling = self.superblock.filling;
        let swept = u64::from(self.superblock.freed_blocks[usize::from(filling ^ 1)]);
        if swept > 0 {
            let (first, last) = (list_index(filling ^ 1, 0), list_index(filling ^ 1, swept - 1));
            nodes += self.forest.prepare(Tree::Map, &self.map, first, last, false)?;
        }
        // What the freeze itself frees is listed too: what it moves, and the list it clears.
        let extents = space.fresh.len() as u64 + records + nodes + swept + 4 * (LEVELS as u64 + 1);
        let used = u64::from(self.superblock.freed_blocks[usize::from(filling)]);
        let last = used + extents / LIST_EXTENTS as u64 + 2;
        let (first, last) = (list_index(filling, used.saturating_sub(1)), list_index(filling, last));
        nodes += self.forest.prepare(Tree::Map, &self.map, first, last, true)?;
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
            Err(stop) => panic!("a freeze was not prepared: {stop:?}"),
        }
        self.unresolved_roots.clear();
        self.heads.values_mut().for_each(|head| head.dirty = false);
    }

    fn write_map(&mut self, sweep: &[Run]) {
        for &run in sweep {
            self.forest.space.sweeping.remove(run);
            self.map_run(run, false);
            self.superblock.sweep_cursor = run.address.0 + run.blocks;
        }
        if self.forest.space.sweeping.is_empty() {
            self.clear_list(self.superblock.filling ^ 1);
        }
        loop {
            if let Some(run) = self.forest.space.settle() {
                self.map_run(run, true);
            } else if let Some(run) = self.forest.space.fresh.pop_first() {
                self.list_freed(run);
            } else {
                return;
            }
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
