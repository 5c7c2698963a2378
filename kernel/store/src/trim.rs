//! Turning ranges of a volume into holes: TRIM, WRITE_ZEROES, growth and shrinking.
//!
//! A short range is freed on the spot. From a long one whole subtrees are cut off and handed to a drop job as
//! a tree of their own, of the same shape, so that a trim of terabytes costs two paths.

use crate::cache::{Entry, LEVELS, Tree};
use crate::forest::{Forest, Step, TREE_BLOCKS, slots, span};
use crate::format::object::Bound;
use crate::format::pointer::pointer_at;
use crate::format::{NODE_FANOUT, Pointer};
use crate::limits::TRIM_INLINE_LEAVES;
use crate::types::ChangeId;

/// A range to be trimmed, `first..=last`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrimRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl TrimRange {
    /// `count` blocks from `first` on, in a volume of `blocks`. A range that reaches the volume's end takes
    /// in what lies beyond, where there are only holes: fewer pointers say the same.
    pub(crate) fn new(first: u64, count: u64, blocks: u64) -> Self {
        let end = first + count;
        Self { first, last: if end >= blocks { TREE_BLOCKS - 1 } else { end - 1 } }
    }

    fn covers(&self, base: u64, level: usize) -> bool {
        self.first <= base && base + (span(level) - 1) <= self.last
    }
}

/// What a trim left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trimmed {
    pub(crate) root: Pointer,
    /// A tree of what was cut off; a hole where all was done on the spot.
    pub(crate) dropped: Pointer,
    /// Data blocks taken out on the spot.
    pub(crate) removed: u64,
}

struct Trim<'a> {
    range: TrimRange,
    change: ChangeId,
    bound: &'a Bound,
    inline: bool,
    removed: u64,
}

impl Forest {
    /// As `prepare`, for a trim of `count` blocks really in use.
    pub(crate) fn prepare_trim(&self, root: &Pointer, range: TrimRange, count: u64) -> Step<u64> {
        self.prepare_trim_below(root, LEVELS, 0, range, is_inline(count))
    }

    fn prepare_trim_below(
        &self,
        pointer: &Pointer,
        level: usize,
        base: u64,
        range: TrimRange,
        inline: bool,
    ) -> Step<u64> {
        let covered = range.covers(base, level);
        if level == 0 || (covered && (pointer.is_hole() || !inline)) {
            return Ok(0);
        }
        // One node for the changed path, one for the cut-off tree.
        let mut nodes = if covered { 0 } else { 2 };
        if !pointer.is_hole() {
            self.load(pointer)?;
        }
        let (first, last) = (range.first.max(base), range.last.min(base + (span(level) - 1)));
        for (slot, child_base) in slots(level, base, first, last) {
            let child = self.child(pointer, slot)?;
            nodes += self.prepare_trim_below(&child, level - 1, child_base, range, inline)?;
        }
        Ok(nodes)
    }

    /// Makes a prepared range of a volume holes of change id `change`.
    pub(crate) fn trim(
        &mut self,
        root: Pointer,
        range: TrimRange,
        count: u64,
        change: ChangeId,
        bound: &Bound,
    ) -> Trimmed {
        let mut trim = Trim { range, change, bound, inline: is_inline(count), removed: 0 };
        let (root, dropped) = self.trim_below(root, LEVELS, 0, &mut trim);
        Trimmed { root, dropped, removed: trim.removed }
    }

    fn trim_below(
        &mut self,
        pointer: Pointer,
        level: usize,
        base: u64,
        trim: &mut Trim<'_>,
    ) -> (Pointer, Pointer) {
        let nothing = Pointer::default();
        if pointer.is_hole() && pointer.change == trim.change {
            return (pointer, nothing);
        }
        if trim.range.covers(base, level) {
            let hole = Pointer::hole(trim.change);
            if pointer.is_hole() || !(trim.inline || level == 0) {
                return (hole, pointer);
            }
            self.free_subtree(&pointer, level, base, trim);
            return (hole, nothing);
        }
        self.trim_partly(pointer, level, base, trim)
    }

    fn trim_partly(
        &mut self,
        pointer: Pointer,
        level: usize,
        base: u64,
        trim: &mut Trim<'_>,
    ) -> (Pointer, Pointer) {
        let mut edit = self.edit(Tree::Volume, level, pointer, base, trim.bound);
        let mut cut = alloc::vec::Vec::new();
        for (slot, child_base) in slots(level, base, trim.range.first, trim.range.last) {
            let (new, dropped) = self.trim_below(edit.get(slot), level - 1, child_base, trim);
            edit.set(self, slot, new);
            if !dropped.is_hole() {
                cut.push((slot, dropped));
            }
        }
        let uniform = edit.uniform_hole();
        let node = edit.finish(self);
        let new = uniform.inspect(|_| self.free_block(node.address)).unwrap_or(node);
        (new, self.cut_off(level, base, &cut))
    }

    /// A node that holds just what was cut off below one place.
    fn cut_off(&mut self, level: usize, base: u64, cut: &[(usize, Pointer)]) -> Pointer {
        if cut.is_empty() {
            return Pointer::default();
        }
        let mut edit = self.edit(Tree::Volume, level, Pointer::default(), base, &Bound::default());
        cut.iter().for_each(|&(slot, pointer)| edit.set(self, slot, pointer));
        edit.finish(self)
    }

    /// Frees, children first, what no other version needs of a subtree that is in memory.
    fn free_subtree(&mut self, pointer: &Pointer, level: usize, base: u64, trim: &mut Trim<'_>) {
        if level == 0 {
            trim.removed += 1;
        } else {
            for slot in 0..NODE_FANOUT {
                let Some(block) = self.cache.get(pointer.address).and_then(Entry::block_if_there) else {
                    self.witness.note(format_args!("{} is in two places of a tree", pointer.address));
                    return;
                };
                let child = pointer_at(block, slot);
                if !child.is_hole() {
                    self.free_subtree(&child, level - 1, base + slot as u64 * span(level - 1), trim);
                }
            }
        }
        self.release_block(pointer, base + span(level), trim.bound);
    }
}

fn is_inline(count: u64) -> bool {
    count <= TRIM_INLINE_LEAVES * NODE_FANOUT as u64
}
