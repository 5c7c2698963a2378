//! The block tree: one structure, used for volumes, the object table and the free map alike.
//!
//! Everything here is synchronous. A step either finds all it needs in memory and is done at once, or stops
//! with what is missing *before it has changed anything*; the caller fetches that and calls again. Hence the
//! rule: count and look up with `prepare`, then change with `update`, which cannot fail.

use crate::cache::{Cache, Entry, LEVELS, Place, State, Tree};
use crate::contradiction::{Witness, contradiction};
use crate::device::{BLOCK_SIZE, Block};
use crate::error::Error;
use crate::format::journal::Run;
use crate::format::object::Bound;
use crate::format::pointer::{Checksummer, pointer_at, set_pointer_at, zeroed_block};
use crate::format::{Address, NODE_FANOUT, Pointer};
use crate::space::{Purpose, Space, Urgency};
use crate::types::{ChangeId, Epoch};
use alloc::vec::Vec;

/// Why a step could not be done now.
#[derive(Debug)]
pub(crate) enum Stop {
    /// These blocks must be read first.
    Miss(Vec<Pointer>),
    /// A window needs this many blocks first.
    Window { purpose: Purpose, blocks: u64, urgency: Urgency },
    /// It cannot be done at all.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a step comes to.
pub(crate) type Step<T> = Result<T, Stop>;

/// Blocks below a pointer of this level; a level 0 pointer is to content.
#[inline]
pub(crate) const fn span(level: usize) -> u64 {
    1 << (7 * level)
}

/// The slot of `index` in a node of `level`.
#[inline]
pub(crate) const fn slot_of(index: u64, level: usize) -> usize {
    ((index >> (7 * (level - 1))) & (NODE_FANOUT as u64 - 1)) as usize
}

/// Blocks below a leaf node.
pub(crate) const LEAF_BLOCKS: u64 = span(1);

/// Blocks any tree can hold.
pub(crate) const TREE_BLOCKS: u64 = span(LEVELS);

/// All trees of a pool, in memory as far as they were touched, and the space they live in.
pub(crate) struct Forest {
    pub(crate) cache: Cache,
    pub(crate) space: Space,
    pub(crate) sums: Checksummer,
    pub(crate) epoch: Epoch,
    pub(crate) witness: Witness,
}

impl Forest {
    /// The cached block behind a pointer that is no hole.
    #[inline]
    pub(crate) fn load(&self, pointer: &Pointer) -> Step<&Entry> {
        let entry = self.cache.get(pointer.address).ok_or_else(|| Stop::Miss(alloc::vec![*pointer]))?;
        match entry.birth == pointer.birth {
            true => Ok(entry),
            // One block cannot be two: what lies in memory is not what this pointer means.
            false => Err(Stop::Failed(contradiction(format_args!("{} is used twice", pointer.address)))),
        }
    }

    /// The pointer in a slot below `parent`. A hole hands its change id down.
    #[inline]
    pub(crate) fn child(&self, parent: &Pointer, slot: usize) -> Step<Pointer> {
        if parent.is_hole() {
            return Ok(*parent);
        }
        Ok(pointer_at(self.load(parent)?.block(), slot))
    }

    /// The content pointer of a block.
    pub(crate) fn lookup(&self, root: &Pointer, index: u64) -> Step<Pointer> {
        let mut pointer = *root;
        for level in (1..=LEVELS).rev() {
            if pointer.is_hole() {
                return Ok(pointer);
            }
            pointer = self.child(&pointer, slot_of(index, level))?;
        }
        Ok(pointer)
    }

    /// The leaf node above a block, or the hole it lies in.
    pub(crate) fn lookup_leaf(&self, root: &Pointer, index: u64) -> Step<Pointer> {
        let mut pointer = *root;
        for level in (2..=LEVELS).rev() {
            pointer = self.child(&pointer, slot_of(index, level))?;
        }
        Ok(pointer)
    }

    /// Puts a pointer of any level into a volume; its place in nodes above `level` was prepared.
    pub(crate) fn set_pointer(
        &mut self,
        root: Pointer,
        level: usize,
        base: u64,
        new: Pointer,
        bound: &Bound,
    ) -> Pointer {
        self.set_below(root, LEVELS, 0, (level, base), new, bound)
    }

    fn set_below(
        &mut self,
        pointer: Pointer,
        level: usize,
        base: u64,
        place: (usize, u64),
        new: Pointer,
        bound: &Bound,
    ) -> Pointer {
        if level == place.0 {
            return new;
        }
        let mut edit = self.edit(Tree::Volume, level, pointer, base, bound);
        let slot = slot_of(place.1, level);
        let child_base = base + slot as u64 * span(level - 1);
        let child = self.set_below(edit.get(slot), level - 1, child_base, place, new, bound);
        edit.set(self, slot, child);
        edit.finish(self)
    }

    /// Whether a node may be changed where it is: no commit has frozen it and no checkpoint shares it.
    fn is_mutable(&self, tree: Tree, entry: &Entry) -> bool {
        entry.state == State::Dirty && (tree != Tree::Volume || entry.birth == self.epoch)
    }

    /// Makes sure that changing the blocks `first..=last` of a tree needs nothing from disk; returns how many
    /// nodes the change allocates. With `content`, the blocks themselves are metadata and are counted too.
    pub(crate) fn prepare(
        &self,
        tree: Tree,
        root: &Pointer,
        first: u64,
        last: u64,
        content: bool,
    ) -> Step<u64> {
        self.prepare_below(tree, root, LEVELS, 0, first, last, if content { 0 } else { 1 })
    }

    /// As `prepare`, for [`Forest::set_pointer`].
    pub(crate) fn prepare_pointer(&self, root: &Pointer, level: usize, base: u64) -> Step<u64> {
        self.prepare_below(Tree::Volume, root, LEVELS, 0, base, base, level + 1)
    }

    /// As `prepare` with content, for scattered blocks in ascending order. Nodes they share count once. What
    /// is missing is reported together.
    pub(crate) fn prepare_set(&self, tree: Tree, root: &Pointer, indexes: &[u64]) -> Step<u64> {
        let mut missing = Vec::new();
        let nodes = match indexes.is_empty() {
            true => 0,
            false => self.prepare_set_below(tree, root, LEVELS, indexes, &mut missing)?,
        };
        match missing.is_empty() {
            true => Ok(nodes),
            false => Err(Stop::Miss(missing)),
        }
    }

    fn prepare_set_below(
        &self,
        tree: Tree,
        pointer: &Pointer,
        level: usize,
        indexes: &[u64],
        missing: &mut Vec<Pointer>,
    ) -> Step<u64> {
        if !pointer.is_hole() && !self.cache.holds(pointer.address) {
            missing.push(*pointer);
            return Ok(0);
        }
        let mut nodes = match pointer.is_hole() {
            true => 1,
            false => u64::from(!self.is_mutable(tree, self.load(pointer)?)),
        };
        if level == 0 {
            return Ok(nodes);
        }
        for group in indexes.chunk_by(|&a, &b| slot_of(a, level) == slot_of(b, level)) {
            let child = self.child(pointer, slot_of(group[0], level))?;
            nodes += self.prepare_set_below(tree, &child, level - 1, group, missing)?;
        }
        Ok(nodes)
    }

    #[allow(clippy::too_many_arguments)]
    fn prepare_below(
        &self,
        tree: Tree,
        pointer: &Pointer,
        level: usize,
        base: u64,
        first: u64,
        last: u64,
        lowest: usize,
    ) -> Step<u64> {
        if level < lowest {
            return Ok(0);
        }
        let node = if pointer.is_hole() { None } else { Some(self.load(pointer)?) };
        let mut nodes = u64::from(node.is_none_or(|entry| !self.is_mutable(tree, entry)));
        if level == lowest {
            return Ok(nodes);
        }
        for (slot, child_base) in slots(level, base, first, last) {
            let child = node.map_or(*pointer, |entry| pointer_at(entry.block(), slot));
            nodes += self.prepare_below(tree, &child, level - 1, child_base, first, last, lowest)?;
        }
        Ok(nodes)
    }

    /// Makes sure that `nodes` metadata blocks can be taken.
    pub(crate) fn require(&self, nodes: u64, urgency: Urgency) -> Step<()> {
        let purpose = Purpose::Metadata;
        if !self.space.admits(nodes, urgency) || self.space.window_blocks(purpose) < nodes {
            return Err(Stop::Window { purpose, blocks: nodes, urgency });
        }
        self.space.promise(nodes);
        Ok(())
    }

    /// Changes the content pointers `first..=last` of a prepared tree: `change` gets each index and old
    /// pointer and returns the new one. Returns the new root.
    pub(crate) fn update(
        &mut self,
        tree: Tree,
        root: Pointer,
        first: u64,
        last: u64,
        bound: &Bound,
        change: &mut dyn FnMut(&mut Self, u64, Pointer) -> Pointer,
    ) -> Pointer {
        self.update_below(tree, root, LEVELS, 0, (first, last), bound, change)
    }

    #[allow(clippy::too_many_arguments)]
    fn update_below(
        &mut self,
        tree: Tree,
        pointer: Pointer,
        level: usize,
        base: u64,
        (first, last): (u64, u64),
        bound: &Bound,
        change: &mut dyn FnMut(&mut Self, u64, Pointer) -> Pointer,
    ) -> Pointer {
        let mut edit = self.edit(tree, level, pointer, base, bound);
        for (slot, child_base) in slots(level, base, first, last) {
            let old = edit.get(slot);
            let new = match level {
                1 => change(self, child_base, old),
                _ => self.update_below(tree, old, level - 1, child_base, (first, last), bound, change),
            };
            // A child that was changed where it lies looks the same from here.
            if new != old {
                edit.set(self, slot, new);
            }
        }
        let empty = tree != Tree::Volume && edit.uniform_hole() == Some(Pointer::default());
        let node = edit.finish(self);
        if empty {
            self.free_block(node.address);
            return Pointer::default();
        }
        node
    }

    /// Makes a node (or, at level 0, a metadata content block) changeable and takes it in hand. The node
    /// covers `span(level)` blocks from `base` on.
    pub(crate) fn edit(
        &mut self,
        tree: Tree,
        level: usize,
        pointer: Pointer,
        base: u64,
        bound: &Bound,
    ) -> Edit {
        let (pointer, place) = self.make_mutable(tree, level, pointer, base, bound);
        let borrowed = self.cache.borrow_block(place);
        let (block, pending) = borrowed.unwrap_or_else(|| (self.poison(&pointer), 0));
        let holds_data = tree == Tree::Volume && level == 1;
        Edit { tree, pointer, place, block, pending, holds_data }
    }

    fn make_mutable(
        &mut self,
        tree: Tree,
        level: usize,
        pointer: Pointer,
        base: u64,
        bound: &Bound,
    ) -> (Pointer, Place) {
        let (block, pending) = if pointer.is_hole() {
            (hole_node(level, pointer.change), 0)
        } else {
            let found = self.cache.find(pointer.address);
            let found = found.and_then(|place| Some((place, self.cache.entry(place)?)));
            match found.filter(|(_, entry)| entry.birth == pointer.birth) {
                Some((place, entry)) if self.is_mutable(tree, entry) => {
                    // A node is never older than what it holds.
                    self.cache.set_birth(place, self.epoch);
                    return (Pointer { birth: self.epoch, ..pointer }, place);
                }
                Some((_, entry)) => (entry.block().clone(), entry.pending),
                None => (self.poison(&pointer), 0),
            }
        };
        if !pointer.is_hole() {
            self.release_block(&pointer, base + span(level), bound);
        }
        let address = self.space.take_node();
        let place = self.cache.insert_dirty(tree, level, address, self.epoch, block, pending);
        (Pointer { address, birth: self.epoch, checksum: 0, ..pointer }, place)
    }

    /// What stands in memory for a prepared block that the same step has taken away: it was in two places of a
    /// tree. As a node it points nowhere, as a record or list it is damaged.
    fn poison(&self, pointer: &Pointer) -> Block {
        self.witness.note(format_args!("{} is in two places of a tree", pointer.address));
        alloc::boxed::Box::new([0xff; BLOCK_SIZE])
    }

    /// Frees one block that has left a tree, unless another version still needs it. `end` is where its range
    /// ends. Tells whether it was freed.
    pub(crate) fn release_block(&mut self, pointer: &Pointer, end: u64, bound: &Bound) -> bool {
        let free = pointer.birth > bound.for_end(end);
        if free {
            self.free_block(pointer.address);
        }
        free
    }

    pub(crate) fn free_block(&mut self, address: Address) {
        self.cache.forget(address);
        self.space.free_run(Run { address, blocks: 1 });
    }

    /// Changes a metadata content block in a prepared tree.
    pub(crate) fn update_content(
        &mut self,
        tree: Tree,
        root: Pointer,
        index: u64,
        write: &mut dyn FnMut(&mut Block, ChangeId) -> ChangeId,
    ) -> Pointer {
        let nobody = Bound::default();
        self.update(tree, root, index, index, &nobody, &mut |forest, index, old| {
            let mut edit = forest.edit(tree, 0, old, index, &nobody);
            edit.pointer.change = write(&mut edit.block, old.change);
            edit.finish(forest)
        })
    }

    /// Takes a metadata content block out of a prepared tree.
    pub(crate) fn remove_content(&mut self, tree: Tree, root: Pointer, index: u64) -> Pointer {
        let nobody = Bound::default();
        self.update(tree, root, index, index, &nobody, &mut |forest, _, old| {
            if !old.is_hole() {
                forest.free_block(old.address);
            }
            Pointer::default()
        })
    }

    /// Reads a metadata content block; `None` for a hole.
    pub(crate) fn content(&self, root: &Pointer, index: u64) -> Step<Option<&Block>> {
        let pointer = self.lookup(root, index)?;
        if pointer.is_hole() {
            return Ok(None);
        }
        Ok(Some(self.load(&pointer)?.block()))
    }

    /// Computes the checksum that a dirty block has if nothing changes before it freezes: nobody is served while everything
    /// does. What lies below it comes first; where that is not known, neither is this.
    pub(crate) fn foresee(&mut self, place: Place) {
        let entry = self.cache.entry(place).filter(|entry| entry.state == State::Dirty);
        let Some((entry, block)) = entry.and_then(|entry| Some((entry, entry.block_if_there()?))) else {
            return;
        };
        let sum = |block: &Block| self.sums.block(place.address, entry.birth, block);
        let checksum = match entry.pending {
            0 => Some(sum(block)),
            pending => self.with_what_is_foreseen(block, pending).map(|block| sum(&block)),
        };
        self.cache.foresee(place, checksum);
    }

    /// A copy of a node with the checksums that its pending slots are foreseen to get.
    fn with_what_is_foreseen(&self, block: &Block, pending: u128) -> Option<Block> {
        let mut copy = block.clone();
        for slot in set_bits(pending) {
            let child = pointer_at(block, slot);
            let checksum = self.cache.get(child.address)?.foreseen?;
            set_pointer_at(&mut copy, slot, Pointer { checksum, ..child });
        }
        Some(copy)
    }

    /// Computes the checksums of all dirty blocks of a tree, children first, where they were not foreseen, and hands them to
    /// the commit.
    pub(crate) fn freeze(&mut self, tree: Tree, frozen: &mut Vec<Place>) {
        for level in 0..=LEVELS {
            for place in self.cache.take_dirty(tree, level) {
                let foreseen = self.resolve_pending(place);
                let Some(entry) = self.cache.entry(place) else { continue };
                let compute = || self.sums.block(place.address, entry.birth, entry.block());
                let checksum = foreseen.unwrap_or_else(compute);
                debug_assert!(checksum == compute(), "{} is not what was foreseen", place.address);
                self.cache.freeze(place, checksum, foreseen.is_some());
                frozen.push(place);
            }
        }
    }

    /// Returns what was foreseen for the block, where everything below it froze as foreseen.
    fn resolve_pending(&mut self, place: Place) -> Option<u64> {
        let entry = self.cache.entry(place)?;
        let mut foreseen = entry.foreseen;
        if entry.pending == 0 {
            return foreseen;
        }
        let (mut block, pending) = self.cache.borrow_block(place)?;
        for slot in set_bits(pending) {
            let child = pointer_at(&block, slot);
            let below = self.frozen(child.address);
            set_pointer_at(&mut block, slot, with_checksum_of(below, child));
            foreseen = foreseen.filter(|_| below.is_some_and(|entry| entry.foreseen.is_some()));
        }
        let back = self.cache.return_block(place, block, 0);
        self.witness.demand(back, format_args!("{} left a tree while it was written", place.address));
        foreseen
    }

    /// The same pointer with the checksum that a freeze has computed.
    pub(crate) fn resolve(&self, pointer: Pointer) -> Pointer {
        with_checksum_of(self.frozen(pointer.address), pointer)
    }

    /// A block that a freeze has handed to the commit.
    fn frozen(&self, address: Address) -> Option<&Entry> {
        self.cache.get(address).filter(|entry| entry.state == State::Committing)
    }
}

/// A pointer to a block with that block's checksum, where it has one.
fn with_checksum_of(entry: Option<&Entry>, pointer: Pointer) -> Pointer {
    entry.map_or(pointer, |entry| Pointer { checksum: entry.checksum, ..pointer })
}

/// The numbers of the bits that are set, ascending.
fn set_bits(mut bits: u128) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(lowest)
    })
}

/// A node with every slot a hole of the same change id; or a zero content block.
fn hole_node(level: usize, change: ChangeId) -> Block {
    let mut block = zeroed_block();
    if level > 0 && change != ChangeId(0) {
        (0..NODE_FANOUT).for_each(|slot| set_pointer_at(&mut block, slot, Pointer::hole(change)));
    }
    block
}

/// The slots of a node that overlap `first..=last`, with the first block below each.
pub(crate) fn slots(level: usize, base: u64, first: u64, last: u64) -> impl Iterator<Item = (usize, u64)> {
    let width = span(level - 1);
    let from = first.saturating_sub(base) / width;
    let to = ((last - base) / width).min(NODE_FANOUT as u64 - 1);
    (from..=to).map(move |slot| (slot as usize, base + slot * width))
}

/// A changeable node in hand; the pointer to it follows what is put into it.
pub(crate) struct Edit {
    tree: Tree,
    pub(crate) pointer: Pointer,
    place: Place,
    pub(crate) block: Block,
    pending: u128,
    /// Its slots lead to data, which is never dirty.
    holds_data: bool,
}

impl Edit {
    pub(crate) fn get(&self, slot: usize) -> Pointer {
        pointer_at(&self.block, slot)
    }

    /// Puts a child into a slot, and what follows of its change id into the pointer to this node.
    pub(crate) fn set(&mut self, forest: &Forest, slot: usize, new: Pointer) {
        let old = self.get(slot);
        match self.tree {
            // The map counts allocated blocks instead.
            Tree::Map => {
                let count = self.pointer.change.0.wrapping_sub(old.change.0).wrapping_add(new.change.0);
                self.pointer.change = ChangeId(count);
            }
            Tree::Volume | Tree::Objects => {
                let onward = new.change >= old.change;
                let what = format_args!("change {} follows change {}", new.change, old.change);
                forest.witness.demand(onward, what);
                self.pointer.change = self.pointer.change.max(new.change);
            }
        }
        set_pointer_at(&mut self.block, slot, new);
        let bit = 1 << slot;
        self.pending &= !bit;
        if !self.holds_data && !new.is_hole() && forest.cache.is_dirty(new.address) {
            self.pending |= bit;
        }
    }

    /// Whether all slots are holes of one change id, so that one pointer says as much.
    pub(crate) fn uniform_hole(&self) -> Option<Pointer> {
        let first = self.get(0);
        let same = first.is_hole() && (1..NODE_FANOUT).all(|slot| self.get(slot) == first);
        same.then_some(first)
    }

    /// Puts the node back and returns the pointer to it.
    pub(crate) fn finish(self, forest: &mut Forest) -> Pointer {
        let address = self.pointer.address;
        let back = forest.cache.return_block(self.place, self.block, self.pending);
        forest.witness.demand(back, format_args!("{address} lies below itself"));
        self.pointer
    }
}
