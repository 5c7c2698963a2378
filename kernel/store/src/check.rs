//! Proving a pool sound: `pool.check` reads all metadata, `pool.scrub` all data too.
//!
//! The check looks at a commit made for it, not at memory: those blocks do not change, and a reader's guard
//! keeps them from being reused, so clients go on meanwhile. It walks every version's own blocks, so that
//! each block in use is met exactly once, marks them, and compares the marks with the free map. The marks
//! cover one stretch of the pool at a time; a pool too large for memory takes several walks.

use crate::cache::LEVELS;
use crate::commit::superblock_places;
use crate::device::{BLOCK_SIZE, Block, BlockDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::forest::{TREE_BLOCKS, span};
use crate::format::journal::Run;
use crate::format::object::{
    Bound, RECORD_SIZE, RECORDS_PER_BLOCK, Record, RootRecord, VersionKind, VersionRecord,
};
use crate::format::pointer::pointer_at;
use crate::format::superblock::{SUPERBLOCK_SIZE, Superblock};
use crate::format::{Address, NODE_FANOUT, Pointer};
use crate::limits::FINDINGS_MAX;
use crate::map::{chunk_index, is_allocated, list_extents, list_index};
use crate::names::{BUCKETS_START, bucket_names};
use crate::open::system_runs;
use crate::pool::Progress;
use crate::shell::Shell;
use crate::space::CHUNK_BLOCKS;
use crate::sync::yield_now;
use crate::types::{CheckReport, Epoch, ObjectId};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Bytes of marks held at a time: they cover 128 GiB of a pool.
const MARKS_BYTES: usize = 4 << 20;
const STRETCH_BLOCKS: u64 = MARKS_BYTES as u64 * 8;

/// Checks a pool as of a commit made now.
pub(crate) async fn check<D: BlockDevice>(
    shell: &Shell<D>,
    data: bool,
    progress: &Progress,
) -> Result<CheckReport> {
    if shell.check_alive().is_ok() {
        shell.commit_now(false).await?;
    }
    let _guard = shell.read_guard();
    let superblock = shell.engine.borrow().durable.clone();
    let mut checker = Checker {
        shell,
        data,
        progress,
        superblock,
        report: CheckReport::default(),
        marks: Marks::default(),
        versions: BTreeMap::new(),
        walked: 0,
    };
    checker.run().await?;
    progress.set(1.0);
    Ok(checker.report)
}

/// A bit for each block of one stretch of one member.
#[derive(Default)]
struct Marks {
    start: Address,
    blocks: u64,
    bits: Vec<u8>,
}

impl Marks {
    fn cover(&mut self, member: usize, first: u64, blocks: u64) {
        (self.start, self.blocks) = (Address::new(member, first), blocks);
        self.bits.clear();
        self.bits.resize(blocks.div_ceil(8) as usize, 0);
    }

    fn covers(&self, address: Address) -> bool {
        (self.start.0..self.start.0 + self.blocks).contains(&address.0)
    }

    /// Marks a block; false if it was marked, or lies elsewhere.
    fn mark(&mut self, address: Address) -> bool {
        if !self.covers(address) {
            return true;
        }
        let at = address.0 - self.start.0;
        let (byte, bit) = (&mut self.bits[(at / 8) as usize], 1 << (at % 8));
        let new = *byte & bit == 0;
        *byte |= bit;
        new
    }

    fn is_marked(&self, address: Address) -> bool {
        let at = address.0 - self.start.0;
        self.bits[(at / 8) as usize] >> (at % 8) & 1 == 1
    }
}

/// Which tree a block belongs to, for findings.
#[derive(Clone)]
struct Place {
    tree: &'static str,
    /// The version, for volumes.
    version: ObjectId,
    bound: Bound,
    /// Released up to here already.
    cursor: u64,
    /// Content is metadata: verified with it.
    metadata: bool,
    /// Change ids are kept monotone; the free map counts instead.
    ordered: bool,
}

struct Checker<'a, D: BlockDevice> {
    shell: &'a Shell<D>,
    data: bool,
    progress: &'a Progress,
    superblock: Superblock,
    report: CheckReport,
    marks: Marks,
    versions: BTreeMap<ObjectId, VersionRecord>,
    walked: u64,
}

impl<D: BlockDevice> Checker<'_, D> {
    fn find(&mut self, finding: String) {
        self.report.errors += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        }
    }

    async fn run(&mut self) -> Result<()> {
        self.check_superblocks().await?;
        let root = self.read_objects().await?;
        self.check_version_tree(&root);
        let stretches = self.stretches().await?;
        let count = stretches.len();
        for (n, (member, first, blocks)) in stretches.into_iter().enumerate() {
            self.marks.cover(member, first, blocks);
            self.mark_system();
            // Everything is verified in the first walk; later ones only mark.
            self.walk_all(n == 0).await?;
            self.compare_with_map().await?;
            self.progress.set((n + 1) as f32 / count as f32);
        }
        Ok(())
    }

    async fn check_superblocks(&mut self) -> Result<()> {
        let members = self.superblock.members.clone();
        for (member, blocks) in members.into_iter().enumerate() {
            let mut newest = 0;
            for place in superblock_places(blocks) {
                let read = self.shell.read_blocks(Address::new(member, place), 1).await.unwrap_or_default();
                let bytes = read.first().and_then(|block| block[..SUPERBLOCK_SIZE].try_into().ok());
                match bytes.map(Superblock::decode) {
                    Some(Ok(found)) => newest = newest.max(found.commit),
                    // A pool of a single commit has written only one slot.
                    _ if self.superblock.commit < 2 => {}
                    _ => self.find(format!("the superblock at block {place} of member {member} is damaged")),
                }
            }
            if newest < self.superblock.commit {
                self.find(format!("member {member} has no superblock of commit {}", self.superblock.commit));
            }
        }
        Ok(())
    }

    /// Reads a block of metadata from its device, whatever the cache holds.
    async fn read(&mut self, pointer: &Pointer, what: &str) -> Option<Block> {
        self.report.blocks_checked += 1;
        match self.shell.read_verified(pointer).await {
            Ok(block) => Some(block),
            Err(error) => {
                let why = error.observations().first().cloned().unwrap_or_default();
                self.find(format!("{what} at {} cannot be read: {why}", pointer.address));
                None
            }
        }
    }

    /// A block of the free map, which a walk has verified or will.
    async fn map_content(&mut self, index: u64) -> Option<Block> {
        let map = self.superblock.map;
        self.shell.run(|engine| Ok(engine.forest.content(&map, index)?.cloned())).await.unwrap_or_default()
    }

    /// Reads the whole object table; keeps the versions and returns the root record.
    async fn read_objects(&mut self) -> Result<RootRecord> {
        let mut contents = Vec::new();
        self.content_pointers(self.superblock.objects, LEVELS, 0, &mut contents).await?;
        let (mut root, mut named, mut listed) = (RootRecord::default(), 0, 0u64);
        for (index, pointer) in contents {
            let Some(block) = self.read(&pointer, "a block of the object table").await else { continue };
            if index >= BUCKETS_START {
                listed += bucket_names(&block);
                continue;
            }
            for (slot, bytes) in block.chunks_exact(RECORD_SIZE).enumerate() {
                let id = ObjectId(index * RECORDS_PER_BLOCK + slot as u64);
                match Record::decode(bytes) {
                    Some(Record::Root(record)) => root = record,
                    Some(Record::Version(version)) => {
                        named += u64::from(version.kind == VersionKind::Checkpoint);
                        self.versions.insert(id, version);
                    }
                    Some(Record::Volume(volume)) => named += u64::from(volume.head != ObjectId::NONE),
                    Some(Record::Refpoint(_)) => named += 1,
                    Some(_) => {}
                    None if bytes[0] == 0 => {}
                    None => self.find(format!("object {id} is damaged")),
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

    fn content_pointers<'b>(
        &'b mut self,
        pointer: Pointer,
        level: usize,
        base: u64,
        found: &'b mut Vec<(u64, Pointer)>,
    ) -> core::pin::Pin<Box<dyn Future<Output = Result<()>> + 'b>> {
        Box::pin(async move {
            if pointer.is_hole() {
                return Ok(());
            }
            if level == 0 {
                found.push((base, pointer));
                return Ok(());
            }
            let Some(block) = self.read(&pointer, "a node").await else { return Ok(()) };
            for slot in 0..NODE_FANOUT {
                let base = base + slot as u64 * span(level - 1);
                self.content_pointers(pointer_at(&block, slot), level - 1, base, found).await?;
            }
            Ok(())
        })
    }

    fn check_version_tree(&mut self, root: &RootRecord) {
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
        findings.into_iter().for_each(|finding| self.find(finding));
    }

    /// The stretches of the pool in which the free map or a walk may find something.
    async fn stretches(&mut self) -> Result<Vec<(usize, u64, u64)>> {
        let mut stretches = Vec::new();
        for (member, blocks) in self.superblock.members.clone().into_iter().enumerate() {
            let mut first = 0;
            while first < blocks {
                let length = STRETCH_BLOCKS.min(blocks - first);
                if self.stretch_in_use(member, first, length).await {
                    stretches.push((member, first, length));
                }
                first += length;
            }
        }
        Ok(stretches)
    }

    async fn stretch_in_use(&mut self, member: usize, first: u64, blocks: u64) -> bool {
        // The upper part of the tree is in no need of being read chunk by chunk where it is a hole.
        let (start, end) =
            (chunk_index(Address::new(member, first)), (first + blocks).div_ceil(CHUNK_BLOCKS));
        let end = chunk_index(Address::new(member, (end - 1) * CHUNK_BLOCKS));
        for index in start..=end {
            let map = self.superblock.map;
            match self.shell.run(|engine| engine.forest.lookup(&map, index)).await {
                Ok(pointer) if pointer.change.0 == 0 => {}
                _ => return true,
            }
        }
        false
    }

    fn mark_system(&mut self) {
        for run in system_runs(&self.superblock) {
            self.mark_run(run);
        }
    }

    fn mark_run(&mut self, run: Run) {
        for block in 0..run.blocks {
            let address = Address(run.address.0 + block);
            if !self.marks.mark(address) {
                self.find(format!("{address} is used twice"));
            }
        }
    }

    async fn walk_all(&mut self, verify: bool) -> Result<()> {
        let bound = Bound::same(Epoch(0));
        let own = Place {
            tree: "the object table",
            version: ObjectId::NONE,
            bound,
            cursor: 0,
            metadata: true,
            ordered: true,
        };
        let map = Place { tree: "the free map", ordered: false, ..own.clone() };
        self.walk(self.superblock.objects, LEVELS, 0, &own, verify).await?;
        self.walk(self.superblock.map, LEVELS, 0, &map, verify).await?;
        let ids: Vec<ObjectId> = self.versions.keys().copied().collect();
        for id in ids {
            let Some(version) = self.versions.get(&id) else { continue };
            let bound = self.bound_of(version);
            let place = Place {
                tree: "version",
                version: id,
                bound,
                cursor: version.cursor.0,
                metadata: false,
                ordered: true,
            };
            self.walk(version.root, LEVELS, 0, &place, verify).await?;
        }
        Ok(())
    }

    /// Which blocks of a version are its own: those the parent does not hold too.
    fn bound_of(&self, version: &VersionRecord) -> Bound {
        if version.kind == VersionKind::Drop {
            return version.bound;
        }
        let Some(parent) = self.versions.get(&version.parent) else { return Bound::same(Epoch(0)) };
        let before = self.versions.get(&parent.parent).map_or(Epoch(0), |p| p.epoch);
        Bound { before, after: parent.epoch, split: parent.cursor }
    }

    fn walk<'b>(
        &'b mut self,
        pointer: Pointer,
        level: usize,
        base: u64,
        place: &'b Place,
        verify: bool,
    ) -> core::pin::Pin<Box<dyn Future<Output = Result<()>> + 'b>> {
        Box::pin(async move {
            let end = base + span(level);
            let whole =
                pointer.is_hole() || (end <= place.cursor) || pointer.birth <= oldest(&place.bound, base);
            if whole {
                return Ok(());
            }
            self.meet(&pointer, end, place);
            if level == 0 {
                if verify && (place.metadata || self.data) {
                    self.read(&pointer, place.tree).await;
                }
                return self.breathe().await;
            }
            let Some(block) = self.read(&pointer, place.tree).await else { return Ok(()) };
            if verify {
                self.check_node(&pointer, &block, level, place);
            }
            for slot in 0..NODE_FANOUT {
                let base = base + slot as u64 * span(level - 1);
                self.walk(pointer_at(&block, slot), level - 1, base, place, verify).await?;
            }
            Ok(())
        })
    }

    /// Marks a block that a version calls its own.
    fn meet(&mut self, pointer: &Pointer, end: u64, place: &Place) {
        let address = pointer.address;
        let exists =
            self.superblock.members.get(address.member()).is_some_and(|&blocks| address.block() < blocks);
        if !exists {
            self.find(format!("{} {} points to {address}, which does not exist", place.tree, place.version));
        } else if pointer.birth > place.bound.for_end(end) && !self.marks.mark(address) {
            self.find(format!("{} {}: {address} is used twice", place.tree, place.version));
        }
    }

    fn check_node(&mut self, parent: &Pointer, block: &Block, level: usize, place: &Place) {
        let mut newest = 0;
        let mut count = 0u64;
        for slot in 0..NODE_FANOUT {
            let child = pointer_at(block, slot);
            newest = newest.max(child.change.0);
            count = count.wrapping_add(child.change.0);
            let younger = child.birth > parent.birth;
            let filled_hole = child.is_hole() && (child.birth, child.checksum) != (Epoch(0), 0);
            if younger || filled_hole || child.birth > self.superblock.epoch {
                let (tree, version) = (place.tree, place.version);
                let at = parent.address;
                self.find(format!(
                    "{tree} {version}: slot {slot} of the level {level} node at {at} is impossible"
                ));
            }
        }
        let expected = if place.ordered { newest <= parent.change.0 } else { count == parent.change.0 };
        if !expected {
            let (tree, version) = (place.tree, place.version);
            self.find(format!("{tree} {version}: the node at {} and its pointer disagree", parent.address));
        }
    }

    /// Compares the marks with bitmaps and lists of freed extents.
    async fn compare_with_map(&mut self) -> Result<()> {
        for list in 0..2u8 {
            for block in 0..u64::from(self.superblock.freed_blocks[usize::from(list)]) {
                let content = self.map_content(list_index(list, block)).await;
                let swept = if list == self.superblock.filling { 0 } else { self.superblock.sweep_cursor };
                let runs: Vec<Run> =
                    content.as_ref().and_then(list_extents).map(Iterator::collect).unwrap_or_default();
                runs.into_iter().filter(|run| run.address.0 >= swept).for_each(|run| self.mark_run(run));
            }
        }
        let member = self.marks.start.member();
        let (first, blocks) = (self.marks.start.block(), self.marks.blocks);
        let (mut leaked, mut lost) = (Vec::new(), Vec::new());
        for chunk in first / CHUNK_BLOCKS..(first + blocks).div_ceil(CHUNK_BLOCKS) {
            let address = Address::new(member, chunk * CHUNK_BLOCKS);
            let bits = self.map_content(chunk_index(address)).await;
            for block in chunk * CHUNK_BLOCKS..((chunk + 1) * CHUNK_BLOCKS).min(first + blocks) {
                let address = Address::new(member, block);
                match (is_allocated(bits.as_ref(), block), self.marks.is_marked(address)) {
                    (true, false) => leaked.push(address),
                    (false, true) => lost.push(address),
                    _ => {}
                }
            }
            self.breathe().await?;
            let few = |list: &mut Vec<Address>| list.len() < FINDINGS_MAX;
            if !few(&mut leaked) || !few(&mut lost) {
                break;
            }
        }
        leaked.into_iter().for_each(|a| self.find(format!("{a} is allocated and nothing uses it")));
        lost.into_iter().for_each(|a| self.find(format!("{a} is in use and the free map calls it free")));
        Ok(())
    }

    /// Lets clients go on, and stops where that was asked for.
    async fn breathe(&mut self) -> Result<()> {
        self.walked += 1;
        if self.walked.is_multiple_of(64) {
            yield_now().await;
        }
        match self.progress.cancelled() {
            true => {
                Err(Error::new(ErrorKind::Cancelled, "the check was cancelled; start it again for a verdict"))
            }
            false => Ok(()),
        }
    }
}

/// The lowest epoch that any block from `base` on may be bound by.
fn oldest(bound: &Bound, base: u64) -> Epoch {
    if base < bound.split.0 { bound.before } else { bound.after }
}

const _: () = assert!(BLOCK_SIZE.is_multiple_of(RECORD_SIZE) && TREE_BLOCKS > BUCKETS_START);
