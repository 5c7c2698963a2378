//! The free map: a block tree whose contents are bitmaps of 32,768 blocks each, member by member, and a queue
//! of freed extents that are not in the bitmaps yet.
//!
//! Frees scattered over a large pool would each change another bitmap. So they are listed first, at the end of
//! the queue; once many came together its oldest part is *swept*: those extents go to the bitmaps in address
//! order, some chunks with each commit. The queue lies on disk only, so it may grow for as long as a reader
//! keeps what it lists from being reused. A pointer's change field counts the
//! allocated blocks below it, which is how free space is found.

use crate::cache::{LEVELS, Tree};
use crate::contradiction::contradiction;
use crate::device::{BLOCK_SIZE, Block};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::forest::{Step, Stop, slot_of, span};
use crate::format::journal::Run;
use crate::format::{Address, NODE_FANOUT, Pointer};
use crate::limits::MEMBERS_MAX;
use crate::space::{CHUNK_BLOCKS, Purpose, Rotor};
use crate::types::ChangeId;
use alloc::vec::Vec;
use core::ops::Range;

/// Each member has one slot of the map's root node: 2^28 chunks, 32 PiB.
const MEMBER_CHUNKS: u64 = span(LEVELS - 1);
/// The queue of freed extents has slots after the members', as a ring that its positions go round in.
const LISTS_START: u64 = MEMBERS_MAX as u64 * MEMBER_CHUNKS;
const LISTS_BLOCKS: u64 = 64 * MEMBER_CHUNKS;
/// Extents in a block of a list, after a count.
pub(crate) const LIST_EXTENTS: usize = (BLOCK_SIZE - 16) / 16;

/// The map's block for a chunk.
pub(crate) fn chunk_index(address: Address) -> u64 {
    address.member() as u64 * MEMBER_CHUNKS + address.block() / CHUNK_BLOCKS
}

/// The map's block for a position of the queue.
pub(crate) fn list_index(position: u64) -> u64 {
    LISTS_START + position % LISTS_BLOCKS
}

/// The map's blocks for some positions of the queue, ascending.
pub(crate) fn list_indexes(positions: Range<u64>) -> Vec<u64> {
    let mut indexes: Vec<u64> = positions.map(list_index).collect();
    indexes.sort_unstable();
    indexes
}

fn word(block: &Block, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&block[at * 8..at * 8 + 8]);
    u64::from_le_bytes(bytes)
}

/// The extents in a block of a list; `None` where its count cannot be right.
pub(crate) fn list_extents(block: &Block) -> Option<impl Iterator<Item = Run> + '_> {
    let count = word(block, 0) as usize;
    (count <= LIST_EXTENTS).then(|| {
        (0..count).map(|n| Run { address: Address(word(block, 2 + n * 2)), blocks: word(block, 3 + n * 2) })
    })
}

/// Adds an extent to a block of a list; false where it is full.
pub(crate) fn list_push(block: &mut Block, run: Run) -> bool {
    let count = word(block, 0) as usize;
    if count >= LIST_EXTENTS {
        return false;
    }
    block[..8].copy_from_slice(&(count as u64 + 1).to_le_bytes());
    let at = 16 + count * 16;
    block[at..at + 8].copy_from_slice(&run.address.0.to_le_bytes());
    block[at + 8..at + 16].copy_from_slice(&run.blocks.to_le_bytes());
    true
}

/// Sets or clears the bits of a run within one chunk; false where not all were the other way.
fn flip(block: &mut Block, run: Run, allocated: bool) -> bool {
    let first = run.address.block() % CHUNK_BLOCKS;
    (first..first + run.blocks).fold(true, |all, bit| {
        let (byte, mask) = ((bit / 8) as usize, 1u8 << (bit % 8));
        let other = (block[byte] & mask != 0) != allocated;
        block[byte] ^= mask;
        all && other
    })
}

/// The first block of a range, all in one chunk, that is allocated, or that is free, by the chunk's bitmap; the range's end
/// where none is. A hole of the map is all free.
fn first(chunk: Option<&Block>, blocks: Range<u64>, allocated: bool) -> u64 {
    let mut at = blocks.start;
    while at < blocks.end {
        let bit = at % CHUNK_BLOCKS;
        let bits = chunk.map_or(0, |chunk| word(chunk, (bit / 64) as usize));
        let matching = if allocated { bits } else { !bits };
        let wanted = matching >> (bit % 64);
        if wanted != 0 {
            return blocks.end.min(at + u64::from(wanted.trailing_zeros()));
        }
        at += 64 - bit % 64;
    }
    blocks.end
}

impl Engine {
    /// Enters runs, all of one chunk, into the map.
    pub(crate) fn map_runs(&mut self, runs: &[Run], allocated: bool) {
        let Some(first) = runs.first() else { return };
        let witness = self.forest.witness.clone();
        let index = chunk_index(first.address);
        self.map = self.forest.update_content(Tree::Map, self.map, index, &mut |block, count| {
            let now = if allocated { "allocated" } else { "free" };
            let mut blocks = 0;
            for &run in runs {
                witness.demand(flip(block, run, allocated), format_args!("{} is {now} already", run.address));
                blocks += run.blocks;
            }
            ChangeId(match allocated {
                true => count.0.saturating_add(blocks),
                false => witness.subtract(count.0, blocks, "a chunk of the free map"),
            })
        });
    }

    /// Adds extents at the end of the queue.
    pub(crate) fn list_freed(&mut self, runs: &[Run]) {
        self.forest.space.freed.waiting += runs.iter().map(|run| run.blocks).sum::<u64>();
        let mut rest = runs;
        let mut open = self.last_list_is_open();
        while !rest.is_empty() {
            let freed = &mut self.forest.space.freed;
            freed.next += u64::from(!open);
            let position = freed.next - 1;
            let pushed = self.list_push(position, rest);
            if pushed == 0 && !open {
                self.forest.witness.note(format_args!("list {position} of freed extents is there already"));
                return;
            }
            rest = &rest[pushed..];
            // What is left found no room.
            open = false;
        }
    }

    /// Decides for a freeze to which blocks of the queue nothing may be added: those of which a reader knows that it came
    /// later. Where space is scarce, to none that a reader keeps: with a reader there at every moment, a list that grows would
    /// never be swept.
    pub(crate) fn close_lists(&mut self) {
        let space = &self.forest.space;
        let newest = self.readers.values().next_back();
        self.closed_lists =
            newest.map_or(0, |reader| if space.is_scarce() { space.freed.next } else { reader.listed });
    }

    /// Whether more may be added to the last block of the queue: not to what is being swept.
    pub(crate) fn last_list_is_open(&self) -> bool {
        let freed = &self.forest.space.freed;
        freed.next > freed.sweeping.max(self.closed_lists)
    }

    /// Adds extents to a block of the queue; tells how many found room.
    fn list_push(&mut self, position: u64, runs: &[Run]) -> usize {
        let mut pushed = 0;
        let index = list_index(position);
        self.map = self.forest.update_content(Tree::Map, self.map, index, &mut |block, count| {
            pushed = runs.iter().take_while(|&&run| list_push(block, run)).count();
            count
        });
        pushed
    }

    /// The extents in one block of the queue.
    pub(crate) fn listed(&self, position: u64) -> Step<Vec<Run>> {
        let content = self.forest.content(&self.map, list_index(position))?;
        let Some(extents) = content.and_then(list_extents) else {
            let message = "a list of freed blocks cannot be read; run pool.check";
            return Err(Stop::Failed(Error::new(ErrorKind::Corrupt, message)));
        };
        let extents: Vec<Run> = extents.collect();
        match extents.iter().find(|&&run| run.blocks == 0 || !self.forest.space.is_usable(run)) {
            None => Ok(extents),
            Some(run) => {
                let what = format_args!("list {position} of freed extents names {}", run.address);
                Err(Stop::Failed(contradiction(what)))
            }
        }
    }

    /// Takes what was swept out of the queue.
    pub(crate) fn drop_swept(&mut self) {
        let freed = &mut self.forest.space.freed;
        let swept = freed.first..freed.sweeping;
        freed.first = freed.sweeping;
        for position in swept {
            self.map = self.forest.remove_content(Tree::Map, self.map, list_index(position));
        }
    }

    /// Moves free blocks from the durable map into a window; false where there are none left to move. Metadata is lent some
    /// of data's then.
    ///
    /// What a freeze has just returned to the map can be taken only once its commit is durable: until then a
    /// crash leads back to a state in which those blocks are listed as freed.
    pub(crate) fn refill_window(&mut self, purpose: Purpose) -> Step<bool> {
        if !self.forest.space.map_is_dry {
            if self.search_map(purpose)? {
                return Ok(true);
            }
            self.forest.space.map_is_dry = true;
        }
        Ok(purpose == Purpose::Metadata && self.forest.space.lend_to_metadata())
    }

    /// Every member from where the last window ended, then every member from its start.
    fn search_map(&mut self, purpose: Purpose) -> Step<bool> {
        let members = self.forest.space.members.len();
        let Rotor { member: first, blocks } = self.forest.space.rotors[purpose as usize];
        for turn in 0..2 * members {
            let member = (first + turn) % members;
            let mut block = if turn < members { blocks[member] } else { 0 };
            while let Some(chunk) = self.chunk_with_space(member, block / CHUNK_BLOCKS)? {
                block = block.max(chunk * CHUNK_BLOCKS);
                if let Some(end) = self.take_from_chunk(purpose, member, block)? {
                    let rotor = &mut self.forest.space.rotors[purpose as usize];
                    rotor.blocks[member] = end;
                    // Members take turns, so that all of them work.
                    rotor.member = (member + 1) % members;
                    return Ok(true);
                }
                block = (block / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS;
            }
        }
        Ok(false)
    }

    /// The first chunk of a member, from `chunk` on, that is not fully allocated.
    fn chunk_with_space(&self, member: usize, chunk: u64) -> Step<Option<u64>> {
        let chunks = self.forest.space.members[member].div_ceil(CHUNK_BLOCKS);
        let base = member as u64 * MEMBER_CHUNKS;
        let found = self.find_space(&self.superblock.map, LEVELS, 0, base + chunk, base + chunks)?;
        Ok(found.map(|index| index - base))
    }

    fn find_space(
        &self,
        pointer: &Pointer,
        level: usize,
        base: u64,
        from: u64,
        end: u64,
    ) -> Step<Option<u64>> {
        let full = pointer.change.0 >= span(level).saturating_mul(CHUNK_BLOCKS);
        if full || base >= end || base + span(level) <= from {
            return Ok(None);
        }
        if level == 0 || pointer.is_hole() {
            return Ok(Some(base.max(from)));
        }
        let first = if from > base { slot_of(from, level) } else { 0 };
        for slot in first..NODE_FANOUT {
            let child = self.forest.child(pointer, slot)?;
            let child_base = base + slot as u64 * span(level - 1);
            if let Some(found) = self.find_space(&child, level - 1, child_base, from, end)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Takes free blocks from `block` to the end of its chunk, up to a window's worth. Returns where it
    /// stopped, `None` if it found nothing.
    fn take_from_chunk(&mut self, purpose: Purpose, member: usize, block: u64) -> Step<Option<u64>> {
        let index = chunk_index(Address::new(member, block));
        let bits = self.forest.content(&self.superblock.map, index)?;
        // Whatever the map says, superblocks and log are nobody's to take.
        let usable = self.forest.space.usable(member);
        let end = ((block / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS).min(usable.end);
        let block = block.max(usable.start);
        let (mut at, mut left) = (block, self.forest.space.window_size());
        let mut runs: Vec<Run> = Vec::new();
        while at < end && left > 0 {
            let address = Address::new(member, at);
            let taken = self.forest.space.taken.next_from(address.0);
            if let Some(run) = taken.filter(|run| run.address <= address) {
                at = Address(run.address.0 + run.blocks).block();
                continue;
            }
            let stop = taken.map_or(end, |run| {
                if run.address.member() == member { run.address.block().min(end) } else { end }
            });
            while at < stop && left > 0 {
                let free = first(bits, at..stop, false);
                at = first(bits, free..stop.min(free + left), true);
                if free < at {
                    runs.push(Run { address: Address::new(member, free), blocks: at - free });
                    left -= at - free;
                }
            }
        }
        let found = !runs.is_empty();
        runs.into_iter().for_each(|run| self.forest.space.add_window(purpose, run));
        Ok(found.then_some(at))
    }

    /// Brings what an earlier opening was sweeping into memory.
    pub(crate) fn resume_sweep(&mut self) -> Step<()> {
        let freed = self.forest.space.freed;
        for run in self.listed_in(freed.first..freed.sweeping)? {
            if run.address.0 >= freed.cursor {
                self.forest.space.sweep(run);
            }
        }
        Ok(())
    }

    /// The extents in some blocks of the queue.
    pub(crate) fn listed_in(&self, positions: Range<u64>) -> Step<Vec<Run>> {
        let mut runs = Vec::new();
        for position in positions {
            runs.extend(self.listed(position)?);
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pointer::zeroed_block;

    #[test]
    fn the_first_of_a_kind_is_where_a_look_at_each_block_finds_it() {
        let mut chunk = zeroed_block();
        for run in [(0, 1), (63, 2), (128, 64), (200, 1), (256, 200), (32_700, 68)] {
            assert!(flip(&mut chunk, Run { address: Address(run.0), blocks: run.1 }, true));
        }
        let is_allocated = |at: u64| chunk[(at / 8) as usize] >> (at % 8) & 1 == 1;
        let base = 5 * CHUNK_BLOCKS;
        for start in (0..520).chain(32_500..CHUNK_BLOCKS) {
            for end in [start, start + 1, start + 70, start + 300, CHUNK_BLOCKS] {
                let end = end.min(CHUNK_BLOCKS);
                for allocated in [false, true] {
                    let found = first(Some(&chunk), base + start..base + end, allocated);
                    let looked = (start..end).find(|&at| is_allocated(at) == allocated).unwrap_or(end);
                    assert_eq!(found, base + looked, "from {start} to {end}");
                }
            }
        }
        assert_eq!((first(None, 70..90, false), first(None, 70..90, true)), (70, 90));
    }
}
