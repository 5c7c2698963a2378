//! Replaying the intent log over what the newest commit holds.
//!
//! First every address that records name is taken out of reach, then the records are applied, in memory that a commit
//! bounds when it runs full. What they will look up is read ahead, many nodes at a time.

use crate::cache::{LEVELS, Tree};
use crate::contradiction::contradiction;
use crate::device::{BLOCK_SIZE, Block, BlockDevice};
use crate::engine::{Engine, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::forest::Stop;
use crate::format::journal::{Body, Header, LogRecord, Operation};
use crate::format::pointer::Checksummer;
use crate::format::superblock::LogPosition;
use crate::format::{Address, Pointer};
use crate::limits::RECORD_BLOCKS_MAX;
use crate::shell::Shell;
use crate::types::ChangeId;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Blocks of the log's ring that are read at a time.
const PIECE_BLOCKS: u64 = 128;

/// Operations whose nodes are read together in a replay. With what a record may hold beyond, they and their nodes fit
/// the memory of the smallest machine.
const OPERATIONS_AHEAD: usize = 256;

/// Operations after which a replay reads its records a second time instead of keeping them.
const OPERATIONS_KEPT: usize = 1024;

/// Replays the log. Returns the proof, if there is one, that something acknowledged was lost.
pub(crate) async fn replay<D: BlockDevice>(shell: &Rc<Shell<D>>) -> Result<Option<Error>> {
    let start = shell.engine.borrow().superblock.log;
    let (sums, generation, durable) = {
        let engine = shell.engine.borrow();
        (engine.forest.sums, engine.superblock.log_generation, engine.superblock.commit)
    };
    let log = Log { shell, sums, generation, piece: RefCell::default(), kept: RefCell::default() };
    // First pass: how far the log reaches, and every address it names out of reach of the replay.
    let (mut at, mut valid, mut last) = (start, 0u64, None);
    let (mut loss, mut operations) = (None, 0);
    while let Some((record, next)) = log.read(at).await? {
        if record.header.commit > durable {
            let message =
                "the newest superblocks of this pool were lost; it was opened as of an older commit";
            loss = Some(Error::new(ErrorKind::ReadOnly, message).observed(format!(
                "log record {} names commit {}, the newest superblock commit {durable}",
                record.header.sequence, record.header.commit
            )));
            break;
        }
        log.claim(&record)?;
        let record = Rc::new(record);
        operations += record.operations.len();
        if operations <= OPERATIONS_KEPT {
            log.kept.borrow_mut().push_back((record.clone(), next));
        }
        (at, valid, last) = (next, valid + 1, Some((at, record)));
    }
    if loss.is_none() {
        loss = log.damage_beyond(at).await?;
    }
    // Only the last record can be one that was never flushed, so only its data can be missing.
    if let Some((place, record)) = last
        && loss.is_none()
        && !log.data_verifies(&record).await?
    {
        (at, valid) = (place, valid - 1);
    }
    let end = at;
    at = start;
    while valid > 0 {
        let records = log.read_several(at, valid).await?;
        log.warm(&records).await;
        valid = if records.is_empty() { 0 } else { valid - records.len() as u64 };
        for (record, next) in records {
            log.apply(&record).await?;
            at = next;
            let crowded = {
                let cache = &shell.engine.borrow().forest.cache;
                cache.dirty_count() > cache.capacity() / 4
            };
            if crowded && loss.is_none() && shell.engine.borrow().failed.is_none() {
                shell.commit(false, Some(at)).await?;
            }
        }
    }
    shell.engine.borrow_mut().journal.position = end;
    Ok(loss)
}

impl Engine {
    /// Nodes that the replay of an operation will miss, as far as that can be told without them. What else is wrong with
    /// it the replay itself finds.
    fn missing_for(&mut self, operation: &Operation) -> Vec<Pointer> {
        let Body::Write { volume, first, checksums, .. } = &operation.body else { return Vec::new() };
        let count = checksums.len() as u64;
        let prepared = self.load_head(*volume).and_then(|head| {
            check_range(first.0, count, &head)?;
            self.forest.prepare(Tree::Volume, &head.root, first.0, first.0 + count - 1, false)
        });
        match prepared {
            Err(Stop::Miss(pointers)) => pointers,
            _ => Vec::new(),
        }
    }
}

/// The intent log while it is being replayed.
struct Log<'a, D: BlockDevice> {
    shell: &'a Shell<D>,
    sums: Checksummer,
    generation: u64,
    /// What was last read of the ring.
    piece: RefCell<Piece>,
    /// The first records, from the first pass for the second.
    kept: RefCell<VecDeque<(Rc<LogRecord>, LogPosition)>>,
}

/// Adjacent blocks of the ring.
#[derive(Default)]
struct Piece {
    start: u64,
    blocks: Vec<Block>,
}

impl Piece {
    /// The bytes of so many blocks, if it has them all.
    fn bytes(&self, block: u64, count: u64) -> Option<Vec<u8>> {
        let from = usize::try_from(block.checked_sub(self.start)?).ok()?;
        let blocks = self.blocks.get(from..from.checked_add(count as usize)?)?;
        let mut bytes = Vec::with_capacity(blocks.len() * BLOCK_SIZE);
        blocks.iter().for_each(|block| bytes.extend_from_slice(&block[..]));
        Some(bytes)
    }
}

impl<D: BlockDevice> Log<'_, D> {
    /// The records from a position on, at most `most` of them, and the positions after them; few enough for the memory
    /// that a replay has.
    async fn read_several(
        &self,
        mut at: LogPosition,
        most: u64,
    ) -> Result<Vec<(Rc<LogRecord>, LogPosition)>> {
        let (mut records, mut operations) = (Vec::new(), 0);
        while (records.len() as u64) < most && operations < OPERATIONS_AHEAD {
            let kept = self.kept.borrow_mut().pop_front();
            let (record, next) = match kept {
                Some(kept) => kept,
                None => match self.read(at).await? {
                    Some((record, next)) => (Rc::new(record), next),
                    None => break,
                },
            };
            operations += record.operations.len();
            records.push((record, next));
            at = next;
        }
        Ok(records)
    }

    /// Brings what the replay of these records will look up into memory, many nodes at a time: one after the other, as
    /// each record misses them, they would be most of what an opening takes.
    async fn warm(&self, records: &[(Rc<LogRecord>, LogPosition)]) {
        let mut waiting: Vec<&Operation> =
            records.iter().flat_map(|(record, _)| &record.operations).collect();
        // Each round gets one level further down, first in the object table and then in the volume.
        for _ in 0..2 * LEVELS {
            let mut missing = BTreeMap::new();
            waiting.retain(|operation| {
                let pointers = self.shell.engine.borrow_mut().missing_for(operation);
                let any = !pointers.is_empty();
                missing.extend(pointers.into_iter().map(|pointer| (pointer.address, pointer)));
                any
            });
            let missing: Vec<Pointer> = missing.into_values().collect();
            // A node that cannot be read is met again by the record that needs it.
            if missing.is_empty() || self.shell.load_all(&missing).await.is_err() {
                return;
            }
        }
    }

    /// Bytes of so many blocks of the ring. More are read at a time, for most records are short and a request for each
    /// would cost more than what it brings.
    async fn ring_bytes(&self, block: u64, count: u64) -> Result<Vec<u8>> {
        if let Some(bytes) = self.piece.borrow().bytes(block, count) {
            return Ok(bytes);
        }
        let (first, ring) = {
            let superblock = &self.shell.engine.borrow().superblock;
            (superblock.log_first, superblock.log_blocks)
        };
        let address = Address::new(0, first + block);
        let ahead = PIECE_BLOCKS.min(ring - block).max(count);
        let blocks = match self.shell.read_blocks(address, ahead).await {
            // The bad block may be one that nobody asked for.
            Err(_) if ahead > count => self.shell.read_blocks(address, count).await?,
            read => read?,
        };
        *self.piece.borrow_mut() = Piece { start: block, blocks };
        let bytes = self.piece.borrow().bytes(block, count);
        bytes.ok_or_else(|| Error::new(ErrorKind::Io, "a disk returned fewer blocks than were asked for"))
    }

    /// The record expected at a position, and the position after it.
    async fn read(&self, at: LogPosition) -> Result<Option<(LogRecord, LogPosition)>> {
        // A record that did not fit before the ring's end lies at its start. One that cannot be read is not
        // the log's end: it may have been acknowledged.
        for block in [at.block, 0] {
            if let Some(record) = self.read_at(block).await?
                && (record.header.sequence, record.header.chain) == (at.sequence, at.chain)
            {
                let next = LogPosition {
                    block: block + record.header.blocks(),
                    sequence: at.sequence.wrapping_add(1),
                    chain: record.checksum,
                };
                return Ok(Some((record, next)));
            }
        }
        Ok(None)
    }

    /// Whatever valid record of this generation starts at a block of the ring.
    async fn read_at(&self, block: u64) -> Result<Option<LogRecord>> {
        let ring = self.shell.engine.borrow().superblock.log_blocks;
        if block >= ring {
            return Ok(None);
        }
        let Some((header, _)) = Header::peek(&self.ring_bytes(block, 1).await?) else { return Ok(None) };
        if header.generation != self.generation || block + header.blocks() > ring {
            return Ok(None);
        }
        let mut bytes = self.ring_bytes(block, header.blocks()).await?;
        Ok(Header::open(&mut bytes, &self.sums))
    }

    /// Where the log seems to end: a later record proves that the one expected here had been flushed.
    async fn damage_beyond(&self, at: LogPosition) -> Result<Option<Error>> {
        let near = at.block..at.block + RECORD_BLOCKS_MAX + 1;
        for block in near.chain(0..RECORD_BLOCKS_MAX + 1) {
            // Beyond the end only what can be read proves anything.
            let Ok(Some(record)) = self.read_at(block).await else { continue };
            if record.header.sequence > at.sequence {
                let message =
                    "a record of the intent log is damaged; the pool was opened as of the record before";
                return Ok(Some(Error::new(ErrorKind::ReadOnly, message).observed(format!(
                    "record {} cannot be read, but record {} exists",
                    at.sequence, record.header.sequence
                ))));
            }
        }
        Ok(None)
    }

    fn claim(&self, record: &LogRecord) -> Result<()> {
        let space = &mut self.shell.engine.borrow_mut().forest.space;
        for operation in &record.operations {
            let Body::Write { runs, .. } = &operation.body else { continue };
            for &run in runs {
                if !space.is_usable(run) {
                    let sequence = record.header.sequence;
                    let place = self.shell.place(run.address);
                    return Err(contradiction(format_args!("log record {sequence} names {place}")));
                }
                space.claim(run);
            }
        }
        Ok(())
    }

    async fn data_verifies(&self, record: &LogRecord) -> Result<bool> {
        for operation in &record.operations {
            let Body::Write { runs, checksums, .. } = &operation.body else { continue };
            let mut sums = checksums.iter();
            for run in runs {
                for block in 0..run.blocks {
                    let address = Address(run.address.0 + block);
                    let checksum = sums.next().copied().unwrap_or_default();
                    let change = ChangeId(0);
                    let pointer = Pointer { address, birth: operation.epoch, change, checksum };
                    match self.shell.read_blocks(address, 1).await {
                        Ok(read) if read.iter().all(|b| self.sums.verifies(&pointer, b)) => {}
                        Ok(_) => return Ok(false),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(true)
    }

    async fn apply(&self, record: &LogRecord) -> Result<()> {
        for operation in &record.operations {
            let replay = |engine: &mut Engine| {
                engine.apply(operation)?;
                if let Body::Write { runs, .. } = &operation.body {
                    runs.iter().for_each(|&run| engine.forest.space.install_claimed(run));
                }
                Ok(())
            };
            let replayed = self.shell.run(replay).await;
            replayed.map_err(|e| e.observed(format!("replaying log record {}", record.header.sequence)))?;
        }
        self.shell.engine.borrow_mut().counters.replayed_records += 1;
        Ok(())
    }
}
