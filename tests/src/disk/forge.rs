//! Forging what lies on a pool's disks: contents are changed and every checksum on the way is made to fit, as a
//! defect of another version could have written them.

use crate::disk::DiskImage;
use crate::disk::layout::{self, Blocks, Kind, Tree, seal_superblock, set_word, word};
use datum_store::device::BLOCK_SIZE;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Fields of a superblock.
pub mod superblock {
    /// This member's number, a byte.
    pub const MEMBER: usize = 8;
    /// Number of the commit.
    pub const COMMIT: usize = 56;
    /// The pool's clock.
    pub const EPOCH: usize = 64;
    /// Root pointer of the object table.
    pub const OBJECTS: usize = 80;
    /// Root pointer of the free map.
    pub const MAP: usize = 112;
    /// Number of this life's log.
    pub const GENERATION: usize = 144;
    /// Sequence number of the next log record.
    pub const SEQUENCE: usize = 160;
    /// The log's first block.
    pub const LOG_FIRST: usize = 176;
    /// Blocks of the log.
    pub const LOG_BLOCKS: usize = 184;
    /// Blocks that wait in the queue of freed extents.
    pub const WAITING: usize = 216;
    /// The next object id.
    pub const NEXT_OBJECT: usize = 232;
    /// Blocks of the first member.
    pub const MEMBERS: usize = 240;
}

/// Fields of records.
pub mod record {
    /// Kinds of records, their first byte.
    pub const VOLUME: u8 = 2;
    /// A version.
    pub const VERSION: u8 = 3;
    /// A reference point.
    pub const REFPOINT: u8 = 4;
    /// A volume's change id.
    pub const VOLUME_CLOCK: usize = 90;
    /// A volume's head.
    pub const VOLUME_HEAD: usize = 82;
    /// A volume's timeline.
    pub const VOLUME_TIMELINE: usize = 98;
    /// Where a version says what it is to its volume.
    pub const VERSION_KIND: usize = 1;
    /// A checkpoint, found by its name. Once hidden it keeps the name, and is none any more.
    pub const CHECKPOINT: u8 = 1;
    /// The volume of a version, and its parent.
    pub const VERSION_VOLUME: usize = 67;
    /// A version's parent.
    pub const VERSION_PARENT: usize = 107;
    /// Start of a volume's list of checkpoints.
    pub const VOLUME_CHECKPOINTS: usize = 106;
    /// The neighbours of a version in its list: previous and next.
    pub const VERSION_LINK: usize = 75;
    /// How far a version's release has come.
    pub const VERSION_CURSOR: usize = 207;
    /// Root pointer of a version.
    pub const VERSION_ROOT: usize = 135;
    /// Blocks that a version counts.
    pub const VERSION_ALLOCATED: usize = 191;
}

/// Bytes of a record.
pub const RECORD_SIZE: usize = 256;
/// Bytes of a pointer: address, birth, change id, checksum.
pub const POINTER_SIZE: usize = 32;
/// Where a pointer has its change id.
pub const POINTER_CHANGE: usize = 16;

const MEMBER_SHIFT: u32 = 56;
/// Levels of nodes in a tree.
const LEVELS: u32 = 5;
/// Records in a block of the object table.
pub const RECORDS_PER_BLOCK: u64 = 16;
/// Where the only bucket of few names lies in the object table.
pub const FIRST_BUCKET: u64 = 1 << 34;

/// A pool's disks in the hands of a forger.
pub struct Forge {
    images: Vec<DiskImage>,
    blocks: Blocks,
}

impl Forge {
    /// Takes disks in hand.
    pub fn new(images: Vec<DiskImage>) -> Self {
        let mut blocks = Blocks::new();
        for (member, image) in (0..).zip(&images) {
            let stored = image.written().into_iter();
            blocks.extend(stored.map(|at| (member << MEMBER_SHIFT | at, Rc::new(image.block(at)))));
        }
        Self { images, blocks }
    }

    /// What each block is that the newest superblock reaches, by address.
    pub fn kinds(&self) -> BTreeMap<u64, Kind> {
        layout::kinds(&mut self.blocks.clone())
    }

    /// The blocks of a kind, ascending.
    pub fn of_kind(&self, kind: Kind) -> Vec<u64> {
        self.kinds().into_iter().filter(|(_, found)| *found == kind).map(|(at, _)| at).collect()
    }

    /// A block's bytes.
    pub fn block(&self, at: u64) -> [u8; BLOCK_SIZE] {
        self.blocks.get(&at).map_or([0; BLOCK_SIZE], |block| **block)
    }

    /// Changes a block.
    pub fn alter(&mut self, at: u64, change: impl FnOnce(&mut [u8; BLOCK_SIZE])) {
        let mut block = self.block(at);
        change(&mut block);
        self.blocks.insert(at, Rc::new(block));
    }

    /// A field of the newest superblock.
    pub fn superblock(&self, field: usize) -> u64 {
        word(&self.block(self.newest()), field)
    }

    /// Sets a field of the newest superblock.
    pub fn set_superblock(&mut self, field: usize, value: u64) {
        self.alter(self.newest(), |block| set_word(block, field, value));
    }

    fn newest(&self) -> u64 {
        layout::newest(&self.blocks).expect("the pool has a superblock")
    }

    /// Every record of a kind: the block it lies in, and where.
    pub fn records(&self, kind: u8) -> Vec<(u64, usize)> {
        let blocks = self.of_kind(Kind::Records).into_iter();
        let places = blocks.flat_map(|at| (0..BLOCK_SIZE).step_by(RECORD_SIZE).map(move |place| (at, place)));
        places.filter(|(at, place)| self.block(*at)[*place] == kind).collect()
    }

    /// A number in a record.
    pub fn field(&self, (at, place): (u64, usize), field: usize) -> u64 {
        word(&self.block(at), place + field)
    }

    /// Changes a number in a record.
    pub fn set_field(&mut self, (at, place): (u64, usize), field: usize, value: u64) {
        self.alter(at, |block| set_word(block, place + field, value));
    }

    /// The blocks on the way from a tree's root pointer, at `field` of `holder`, to what lies at `index`: nodes and
    /// the content. It ends early at a hole.
    pub fn path(&self, holder: &[u8], field: usize, index: u64) -> Vec<u64> {
        let mut path = Vec::new();
        let mut pointer = word(holder, field);
        for level in (0..LEVELS).rev() {
            if pointer == 0 {
                return path;
            }
            path.push(pointer);
            let slot = (index >> (7 * level)) % 128;
            pointer = word(&self.block(pointer), slot as usize * POINTER_SIZE);
        }
        if pointer != 0 {
            path.push(pointer);
        }
        path
    }

    /// The same in the object table.
    pub fn object_path(&self, index: u64) -> Vec<u64> {
        self.path(&self.block(self.newest()), superblock::OBJECTS, index)
    }

    /// Bytes of an object's record.
    pub fn object(&self, id: u64) -> [u8; RECORD_SIZE] {
        let place = (id % RECORDS_PER_BLOCK) as usize * RECORD_SIZE;
        let mut record = [0; RECORD_SIZE];
        if let Some(&at) = self.object_path(id / RECORDS_PER_BLOCK).last() {
            record.copy_from_slice(&self.block(at)[place..place + RECORD_SIZE]);
        }
        record
    }

    /// Extents that are listed as freed: address and length.
    pub fn freed(&self) -> Vec<(u64, u64)> {
        let lists = self.of_kind(Kind::List).into_iter().map(|at| self.block(at));
        let extents = |list: [u8; BLOCK_SIZE]| {
            let count = word(&list, 0).min(255) as usize;
            (0..count).map(move |n| (word(&list, 16 + n * 16), word(&list, 24 + n * 16)))
        };
        lists.flat_map(extents).collect()
    }

    /// The nodes above data: the lowest of all trees of volumes.
    pub fn leaves(&self) -> Vec<u64> {
        let kinds = self.kinds();
        let holds_data = |at: &u64| {
            let block = self.block(*at);
            let children = (0..BLOCK_SIZE).step_by(POINTER_SIZE).map(|slot| word(&block, slot));
            children.into_iter().any(|child| kinds.get(&child) == Some(&Kind::Data))
        };
        self.of_kind(Kind::Node(Tree::Volume)).into_iter().filter(holds_data).collect()
    }

    /// The disks, with every checksum that is reached made to fit, and with the newest superblock everywhere.
    pub fn finish(mut self) -> Vec<DiskImage> {
        layout::repair(&mut self.blocks);
        let newest = self.newest();
        let (slot, superblock) = (newest, self.block(newest));
        for (member, image) in (0..).zip(&self.images) {
            let mut copy = superblock;
            copy[superblock::MEMBER] = member as u8;
            seal_superblock(&mut copy);
            for at in [slot, image.blocks() - 2 + slot] {
                self.blocks.insert(member << MEMBER_SHIFT | at, Rc::new(copy));
            }
        }
        for (address, block) in self.blocks {
            let (member, at) = (address >> MEMBER_SHIFT, address & ((1 << MEMBER_SHIFT) - 1));
            self.images[member as usize].alter(at, |bytes| *bytes = *block);
        }
        self.images
    }
}
