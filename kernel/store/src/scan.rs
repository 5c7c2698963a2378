//! Extent queries: allocation, changes since a point, change ids. One walk that prunes what the view does
//! not tell apart, so that its cost follows what differs and not the size of the volume.

use crate::cache::LEVELS;
use crate::device::Block;
use crate::forest::{Forest, Step, Stop, slot_of, span};
use crate::format::pointer::{change_at, pointer_at};
use crate::format::{NODE_FANOUT, Pointer};
use crate::types::{BlockIndex, ChangeId, Content, Extent, View};
use alloc::vec::Vec;

/// Nodes that a query reads at the same time.
const READ_AHEAD: usize = 16;

/// Extents of a page that need no room found for them.
const EXTENTS_ALWAYS: usize = 4;

/// An extent query under way.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) view: View,
    /// All before this block is covered by `extents`.
    pub(crate) at: u64,
    pub(crate) end: u64,
    pub(crate) limit: usize,
    pub(crate) extents: Vec<Extent>,
}

impl Scan {
    /// What the view says of all blocks below a pointer, if it says one thing.
    fn classify(&self, pointer: &Pointer, level: usize) -> Option<Extent> {
        let content = if pointer.is_hole() { Content::Zero } else { Content::Data };
        let changed = match self.view {
            View::Changes(since) => pointer.change > since,
            View::Allocation | View::ChangeIds => true,
        };
        let uniform = level == 0 || pointer.is_hole() || !changed;
        let change = pointer.change;
        uniform.then_some(Extent { first: BlockIndex(self.at), blocks: 0, content, changed, change })
    }

    /// The slots from `slot` on that a query for changes passes over, and the newest change among them.
    fn unchanged(&self, node: &Block, slot: usize) -> (usize, ChangeId) {
        let View::Changes(since) = self.view else { return (slot, ChangeId(0)) };
        let mut newest = ChangeId(0);
        for slot in slot..NODE_FANOUT {
            let change = change_at(node, slot);
            if change > since {
                return (slot, newest);
            }
            newest = newest.max(change);
        }
        (NODE_FANOUT, newest)
    }

    fn alike(&self, a: &Extent, b: &Extent) -> bool {
        match self.view {
            View::Allocation => a.content == b.content,
            View::Changes(_) => a.changed == b.changed && (!a.changed || a.content == b.content),
            View::ChangeIds => a.content == b.content && a.change == b.change,
        }
    }

    /// Whether there is memory for one more extent. A first few come without asking, so that every page goes on.
    fn has_room(&mut self) -> bool {
        self.extents.len() < EXTENTS_ALWAYS || self.extents.try_reserve(1).is_ok()
    }

    /// Adds a run up to `end`; false where the page has no room for it. Where memory is short a page ends early.
    fn add(&mut self, extent: Extent, end: u64) -> bool {
        let end = end.min(self.end);
        let blocks = end - self.at;
        let alike = self.extents.last().is_some_and(|last| self.alike(last, &extent));
        match self.extents.last_mut() {
            Some(last) if alike => {
                last.blocks += blocks;
                last.change = last.change.max(extent.change);
            }
            _ => {
                if self.extents.len() >= self.limit || !self.has_room() {
                    return false;
                }
                self.extents.push(Extent { blocks, ..extent });
            }
        }
        self.at = end;
        true
    }
}

impl Forest {
    /// Goes on with a query for about `budget` pointers; true when the page is complete.
    pub(crate) fn scan_step(&self, root: &Pointer, scan: &mut Scan, mut budget: usize) -> Step<bool> {
        let full = !self.scan_below(root, LEVELS, 0, scan, &mut budget)?;
        Ok(scan.at >= scan.end || (full && budget > 0))
    }

    /// False where the walk must end: page full, or out of budget.
    fn scan_below(
        &self,
        pointer: &Pointer,
        level: usize,
        base: u64,
        scan: &mut Scan,
        budget: &mut usize,
    ) -> Step<bool> {
        if scan.at >= scan.end {
            return Ok(true);
        }
        if *budget == 0 {
            return Ok(false);
        }
        *budget -= 1;
        if let Some(extent) = scan.classify(pointer, level) {
            return Ok(scan.add(extent, base + span(level)));
        }
        // What cannot be uniform is no hole: the node is looked up once for all its pointers.
        let node = self.load(pointer)?.block();
        let below = level - 1;
        let start = |slot: usize| base + slot as u64 * span(below);
        let mut slot = if scan.at > base { slot_of(scan.at, level) } else { 0 };
        while slot < NODE_FANOUT && scan.at < scan.end {
            let (end, change) = scan.unchanged(node, slot);
            if end > slot {
                let first = BlockIndex(scan.at);
                let run = Extent { first, blocks: 0, content: Content::Data, changed: false, change };
                if !scan.add(run, start(end)) {
                    return Ok(false);
                }
                slot = end;
                continue;
            }
            match self.scan_below(&pointer_at(node, slot), below, start(slot), scan, budget) {
                Ok(true) => slot += 1,
                Err(Stop::Miss(mut missing)) => {
                    let next = (slot + 1..NODE_FANOUT).take_while(|&slot| start(slot) < scan.end);
                    let next = next.map(|slot| pointer_at(node, slot));
                    let unread =
                        |p: &Pointer| scan.classify(p, below).is_none() && !self.cache.holds(p.address);
                    let room = READ_AHEAD.saturating_sub(missing.len());
                    missing.extend(next.filter(unread).take(room));
                    return Err(Stop::Miss(missing));
                }
                ended => return ended,
            }
        }
        Ok(true)
    }
}
