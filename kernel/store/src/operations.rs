//! Administrative operations on the object table. Each takes names that were already resolved to objects and
//! does the same thing live and in a replay.

use crate::contradiction::contradiction;
use crate::counters::{next, next_change};
use crate::engine::{Applied, Head};
use crate::error::{Error, ErrorKind};
use crate::forest::{Step, Stop};
use crate::format::Pointer;
use crate::format::journal::Body;
use crate::format::object::{
    Bound, IncarnationRecord, Link, List, OriginRecord, Record, RefpointRecord, TimelineRecord, VersionKind,
    VersionRecord, VolumeRecord,
};
use crate::limits::CLONE_DEPTH_MAX;
use crate::names::Key;
use crate::transaction::{Chain, Transaction};
use crate::types::{BlockIndex, ChangeId, Epoch, Name, ObjectId, TimelineId};

fn fail<T>(kind: ErrorKind, message: impl core::fmt::Display) -> Step<T> {
    Err(Stop::Failed(Error::new(kind, message)))
}

impl Transaction<'_> {
    /// Does an administrative operation.
    pub(crate) fn perform(&mut self, body: &Body) -> Step<Applied> {
        let object = match body {
            Body::CreateVolume { name, size, timeline, time } => {
                self.create_volume(name, *size, *timeline, *time)?
            }
            Body::RenameVolume { volume, name } => self.rename_volume(*volume, name)?,
            Body::DeleteVolume { volume } => self.delete_volume(*volume)?,
            Body::CloneVolume { checkpoint, name, timeline, time } => {
                self.clone_volume(*checkpoint, name, *timeline, *time)?
            }
            Body::Checkpoint { volumes, name, time, incarnation } => {
                self.checkpoint(volumes, name, *time, *incarnation)?
            }
            Body::DeleteCheckpoint { checkpoint } => self.hide(*checkpoint)?,
            Body::ConvertCheckpoint { checkpoint, name } => self.convert(*checkpoint, name)?,
            Body::CreateRefpoint { volume, name, time, incarnation } => {
                self.create_refpoint(*volume, name, *time, *incarnation)?
            }
            Body::DeleteRefpoint { refpoint } => self.delete_refpoint(*refpoint)?,
            Body::Revert { volume, building } => self.swap_head(*volume, *building)?,
            Body::Write { .. } | Body::Trim { .. } | Body::ResizeVolume { .. } => {
                panic!("operations on blocks do not only change the object table")
            }
        };
        Ok(Applied { object })
    }

    fn claim_name(&mut self, owner: ObjectId, name: &Name, id: ObjectId) -> Step<()> {
        let key = Key { owner, name };
        if self.find_name(key)?.is_some() {
            return fail(ErrorKind::Exists, format_args!("the name {name} is taken; choose another"));
        }
        self.add_name(key, id)
    }

    fn create_volume(&mut self, name: &Name, size: u64, line: TimelineId, time: u64) -> Step<ObjectId> {
        let timeline = self.draw()?;
        self.put(timeline, &Record::Timeline(new_timeline(line, ObjectId::NONE, ChangeId(0), 0)))?;
        self.add_volume(name, timeline, ObjectId::NONE, time, new_head(size), ChangeId(1))
    }

    /// Makes a volume around the contents of its first version.
    fn add_volume(
        &mut self,
        name: &Name,
        timeline: ObjectId,
        origin: ObjectId,
        time: u64,
        head: VersionRecord,
        clock: ChangeId,
    ) -> Step<ObjectId> {
        let (volume, version) = (self.draw()?, self.draw()?);
        self.claim_name(ObjectId::NONE, name, volume)?;
        let parent = head.parent;
        self.put_version(version, VersionRecord { volume, created: time, ..head })?;
        let record = VolumeRecord {
            name: name.clone(),
            link: Link::default(),
            head: version,
            clock,
            timeline,
            checkpoints: List::default(),
            refpoints: List::default(),
            origin,
            created: time,
        };
        self.put(volume, &Record::Volume(record))?;
        if parent != ObjectId::NONE {
            self.adopt(parent, version)?;
        }
        let mut root = self.root()?;
        self.append(Chain::Member, &mut root.volumes, volume)?;
        self.set_root(root)?;
        Ok(volume)
    }

    fn rename_volume(&mut self, volume: ObjectId, name: &Name) -> Step<ObjectId> {
        let mut record = self.volume(volume)?;
        self.remove_name(Key { owner: ObjectId::NONE, name: &record.name }, volume)?;
        self.claim_name(ObjectId::NONE, name, volume)?;
        record.name = name.clone();
        self.put(volume, &Record::Volume(record))?;
        Ok(volume)
    }

    /// The volume is gone at once; its points are taken out one by one afterwards.
    fn delete_volume(&mut self, volume: ObjectId) -> Step<ObjectId> {
        let head = self.head(volume)?;
        let record = self.volume(volume)?;
        self.remove_name(Key { owner: ObjectId::NONE, name: &record.name }, volume)?;
        let mut root = self.root()?;
        self.unlink(Chain::Member, &mut root.volumes, volume)?;
        self.append(Chain::Member, &mut root.purging, volume)?;
        self.set_root(root)?;
        if record.origin != ObjectId::NONE {
            self.remove(record.origin)?;
        }
        let mut record = self.volume(volume)?;
        (record.head, record.origin) = (ObjectId::NONE, ObjectId::NONE);
        self.put(volume, &Record::Volume(record))?;
        self.retire_head(&head)?;
        self.drop_head(volume);
        Ok(volume)
    }

    /// A head's contents become a hidden version, to be released.
    fn retire_head(&mut self, head: &Head) -> Step<()> {
        let version = self.version(head.version)?;
        let (root, size, allocated) = (head.root, head.size, head.allocated);
        let hidden = VersionRecord { kind: VersionKind::Hidden, root, size, allocated, ..version };
        self.put_version(head.version, hidden)?;
        self.queue_release(head.version)
    }

    fn clone_volume(
        &mut self,
        checkpoint: ObjectId,
        name: &Name,
        line: TimelineId,
        time: u64,
    ) -> Step<ObjectId> {
        let source = self.checkpoint_version(checkpoint)?;
        let volume = self.volume(source.volume)?;
        let mut parent = self.timeline(volume.timeline)?;
        if parent.depth as usize >= CLONE_DEPTH_MAX {
            let deep = format_args!("{} is a clone {CLONE_DEPTH_MAX} deep; copy it instead", volume.name);
            return fail(ErrorKind::Limit, deep);
        }
        parent.references += 1;
        let depth = parent.depth + 1;
        self.put(volume.timeline, &Record::Timeline(parent))?;
        let (timeline, origin) = (self.draw()?, self.draw()?);
        self.put(timeline, &Record::Timeline(new_timeline(line, volume.timeline, source.change, depth)))?;
        let Some(checkpoint_name) = source.name else {
            return fail(ErrorKind::Corrupt, "a checkpoint has no name; run pool.check");
        };
        let from = OriginRecord { volume: volume.name, checkpoint: checkpoint_name };
        self.put(origin, &Record::Origin(from))?;
        let head = VersionRecord {
            root: source.root,
            parent: checkpoint,
            change: source.change,
            allocated: source.allocated,
            ..new_head(source.size)
        };
        let clock = next_change(source.change)?;
        self.add_volume(name, timeline, origin, time, head, clock)
    }

    /// One instant of several volumes.
    fn checkpoint(
        &mut self,
        volumes: &[ObjectId],
        name: &Name,
        time: u64,
        incarnation: u64,
    ) -> Step<ObjectId> {
        let mut first = ObjectId::NONE;
        for &volume in volumes {
            let checkpoint = self.draw()?;
            first = first.some().unwrap_or(checkpoint);
            self.checkpoint_one(volume, checkpoint, name, time, incarnation)?;
        }
        self.epoch = Epoch(next(self.epoch.0, "epochs of the pool")?);
        Ok(first)
    }

    fn checkpoint_one(
        &mut self,
        volume: ObjectId,
        checkpoint: ObjectId,
        name: &Name,
        time: u64,
        incarnation: u64,
    ) -> Step<()> {
        let head = self.head(volume)?;
        self.claim_name(volume, name, checkpoint)?;
        self.note_incarnation(volume, incarnation, head.clock)?;
        let version = VersionRecord {
            kind: VersionKind::Checkpoint,
            name: Some(name.clone()),
            volume,
            parent: head.parent,
            root: head.root,
            epoch: self.epoch,
            change: head.clock,
            allocated: head.allocated,
            created: time,
            ..new_head(head.size)
        };
        self.put_version(checkpoint, version)?;
        if head.parent != ObjectId::NONE {
            let mut parent = self.version(head.parent)?;
            self.replace(Chain::Sibling, &mut parent.children, head.version, checkpoint)?;
            let children = parent.children;
            let mut parent = self.version(head.parent)?;
            parent.children = children;
            self.put(head.parent, &Record::Version(parent))?;
        }
        let mut live = self.version(head.version)?;
        live.parent = checkpoint;
        self.put_version(head.version, live)?;
        self.adopt(checkpoint, head.version)?;
        let mut record = self.volume(volume)?;
        self.append(Chain::Member, &mut record.checkpoints, checkpoint)?;
        self.put(volume, &Record::Volume(record))?;
        let clock = next_change(head.clock)?;
        self.set_head(volume, Head { parent: checkpoint, parent_epoch: self.epoch, clock, ..head });
        Ok(())
    }

    /// Makes `child` a child of `parent`.
    pub(crate) fn adopt(&mut self, parent: ObjectId, child: ObjectId) -> Step<()> {
        let mut children = self.version(parent)?.children;
        self.append(Chain::Sibling, &mut children, child)?;
        let mut record = self.version(parent)?;
        record.children = children;
        record.child_count += 1;
        self.put(parent, &Record::Version(record))
    }

    /// Notes from which change id on points of this opening are made.
    fn note_incarnation(&mut self, volume: ObjectId, incarnation: u64, first: ChangeId) -> Step<()> {
        let id = self.volume(volume)?.timeline;
        let mut timeline = self.timeline(id)?;
        if let Some(last) = timeline.incarnations.last.some()
            && let Record::Incarnation(record) = self.record(last)?
            && record.incarnation == incarnation
        {
            return Ok(());
        }
        let place = self.draw()?;
        let record = IncarnationRecord { incarnation, first, link: Link::default() };
        self.put(place, &Record::Incarnation(record))?;
        self.append(Chain::Member, &mut timeline.incarnations, place)?;
        self.put(id, &Record::Timeline(timeline))
    }

    fn checkpoint_version(&mut self, id: ObjectId) -> Step<VersionRecord> {
        let version = self.version(id)?;
        match version.kind {
            VersionKind::Checkpoint => Ok(version),
            kind => Err(Stop::Failed(contradiction(format_args!("checkpoint {id} is a {kind:?}")))),
        }
    }

    /// A checkpoint's name becomes free, and it waits for its release. Its record keeps the name, to say what waits.
    pub(crate) fn hide(&mut self, checkpoint: ObjectId) -> Step<ObjectId> {
        let version = self.checkpoint_version(checkpoint)?;
        if let Some(name) = &version.name {
            self.remove_name(Key { owner: version.volume, name }, checkpoint)?;
        }
        let mut volume = self.volume(version.volume)?;
        self.unlink(Chain::Member, &mut volume.checkpoints, checkpoint)?;
        self.put(version.volume, &Record::Volume(volume))?;
        let version = self.version(checkpoint)?;
        let hidden = VersionRecord { kind: VersionKind::Hidden, ..version };
        self.put(checkpoint, &Record::Version(hidden))?;
        self.queue_release(checkpoint)?;
        Ok(checkpoint)
    }

    /// Counts a hidden version or drop job, and queues it once at most one child is left.
    pub(crate) fn queue_release(&mut self, version: ObjectId) -> Step<()> {
        let mut root = self.root()?;
        root.releases += 1;
        let record = self.version(version)?;
        if record.kind == VersionKind::Drop {
            // Ahead of every release: those may free nodes that the job looks at.
            self.prepend(Chain::Member, &mut root.ready, version)?;
        } else if record.child_count <= 1 {
            self.append(Chain::Member, &mut root.ready, version)?;
        }
        self.set_root(root)
    }

    fn convert(&mut self, checkpoint: ObjectId, name: &Name) -> Step<ObjectId> {
        let version = self.version(checkpoint)?;
        self.hide(checkpoint)?;
        let line = self.volume(version.volume)?.timeline;
        let incarnation = self.incarnation_at(line, version.change)?;
        self.add_refpoint(version.volume, name, version.created, incarnation, version.change)
    }

    fn create_refpoint(
        &mut self,
        volume: ObjectId,
        name: &Name,
        time: u64,
        incarnation: u64,
    ) -> Step<ObjectId> {
        let head = self.head(volume)?;
        self.note_incarnation(volume, incarnation, head.clock)?;
        let id = self.add_refpoint(volume, name, time, incarnation, head.clock)?;
        self.set_head(volume, Head { clock: next_change(head.clock)?, ..head });
        Ok(id)
    }

    fn add_refpoint(
        &mut self,
        volume: ObjectId,
        name: &Name,
        created: u64,
        incarnation: u64,
        change: ChangeId,
    ) -> Step<ObjectId> {
        let id = self.draw()?;
        self.claim_name(volume, name, id)?;
        let record = self.volume(volume)?;
        let timeline = self.timeline(record.timeline)?.id;
        let link = Link::default();
        let point =
            RefpointRecord { name: name.clone(), volume, link, timeline, incarnation, change, created };
        self.put(id, &Record::Refpoint(point))?;
        let mut record = self.volume(volume)?;
        self.append(Chain::Member, &mut record.refpoints, id)?;
        self.put(volume, &Record::Volume(record))?;
        Ok(id)
    }

    /// Takes a reference point out.
    pub(crate) fn delete_refpoint(&mut self, id: ObjectId) -> Step<ObjectId> {
        let point = self.refpoint(id)?;
        self.remove_name(Key { owner: point.volume, name: &point.name }, id)?;
        let mut volume = self.volume(point.volume)?;
        self.unlink(Chain::Member, &mut volume.refpoints, id)?;
        self.put(point.volume, &Record::Volume(volume))?;
        self.remove(id)?;
        Ok(id)
    }

    /// Starts a version in which a revert builds the new contents aside: so far it is the checkpoint.
    pub(crate) fn start_building(&mut self, checkpoint: ObjectId, volume: ObjectId) -> Step<ObjectId> {
        let source = match self.find_record(checkpoint)? {
            Some(Record::Version(version)) if version.kind == VersionKind::Checkpoint => version,
            _ => return fail(ErrorKind::NotFound, "the checkpoint was deleted meanwhile; choose another"),
        };
        let id = self.draw()?;
        let building = VersionRecord {
            kind: VersionKind::Building,
            volume,
            parent: checkpoint,
            root: source.root,
            change: source.change,
            allocated: source.allocated,
            ..new_head(source.size)
        };
        self.put_version(id, building)?;
        self.adopt(checkpoint, id)?;
        let mut root = self.root()?;
        self.append(Chain::Member, &mut root.purging, id)?;
        self.set_root(root)?;
        Ok(id)
    }

    /// What a revert has built takes the head's place; the old head waits for its release.
    fn swap_head(&mut self, volume: ObjectId, building: ObjectId) -> Step<ObjectId> {
        let old = self.head(volume)?;
        if self.version(building)?.kind != VersionKind::Building {
            return fail(ErrorKind::Corrupt, "what a revert has built was taken away; run pool.check");
        }
        let mut root = self.root()?;
        self.unlink(Chain::Member, &mut root.purging, building)?;
        self.set_root(root)?;
        let built = self.version(building)?;
        let head = Head {
            version: building,
            root: built.root,
            size: built.size,
            allocated: built.allocated,
            parent: built.parent,
            parent_epoch: self.epoch_of(built.parent)?,
            ..old
        };
        self.put_version(building, VersionRecord { kind: VersionKind::Head, ..built })?;
        self.retire_head(&old)?;
        let mut record = self.volume(volume)?;
        record.head = building;
        self.put(volume, &Record::Volume(record))?;
        self.set_head(volume, head);
        Ok(building)
    }

    /// Records what a trim is about to cut off a head; its root comes once that is done.
    pub(crate) fn start_drop_job(
        &mut self,
        id: ObjectId,
        volume: ObjectId,
        head: &Head,
        bound: Bound,
    ) -> Step<()> {
        let parent = head.version;
        let epoch = self.epoch;
        let job =
            VersionRecord { kind: VersionKind::Drop, volume, parent, epoch, bound, ..new_head(head.size) };
        self.put_version(id, job)?;
        self.queue_release(id)
    }
}

fn new_timeline(id: TimelineId, parent: ObjectId, fork: ChangeId, depth: u64) -> TimelineRecord {
    let (incarnations, link) = (List::default(), Link::default());
    TimelineRecord { id, parent, fork, references: 1, depth, incarnations, link }
}

/// An empty head of this size, for others to fill in.
fn new_head(size: u64) -> VersionRecord {
    VersionRecord {
        kind: VersionKind::Head,
        name: None,
        volume: ObjectId::NONE,
        link: Link::default(),
        sibling: Link::default(),
        parent: ObjectId::NONE,
        children: List::default(),
        child_count: 0,
        root: Pointer::default(),
        size,
        epoch: Epoch(0),
        change: ChangeId(0),
        allocated: 0,
        created: 0,
        cursor: BlockIndex(0),
        bound: Bound::default(),
    }
}
