//! The walk of a check: every version's own blocks, and those of the object table and the free map.
//!
//! It goes down level by level in groups of nodes that are read together, so that the disks are kept busy
//! where contents are scattered.

use super::{Checker, Halt};
use crate::cache::LEVELS;
use crate::device::BlockDevice;
use crate::forest::span;
use crate::format::object::{Bound, VersionKind};
use crate::format::pointer::pointer_at;
use crate::format::{NODE_FANOUT, Pointer};
use crate::types::{Epoch, ObjectId};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::pin::Pin;
use futures_util::stream::{self, StreamExt};

/// Nodes read together.
const GROUP: usize = 16;
/// Adjacent blocks of content read by one request, and requests at the same time: 1 MiB in all.
const CONTENT_RUN: usize = 32;
const CONTENT_READS: usize = 8;

/// A pointer, and the first block below it.
pub(crate) type Located = (Pointer, u64);

/// The tree that a block belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Tree {
    Objects,
    Map,
    Version(ObjectId),
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Objects => f.write_str("the object table"),
            Self::Map => f.write_str("the free map"),
            Self::Version(id) => write!(f, "version {id}"),
        }
    }
}

/// What a walk knows of a tree.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    tree: Tree,
    bound: Bound,
    /// Released up to here already.
    cursor: u64,
    /// Content is metadata: verified with it.
    metadata: bool,
    /// Change ids are kept monotone; the free map counts instead.
    ordered: bool,
    verify: bool,
}

impl<D: BlockDevice> Checker<'_, D> {
    /// Meets every block in use; with `verify`, looks at each that is read too.
    pub(crate) async fn walk_all(&mut self, verify: bool) -> Result<(), Halt> {
        let objects = Place {
            tree: Tree::Objects,
            bound: Bound::default(),
            cursor: 0,
            metadata: true,
            ordered: true,
            verify,
        };
        let map = Place { tree: Tree::Map, ordered: false, ..objects };
        self.walk(&[(self.superblock.objects, 0)], LEVELS, &objects).await?;
        self.walk(&[(self.superblock.map, 0)], LEVELS, &map).await?;
        let ids: Vec<ObjectId> = self.versions.keys().copied().collect();
        for id in ids {
            let version = self.versions[&id];
            let (bound, cursor) = (self.bound_of(id), version.cursor.0);
            let tree = Tree::Version(id);
            let place = Place { tree, bound, cursor, metadata: false, ordered: true, verify };
            self.walk(&[(version.root, 0)], LEVELS, &place).await?;
        }
        Ok(())
    }

    /// Which blocks of a version are its own: those the parent does not hold too.
    fn bound_of(&self, id: ObjectId) -> Bound {
        let version = &self.versions[&id];
        if version.kind == VersionKind::Drop {
            return version.bound;
        }
        let Some(parent) = self.versions.get(&version.parent) else { return Bound::default() };
        let before = self.versions.get(&parent.parent).map_or(Epoch(0), |p| p.epoch);
        Bound { before, after: parent.epoch, split: parent.cursor }
    }

    fn walk<'b>(
        &'b mut self,
        pointers: &'b [Located],
        level: usize,
        place: &'b Place,
    ) -> Pin<Box<dyn Future<Output = Result<(), Halt>> + 'b>> {
        Box::pin(async move {
            let own: Vec<Located> = pointers
                .iter()
                .copied()
                .filter(|&(pointer, base)| place.owns(&pointer, level, base))
                .collect();
            // What was met before is not gone down into again: a tree that joins itself would have no end.
            let mut met = own;
            met.retain(|&(pointer, base)| self.meet(&pointer, base + span(level), place));
            let own = met;
            if level == 0 {
                return self.read_content(&own, place).await;
            }
            for group in own.chunks(GROUP) {
                let blocks = self.read_all(group, level, place.tree).await;
                let mut children = Vec::new();
                for (&(pointer, base), block) in group.iter().zip(&blocks) {
                    let Some(block) = block else { continue };
                    let below: [Pointer; NODE_FANOUT] = core::array::from_fn(|slot| pointer_at(block, slot));
                    if place.verify {
                        self.check_node(&pointer, &below, level, place);
                    }
                    let bases = (0..).map(|slot| base + slot * span(level - 1));
                    children.extend(below.into_iter().zip(bases).filter(|(child, _)| !child.is_hole()));
                }
                drop(blocks);
                self.breathe().await?;
                self.walk(&children, level - 1, place).await?;
            }
            Ok(())
        })
    }

    /// Verifies content as far as the check is about it.
    async fn read_content(&mut self, contents: &[Located], place: &Place) -> Result<(), Halt> {
        if !place.verify || !(place.metadata || self.data) {
            return Ok(());
        }
        let adjacent = |a: &Located, b: &Located| a.0.address.0.checked_add(1) == Some(b.0.address.0);
        let runs = contents.chunk_by(adjacent).flat_map(|run| run.chunks(CONTENT_RUN));
        let shell = self.shell;
        let reads = runs.map(async |run| {
            let read = shell.read_blocks(run[0].0.address, run.len() as u64).await;
            let verifies = |(at, block): (&Located, &_)| shell.verifies(&at.0, block);
            (run, read.is_ok_and(|blocks| run.iter().zip(&blocks).all(verifies)))
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffered(CONTENT_READS);
        while let Some((run, sound)) = reads.next().await {
            if sound {
                self.report.blocks_checked += run.len() as u64;
            } else {
                // Which of them it is, and why, is worth another look.
                self.read_all(run, 0, place.tree).await;
            }
            self.breathe().await?;
        }
        Ok(())
    }

    /// Marks a block that a version calls its own; false where something else had it already.
    fn meet(&mut self, pointer: &Pointer, end: u64, place: &Place) -> bool {
        self.met += 1;
        let address = pointer.address;
        let exists =
            self.superblock.members.get(address.member()).is_some_and(|&blocks| address.block() < blocks);
        if !exists {
            let at = self.shell.place(address);
            self.find(format!("{} points to {at}, which does not exist", place.tree));
        } else if pointer.birth > place.bound.for_end(end) && !self.marks.mark(address) {
            let at = self.shell.place(address);
            self.find(format!("{}: {at} is used twice", place.tree));
            return false;
        }
        exists
    }

    fn check_node(&mut self, parent: &Pointer, below: &[Pointer], level: usize, place: &Place) {
        let tree = place.tree;
        let at = self.shell.place(parent.address);
        for (slot, child) in below.iter().enumerate() {
            let younger = child.birth > parent.birth;
            let filled_hole = child.is_hole() && (child.birth, child.checksum) != (Epoch(0), 0);
            if younger || filled_hole || child.birth > self.superblock.epoch {
                self.find(format!("{tree}: slot {slot} of the level {level} node, {at}, is impossible"));
            }
        }
        let changes = below.iter().map(|child| child.change.0);
        let expected = match place.ordered {
            true => changes.max().is_some_and(|newest| newest <= parent.change.0),
            false => changes.fold(0, u64::wrapping_add) == parent.change.0,
        };
        if !expected {
            self.find(format!("{tree}: the node, {at}, and its pointer disagree"));
        }
    }
}

impl Place {
    /// Whether anything at or below a pointer is the version's own and not released yet.
    fn owns(&self, pointer: &Pointer, level: usize, base: u64) -> bool {
        let oldest = if base < self.bound.split.0 { self.bound.before } else { self.bound.after };
        !pointer.is_hole() && base + span(level) > self.cursor && pointer.birth > oldest
    }
}
