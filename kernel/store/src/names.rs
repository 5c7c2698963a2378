//! The index of names: linear hashing over blocks of the object table, one bucket split at a time, so that
//! it grows with the number of names and no single operation ever rebuilds it.

use crate::contradiction::contradiction;
use crate::device::{BLOCK_SIZE, Block};
use crate::error::{Error, ErrorKind};
use crate::forest::{Step, Stop, TREE_BLOCKS};
use crate::format::object::{ROOT_OBJECT, Record};
use crate::transaction::{Transaction, one_less};
use crate::types::{BlockIndex, Name, ObjectId};
use alloc::vec::Vec;
use twox_hash::XxHash64;

/// Where buckets start in the object table, and how many there can be; records lie below.
pub(crate) const BUCKETS_START: u64 = 1 << 34;
pub(crate) const BUCKETS_MAX: u64 = TREE_BLOCKS - BUCKETS_START;
const ENTRY_SIZE: usize = 16;
/// Buckets split for one name, at most.
const SPLITS_MAX: usize = 1024;
/// Entries a bucket holds; it is split from half of that on, on average.
pub(crate) const BUCKET_ENTRIES: u64 = (BLOCK_SIZE / ENTRY_SIZE) as u64;

/// A place in a name space: volumes lie in that of `ObjectId::NONE`, points in their volume's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) owner: ObjectId,
    pub(crate) name: &'a Name,
}

impl Key<'_> {
    fn hash(&self) -> u64 {
        XxHash64::oneshot(self.owner.0, self.name.as_str().as_bytes())
    }
}

fn entry(block: &Block, at: usize) -> (u64, ObjectId) {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    (word(at * ENTRY_SIZE), ObjectId(word(at * ENTRY_SIZE + 8)))
}

fn set_entry(block: &mut Block, at: usize, hash: u64, id: ObjectId) {
    block[at * ENTRY_SIZE..][..8].copy_from_slice(&hash.to_le_bytes());
    block[at * ENTRY_SIZE + 8..][..8].copy_from_slice(&id.0.to_le_bytes());
}

fn entries(block: &Block) -> impl Iterator<Item = (usize, u64, ObjectId)> + '_ {
    (0..BUCKET_ENTRIES as usize).map(|at| (at, entry(block, at))).map(|(at, (hash, id))| (at, hash, id))
}

/// The bucket of a hash among `buckets`.
fn bucket_of(hash: u64, buckets: u64) -> u64 {
    let mask = buckets.next_power_of_two() - 1;
    let bucket = hash & mask;
    if bucket < buckets { bucket } else { hash & (mask >> 1) }
}

fn place(bucket: u64) -> BlockIndex {
    BlockIndex(BUCKETS_START + bucket)
}

impl Transaction<'_> {
    /// The object of this name.
    pub(crate) fn find_name(&mut self, key: Key<'_>) -> Step<Option<ObjectId>> {
        let hash = key.hash();
        let buckets = self.root()?.index_buckets;
        if buckets == 0 {
            return Ok(None);
        }
        let Some(block) = self.read(place(bucket_of(hash, buckets)))? else { return Ok(None) };
        let candidates: Vec<ObjectId> =
            entries(block).filter(|&(_, h, id)| h == hash && id != ObjectId::NONE).map(|e| e.2).collect();
        for id in candidates {
            let (owner, name) = match self.record(id)? {
                Record::Volume(volume) => (ObjectId::NONE, Some(volume.name)),
                Record::Version(version) => (version.volume, version.name),
                Record::Refpoint(point) => (point.volume, Some(point.name)),
                _ => continue,
            };
            if owner == key.owner && name.as_ref() == Some(key.name) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Adds a name that is not there yet.
    pub(crate) fn add_name(&mut self, key: Key<'_>, id: ObjectId) -> Step<()> {
        let mut root = self.root()?;
        // One split a name keeps all buckets half empty.
        if root.index_entries * 2 > root.index_buckets * BUCKET_ENTRIES {
            let (entries, buckets) = (root.index_entries, root.index_buckets);
            let what = format_args!("{entries} names are in {buckets} buckets");
            return Err(Stop::Failed(contradiction(what)));
        }
        root.index_entries += 1;
        root.index_buckets = root.index_buckets.max(1);
        self.set_root(root)?;
        let hash = key.hash();
        let mut splits = 0;
        loop {
            let root = self.root()?;
            let crowded = root.index_entries * 2 > root.index_buckets * BUCKET_ENTRIES;
            if crowded {
                self.split_bucket()?;
                continue;
            }
            if self.put_entry(bucket_of(hash, root.index_buckets), hash, id)? {
                return Ok(());
            }
            // One bucket is full though all are half empty on average: splitting gets to it in time, unless
            // somebody chose the names so that it never does.
            splits += 1;
            if root.index_buckets > root.index_entries + 64 || splits > SPLITS_MAX {
                let crowded = format_args!("too many names hash like {}; choose another name", key.name);
                return Err(Stop::Failed(Error::new(ErrorKind::Limit, crowded)));
            }
            self.split_bucket()?;
        }
    }

    /// Removes a name.
    pub(crate) fn remove_name(&mut self, key: Key<'_>, id: ObjectId) -> Step<()> {
        let hash = key.hash();
        let mut root = self.root()?;
        let bucket = place(bucket_of(hash, root.index_buckets));
        let at = self.read(bucket)?.and_then(|block| entries(block).find(|e| e.2 == id).map(|e| e.0));
        let Some(at) = at else {
            let lost = format_args!("the name index does not list {}; run pool.check", key.name);
            return Err(Stop::Failed(Error::new(ErrorKind::Corrupt, lost)));
        };
        set_entry(self.write(bucket)?, at, 0, ObjectId::NONE);
        root.index_entries = one_less(root.index_entries, ROOT_OBJECT, "name")?;
        self.set_root(root)
    }

    fn put_entry(&mut self, bucket: u64, hash: u64, id: ObjectId) -> Step<bool> {
        let block = self.write(place(bucket))?;
        let vacant = entries(block).find(|e| e.2 == ObjectId::NONE).map(|e| e.0);
        if let Some(at) = vacant {
            set_entry(block, at, hash, id);
        }
        Ok(vacant.is_some())
    }

    /// Adds one bucket and moves into it what belongs there.
    fn split_bucket(&mut self) -> Step<()> {
        let mut root = self.root()?;
        if root.index_buckets >= BUCKETS_MAX {
            let full = "the pool holds as many names as it can; delete some";
            return Err(Stop::Failed(Error::new(ErrorKind::Limit, full)));
        }
        let from = bucket_of(root.index_buckets, root.index_buckets);
        root.index_buckets += 1;
        let (to, buckets) = (root.index_buckets - 1, root.index_buckets);
        self.set_root(root)?;
        let block = self.write(place(from))?;
        let moving: Vec<(usize, u64, ObjectId)> = entries(block)
            .filter(|&(_, hash, id)| id != ObjectId::NONE && bucket_of(hash, buckets) == to)
            .collect();
        moving.iter().for_each(|&(at, ..)| set_entry(block, at, 0, ObjectId::NONE));
        let block = self.write(place(to))?;
        moving.iter().enumerate().for_each(|(at, &(_, hash, id))| set_entry(block, at, hash, id));
        Ok(())
    }
}

/// Names in a bucket's block.
pub(crate) fn bucket_names(block: &Block) -> u64 {
    entries(block).filter(|&(_, _, id)| id != ObjectId::NONE).count() as u64
}
