//! The one walker that takes a version out of the version tree: deletes, conversions, old heads, drop jobs.
//! It also answers how much that would free.
//!
//! Walks the version `old` and its only child `new` in lock-step and frees, children first, what only `old`
//! holds. It can pause after every pointer it has compared; the cursor then says what is done. A step that
//! completes a node's last child also finishes the node, so that nothing lies half-done behind the cursor.

use crate::cache::LEVELS;
use crate::forest::{Forest, Step, TREE_BLOCKS, slot_of, span};
use crate::format::object::Bound;
use crate::format::{NODE_FANOUT, Pointer};

/// A release under way.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// Root of the version that goes.
    pub(crate) old: Pointer,
    /// Root of its only child; a hole where there is none.
    pub(crate) new: Pointer,
    /// Up to which epoch the parent needs blocks.
    pub(crate) bound: Bound,
    /// Everything that ends at or before this block is done.
    pub(crate) cursor: u64,
    /// Look at shared subtrees as well and count data blocks: a drop job, whose volume lost them all.
    pub(crate) count_data: bool,
    /// Free nothing, only count.
    pub(crate) dry: bool,
    /// Blocks freed.
    pub(crate) freed: u64,
    /// Data blocks counted.
    pub(crate) data: u64,
}

impl Walk {
    pub(crate) fn new(old: Pointer, new: Pointer, bound: Bound) -> Self {
        Self { old, new, bound, cursor: 0, count_data: false, dry: false, freed: 0, data: 0 }
    }
}

impl Walk {
    /// All up to `end` is done.
    fn complete(&mut self, end: u64, budget: &mut usize) -> bool {
        self.cursor = end;
        // Only what is complete counts, so that the smallest step gets somewhere.
        *budget = budget.saturating_sub(1);
        true
    }
}

impl Forest {
    /// Goes on with a release for about `budget` pointers; true when it is complete.
    pub(crate) fn release_step(&mut self, walk: &mut Walk, mut budget: usize) -> Step<bool> {
        if walk.cursor >= TREE_BLOCKS {
            return Ok(true);
        }
        let (old, new) = (walk.old, walk.new);
        self.release_below(&old, &new, LEVELS, 0, walk, &mut budget)
    }

    fn release_below(
        &mut self,
        old: &Pointer,
        new: &Pointer,
        level: usize,
        base: u64,
        walk: &mut Walk,
        budget: &mut usize,
    ) -> Step<bool> {
        let end = base + span(level);
        let shared = old.address == new.address;
        // A node is never older than what it holds, so this prunes whole subtrees.
        let older = !walk.count_data && old.birth <= walk.bound.before;
        if old.is_hole() || shared || older {
            return Ok(walk.complete(end, budget));
        }
        if level > 0 {
            self.load(old)?;
            if !new.is_hole() {
                self.load(new)?;
            }
            let from = if walk.cursor > base { slot_of(walk.cursor, level) } else { 0 };
            for slot in from..NODE_FANOUT {
                if *budget == 0 {
                    return Ok(false);
                }
                let (old, new) = (self.child(old, slot)?, self.child(new, slot)?);
                let base = base + slot as u64 * span(level - 1);
                if !self.release_below(&old, &new, level - 1, base, walk, budget)? {
                    return Ok(false);
                }
            }
        } else {
            walk.data += 1;
        }
        if old.birth > walk.bound.for_end(end) {
            walk.freed += 1;
            if !walk.dry {
                self.free_block(old.address);
            }
        }
        Ok(walk.complete(end, budget))
    }
}
