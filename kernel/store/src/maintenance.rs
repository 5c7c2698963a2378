//! What goes on in the background: releases, one at a time, and taking out what deleted volumes left. Nothing
//! of it is logged; a commit persists how far it came.

use crate::engine::{ActiveRelease, Engine};
use crate::forest::Step;
use crate::format::Pointer;
use crate::format::object::{Bound, Record, VersionKind, VersionRecord};
use crate::limits::{FREED_EXTENTS_MAX, STEP_POINTERS};
use crate::release::Walk;
use crate::space::Urgency;
use crate::transaction::{Chain, Transaction};
use crate::types::{BlockIndex, ObjectId};

/// Points a purge takes out in one step.
const PURGE_BATCH: usize = 16;

/// Checkpoints a finished drop job corrects at most. Those taken even before during the same job keep too
/// high a count.
const DISCOUNTED_MAX: usize = 256;

impl Engine {
    /// Whether blocks that left a volume are still to be counted.
    pub(crate) fn drops_pending(&mut self, volume: ObjectId) -> Step<bool> {
        let mut transaction = Transaction::new(self);
        let mut next = transaction.root()?.ready.first;
        while let Some(id) = next.some() {
            let version = transaction.version(id)?;
            if version.kind == VersionKind::Drop && version.volume == volume {
                return Ok(true);
            }
            next = version.link.next;
        }
        Ok(false)
    }

    /// Does one bounded step of background work; false where there is none to do now.
    pub(crate) fn maintain(&mut self) -> Step<bool> {
        self.check_writable()?;
        if self.forest.space.freed_extents() > FREED_EXTENTS_MAX {
            return Ok(false);
        }
        if self.active.is_some() {
            self.advance_release()?;
            return Ok(true);
        }
        if self.start_release()? {
            return Ok(true);
        }
        self.purge()
    }

    /// Whether background work waits, as far as memory tells.
    pub(crate) fn releases_pending(&self) -> Step<u64> {
        Ok(Transaction::new(self).root()?.releases)
    }

    fn start_release(&mut self) -> Step<bool> {
        let mut transaction = Transaction::new(self);
        let mut id = transaction.root()?.ready.first;
        while let Some(version) = id.some() {
            let record = transaction.version(version)?;
            let held = self.open_versions.contains_key(&version);
            let child_is_built = match record.children.first.some() {
                Some(child) => transaction.version(child)?.kind == VersionKind::Building,
                None => false,
            };
            if !held && !child_is_built {
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
        let stepped = self.release_some(&mut active);
        let (version, drop_job) = (active.version, active.drop_job);
        self.active = Some(active);
        if stepped? {
            let counted = self.active.as_ref().map_or(0, |active| active.walk.data);
            self.finish_release(version, drop_job.then_some(counted))?;
            self.active = None;
        }
        self.dirty_aside = true;
        Ok(())
    }

    fn release_some(&mut self, active: &mut ActiveRelease) -> Step<bool> {
        if active.drop_job {
            if self.live_volume(active.volume)? {
                self.load_head(active.volume)?;
            }
        } else {
            active.walk.new = self.only_child_root(active.version)?;
        }
        let (freed, data) = (active.walk.freed, active.walk.data);
        let stepped = self.forest.release_step(&mut active.walk, STEP_POINTERS);
        self.counters.blocks_released += active.walk.freed - freed;
        if active.drop_job
            && let Some(head) = self.heads.get_mut(&active.volume)
            && head.version == active.head
        {
            head.allocated -= active.walk.data - data;
            head.dirty = true;
        }
        self.dirty_aside |= active.walk.freed > freed;
        stepped
    }

    fn live_volume(&self, volume: ObjectId) -> Step<bool> {
        let record = Transaction::new(self).find_record(volume)?;
        Ok(matches!(record, Some(Record::Volume(v)) if v.head != ObjectId::NONE))
    }

    /// `dropped`: for a drop job, the data blocks it counted.
    fn finish_release(&mut self, version: ObjectId, dropped: Option<u64>) -> Step<()> {
        let mut transaction = Transaction::new(self);
        match dropped {
            Some(data) => transaction.discount(version, data)?,
            None => transaction.leave_tree(version)?,
        }
        let mut root = transaction.root()?;
        transaction.unlink(Chain::Member, &mut root.ready, version)?;
        root.releases -= 1;
        transaction.set_root(root)?;
        transaction.remove(version)?;
        let plan = transaction.finish(Urgency::Administration)?;
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
        let plan = transaction.finish(Urgency::Administration)?;
        plan.apply(self);
        self.dirty_aside = true;
        Ok(true)
    }
}

fn active_release(version: ObjectId, record: &VersionRecord, bound: Bound) -> ActiveRelease {
    let drop_job = record.kind == VersionKind::Drop;
    let bound = if drop_job { record.bound } else { bound };
    let mut walk = Walk::new(record.root, Pointer::default(), bound);
    walk.cursor = record.cursor.0;
    walk.count_data = drop_job;
    walk.data = if drop_job { record.allocated } else { 0 };
    ActiveRelease { version, drop_job, volume: record.volume, head: record.parent, walk }
}

impl Transaction<'_> {
    /// Checkpoints taken after a trim, while its drop job had not counted yet, hold fewer blocks than they say.
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
            version.allocated = version.allocated.saturating_sub(data);
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
            record.child_count -= u64::from(child == ObjectId::NONE);
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
        timeline.references -= 1;
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
