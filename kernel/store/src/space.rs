//! Which blocks are free to take: windows of free runs in memory, over the free map on disk.
//!
//! The free map itself changes only at a freeze. In between this file keeps what was allocated and freed. A
//! block taken from the map is in exactly one place here: a window, a reservation, or `allocated`. A freed
//! block passes through `fresh` (since the freeze), the queue of freed extents (durably listed, not in memory) and
//! `sweeping` (being returned to the map), and only then can be taken again.

use crate::contradiction::Witness;
use crate::format::Address;
use crate::format::journal::Run;
use crate::format::superblock::{FreedQueue, Superblock};
use crate::limits::{MEMBERS_MAX, WINDOW_BLOCKS_MAX};
use crate::map::{LIST_EXTENTS, chunk_index};
use crate::runs::RunSet;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;

/// Blocks that one block of the free map describes, a bit each.
pub(crate) const CHUNK_BLOCKS: u64 = 32_768;

/// Blocks that metadata borrows from data at a time.
const LENT_BLOCKS: u64 = 64;

/// Data and metadata are kept apart, so that neighbours in time become neighbours on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Data = 0,
    Metadata = 1,
}

/// How deep into the reserve a request may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A client's write: leaves the whole reserve.
    Write,
    /// Commands, trims, and the nodes of a write: may use half of it.
    Administration,
    /// Commands that delete or convert: may use more, or the others could leave none for them.
    Removal,
    /// What gives space back that was freed by a command: may use more than the commands.
    Release,
    /// A commit, without which nothing is ever freed: may use all.
    Commit,
}

/// Where the next window comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rotor {
    pub(crate) member: usize,
    /// Where the last window on each member ended.
    pub(crate) blocks: [u64; MEMBERS_MAX],
}

/// Free runs at hand, and how many blocks they have together: in a pool long in use a run may be a single block.
#[derive(Default)]
struct Window {
    runs: VecDeque<Run>,
    blocks: u64,
}

impl Window {
    fn add(&mut self, run: Run) {
        self.blocks += run.blocks;
        self.runs.push_back(run);
    }

    /// Blocks from the front, as many as lie together there and are wanted.
    fn take(&mut self, at_most: u64) -> Option<Run> {
        let front = self.runs.front_mut()?;
        let run = Run { address: front.address, blocks: front.blocks.min(at_most) };
        front.address.0 += run.blocks;
        front.blocks -= run.blocks;
        if front.blocks == 0 {
            self.runs.pop_front();
        }
        self.blocks -= run.blocks;
        Some(run)
    }
}

/// The space of a pool.
pub(crate) struct Space {
    /// Blocks of each member.
    pub(crate) members: Vec<u64>,
    windows: [Window; 2],
    pub(crate) rotors: [Rotor; 2],
    /// The durable map was searched and has nothing that is not taken: it need not be searched again before it changes.
    pub(crate) map_is_dry: bool,
    /// Everything taken from the map that the map does not show yet.
    pub(crate) taken: RunSet,
    /// Taken, handed to a writer, not installed.
    reserved: u64,
    /// All that was ever reserved since the pool was opened: it grows where some writer gets on.
    pub(crate) granted: u64,
    /// Installed since the last freeze.
    pub(crate) allocated: RunSet,
    /// Entered into the map by a commit that is not durable yet.
    settling: Vec<Run>,
    pub(crate) fresh: RunSet,
    /// What is listed as freed, as of the last freeze.
    pub(crate) freed: FreedQueue,
    /// The extents of its oldest part that are not in the map yet.
    pub(crate) sweeping: RunSet,
    /// Blocks the map shows as allocated, and of them those on each member; none of those until its root was read.
    pub(crate) mapped: u64,
    pub(crate) mapped_of_members: Vec<u64>,
    reserve: u64,
    /// Blocks that the step under way may still take for metadata.
    promised: Cell<u64>,
    /// The last address given out that is on no disk.
    nowhere: u64,
    /// A replay takes what it needs, from the reserve too: no commit could make space for it.
    pub(crate) replaying: bool,
    /// Blocks of each member that anything but superblocks, marks and log can lie in.
    usable: Vec<Range<u64>>,
    witness: Witness,
}

impl Space {
    pub(crate) fn new(superblock: &Superblock, witness: Witness) -> Self {
        let members = superblock.members.clone();
        let total: u64 = members.iter().sum();
        // Openings begin on the members in turn, or short lives would fill the first alone.
        let first = superblock.commit % members.len() as u64;
        let rotor = |turn| Rotor { member: (first as usize + turn) % members.len(), ..Rotor::default() };
        Self {
            usable: (0..members.len()).map(|member| superblock.usable(member)).collect(),
            witness,
            windows: Default::default(),
            rotors: [rotor(0), rotor(1)],
            map_is_dry: false,
            members,
            taken: RunSet::new(CHUNK_BLOCKS),
            reserved: 0,
            granted: 0,
            allocated: RunSet::new(CHUNK_BLOCKS),
            settling: Vec::new(),
            fresh: RunSet::new(CHUNK_BLOCKS),
            freed: superblock.freed,
            sweeping: RunSet::new(CHUNK_BLOCKS),
            mapped: superblock.map.change.0,
            mapped_of_members: Vec::new(),
            // Enough for several commits and a release on the smallest pool, and never a burden on a large one.
            reserve: (total / 16).clamp(512, 32_768),
            promised: Cell::new(0),
            nowhere: u64::MAX,
            replaying: false,
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.members.iter().sum()
    }

    /// Blocks moved into a window at a time.
    pub(crate) fn window_size(&self) -> u64 {
        (self.total() / 64).min(WINDOW_BLOCKS_MAX)
    }

    /// Blocks that can be taken now.
    pub(crate) fn free(&self) -> u64 {
        let taken = self.mapped.saturating_add(self.allocated.blocks()).saturating_add(self.reserved);
        self.total().saturating_sub(taken)
    }

    /// Whether freed blocks are to come back soon.
    pub(crate) fn is_scarce(&self) -> bool {
        self.free() < self.total() / 4
    }

    /// Blocks freed and not yet back in the map.
    pub(crate) fn freeing(&self) -> u64 {
        self.fresh.blocks() + self.freed.waiting + self.sweeping.blocks()
    }

    /// Blocks that client writes could take once everything freed is back.
    pub(crate) fn available(&self) -> u64 {
        (self.free() + self.freeing()).saturating_sub(self.reserve)
    }

    /// Whether `blocks` may be taken now at this urgency.
    pub(crate) fn admits(&self, blocks: u64, urgency: Urgency) -> bool {
        self.free() >= self.kept(urgency) + blocks
    }

    /// Whether they might once everything freed is back.
    pub(crate) fn could_admit(&self, blocks: u64, urgency: Urgency) -> bool {
        self.free() + self.freeing() >= self.kept(urgency) + blocks
    }

    fn kept(&self, urgency: Urgency) -> u64 {
        match urgency {
            _ if self.replaying => 0,
            Urgency::Write => self.reserve,
            Urgency::Administration => self.reserve / 2,
            Urgency::Removal => self.reserve / 8 * 3,
            Urgency::Release => self.reserve / 4,
            Urgency::Commit => 0,
        }
    }

    /// Blocks in the window that `purpose` takes from.
    pub(crate) fn window_blocks(&self, purpose: Purpose) -> u64 {
        self.windows[purpose as usize].blocks
    }

    /// Adds free blocks found in the map to a window.
    pub(crate) fn add_window(&mut self, purpose: Purpose, run: Run) {
        let free = self.taken.insert(run);
        self.witness.demand(free, format_args!("{} is free and taken", run.address));
        self.windows[purpose as usize].add(run);
    }

    /// Moves some free blocks of data's window to that of metadata, when the map has none left: a commit must not stop for
    /// want of neighbours. False where data has none either.
    pub(crate) fn lend_to_metadata(&mut self) -> bool {
        let mut left = LENT_BLOCKS;
        while left > 0
            && let Some(run) = self.windows[Purpose::Data as usize].take(left)
        {
            left -= run.blocks;
            self.windows[Purpose::Metadata as usize].add(run);
        }
        left < LENT_BLOCKS
    }

    /// The step that begins now takes so many blocks for metadata at most.
    pub(crate) fn promise(&self, nodes: u64) {
        self.promised.set(nodes);
    }

    /// Takes one block for metadata. The caller has made sure there is one, and a tree that contradicts itself, which may
    /// take more, gets what is on no disk: nothing of that step reaches any.
    pub(crate) fn take_node(&mut self) -> Address {
        let left = self.promised.get().checked_sub(1);
        self.witness.demand(left.is_some(), format_args!("a tree takes more blocks than were counted"));
        self.promised.set(left.unwrap_or(0));
        let Some(run) = self.windows[Purpose::Metadata as usize].take(1) else {
            self.nowhere -= 1;
            return Address(self.nowhere);
        };
        self.note_allocated(run);
        run.address
    }

    fn note_allocated(&mut self, run: Run) {
        let new = self.allocated.insert(run);
        self.witness.demand(new, format_args!("{} becomes part of two trees", run.address));
    }

    /// Reserves blocks for data about to be written; `None` where the window holds too few.
    pub(crate) fn reserve(&mut self, blocks: u64) -> Option<Vec<Run>> {
        if self.window_blocks(Purpose::Data) < blocks {
            return None;
        }
        self.reserved += blocks;
        self.granted = self.granted.wrapping_add(blocks);
        let mut left = blocks;
        let mut runs = Vec::new();
        while left > 0 {
            let run = self.windows[Purpose::Data as usize].take(left)?;
            left -= run.blocks;
            runs.push(run);
        }
        Some(runs)
    }

    /// Gives a reservation back whose device writes have ended.
    pub(crate) fn unreserve(&mut self, run: Run) {
        self.reserved -= run.blocks;
        self.windows[Purpose::Data as usize].add(run);
    }

    /// A device refused to write a reserved run: nobody gets it before the pool is opened again.
    pub(crate) fn abandon(&mut self, run: Run) {
        self.reserved -= run.blocks;
    }

    /// A reserved run has become part of a tree.
    pub(crate) fn install(&mut self, run: Run) {
        self.reserved -= run.blocks;
        self.note_allocated(run);
    }

    /// Whether all of a run can be part of a tree: it is on a member, and no superblock, mark or log.
    pub(crate) fn is_usable(&self, run: Run) -> bool {
        let end = run.address.block().checked_add(run.blocks);
        let usable = self.usable.get(run.address.member());
        usable.zip(end).is_some_and(|(usable, end)| usable.start <= run.address.block() && end <= usable.end)
    }

    /// Blocks of a member that can be part of a tree.
    pub(crate) fn usable(&self, member: usize) -> Range<u64> {
        self.usable[member].clone()
    }

    /// Takes named blocks out of everyone's reach before a replay, which installs them.
    pub(crate) fn claim(&mut self, run: Run) {
        for block in 0..run.blocks {
            let one = Run { address: Address(run.address.0 + block), blocks: 1 };
            self.reserved += u64::from(self.taken.insert(one));
        }
    }

    /// A claimed run has become part of a tree.
    pub(crate) fn install_claimed(&mut self, run: Run) {
        self.reserved = self.witness.subtract(self.reserved, run.blocks, "what the log claims");
        self.note_allocated(run);
    }

    /// Claims of a replay that no tree took up in the end are free again.
    pub(crate) fn drop_claims(&mut self) {
        self.map_is_dry = false;
        self.taken.clear();
        self.reserved = 0;
        let windows = [Purpose::Data, Purpose::Metadata].into_iter().flat_map(|of| self.window_runs(of));
        let held: Vec<Run> = self.allocated.iter().chain(windows).collect();
        for run in held {
            let once = self.taken.insert(run);
            self.witness.demand(once, format_args!("{} is held twice", run.address));
        }
    }

    /// Frees blocks that no live version needs any more.
    pub(crate) fn free_run(&mut self, run: Run) {
        if !self.is_usable(run) {
            return self.witness.note(format_args!("{} is freed and cannot be in use", run.address));
        }
        let new = self.fresh.insert(run);
        self.witness.demand(new, format_args!("{} is freed twice", run.address));
    }

    /// Freed extents are to be returned to the map.
    pub(crate) fn sweep(&mut self, run: Run) {
        let new = self.sweeping.insert(run);
        self.witness.demand(new, format_args!("{} is listed as freed twice", run.address));
    }

    /// One of them is being returned.
    pub(crate) fn swept(&mut self, run: Run) {
        let was = self.sweeping.remove(run);
        self.witness.demand(was, format_args!("{} is returned to the free map twice", run.address));
    }

    /// The next runs to be entered into the map by a freeze, all of one chunk.
    pub(crate) fn settle(&mut self) -> Vec<Run> {
        let from = self.settling.len();
        while let Some(run) = self.allocated.pop_first_if(|run| {
            self.settling.get(from).is_none_or(|first| chunk_index(first.address) == chunk_index(run.address))
        }) {
            self.settling.push(run);
        }
        self.settling[from..].to_vec()
    }

    /// The next freed runs to be listed by a freeze.
    pub(crate) fn take_fresh(&mut self) -> Vec<Run> {
        let runs = core::iter::from_fn(|| self.fresh.pop_first_if(|_| true));
        runs.take(LIST_EXTENTS).collect()
    }

    /// The durable map shows all that the last freeze entered.
    pub(crate) fn settled(&mut self) {
        self.map_is_dry = false;
        for run in core::mem::take(&mut self.settling) {
            let was = self.taken.remove(run);
            self.witness.demand(was, format_args!("{} was never taken", run.address));
        }
    }

    /// The free runs from which `purpose` takes next.
    pub(crate) fn window_runs(&self, purpose: Purpose) -> impl Iterator<Item = Run> + '_ {
        self.windows[purpose as usize].runs.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_knows_how_many_blocks_it_has() {
        let mut window = Window::default();
        for (start, blocks) in [(10, 3), (20, 1), (30, 5)] {
            window.add(Run { address: Address(start), blocks });
        }
        let taken: Vec<_> =
            core::iter::from_fn(|| window.take(2).map(|run| (run.address.0, run.blocks, window.blocks)))
                .collect();
        assert_eq!(taken, [(10, 2, 7), (12, 1, 6), (20, 1, 5), (30, 2, 3), (32, 2, 1), (34, 1, 0)]);
    }
}
