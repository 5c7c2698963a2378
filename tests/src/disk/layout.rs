//! What of the format is needed to find one's way on a disk and to make a changed image verify again: where
//! pointers and checksums lie, written from the format and not with the store's code. The fuzz targets use this
//! file too.

use std::collections::BTreeMap;
use std::rc::Rc;
use twox_hash::XxHash64;

/// Bytes in a block.
const BLOCK_SIZE: usize = 4096;
/// Pointers in a node.
const FANOUT: u64 = 128;
const POINTER_SIZE: usize = 32;
/// Levels of nodes in a tree.
const LEVELS: u32 = 5;
/// Records of the object table, and the root pointer in those of versions.
const RECORD_SIZE: usize = 256;
const VERSION_RECORD: u8 = 3;
const VERSION_ROOT: usize = 135;
/// Where name buckets follow the records.
const BUCKETS_START: u64 = 1 << 34;
/// Where lists of freed extents follow the bitmaps, of which each member can have so many.
const LISTS_START: u64 = 16 << 28;
/// Where an address has its member.
const MEMBER_SHIFT: u32 = 56;
/// Fields of the superblock.
const SUPERBLOCK_MAGIC: &[u8] = b"DATUMSB\x01";
const SUPERBLOCK_SUM: usize = 504;
const POOL: usize = 40;
const COMMIT: usize = 56;
const OBJECTS: usize = 80;
const MAP: usize = 112;
const LOG_BLOCK: usize = 152;
const LOG_CHAIN: usize = 168;
const LOG_FIRST: usize = 176;
const LOG_BLOCKS: usize = 184;
/// Fields of a log record.
const LOG_MAGIC: &[u8] = b"DATUMLOG";
const LOG_SUM: usize = 8;
const RECORD_CHAIN: usize = 32;
const RECORD_PAYLOAD: usize = 56;
const RECORD_HEADER: usize = 64;
const RECORD_BLOCKS_MAX: u64 = 64;

/// Blocks by address: the member in the top byte, the block on it below. The rest is zero.
pub type Blocks = BTreeMap<u64, Rc<[u8; BLOCK_SIZE]>>;

/// The trees of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    /// Records and names.
    Objects,
    /// The free map.
    Map,
    /// A version's contents.
    Volume,
}

/// What lies in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The newest superblock.
    Superblock,
    /// A record of the log since then, or a part of one.
    Log,
    /// A node of a tree.
    Node(Tree),
    /// Records of the object table.
    Records,
    /// A bucket of names.
    Names,
    /// A bitmap of the free map.
    Bitmap,
    /// A list of freed extents.
    List,
    /// A volume's data.
    Data,
}

/// Reads a little-endian number.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Writes one.
pub fn set_word(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Whether a block is a superblock, wherever it lies.
pub fn is_superblock(block: &[u8]) -> bool {
    block.starts_with(SUPERBLOCK_MAGIC)
}

/// The block that holds the newest superblock, by what the slots say of themselves.
pub fn newest(blocks: &Blocks) -> Option<u64> {
    let slots = [0, 1].into_iter().filter(|at| blocks.get(at).is_some_and(|block| is_superblock(&block[..])));
    slots.max_by_key(|at| word(&blocks[at][..], COMMIT))
}

/// A superblock of this pool with the checksum that fits it.
pub fn seal_superblock(bytes: &mut [u8]) {
    let seed = XxHash64::oneshot(0, &bytes[POOL..POOL + 16]);
    let sum = XxHash64::oneshot(seed ^ u64::from_le_bytes(*b"klbrepus"), &bytes[..SUPERBLOCK_SUM]);
    set_word(bytes, SUPERBLOCK_SUM, sum);
}

/// A walk over everything that the newest superblock names.
struct Walk<'a> {
    blocks: &'a mut Blocks,
    seed: u64,
    repair: bool,
    seen: BTreeMap<u64, Kind>,
}

/// Makes every checksum fit that lies on the way from the newest superblock to what it names.
pub fn repair(blocks: &mut Blocks) {
    Walk::over(blocks, true);
}

/// What each block is that the newest superblock reaches.
pub fn kinds(blocks: &mut Blocks) -> BTreeMap<u64, Kind> {
    Walk::over(blocks, false)
}

impl<'a> Walk<'a> {
    fn over(blocks: &'a mut Blocks, repair: bool) -> BTreeMap<u64, Kind> {
        let Some(at) = newest(blocks) else { return BTreeMap::new() };
        let mut superblock = blocks[&at].clone();
        let seed = XxHash64::oneshot(0, &superblock[POOL..POOL + 16]);
        let mut walk = Self { blocks, seed, repair, seen: BTreeMap::from([(at, Kind::Superblock)]) };
        let bytes = Rc::make_mut(&mut superblock);
        walk.tree(bytes, OBJECTS, Tree::Objects);
        walk.tree(bytes, MAP, Tree::Map);
        walk.log(bytes);
        seal_superblock(bytes);
        if repair {
            walk.blocks.insert(at, superblock);
        }
        walk.seen
    }

    fn tree(&mut self, holder: &mut [u8], at: usize, tree: Tree) {
        self.pointer(holder, at, LEVELS, 0, tree);
    }

    /// Follows the pointer at `at`, and puts the checksum of what it names into it.
    fn pointer(&mut self, holder: &mut [u8], at: usize, level: u32, first: u64, tree: Tree) {
        let (address, birth) = (word(holder, at), word(holder, at + 8));
        let Some(stored) = self.blocks.get(&address).filter(|_| address != 0) else { return };
        let mut block = stored.clone();
        // A volume's data is as it is, and its pointers follow it.
        if self.seen.insert(address, kind(tree, level, first)).is_none() {
            let bytes = Rc::make_mut(&mut block);
            if level > 0 {
                let width = FANOUT.pow(level - 1);
                for slot in 0..FANOUT {
                    let at = slot as usize * POINTER_SIZE;
                    self.pointer(bytes, at, level - 1, first + slot * width, tree);
                }
            } else if kind(tree, level, first) == Kind::Records {
                self.records(bytes);
            }
            if self.repair {
                self.blocks.insert(address, block.clone());
            }
        }
        let seed = self.seed
            ^ address.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ birth.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32);
        set_word(holder, at + 24, XxHash64::oneshot(seed, &block[..]));
    }

    fn records(&mut self, block: &mut [u8; BLOCK_SIZE]) {
        for record in block.chunks_exact_mut(RECORD_SIZE) {
            if record[0] == VERSION_RECORD {
                self.tree(record, VERSION_ROOT, Tree::Volume);
            }
        }
    }

    /// Follows the log record by record: each holds the checksum of the one before.
    fn log(&mut self, superblock: &[u8]) {
        let (ring, length) = (word(superblock, LOG_FIRST), word(superblock, LOG_BLOCKS));
        let (mut at, mut chain) = (word(superblock, LOG_BLOCK), word(superblock, LOG_CHAIN));
        while at < length {
            let Some(first) = ring.checked_add(at).filter(|first| first >> MEMBER_SHIFT == 0) else { return };
            let Some(head) = self.blocks.get(&first).filter(|head| head.starts_with(LOG_MAGIC)) else {
                return;
            };
            let payload = word(&head[..], RECORD_PAYLOAD) & u64::from(u32::MAX);
            let count = (RECORD_HEADER as u64 + payload).div_ceil(BLOCK_SIZE as u64);
            if count > RECORD_BLOCKS_MAX {
                return;
            }
            let zero = Rc::new([0; BLOCK_SIZE]);
            let parts: Vec<_> =
                (first..first + count).map(|at| self.blocks.get(&at).unwrap_or(&zero).clone()).collect();
            let mut record: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            if !self.repair && word(&record, RECORD_CHAIN) != chain {
                return;
            }
            set_word(&mut record, RECORD_CHAIN, chain);
            set_word(&mut record, LOG_SUM, 0);
            chain = XxHash64::oneshot(self.seed ^ u64::from_le_bytes(*b"rocergol"), &record);
            set_word(&mut record, LOG_SUM, chain);
            self.seen.extend((first..first + count).map(|at| (at, Kind::Log)));
            if self.repair {
                for (at, part) in (first..).zip(record.chunks_exact(BLOCK_SIZE)) {
                    let mut block = [0; BLOCK_SIZE];
                    block.copy_from_slice(part);
                    self.blocks.insert(at, Rc::new(block));
                }
            }
            at += count;
        }
    }
}

fn kind(tree: Tree, level: u32, first: u64) -> Kind {
    match (tree, level) {
        (_, 1..) => Kind::Node(tree),
        (Tree::Objects, _) if first < BUCKETS_START => Kind::Records,
        (Tree::Objects, _) => Kind::Names,
        (Tree::Map, _) if first < LISTS_START => Kind::Bitmap,
        (Tree::Map, _) => Kind::List,
        (Tree::Volume, _) => Kind::Data,
    }
}
