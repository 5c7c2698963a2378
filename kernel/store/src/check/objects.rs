//! Superblocks, and the records of the object table: do they agree with each other?

use super::walk::{Located, Tree};
use super::{Checker, Halt};
use crate::cache::LEVELS;
use crate::commit::superblock_places;
use crate::device::{BLOCK_SIZE, BlockDevice};
use crate::forest::{TREE_BLOCKS, span};
use crate::format::object::{
    Bound, RECORD_SIZE, RECORDS_PER_BLOCK, Record, RootRecord, VersionKind, VersionRecord,
};
use crate::format::pointer::pointer_at;
use crate::format::superblock::{SLOTS, SUPERBLOCK_SIZE, Superblock};
use crate::format::{Address, NODE_FANOUT, Pointer};
use crate::names::{BUCKETS_START, bucket_names};
use crate::types::{BlockIndex, Epoch, ObjectId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Blocks of the object table read together.
const GROUP: usize = 16;

/// What a check keeps of a version's record, for each in the pool.
#[derive(Clone, Copy)]
pub(crate) struct Version {
    pub(crate) kind: VersionKind,
    pub(crate) parent: ObjectId,
    child_count: u64,
    next: ObjectId,
    pub(crate) root: Pointer,
    pub(crate) epoch: Epoch,
    pub(crate) cursor: BlockIndex,
    pub(crate) bound: Bound,
}

impl From<VersionRecord> for Version {
    fn from(record: VersionRecord) -> Self {
        let VersionRecord { kind, parent, child_count, link, root, epoch, cursor, bound, .. } = record;
        Self { kind, parent, child_count, next: link.next, root, epoch, cursor, bound }
    }
}

impl Version {
    /// Whether background work may take it up.
    fn is_ready(&self) -> bool {
        self.kind == VersionKind::Drop || self.kind == VersionKind::Hidden && self.child_count <= 1
    }
}

impl<D: BlockDevice> Checker<'_, D> {
    /// Every copy of a superblock that should be there is there.
    pub(crate) async fn check_superblocks(&mut self) {
        let members = self.superblock.members.clone();
        for (member, blocks) in members.into_iter().enumerate() {
            let disk = self.shell.devices[member].name();
            let commit = self.superblock.commit;
            for (n, place) in (0..).zip(superblock_places(blocks)) {
                let slot: u64 = n % SLOTS;
                // The other slot has the commit before.
                let expected = commit - (commit + slot) % SLOTS;
                let read = match self.shell.read_blocks(Address::new(member, place), 1).await {
                    Ok(read) => read,
                    Err(error) => {
                        let what =
                            format!("the superblock at block {place} of disk {disk} cannot be read: {error}");
                        self.find(what);
                        continue;
                    }
                };
                let bytes = read.first().and_then(|block| block[..SUPERBLOCK_SIZE].try_into().ok());
                match bytes.map(Superblock::decode) {
                    Some(Ok(found)) if found.commit >= expected && usize::from(found.member) == member => {}
                    Some(Ok(Superblock { commit, member: of, .. })) => self.find(format!(
                        "the superblock at block {place} of disk {disk} is of commit {commit} and member {of}, \
                         not of commit {expected} and member {member}"
                    )),
                    // A pool of a single commit has written only one slot.
                    _ if commit < 2 => {}
                    _ => self.find(format!("the superblock at block {place} of disk {disk} is damaged")),
                }
            }
        }
    }

    /// Reads the whole object table; keeps the versions and returns the root record.
    pub(crate) async fn read_objects(&mut self) -> Result<RootRecord, Halt> {
        let contents = self.object_blocks().await?;
        let (mut root, mut named, mut listed) = (RootRecord::default(), 0, 0u64);
        for group in contents.chunks(GROUP) {
            let blocks = self.read_all(group, 0, Tree::Objects).await;
            for (&(_, index), block) in group.iter().zip(&blocks) {
                let Some(block) = block else { continue };
                if index >= BUCKETS_START {
                    listed += bucket_names(block);
                    continue;
                }
                for (slot, bytes) in block.chunks_exact(RECORD_SIZE).enumerate() {
                    let id = ObjectId(index * RECORDS_PER_BLOCK + slot as u64);
                    match Record::decode(bytes) {
                        Some(Record::Root(record)) => root = record,
                        Some(Record::Version(version)) => {
                            named += u64::from(version.kind == VersionKind::Checkpoint);
                            self.versions.insert(id, version.into());
                        }
                        Some(Record::Volume(volume)) => named += u64::from(volume.head != ObjectId::NONE),
                        Some(Record::Refpoint(_)) => named += 1,
                        Some(_) => {}
                        None if bytes[0] == 0 => {}
                        None => self.find(format!("object {id} is damaged")),
                    }
                }
            }
            self.breathe().await?;
        }
        if (named, listed) != (root.index_entries, root.index_entries) {
            let expected = root.index_entries;
            self.find(format!("{named} objects have names, the index lists {listed} and counts {expected}"));
        }
        Ok(root)
    }

    /// Where the object table's contents lie, in their order.
    async fn object_blocks(&mut self) -> Result<Vec<Located>, Halt> {
        let mut pointers: Vec<Located> = alloc::vec![(self.superblock.objects, 0)];
        // The walk that follows says which block is in two places; here it would have no end.
        let mut met = BTreeSet::new();
        for level in (1..=LEVELS).rev() {
            let mut below = Vec::new();
            for group in pointers.chunks(GROUP) {
                let blocks = self.read_all(group, level, Tree::Objects).await;
                for (&(_, base), block) in group.iter().zip(&blocks) {
                    let Some(block) = block else { continue };
                    let children = (0..NODE_FANOUT)
                        .map(|slot| (pointer_at(block, slot), base + slot as u64 * span(level - 1)));
                    below.extend(children.filter(|(child, _)| !child.is_hole() && met.insert(child.address)));
                }
                self.breathe().await?;
            }
            pointers = below;
        }
        Ok(pointers)
    }

    /// Parents, children and counts agree.
    pub(crate) fn check_version_tree(&mut self, root: &RootRecord) {
        let mut children: BTreeMap<ObjectId, u64> = BTreeMap::new();
        let mut findings = Vec::new();
        let mut releases = 0;
        for (&id, version) in &self.versions {
            releases += u64::from(matches!(version.kind, VersionKind::Hidden | VersionKind::Drop));
            let in_tree = version.kind != VersionKind::Drop;
            let Some(parent) = version.parent.some().filter(|_| in_tree) else { continue };
            *children.entry(parent).or_default() += 1;
            match self.versions.get(&parent) {
                None => findings.push(format!("version {id} has a parent {parent} that does not exist")),
                Some(parent) if parent.kind == VersionKind::Head => {
                    findings.push(format!("version {id} has a live head for a parent"));
                }
                Some(_) => {}
            }
        }
        for (id, version) in &self.versions {
            let counted = children.get(id).copied().unwrap_or(0);
            if counted != version.child_count {
                findings
                    .push(format!("version {id} counts {} children and has {counted}", version.child_count));
            }
        }
        if releases != root.releases {
            findings.push(format!("{releases} versions wait for release, {} are counted", root.releases));
        }
        findings.extend(self.ready_findings(root));
        findings.into_iter().for_each(|finding| self.find(finding));
    }

    /// What background work goes by: all that is ready and nothing else, drop jobs first, for releases may free nodes that
    /// those have yet to look at.
    fn ready_findings(&self, root: &RootRecord) -> Vec<String> {
        let mut findings = Vec::new();
        let ready = self.versions.values().filter(|version| version.is_ready()).count();
        let (mut next, mut met, mut releases) = (root.ready.first, 0, 0);
        while let Some(id) = next.some() {
            let Some(version) = self.versions.get(&id).filter(|version| version.is_ready() && met < ready)
            else {
                findings
                    .push(format!("version {id} is in the list of what is ready for release, and is not"));
                return findings;
            };
            if version.kind == VersionKind::Hidden {
                releases += 1;
            } else if releases > 0 {
                findings.push(format!("drop job {id} waits behind {releases} releases"));
            }
            met += 1;
            next = version.next;
        }
        if met != ready {
            findings.push(format!("{ready} versions are ready for release, {met} are listed"));
        }
        findings
    }
}

const _: () = assert!(BLOCK_SIZE.is_multiple_of(RECORD_SIZE) && TREE_BLOCKS > BUCKETS_START);
