//! Metadata blocks in memory: nodes of every tree and the contents of the object table and the free map.
//!
//! Keyed by address, since a block never changes place. Clean blocks may be dropped at any time; dirty ones
//! stay until a commit has written them. A block's checksum is known once a freeze has resolved it; until
//! then its parents mark the slot as *pending*.

use crate::device::Block;
use crate::format::{Address, Pointer};
use crate::types::Epoch;
use alloc::vec::Vec;
use core::cell::Cell;
use hashbrown::HashMap;

/// Levels of pointers above the content of a tree: 128^5 blocks, 128 TiB. All trees have the same height, so
/// that no walk ever has to align two of different ones; the unused upper nodes cost 4 blocks a tree.
pub(crate) const LEVELS: usize = 5;

/// What a block of metadata is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    Volume = 0,
    Objects = 1,
    Map = 2,
}

/// Where a cached block stands between memory and disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// As on disk.
    Clean,
    /// Not frozen yet.
    Dirty,
    /// Frozen, with its checksum resolved; a commit is writing it.
    Committing,
}

/// A block in memory.
pub(crate) struct Entry {
    pub(crate) address: Address,
    pub(crate) birth: Epoch,
    pub(crate) state: State,
    /// Slots whose child's checksum is not known yet.
    pub(crate) pending: u128,
    /// Valid unless dirty.
    pub(crate) checksum: u64,
    /// The checksum with which a dirty block freezes if neither it nor any below it changes before; of a frozen one, its
    /// own if it was foreseen.
    pub(crate) foreseen: Option<u64>,
    block: Option<Block>,
    referenced: Cell<bool>,
    /// Where the clock has it, while it is clean.
    tick: usize,
}

impl Entry {
    /// The block's bytes.
    #[inline]
    pub(crate) fn block(&self) -> &Block {
        let Some(block) = &self.block else { panic!("{} is borrowed by a tree update", self.address) };
        block
    }

    /// The same in the middle of a tree update; `None` where that has taken it out.
    pub(crate) fn block_if_there(&self) -> Option<&Block> {
        self.block.as_ref()
    }
}

/// Where the cache has a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    at: usize,
    pub(crate) address: Address,
}

/// The cache. Its capacity is kept as long as enough blocks are clean; dirty ones are bounded by the commits
/// they cause.
pub(crate) struct Cache {
    entries: Vec<Option<Entry>>,
    index: HashMap<Address, usize>,
    vacant: Vec<usize>,
    /// The clean entries, and no others: what an eviction looks at costs nothing by what is dirty.
    clock: Vec<usize>,
    hand: usize,
    capacity: usize,
    /// What became dirty by tree and level, content first; may name blocks that were freed since.
    dirty: [[Vec<Place>; LEVELS + 1]; 3],
    dirty_count: usize,
    pub(crate) hits: Cell<u64>,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: Vec::new(),
            index: HashMap::new(),
            vacant: Vec::new(),
            clock: Vec::new(),
            hand: 0,
            capacity,
            dirty: Default::default(),
            dirty_count: 0,
            hits: Cell::new(0),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks no commit has frozen yet.
    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty_count
    }

    #[inline]
    pub(crate) fn get(&self, address: Address) -> Option<&Entry> {
        self.entry(self.find(address)?)
    }

    /// Whether a block is there, without a claim that anybody uses it.
    pub(crate) fn holds(&self, address: Address) -> bool {
        self.index.contains_key(&address)
    }

    pub(crate) fn is_dirty(&self, address: Address) -> bool {
        self.index.get(&address).is_some_and(|&at| self.is_dirty_at(Place { at, address }))
    }

    fn is_dirty_at(&self, place: Place) -> bool {
        self.peek(place).is_some_and(|entry| entry.state == State::Dirty)
    }

    /// Where a block is now; it stays there until it is dropped.
    #[inline]
    pub(crate) fn find(&self, address: Address) -> Option<Place> {
        self.index.get(&address).map(|&at| Place { at, address })
    }

    /// The block at a place.
    #[inline]
    fn peek(&self, place: Place) -> Option<&Entry> {
        self.entries[place.at].as_ref().filter(|entry| entry.address == place.address)
    }

    /// The same, with its use noted.
    #[inline]
    pub(crate) fn entry(&self, place: Place) -> Option<&Entry> {
        let entry = self.peek(place)?;
        entry.referenced.set(true);
        self.hits.set(self.hits.get() + 1);
        Some(entry)
    }

    #[inline]
    fn entry_mut(&mut self, place: Place) -> Option<&mut Entry> {
        self.entries[place.at].as_mut().filter(|entry| entry.address == place.address)
    }

    /// A dirty block counts as allocated in this epoch. [`Cache::borrow_block`] follows, which voids what was foreseen.
    pub(crate) fn set_birth(&mut self, place: Place, birth: Epoch) {
        if let Some(entry) = self.entry_mut(place) {
            assert!(entry.state == State::Dirty && entry.birth <= birth);
            entry.birth = birth;
        }
    }

    /// Takes a block's bytes and its pending slots out for a change that needs the rest of the cache meanwhile.
    /// `None` where they are out already.
    pub(crate) fn borrow_block(&mut self, place: Place) -> Option<(Block, u128)> {
        let entry = self.entry_mut(place)?;
        entry.foreseen = None;
        entry.block.take().map(|block| (block, entry.pending))
    }

    /// Puts back what [`Cache::borrow_block`] took. False where it was freed meanwhile.
    pub(crate) fn return_block(&mut self, place: Place, block: Block, pending: u128) -> bool {
        let Some(entry) = self.entry_mut(place) else { return false };
        entry.block = Some(block);
        entry.pending = pending;
        true
    }

    /// Clean blocks that stay however many are dirty: a step that needs several at once must find them
    /// together.
    fn clean_min(&self) -> usize {
        self.capacity / 8
    }

    /// Adds a block that was read and verified.
    pub(crate) fn insert_clean(&mut self, pointer: &Pointer, block: Block) {
        if self.index.contains_key(&pointer.address) {
            return;
        }
        // Here and after a commit, never within a tree update: it must find again what its preparation found.
        while self.index.len() >= self.capacity && self.clock.len() > self.clean_min() && self.evict() {}
        self.insert(Entry {
            address: pointer.address,
            birth: pointer.birth,
            state: State::Clean,
            pending: 0,
            checksum: pointer.checksum,
            foreseen: None,
            block: Some(block),
            referenced: Cell::new(true),
            tick: 0,
        });
    }

    /// Adds a block that no disk has yet.
    pub(crate) fn insert_dirty(
        &mut self,
        tree: Tree,
        level: usize,
        address: Address,
        birth: Epoch,
        block: Block,
        pending: u128,
    ) -> Place {
        // Whatever is remembered of a block that lay there before is void.
        self.forget(address);
        self.dirty_count += 1;
        let place = self.insert(Entry {
            address,
            birth,
            state: State::Dirty,
            pending,
            checksum: 0,
            foreseen: None,
            block: Some(block),
            referenced: Cell::new(true),
            tick: 0,
        });
        self.dirty[tree as usize][level].push(place);
        place
    }

    fn insert(&mut self, entry: Entry) -> Place {
        let (address, clean) = (entry.address, entry.state == State::Clean);
        let at = match self.vacant.pop() {
            Some(at) => {
                self.entries[at] = Some(entry);
                at
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        };
        self.index.insert(address, at);
        if clean {
            self.wind(at);
        }
        Place { at, address }
    }

    /// Puts an entry that is clean now on the clock.
    fn wind(&mut self, at: usize) {
        let tick = self.clock.len();
        self.clock.push(at);
        if let Some(entry) = &mut self.entries[at] {
            entry.tick = tick;
        }
    }

    /// Takes an entry off the clock; the last one moves to its place.
    fn unwind(&mut self, tick: usize) {
        self.clock.swap_remove(tick);
        if let Some(&moved) = self.clock.get(tick)
            && let Some(entry) = &mut self.entries[moved]
        {
            entry.tick = tick;
        }
    }

    /// Drops clean blocks beyond the capacity. A commit calls it for what it has made clean: where nothing is
    /// ever read, nothing else would make room.
    pub(crate) fn trim(&mut self) {
        while self.index.len() > self.capacity && self.evict() {}
    }

    /// Second-chance eviction of one clean block; false where there is none.
    fn evict(&mut self) -> bool {
        // After one round every entry has lost its second chance.
        for _ in 0..=self.clock.len() {
            self.hand = if self.hand + 1 < self.clock.len() { self.hand + 1 } else { 0 };
            let Some(&at) = self.clock.get(self.hand) else { return false };
            if let Some(entry) = &self.entries[at]
                && !entry.referenced.replace(false)
            {
                let address = entry.address;
                self.forget(address);
                return true;
            }
        }
        false
    }

    /// Drops a block that was freed, dirty or not. One that a commit is writing stays until written.
    pub(crate) fn forget(&mut self, address: Address) {
        let Some(&at) = self.index.get(&address) else { return };
        let Some(entry) = &self.entries[at] else { return };
        match entry.state {
            State::Committing => return,
            State::Dirty => self.dirty_count -= 1,
            State::Clean => {
                let tick = entry.tick;
                self.unwind(tick);
            }
        }
        self.index.remove(&address);
        self.entries[at] = None;
        self.vacant.push(at);
    }

    /// Drops everything that is on disk too.
    pub(crate) fn clear_clean(&mut self) {
        while self.evict() {}
    }

    /// The dirty blocks of a tree's level, which become the commit's; freed ones are left out.
    pub(crate) fn take_dirty(&mut self, tree: Tree, level: usize) -> Vec<Place> {
        let mut places = core::mem::take(&mut self.dirty[tree as usize][level]);
        places.retain(|&place| self.is_dirty_at(place));
        places
    }

    /// What may be dirty of a tree's level; some of it may be freed since.
    pub(crate) fn dirty(&self, tree: Tree, level: usize) -> &[Place] {
        &self.dirty[tree as usize][level]
    }

    /// Notes the checksum that a dirty block would freeze with as it is now, where that is known.
    pub(crate) fn foresee(&mut self, place: Place, checksum: Option<u64>) {
        if let Some(entry) = self.entry_mut(place).filter(|entry| entry.state == State::Dirty) {
            entry.foreseen = checksum;
        }
    }

    /// Marks a dirty block as frozen under its checksum, which may be the one that was foreseen.
    pub(crate) fn freeze(&mut self, place: Place, checksum: u64, foreseen: bool) {
        let Some(entry) = self.entry_mut(place) else {
            panic!("{} froze without being there", place.address)
        };
        assert!(entry.state == State::Dirty && entry.pending == 0);
        entry.state = State::Committing;
        entry.checksum = checksum;
        entry.foreseen = foreseen.then_some(checksum);
        self.dirty_count -= 1;
    }

    /// A commit has written this block.
    pub(crate) fn written(&mut self, place: Place) {
        if let Some(entry) = self.entry_mut(place).filter(|entry| entry.state == State::Committing) {
            entry.state = State::Clean;
            self.wind(place.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pointer::zeroed_block;

    fn pointer(at: u64) -> Pointer {
        Pointer { address: Address(at), birth: Epoch(1), ..Pointer::default() }
    }

    fn dirty(cache: &mut Cache, at: u64) {
        cache.insert_dirty(Tree::Volume, 1, Address(at), Epoch(1), zeroed_block(), 0);
    }

    /// Dirty and clean blocks come and go; the clock has the clean ones, each once, and knows where.
    #[test]
    fn the_clock_has_what_is_clean() {
        let mut cache = Cache::new(8);
        for round in 0..200u64 {
            let at = round * 7 % 31;
            match round % 5 {
                0 | 1 => cache.insert_clean(&pointer(at), zeroed_block()),
                2 => dirty(&mut cache, at),
                3 => {
                    for place in cache.take_dirty(Tree::Volume, 1) {
                        cache.freeze(place, 0, false);
                        cache.written(place);
                    }
                    cache.trim();
                }
                _ => cache.forget(Address(at)),
            }
            let clean = cache.entries.iter().flatten().filter(|entry| entry.state == State::Clean).count();
            assert_eq!(cache.clock.len(), clean);
            for (tick, &at) in cache.clock.iter().enumerate() {
                assert_eq!(
                    cache.entries[at].as_ref().map(|entry| (entry.tick, entry.state)),
                    Some((tick, State::Clean))
                );
            }
        }
    }

    #[test]
    fn eviction_never_takes_what_is_dirty() {
        let mut cache = Cache::new(4);
        (0..10).for_each(|at| dirty(&mut cache, at));
        (10..30).for_each(|at| cache.insert_clean(&pointer(at), zeroed_block()));
        assert_eq!(cache.dirty_count(), 10);
        assert!((0..10).all(|at| cache.is_dirty(Address(at))));
        cache.clear_clean();
        assert_eq!((cache.clock.len(), cache.index.len()), (0, 10));
    }
}
