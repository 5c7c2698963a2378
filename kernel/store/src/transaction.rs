//! A change of the object table that happens as a whole or not at all.
//!
//! A transaction reads through to the table and collects what it writes. If a block is missing it stops, is
//! thrown away, and starts anew once the block is there. Finished, it becomes a [`Plan`], which applies
//! without fail.

use crate::cache::Tree;
use crate::contradiction::contradiction;
use crate::counters::used_up;
use crate::device::Block;
use crate::engine::{Engine, Head};
use crate::error::{Error, ErrorKind};
use crate::forest::{Step, Stop};
use crate::format::journal::Operation;
use crate::format::object::{
    Link, List, RECORD_SIZE, RECORDS_PER_BLOCK, ROOT_OBJECT, Record, RefpointRecord, RootRecord,
    TimelineRecord, VersionRecord, VolumeRecord,
};
use crate::format::pointer::zeroed_block;
use crate::limits::OBJECTS_END;
use crate::names::BUCKETS_START;
use crate::space::Urgency;
use crate::types::{BlockIndex, ChangeId, Epoch, ObjectId};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Which of a record's two links a list runs through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// A volume's points, the pool's volumes, what is ready or being purged.
    Member,
    /// Versions with the same parent.
    Sibling,
}

/// A change of the object table in the making.
pub(crate) struct Transaction<'a> {
    pub(crate) engine: &'a Engine,
    blocks: BTreeMap<BlockIndex, Block>,
    heads: BTreeMap<ObjectId, Option<Head>>,
    pub(crate) next_object: u64,
    pub(crate) epoch: Epoch,
    roots: Vec<ObjectId>,
}

/// A finished change of the object table.
pub(crate) struct Plan {
    blocks: BTreeMap<BlockIndex, Block>,
    heads: BTreeMap<ObjectId, Option<Head>>,
    next_object: u64,
    epoch: Epoch,
    roots: Vec<ObjectId>,
    /// Metadata blocks it takes.
    pub(crate) nodes: u64,
}

fn corrupt(id: ObjectId, expected: &str) -> Stop {
    let message = format_args!("object {id} is not the {expected} it should be; run pool.check");
    Stop::Failed(Error::new(ErrorKind::Corrupt, message))
}

/// The link of a record that a list of this kind runs through.
fn link_of(record: &mut Record, chain: Chain) -> Option<&mut Link> {
    match (record, chain) {
        (Record::Version(v), Chain::Sibling) => Some(&mut v.sibling),
        (Record::Version(v), Chain::Member) => Some(&mut v.link),
        (Record::Volume(v), Chain::Member) => Some(&mut v.link),
        (Record::Refpoint(p), Chain::Member) => Some(&mut p.link),
        (Record::Timeline(t), Chain::Member) => Some(&mut t.link),
        (Record::Incarnation(i), Chain::Member) => Some(&mut i.link),
        _ => None,
    }
}

/// One less of something that records count.
pub(crate) fn one_less(count: u64, id: ObjectId, what: &str) -> Step<u64> {
    let none_left =
        || Stop::Failed(contradiction(format_args!("object {id} counts no {what} and loses one")));
    count.checked_sub(1).ok_or_else(none_left)
}

pub(crate) fn record_place(id: ObjectId) -> (BlockIndex, usize) {
    (BlockIndex(id.0 / RECORDS_PER_BLOCK), (id.0 % RECORDS_PER_BLOCK) as usize * RECORD_SIZE)
}

macro_rules! typed {
    ($get:ident, $variant:ident, $record:ty, $expected:literal) => {
        /// The record, which must be of this kind.
        pub(crate) fn $get(&mut self, id: ObjectId) -> Step<$record> {
            match self.record(id)? {
                Record::$variant(record) => Ok(record),
                _ => Err(corrupt(id, $expected)),
            }
        }
    };
}

impl<'a> Transaction<'a> {
    /// A transaction that draws objects and epoch from where the engine stands.
    pub(crate) fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            blocks: BTreeMap::new(),
            heads: BTreeMap::new(),
            next_object: engine.next_object,
            epoch: engine.forest.epoch,
            roots: Vec::new(),
        }
    }

    /// A transaction that draws what the operation drew.
    pub(crate) fn of(engine: &'a Engine, operation: &Operation) -> Self {
        Self { next_object: operation.first_object.0, epoch: operation.epoch, ..Self::new(engine) }
    }

    /// A block of the table as this transaction sees it.
    pub(crate) fn read(&mut self, index: BlockIndex) -> Step<Option<&Block>> {
        if !self.blocks.contains_key(&index) {
            return self.engine.forest.content(&self.engine.objects, index.0);
        }
        Ok(self.blocks.get(&index))
    }

    /// A block of the table, to be changed.
    pub(crate) fn write(&mut self, index: BlockIndex) -> Step<&mut Block> {
        let old = match self.blocks.remove(&index) {
            Some(block) => block,
            None => self
                .engine
                .forest
                .content(&self.engine.objects, index.0)?
                .cloned()
                .unwrap_or_else(zeroed_block),
        };
        Ok(self.blocks.entry(index).or_insert(old))
    }

    /// A record that must exist.
    pub(crate) fn record(&mut self, id: ObjectId) -> Step<Record> {
        self.find_record(id)?.ok_or_else(|| corrupt(id, "record"))
    }

    /// A record, or `None` where the place is empty.
    pub(crate) fn find_record(&mut self, id: ObjectId) -> Step<Option<Record>> {
        let (index, at) = record_place(id);
        if index.0 >= BUCKETS_START {
            return Err(Stop::Failed(contradiction(format_args!("something names object {id}"))));
        }
        let Some(block) = self.read(index)? else { return Ok(None) };
        let bytes = &block[at..at + RECORD_SIZE];
        if bytes[0] == 0 {
            return Ok(None);
        }
        Record::decode(bytes).map(Some).ok_or_else(|| corrupt(id, "record"))
    }

    typed!(volume, Volume, VolumeRecord, "volume");
    typed!(version, Version, VersionRecord, "version");
    typed!(refpoint, Refpoint, RefpointRecord, "reference point");
    typed!(timeline, Timeline, TimelineRecord, "timeline");

    /// The pool's own record; empty in a pool just made.
    pub(crate) fn root(&mut self) -> Step<RootRecord> {
        match self.find_record(ROOT_OBJECT)? {
            None => Ok(RootRecord::default()),
            Some(Record::Root(root)) => Ok(root),
            Some(_) => Err(corrupt(ROOT_OBJECT, "root")),
        }
    }

    pub(crate) fn set_root(&mut self, root: RootRecord) -> Step<()> {
        self.put(ROOT_OBJECT, &Record::Root(root))
    }

    /// Writes a record.
    pub(crate) fn put(&mut self, id: ObjectId, record: &Record) -> Step<()> {
        let (index, at) = record_place(id);
        self.write(index)?[at..at + RECORD_SIZE].copy_from_slice(&record.encode());
        Ok(())
    }

    /// Writes a version, whose root may not be on disk yet.
    pub(crate) fn put_version(&mut self, id: ObjectId, version: VersionRecord) -> Step<()> {
        self.roots.push(id);
        self.put(id, &Record::Version(version))
    }

    /// Empties a record's place. The id is never used again.
    pub(crate) fn remove(&mut self, id: ObjectId) -> Step<()> {
        let (index, at) = record_place(id);
        self.write(index)?[at..at + RECORD_SIZE].fill(0);
        Ok(())
    }

    /// A new id.
    pub(crate) fn draw(&mut self) -> Step<ObjectId> {
        let id = self.next_object;
        if id >= OBJECTS_END {
            return Err(Stop::Failed(used_up("object ids of the pool")));
        }
        self.next_object = id + 1;
        Ok(ObjectId(id))
    }

    /// The live state of a volume.
    pub(crate) fn head(&mut self, volume: ObjectId) -> Step<Head> {
        if let Some(changed) = self.heads.get(&volume) {
            return changed.ok_or_else(|| corrupt(volume, "volume"));
        }
        if let Some(head) = self.engine.heads.get(&volume) {
            return Ok(*head);
        }
        let record = self.volume(volume)?;
        let version = self.version(record.head)?;
        let parent_epoch = match version.parent.some() {
            Some(parent) => self.version(parent)?.epoch,
            None => Epoch(0),
        };
        Ok(Head {
            version: record.head,
            root: version.root,
            clock: record.clock,
            size: version.size,
            allocated: version.allocated,
            parent: version.parent,
            parent_epoch,
            dirty: false,
        })
    }

    pub(crate) fn set_head(&mut self, volume: ObjectId, head: Head) {
        self.heads.insert(volume, Some(Head { dirty: true, ..head }));
    }

    /// The volume is gone.
    pub(crate) fn drop_head(&mut self, volume: ObjectId) {
        self.heads.insert(volume, None);
    }

    /// The epoch up to which `version` needs blocks.
    pub(crate) fn epoch_of(&mut self, version: ObjectId) -> Step<Epoch> {
        match version.some() {
            Some(id) => Ok(self.version(id)?.epoch),
            None => Ok(Epoch(0)),
        }
    }

    fn set_link(&mut self, chain: Chain, id: ObjectId, change: impl FnOnce(&mut Link)) -> Step<()> {
        let mut record = self.record(id)?;
        change(link_of(&mut record, chain).ok_or_else(|| corrupt(id, "list member"))?);
        self.put(id, &record)
    }

    fn link(&mut self, chain: Chain, id: ObjectId) -> Step<Link> {
        let mut record = self.record(id)?;
        link_of(&mut record, chain).map(|link| *link).ok_or_else(|| corrupt(id, "list member"))
    }

    /// Adds a record, already put, at the end of a list.
    pub(crate) fn append(&mut self, chain: Chain, list: &mut List, id: ObjectId) -> Step<()> {
        let last = list.last;
        if let Some(last) = last.some() {
            self.set_link(chain, last, |link| link.next = id)?;
        } else {
            list.first = id;
        }
        list.last = id;
        self.set_link(chain, id, |link| *link = Link { previous: last, next: ObjectId::NONE })
    }

    /// Adds a record, already put, at the start of a list.
    pub(crate) fn prepend(&mut self, chain: Chain, list: &mut List, id: ObjectId) -> Step<()> {
        let first = list.first;
        if let Some(first) = first.some() {
            self.set_link(chain, first, |link| link.previous = id)?;
        } else {
            list.last = id;
        }
        list.first = id;
        self.set_link(chain, id, |link| *link = Link { previous: ObjectId::NONE, next: first })
    }

    /// Takes a record out of a list.
    pub(crate) fn unlink(&mut self, chain: Chain, list: &mut List, id: ObjectId) -> Step<()> {
        let Link { previous, next } = self.link(chain, id)?;
        match previous.some() {
            Some(previous) => self.set_link(chain, previous, |link| link.next = next)?,
            None => list.first = next,
        }
        match next.some() {
            Some(next) => self.set_link(chain, next, |link| link.previous = previous)?,
            None => list.last = previous,
        }
        self.set_link(chain, id, |link| *link = Link::default())
    }

    /// Puts `new` where `old` is in a list.
    pub(crate) fn replace(
        &mut self,
        chain: Chain,
        list: &mut List,
        old: ObjectId,
        new: ObjectId,
    ) -> Step<()> {
        let Link { previous, next } = self.link(chain, old)?;
        match previous.some() {
            Some(previous) => self.set_link(chain, previous, |link| link.next = new)?,
            None => list.first = new,
        }
        match next.some() {
            Some(next) => self.set_link(chain, next, |link| link.previous = new)?,
            None => list.last = new,
        }
        self.set_link(chain, old, |link| *link = Link::default())?;
        self.set_link(chain, new, |link| *link = Link { previous, next })
    }

    /// The id after `id` in its list.
    pub(crate) fn next(&mut self, id: ObjectId) -> Step<ObjectId> {
        self.next_in(Chain::Member, id)
    }

    /// The same in a list of this kind. Neighbours that name each other make no circle, so that whoever starts
    /// at a list's first comes to its end.
    pub(crate) fn next_in(&mut self, chain: Chain, id: ObjectId) -> Step<ObjectId> {
        let next = self.link(chain, id)?.next;
        match next.some() {
            Some(next) => self.neighbour(chain, next, id),
            None => Ok(next),
        }
    }

    /// The first of a list.
    pub(crate) fn first_in(&mut self, chain: Chain, list: List) -> Step<ObjectId> {
        match list.first.some() {
            Some(first) => self.neighbour(chain, first, ObjectId::NONE),
            None => Ok(list.first),
        }
    }

    /// `id`, which must follow `previous`.
    fn neighbour(&mut self, chain: Chain, id: ObjectId, previous: ObjectId) -> Step<ObjectId> {
        let named = self.link(chain, id)?.previous;
        if named != previous {
            let what = format_args!("object {id} follows {previous} in a list and names {named}");
            return Err(Stop::Failed(contradiction(what)));
        }
        Ok(id)
    }

    /// Makes sure that the change can be applied, and ends the transaction.
    pub(crate) fn finish(self, urgency: Urgency) -> Step<Plan> {
        let indexes: Vec<u64> = self.blocks.keys().map(|index| index.0).collect();
        let nodes = self.engine.forest.prepare_set(Tree::Objects, &self.engine.objects, &indexes)?;
        self.engine.forest.require(nodes, urgency)?;
        let Self { blocks, heads, next_object, epoch, roots, .. } = self;
        Ok(Plan { blocks, heads, next_object, epoch, roots, nodes })
    }
}

impl Plan {
    /// Fills in what is known only after a tree was changed: the root of a version put by this plan.
    pub(crate) fn set_version_root(&mut self, id: ObjectId, root: crate::format::Pointer) {
        let (index, at) = record_place(id);
        let Some(block) = self.blocks.get_mut(&index) else { panic!("version {id} is not in the plan") };
        let Some(Record::Version(mut version)) = Record::decode(&block[at..at + RECORD_SIZE]) else {
            panic!("object {id} is not a version in the plan");
        };
        version.root = root;
        block[at..at + RECORD_SIZE].copy_from_slice(&Record::Version(version).encode());
    }

    /// Applies the change. The engine must be as it was when the plan was finished.
    pub(crate) fn apply(self, engine: &mut Engine) {
        for (index, block) in self.blocks {
            let empty = block.iter().all(|&byte| byte == 0);
            engine.objects = match empty {
                true => engine.forest.remove_content(Tree::Objects, engine.objects, index.0),
                false => {
                    engine.forest.update_content(Tree::Objects, engine.objects, index.0, &mut |old, _| {
                        old.copy_from_slice(&block[..]);
                        ChangeId(0)
                    })
                }
            };
        }
        for (volume, head) in self.heads {
            match head {
                Some(head) => engine.heads.insert(volume, head),
                None => engine.heads.remove(&volume),
            };
        }
        engine.next_object = engine.next_object.max(self.next_object);
        engine.forest.epoch = self.epoch;
        engine.unresolved_roots.extend(self.roots);
    }
}
