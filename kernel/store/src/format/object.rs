//! Records of the object table: 256 bytes each, 16 to a block, found at the place their id names.
//!
//! Records refer to each other by id and form doubly linked lists, so that every administrative operation
//! touches a bounded number of them.

use super::codec::{Reader, Writer};
use super::pointer::Pointer;
use crate::device::BLOCK_SIZE;
use crate::forest::TREE_BLOCKS;
use crate::limits::VOLUME_SIZE_MAX;
use crate::names::{BUCKET_ENTRIES, BUCKETS_MAX};
use crate::types::{BlockIndex, ChangeId, Epoch, Name, ObjectId, TimelineId};

/// Bytes of a record.
pub(crate) const RECORD_SIZE: usize = 256;
/// Records in a block.
pub(crate) const RECORDS_PER_BLOCK: u64 = (BLOCK_SIZE / RECORD_SIZE) as u64;
/// The record from which all others are found.
pub(crate) const ROOT_OBJECT: ObjectId = ObjectId(1);

/// Ends of a list of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) first: ObjectId,
    pub(crate) last: ObjectId,
}

/// A record's neighbours in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) previous: ObjectId,
    pub(crate) next: ObjectId,
}

/// The pool's own record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RootRecord {
    pub(crate) volumes: List,
    /// Hidden versions with at most one child, and drop jobs: ready to be released.
    pub(crate) ready: List,
    /// Deleted volumes and timelines whose points are still to be taken out.
    pub(crate) purging: List,
    /// Names in the index, and buckets it is spread over.
    pub(crate) index_entries: u64,
    pub(crate) index_buckets: u64,
    /// Hidden versions and drop jobs in all.
    pub(crate) releases: u64,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeRecord {
    pub(crate) name: Name,
    /// In the list of volumes, or of what is being purged.
    pub(crate) link: Link,
    pub(crate) head: ObjectId,
    /// The change id writes carry now.
    pub(crate) clock: ChangeId,
    pub(crate) timeline: ObjectId,
    pub(crate) checkpoints: List,
    pub(crate) refpoints: List,
    pub(crate) origin: ObjectId,
    pub(crate) created: u64,
}

/// What a version is to its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionKind {
    /// The live contents.
    Head,
    /// A checkpoint, found by name.
    Checkpoint,
    /// Deleted, converted or replaced; released once at most one child is left.
    Hidden,
    /// A revert's new contents, while they are being built.
    Building,
    /// Subtrees that left a head: not part of the version tree.
    Drop,
}

/// Up to which epoch another version still needs blocks: `before` for what ends at or before `split`,
/// `after` for the rest. They differ only while the parent is being released up to `split`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) before: Epoch,
    pub(crate) after: Epoch,
    pub(crate) split: BlockIndex,
}

impl Bound {
    pub(crate) fn same(epoch: Epoch) -> Self {
        Self { before: epoch, after: epoch, split: BlockIndex(0) }
    }

    /// For a block or node whose range ends at `end`.
    #[inline]
    pub(crate) fn for_end(&self, end: u64) -> Epoch {
        if end <= self.split.0 { self.before } else { self.after }
    }
}

/// A version of a volume's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionRecord {
    pub(crate) kind: VersionKind,
    pub(crate) name: Option<Name>,
    pub(crate) volume: ObjectId,
    /// In the volume's checkpoints, or the pool's list of ready releases.
    pub(crate) link: Link,
    /// Among the parent's children.
    pub(crate) sibling: Link,
    /// For a drop job, which is no part of the version tree: the head that the subtrees left.
    pub(crate) parent: ObjectId,
    pub(crate) children: List,
    pub(crate) child_count: u64,
    pub(crate) root: Pointer,
    pub(crate) size: u64,
    /// Blocks with a later birth are not part of this version. For a head: unused. For a drop job: when it
    /// was made.
    pub(crate) epoch: Epoch,
    pub(crate) change: ChangeId,
    /// Data blocks reachable. For a drop job: counted, and not yet taken off the volume's.
    pub(crate) allocated: u64,
    pub(crate) created: u64,
    /// How far its release has come.
    pub(crate) cursor: BlockIndex,
    /// Captured when a drop job was made.
    pub(crate) bound: Bound,
}

/// A reference point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefpointRecord {
    pub(crate) name: Name,
    pub(crate) volume: ObjectId,
    pub(crate) link: Link,
    pub(crate) timeline: TimelineId,
    pub(crate) incarnation: u64,
    pub(crate) change: ChangeId,
    pub(crate) created: u64,
}

/// A line of history, shared by a volume and the clones that came from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimelineRecord {
    pub(crate) id: TimelineId,
    /// Where it forked from, and at which change.
    pub(crate) parent: ObjectId,
    pub(crate) fork: ChangeId,
    /// The volume and the timelines that came from it.
    pub(crate) references: u64,
    /// How many ancestors it has.
    pub(crate) depth: u64,
    pub(crate) incarnations: List,
    /// In the list of what is being purged.
    pub(crate) link: Link,
}

/// From which change id on a timeline's points were made in one opening of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IncarnationRecord {
    pub(crate) incarnation: u64,
    pub(crate) first: ChangeId,
    pub(crate) link: Link,
}

/// Where a clone came from, in the words of that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginRecord {
    pub(crate) volume: Name,
    pub(crate) checkpoint: Name,
}

/// Any record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Root(RootRecord),
    Volume(VolumeRecord),
    Version(VersionRecord),
    Refpoint(RefpointRecord),
    Timeline(TimelineRecord),
    Incarnation(IncarnationRecord),
    Origin(OriginRecord),
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; RECORD_SIZE] {
        let mut w = Writer::default();
        match self {
            Self::Root(r) => {
                w.u8(1).list(r.volumes).list(r.ready).list(r.purging);
                w.u64(r.index_entries).u64(r.index_buckets).u64(r.releases);
            }
            Self::Volume(v) => {
                w.u8(2).name(Some(&v.name)).link(v.link).u64(v.head.0).u64(v.clock.0).u64(v.timeline.0);
                w.list(v.checkpoints).list(v.refpoints).u64(v.origin.0).u64(v.created);
            }
            Self::Version(v) => {
                w.u8(3).u8(v.kind as u8).name(v.name.as_ref()).u64(v.volume.0).link(v.link).link(v.sibling);
                w.u64(v.parent.0).list(v.children).u32(v.child_count as u32).bytes(&v.root.to_bytes());
                w.u64(v.size).u64(v.epoch.0).u64(v.change.0).u64(v.allocated).u64(v.created).u64(v.cursor.0);
                w.bound(v.bound);
            }
            Self::Refpoint(p) => {
                w.u8(4).name(Some(&p.name)).u64(p.volume.0).link(p.link).u128(p.timeline.0);
                w.u64(p.incarnation).u64(p.change.0).u64(p.created);
            }
            Self::Timeline(t) => {
                w.u8(5).u128(t.id.0).u64(t.parent.0).u64(t.fork.0).u64(t.references).u64(t.depth);
                w.list(t.incarnations).link(t.link);
            }
            Self::Incarnation(i) => {
                w.u8(6).u64(i.incarnation).u64(i.first.0).link(i.link);
            }
            Self::Origin(o) => {
                w.u8(7).name(Some(&o.volume)).name(Some(&o.checkpoint));
            }
        }
        w.pad_to(RECORD_SIZE);
        let mut bytes = [0; RECORD_SIZE];
        bytes.copy_from_slice(&w.0);
        bytes
    }

    /// `None` for an empty place and for bytes that are no record.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let record = match r.u8()? {
            1 => Self::Root(RootRecord {
                volumes: r.list()?,
                ready: r.list()?,
                purging: r.list()?,
                index_entries: r.u64()?,
                index_buckets: r.u64()?,
                releases: r.u64()?,
            }),
            2 => Self::Volume(VolumeRecord {
                name: r.name()??,
                link: r.link()?,
                head: r.id()?,
                clock: ChangeId(r.u64()?),
                timeline: r.id()?,
                checkpoints: r.list()?,
                refpoints: r.list()?,
                origin: r.id()?,
                created: r.u64()?,
            }),
            3 => Self::Version(r.version()?),
            4 => Self::Refpoint(RefpointRecord {
                name: r.name()??,
                volume: r.id()?,
                link: r.link()?,
                timeline: TimelineId(r.u128()?),
                incarnation: r.u64()?,
                change: ChangeId(r.u64()?),
                created: r.u64()?,
            }),
            5 => Self::Timeline(TimelineRecord {
                id: TimelineId(r.u128()?),
                parent: r.id()?,
                fork: ChangeId(r.u64()?),
                references: r.u64()?,
                depth: r.u64()?,
                incarnations: r.list()?,
                link: r.link()?,
            }),
            6 => Self::Incarnation(IncarnationRecord {
                incarnation: r.u64()?,
                first: ChangeId(r.u64()?),
                link: r.link()?,
            }),
            7 => Self::Origin(OriginRecord { volume: r.name()??, checkpoint: r.name()?? }),
            _ => return None,
        };
        (r.rest_is_zero() && record.is_possible()).then_some(record)
    }

    /// Whether sizes and counts are such as any pool can have.
    fn is_possible(&self) -> bool {
        match self {
            Self::Root(root) => {
                root.index_buckets <= BUCKETS_MAX && root.index_entries <= root.index_buckets * BUCKET_ENTRIES
            }
            Self::Volume(volume) => volume.clock > ChangeId(0),
            Self::Version(version) => {
                let size = version.size <= VOLUME_SIZE_MAX && version.size.is_multiple_of(BLOCK_SIZE as u64);
                size && version.allocated <= TREE_BLOCKS && version.cursor.0 <= TREE_BLOCKS
            }
            Self::Refpoint(_) | Self::Timeline(_) | Self::Incarnation(_) | Self::Origin(_) => true,
        }
    }
}

impl Writer {
    fn list(&mut self, list: List) -> &mut Self {
        self.u64(list.first.0).u64(list.last.0)
    }

    fn link(&mut self, link: Link) -> &mut Self {
        self.u64(link.previous.0).u64(link.next.0)
    }

    fn bound(&mut self, bound: Bound) -> &mut Self {
        self.u64(bound.before.0).u64(bound.after.0).u64(bound.split.0)
    }

    fn name(&mut self, name: Option<&Name>) -> &mut Self {
        let text = name.map_or("", Name::as_str);
        let end = self.0.len() + 1 + Name::MAX;
        self.u8(text.len() as u8).bytes(text.as_bytes()).pad_to(end)
    }
}

impl Reader<'_> {
    fn id(&mut self) -> Option<ObjectId> {
        self.u64().map(ObjectId)
    }

    fn list(&mut self) -> Option<List> {
        Some(List { first: self.id()?, last: self.id()? })
    }

    fn link(&mut self) -> Option<Link> {
        Some(Link { previous: self.id()?, next: self.id()? })
    }

    /// `Some(None)` where no name is given.
    fn name(&mut self) -> Option<Option<Name>> {
        let length = usize::from(self.u8()?);
        let field = self.bytes(Name::MAX)?;
        if length == 0 {
            return Some(None);
        }
        let text = core::str::from_utf8(field.get(..length)?).ok()?;
        Some(Some(Name::new(text)?))
    }

    fn version(&mut self) -> Option<VersionRecord> {
        let kind = match self.u8()? {
            0 => VersionKind::Head,
            1 => VersionKind::Checkpoint,
            2 => VersionKind::Hidden,
            3 => VersionKind::Building,
            4 => VersionKind::Drop,
            _ => return None,
        };
        Some(VersionRecord {
            kind,
            name: self.name()?,
            volume: self.id()?,
            link: self.link()?,
            sibling: self.link()?,
            parent: self.id()?,
            children: self.list()?,
            child_count: u64::from(self.u32()?),
            root: Pointer::read(self)?,
            size: self.u64()?,
            epoch: Epoch(self.u64()?),
            change: ChangeId(self.u64()?),
            allocated: self.u64()?,
            created: self.u64()?,
            cursor: BlockIndex(self.u64()?),
            bound: Bound {
                before: Epoch(self.u64()?),
                after: Epoch(self.u64()?),
                split: BlockIndex(self.u64()?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_records_fit_and_return() {
        let name = Name::new(&"n".repeat(Name::MAX)).unwrap();
        let version = VersionRecord {
            kind: VersionKind::Drop,
            name: Some(name.clone()),
            volume: ObjectId(u64::MAX),
            link: Link { previous: ObjectId(2), next: ObjectId(3) },
            sibling: Link::default(),
            parent: ObjectId(9),
            children: List { first: ObjectId(4), last: ObjectId(5) },
            child_count: 2,
            root: Pointer::hole(ChangeId(7)),
            size: 4096,
            epoch: Epoch(2),
            change: ChangeId(3),
            allocated: 4,
            created: 5,
            cursor: BlockIndex(6),
            bound: Bound { before: Epoch(1), after: Epoch(2), split: BlockIndex(3) },
        };
        for record in [
            Record::Version(version),
            Record::Origin(OriginRecord { volume: name.clone(), checkpoint: name }),
        ] {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
        assert_eq!(Record::decode(&[0; RECORD_SIZE]), None);
    }
}
