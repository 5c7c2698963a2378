//! What goes on in the background: releases, one at a time, and taking out what deleted volumes left. Nothing
//! of it is logged; a commit persists how far it came.

use crate::contradiction::contradiction;
use crate::engine::{ActiveRelease, Engine};
use crate::forest::{Step, Stop};
use crate::format::Pointer;
use crate::format::object::{Bound, Record, VersionKind, VersionRecord};
use crate::limits::FREED_EXTENTS_MAX;
use crate::release::Walk;
use crate::space::Urgency;
use crate::transaction::{Chain, Transaction, one_less};
use crate::types::{BlockIndex, ObjectId};

/// Points a purge takes out in one step.
const PURGE_BATCH: usize = 16;

/// Checkpoints a drop job corrects at most. Those taken even before during the same job keep too high a
/// count.
const DISCOUNTED_MAX: usize = 256;

impl Engine {
    /// Whether blocks that left a volume are still to be counted.
    pub(crate) fn drops_pending(&mut self, volume: ObjectId) -> Step<bool> {
        let mut transaction = Transaction::new(self);
        let ready = transaction.root()?.ready;
        let mut next = transaction.first_in(Chain::Member, ready)?;
        while let Some(id) = next.some() {
            let version = transaction.version(id)?;
            if version.kind != VersionKind::Drop {
                break;
            }
            if version.volume == volume {
                return Ok(true);
            }
            next = transaction.next(id)?;
        }
        Ok(false)
    }

    /// Does one bounded step of background work; false where there is none to do now. Drop jobs come first.
    pub(crate) fn maintain(&mut self) -> Step<bool> {
        self.check_writable()?;
        if self.forest.space.fresh.len() > FREED_EXTENTS_MAX {
            return Ok(false);
        }
        if self.dropping.is_some() || self.start_drop_job()? {
            self.advance_drop_job()?;
            return Ok(true);
        }
        if self.active.is_some() || self.start_release()? {
            self.advance_release()?;
            return Ok(true);
        }
        self.purge()
    }

    /// Whether background work waits, as far as memory tells.
    pub(crate) fn releases_pending(&self) -> Step<u64> {
        Ok(Transaction::new(self).root()?.releases)
    }

    /// Takes up the release that an earlier opening had begun.
    pub(crate) fn resume_release(&mut self) -> Step<()> {
        let mut transaction = Transaction::new(self);
        let ready = transaction.root()?.ready;
        let mut next = transaction.first_in(Chain::Member, ready)?;
        while let Some(id) = next.some() {
            let record = transaction.version(id)?;
            if record.kind == VersionKind::Hidden && record.cursor > BlockIndex(0) {
                let parent_epoch = transaction.epoch_of(record.parent)?;
                self.active = Some(active_release(id, &record, Bound::same(parent_epoch)));
                return Ok(());
            }
            next = transaction.next(id)?;
        }
        Ok(())
    }

    fn start_drop_job(&mut self) -> Step<bool> {
        let mut transaction = Transaction::new(self);
        let Some(id) = transaction.root()?.ready.first.some() else { return Ok(false) };
        let record = transaction.version(id)?;
        if record.kind == VersionKind::Drop {
            let mut job = active_release(id, &record, record.bound);
            (job.walk.count_data, job.walk.data) = (true, record.allocated);
            self.dropping = Some(job);
        }
        Ok(self.dropping.is_some())
    }

    fn start_release(&mut self) -> Step<bool> {
        let mut transaction = Transaction::new(self);
        let ready = transaction.root()?.ready;
        let mut id = transaction.first_in(Chain::Member, ready)?;
        while let Some(version) = id.some() {
            let record = transaction.version(version)?;
            let held = self.open_versions.contains_key(&version);
            let child_is_built = match record.children.first.some() {
                Some(child) => transaction.version(child)?.kind == VersionKind::Building,
                None => false,
            };
            if record.kind == VersionKind::Hidden && !held && !child_is_built {
                let parent_epoch = transaction.epoch_of(record.parent)?;
                self.active = Some(active_release(version, &record, Bound::same(parent_epoch)));
                return Ok(true);
            }
            id = transaction.next(version)?;
        }
        Ok(false)
    }

    /// The root of a version's only child as it is now; a hole where it has none.
    pub(crate) fn only_child_root(&mut self, version: ObjectId) -> Step<Pointer> {
        let mut transaction = Transaction::new(self);
        let Some(child) = transaction.version(version)?.children.first.some() else {
            return Ok(Pointer::default());
        };
        let child = transaction.version(child)?;
        match child.kind {
            VersionKind::Head => Ok(self.load_head(child.volume)?.root),
            _ => Ok(child.root),
        }
    }

    fn advance_release(&mut self) -> Step<()> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        let child = self.only_child_root(active.version);
        let stepped = child.and_then(|root| {
            active.walk.new = root;
            self.step(&mut active.walk)
        });
        let version = active.version;
        self.active = Some(active);
        if stepped? {
            self.finish(version, |transaction| transaction.leave_tree(version))?;
            self.active = None;
        }
        Ok(())
    }

    fn advance_drop_job(&mut self) -> Step<()> {
        let Some(mut job) = self.dropping.take() else { return Ok(()) };
        let counted = self.take_off(&job);
        let stepped = counted.and_then(|()| {
            job.walk.data = 0;
            self.step(&mut job.walk)
        });
        let (id, all_taken_off) = (job.version, job.walk.data == 0);
        self.dropping = Some(job);
        if stepped? && all_taken_off {
            self.finish(id, |_| Ok(()))?;
            self.dropping = None;
        }
        Ok(())
    }

    /// Takes what a drop job has counted off its volume, and off the checkpoints taken of it since, at once.
    fn take_off(&mut self, job: &ActiveRelease) -> Step<()> {
        if job.walk.data == 0 {
            return Ok(());
        }
        if self.live_volume(job.volume)? {
            self.load_head(job.volume)?;
        }
        let mut transaction = Transaction::new(self);
        transaction.discount(job.version, job.walk.data)?;
        transaction.finish(Urgency::Release)?.apply(self);
        if let Some(head) = self.heads.get_mut(&job.volume)
            && head.version == job.head
        {
            head.allocated = self.forest.witness.subtract(head.allocated, job.walk.data, "a volume's data");
            head.dirty = true;
        }
        Ok(())
    }

    fn step(&mut self, walk: &mut Walk) -> Step<bool> {
        let freed = walk.freed;
        let stepped = self.forest.release_step(walk, self.step_pointers);
        self.counters.blocks_released += walk.freed - freed;
        self.dirty_aside = true;
        stepped
    }

    fn live_volume(&self, volume: ObjectId) -> Step<bool> {
        let record = Transaction::new(self).find_record(volume)?;
        Ok(matches!(record, Some(Record::Volume(v)) if v.head != ObjectId::NONE))
    }

    /// Takes a version out of the list of what is ready, and away, after what else its end means.
    fn finish(&mut self, version: ObjectId, end: impl FnOnce(&mut Transaction<'_>) -> Step<()>) -> Step<()> {
        let mut transaction = Transaction::new(self);
        end(&mut transaction)?;
        let mut root = transaction.root()?;
        transaction.unlink(Chain::Member, &mut root.ready, version)?;
        root.releases = one_less(root.releases, version, "waiting release")?;
        transaction.set_root(root)?;
        transaction.remove(version)?;
        let plan = transaction.finish(Urgency::Release)?;
        plan.apply(self);
        Ok(())
    }

    /// Takes out some of what deleted volumes, timelines and broken-off reverts left.
    fn purge(&mut self) -> Step<bool> {
        let mut transaction = Transaction::new(self);
        let mut id = transaction.root()?.purging.first;
        if id.some().is_some() && id.some() == self.building {
            id = transaction.next(id)?;
        }
        let Some(id) = id.some() else { return Ok(false) };
        match transaction.record(id)? {
            Record::Version(version) => transaction.abandon_building(id, version)?,
            Record::Volume(_) => transaction.purge_volume(id)?,
            _ => transaction.purge_timeline(id)?,
        }
        let plan = transaction.finish(Urgency::Release)?;
        plan.apply(self);
        self.dirty_aside = true;
        Ok(true)
    }
}

fn active_release(version: ObjectId, record: &VersionRecord, bound: Bound) -> ActiveRelease {
    let mut walk = Walk::new(record.root, Pointer::default(), bound);
    walk.cursor = record.cursor.0;
    ActiveRelease { version, volume: record.volume, head: record.parent, walk }
}

impl Transaction<'_> {
    /// Checkpoints taken after a trim, before its drop job had counted, hold fewer blocks than they say.
    fn discount(&mut self, job: ObjectId, data: u64) -> Step<()> {
        let job = self.version(job)?;
        let Some(Record::Version(head)) = self.find_record(job.parent)? else { return Ok(()) };
        let mut next = head.parent;
        for _ in 0..DISCOUNTED_MAX {
            let Some(id) = next.some() else { break };
            let mut version = self.version(id)?;
            if version.epoch < job.epoch || version.volume != job.volume {
                break;
            }
            next = version.parent;
            let Some(left) = version.allocated.checked_sub(data) else {
                let what =
                    format_args!("checkpoint {id} counts {} blocks and loses {data}", version.allocated);
                return Err(Stop::Failed(contradiction(what)));
            };
            version.allocated = left;
            self.put(id, &Record::Version(version))?;
        }
        Ok(())
    }

    /// A released version's child, if any, becomes its parent's.
    fn leave_tree(&mut self, id: ObjectId) -> Step<()> {
        let version = self.version(id)?;
        let parent_epoch = self.epoch_of(version.parent)?;
        let child = version.children.first;
        if let Some(parent) = version.parent.some() {
            let mut children = self.version(parent)?.children;
            match child.some() {
                Some(child) => self.replace(Chain::Sibling, &mut children, id, child)?,
                None => self.unlink(Chain::Sibling, &mut children, id)?,
            }
            let mut record = self.version(parent)?;
            record.children = children;
            if child == ObjectId::NONE {
                record.child_count = one_less(record.child_count, parent, "child")?;
            }
            let now_ready =
                record.kind == VersionKind::Hidden && record.child_count == 1 && child == ObjectId::NONE;
            self.put(parent, &Record::Version(record))?;
            if now_ready {
                let mut root = self.root()?;
                self.append(Chain::Member, &mut root.ready, parent)?;
                self.set_root(root)?;
            }
        }
        let Some(child) = child.some() else { return Ok(()) };
        let mut record = self.version(child)?;
        record.parent = version.parent;
        let (kind, volume) = (record.kind, record.volume);
        self.put(child, &Record::Version(record))?;
        if kind == VersionKind::Head {
            let head = self.head(volume)?;
            self.set_head(volume, crate::engine::Head { parent: version.parent, parent_epoch, ..head });
        }
        Ok(())
    }

    /// A revert that did not get to its end: what it built is released like an old head.
    fn abandon_building(&mut self, id: ObjectId, version: VersionRecord) -> Step<()> {
        let mut root = self.root()?;
        self.unlink(Chain::Member, &mut root.purging, id)?;
        self.set_root(root)?;
        let link = crate::format::object::Link::default();
        let cursor = BlockIndex(0);
        self.put_version(id, VersionRecord { kind: VersionKind::Hidden, link, cursor, ..version })?;
        self.queue_release(id)
    }

    fn purge_volume(&mut self, id: ObjectId) -> Step<()> {
        for _ in 0..PURGE_BATCH {
            let volume = self.volume(id)?;
            if let Some(checkpoint) = volume.checkpoints.first.some() {
                self.hide(checkpoint)?;
            } else if let Some(refpoint) = volume.refpoints.first.some() {
                self.delete_refpoint(refpoint)?;
            } else {
                self.purged(id)?;
                self.remove(id)?;
                return self.dereference(volume.timeline);
            }
        }
        Ok(())
    }

    fn purge_timeline(&mut self, id: ObjectId) -> Step<()> {
        for _ in 0..PURGE_BATCH {
            let mut timeline = self.timeline(id)?;
            let Some(incarnation) = timeline.incarnations.first.some() else {
                self.purged(id)?;
                self.remove(id)?;
                return match timeline.parent.some() {
                    Some(parent) => self.dereference(parent),
                    None => Ok(()),
                };
            };
            self.unlink(Chain::Member, &mut timeline.incarnations, incarnation)?;
            self.remove(incarnation)?;
            self.put(id, &Record::Timeline(timeline))?;
        }
        Ok(())
    }

    fn purged(&mut self, id: ObjectId) -> Step<()> {
        let mut root = self.root()?;
        self.unlink(Chain::Member, &mut root.purging, id)?;
        self.set_root(root)
    }

    /// One volume or timeline less needs this timeline.
    fn dereference(&mut self, id: ObjectId) -> Step<()> {
        let mut timeline = self.timeline(id)?;
        timeline.references = one_less(timeline.references, id, "reference")?;
        let unused = timeline.references == 0;
        self.put(id, &Record::Timeline(timeline))?;
        if unused {
            let mut root = self.root()?;
            self.append(Chain::Member, &mut root.purging, id)?;
            self.set_root(root)?;
        }
        Ok(())
    }
}
