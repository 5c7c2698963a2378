//! Finding a pool on its devices, making one, and opening it after whatever happened.
//!
//! Open: the newest superblock valid on any member, then the log. First every address that records name is
//! taken out of reach, then the records are replayed, in memory that a commit bounds when it runs full. It
//! ends with a durable commit and a new log generation, and may be cut off at any point.

use crate::cache::{LEVELS, Tree};
use crate::commit::superblock_places;
use crate::contradiction::contradiction;
use crate::counters::next;
use crate::device::{BLOCK_SIZE, Block, BlockDevice, Geometry};
use crate::engine::{Engine, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::forest::Stop;
use crate::format::journal::{Body, Header, LogRecord, Operation};
use crate::format::owner::{Mark, OWNER_BLOCKS};
use crate::format::pointer::{Checksummer, zeroed_block};
use crate::format::superblock::{Defect, FreedQueue, LogPosition, SLOTS, SUPERBLOCK_SIZE, Superblock};
use crate::format::{Address, Pointer};
use crate::limits::{MEMBER_BLOCKS_MIN, MEMBERS_MAX, RECORD_BLOCKS_MAX};
use crate::pool::{Config, NewPool};
use crate::shell::Shell;
use crate::transaction::Transaction;
use crate::types::{ChangeId, Epoch, Name};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

/// What a disk is whose superblock verifies and cannot be true.
const CONTRADICTORY: &str = "a pool member whose superblocks contradict themselves";

/// Blocks at each end of a disk that must be zero for it to count as blank.
const BLANK_BLOCKS: u64 = 256;

/// Blocks of the log's ring that are read at a time.
const PIECE_BLOCKS: u64 = 128;

/// Operations whose nodes are read together in a replay. With what a record may hold beyond, they and their nodes fit
/// the memory of the smallest machine.
const OPERATIONS_AHEAD: usize = 256;

/// What lies on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// First and last MiB are zero.
    Blank,
    /// A member of a created pool.
    Member {
        /// The pool's identity.
        pool: u128,
        /// The pool's name.
        name: Name,
        /// Place in the pool.
        index: u8,
        /// Members in all.
        members: u8,
        /// The newest commit found.
        commit: u64,
    },
    /// Left by a pool creation that did not finish; holds nothing.
    Unfinished {
        /// The pool that was to be.
        pool: u128,
    },
    /// Neither blank nor a readable member: the text says what it is.
    Foreign(String),
    /// Too small to be a member.
    TooSmall,
}

/// Looks what lies on a disk. Writes nothing.
///
/// # Errors
/// The disk cannot be read.
pub async fn probe<D: BlockDevice>(device: &D) -> Result<Probe> {
    let Geometry { blocks, .. } = device.geometry();
    if blocks < MEMBER_BLOCKS_MIN {
        return Ok(Probe::TooSmall);
    }
    let (newest, defect) = newest_superblock(device).await?;
    Ok(match newest {
        Some(s) if s.commit == 0 => Probe::Unfinished { pool: s.pool },
        Some(s) => Probe::Member {
            pool: s.pool,
            name: s.name,
            index: s.member,
            members: s.members.len() as u8,
            commit: s.commit,
        },
        None => match defect {
            Some(Defect::Damaged) => Probe::Foreign("a pool member whose superblocks are damaged".into()),
            Some(Defect::Unknown) => Probe::Foreign("a pool member of a later version of Datum".into()),
            Some(Defect::Contradictory) => Probe::Foreign(CONTRADICTORY.into()),
            _ if is_blank(device, blocks).await? => Probe::Blank,
            _ => Probe::Foreign("not empty, and not Datum's".into()),
        },
    })
}

async fn read<D: BlockDevice>(device: &D, start: u64, count: u64) -> Result<Vec<Block>> {
    let (blocks, result) = device.read(start, (0..count).map(|_| zeroed_block()).collect()).await;
    result.map_err(|e| Error::device(device.name(), &format!("reading block {start}"), e))?;
    Ok(blocks)
}

async fn is_blank<D: BlockDevice>(device: &D, blocks: u64) -> Result<bool> {
    for start in [0, blocks - BLANK_BLOCKS] {
        let read = read(device, start, BLANK_BLOCKS).await?;
        if read.iter().any(|block| block.iter().any(|&byte| byte != 0)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The newest valid superblock of a device, and the worst that was found instead. A place that cannot be
/// read counts as damaged, as long as another one can.
pub(crate) async fn newest_superblock<D: BlockDevice>(
    device: &D,
) -> Result<(Option<Superblock>, Option<Defect>)> {
    let (mut newest, mut worst, mut unread) = (None::<Superblock>, None, None);
    for place in superblock_places(device.geometry().blocks) {
        let block = match read(device, place, 1).await {
            Ok(blocks) => blocks,
            Err(error) => {
                unread = Some(error);
                continue;
            }
        };
        let Some(bytes) = block.first().and_then(|b| b[..SUPERBLOCK_SIZE].try_into().ok()) else { continue };
        match Superblock::decode(bytes) {
            Ok(found) if newest.as_ref().is_none_or(|n| n.commit < found.commit) => newest = Some(found),
            Ok(_) => {}
            Err(Defect::NotDatum) => {}
            Err(defect) if worst != Some(Defect::Contradictory) => worst = Some(defect),
            Err(_) => {}
        }
    }
    match unread {
        Some(error) if newest.is_none() => Err(error),
        _ => Ok((newest, worst)),
    }
}

fn refuse<T>(message: impl core::fmt::Display) -> Result<T> {
    Err(Error::new(ErrorKind::Device, message))
}

/// Makes a pool; see [`crate::Pool::create`].
pub(crate) async fn create<D: BlockDevice>(
    devices: Vec<D>,
    new: NewPool,
    config: Config,
) -> Result<Rc<Shell<D>>> {
    if !(1..=MEMBERS_MAX).contains(&devices.len()) {
        return refuse(format_args!("a pool has 1 to {MEMBERS_MAX} disks; {} were given", devices.len()));
    }
    for device in &devices {
        let name = device.name();
        if device.geometry().read_only {
            return refuse(format_args!("disk {name} is read-only; attach it writable"));
        }
        match probe(device).await? {
            Probe::Blank | Probe::Unfinished { .. } => {}
            Probe::TooSmall => {
                return refuse(format_args!("disk {name} is too small; a member needs 16 MiB"));
            }
            Probe::Member { name: pool, .. } => {
                return refuse(format_args!("disk {name} belongs to pool {pool}; use another disk"));
            }
            Probe::Foreign(what) => {
                return refuse(format_args!("disk {name} is {what}; erase it first, or use another disk"));
            }
        }
    }
    let members: Vec<u64> = devices.iter().map(|device| device.geometry().blocks).collect();
    let superblock = first_superblock(&new, &members);
    let engine = Engine::new(superblock.clone(), config, new.incarnation);
    let shell = Shell::new(devices, engine);
    shell.write_superblocks(&superblock).await?;
    shell.mark_owner(Mark { who: new.incarnation, answered: 0 }).await?;
    shell.engine.borrow_mut().lay_out(&superblock);
    let root = |engine: &mut Engine| {
        let mut transaction = Transaction::new(engine);
        transaction.set_root(Default::default())?;
        transaction.finish(crate::space::Urgency::Administration)?.apply(engine);
        Ok(())
    };
    shell.run(root).await?;
    shell.commit(false, None).await?;
    Ok(shell)
}

fn first_superblock(new: &NewPool, members: &[u64]) -> Superblock {
    Superblock {
        pool: new.id,
        name: new.name.clone(),
        member: 0,
        commit: 0,
        epoch: Epoch(1),
        created: new.time,
        objects: Pointer::default(),
        map: Pointer::default(),
        log_generation: 1,
        log: LogPosition { block: 0, sequence: 1, chain: 0 },
        log_first: SLOTS + OWNER_BLOCKS,
        log_blocks: (members[0] / 64).clamp(256, 8_192),
        freed: FreedQueue::default(),
        next_object: 2,
        members: members.to_vec(),
        features: [0; 3],
    }
}

impl Engine {
    fn lay_out(&mut self, superblock: &Superblock) {
        let space = &mut self.forest.space;
        for run in superblock.system_runs() {
            let new = space.taken.insert(run) && space.allocated.insert(run);
            self.forest.witness.demand(new, "the places of superblocks, marks and log overlap");
        }
    }
}

/// Opens a pool; see [`crate::Pool::open`].
pub(crate) async fn open<D: BlockDevice>(
    devices: Vec<D>,
    incarnation: u64,
    config: Config,
) -> Result<Rc<Shell<D>>> {
    let (devices, superblock) = assemble(devices).await?;
    let reads_before = devices.len() as u64 * 4;
    let read_only = devices.iter().find(|device| device.geometry().read_only).map(|d| String::from(d.name()));
    let writable = superblock.writable();
    let engine = Engine::new(superblock, config, incarnation);
    let shell = Shell::new(devices, engine);
    shell.engine.borrow_mut().counters.device_reads = reads_before;
    if let Some(disk) = read_only {
        let message = format_args!("disk {disk} is read-only; attach it writable to change anything");
        shell.engine.borrow_mut().failed = Some(Error::new(ErrorKind::ReadOnly, message));
    } else if !writable {
        let message = "a later version of Datum made this pool; this one can only read it";
        shell.engine.borrow_mut().failed = Some(Error::new(ErrorKind::ReadOnly, message));
    }
    if let Some(loss) = restore(&shell).await {
        shell.engine.borrow_mut().failed.get_or_insert(loss);
    }
    let generation = next(shell.engine.borrow().superblock.log_generation, "numbers of openings");
    if let Err(error) = &generation
        && shell.engine.borrow().failed.is_none()
    {
        shell.latch(error);
    }
    if shell.engine.borrow().failed.is_none() {
        let log = {
            let mut engine = shell.engine.borrow_mut();
            engine.superblock.log_generation = generation?;
            engine.forest.space.drop_claims();
            let sequence = engine.journal.position.sequence;
            let log = LogPosition { block: 0, sequence, chain: 0 };
            engine.journal.position = log;
            log
        };
        // Where this fails the pool stands read-only as of what was replayed, and its status says why.
        if shell.commit(false, None).await.is_ok() {
            assert!(shell.engine.borrow().superblock.log == log);
        }
    }
    let mut engine = shell.engine.borrow_mut();
    engine.counters.open_reads = engine.counters.device_reads;
    drop(engine);
    Ok(shell)
}

/// Brings memory to where the pool stood. Returns what keeps it from being written to, if anything does:
/// then it is as of what could be restored.
async fn restore<D: BlockDevice>(shell: &Rc<Shell<D>>) -> Option<Error> {
    let damaged = |error: Error| {
        let message = format_args!("the pool was opened read-only: {}", error.message());
        let observations = error.observations().iter();
        observations.fold(Error::new(ErrorKind::ReadOnly, message), |e, o| e.observed(o))
    };
    if shell.engine.borrow().failed.is_none() {
        let mark = Mark { who: shell.engine.borrow().incarnation, answered: 0 };
        if let Err(error) = shell.mark_owner(mark).await {
            return Some(damaged(error));
        }
        // What an earlier life wrote may still be in the devices' caches, where this one would build on it.
        (0..shell.devices.len()).for_each(|member| shell.note_written(member));
        if let Err(error) = shell.flush_members().await {
            return Some(damaged(error));
        }
    }
    if let Err(error) = shell.run(Engine::resume_sweep).await {
        return Some(damaged(error));
    }
    // Before the replay: what it overwrites is freed by how far the release had come.
    if let Err(error) = shell.run(Engine::resume_release).await {
        return Some(damaged(error));
    }
    shell.engine.borrow_mut().forest.space.replaying = true;
    let loss = replay(shell).await;
    shell.engine.borrow_mut().forest.space.replaying = false;
    loss.unwrap_or_else(|error| Some(damaged(error)))
}

/// Puts the members in order and finds the newest superblock of all.
async fn assemble<D: BlockDevice>(devices: Vec<D>) -> Result<(Vec<D>, Superblock)> {
    let mut found: Vec<(D, Superblock)> = Vec::new();
    for device in devices {
        let name = String::from(device.name());
        if device.geometry().blocks < MEMBER_BLOCKS_MIN {
            return refuse(format_args!("disk {name} is too small to be a member; attach the right disk"));
        }
        match newest_superblock(&device).await? {
            // An older one may be sound; to go back to it would lose what was acknowledged since.
            (_, Some(Defect::Contradictory)) => {
                return refuse(format_args!("disk {name} is {CONTRADICTORY}; restore the disk"));
            }
            (Some(superblock), _) => found.push((device, superblock)),
            (None, Some(Defect::Unknown)) => {
                return refuse(format_args!(
                    "disk {name} belongs to a later version of Datum; use that version"
                ));
            }
            (None, Some(_)) => {
                return refuse(format_args!("all superblocks of disk {name} are damaged; restore the disk"));
            }
            (None, None) => {
                return refuse(format_args!("disk {name} is no member of a pool; attach the right disk"));
            }
        }
    }
    let Some(newest) = found.iter().map(|(_, s)| s).max_by_key(|s| s.commit).cloned() else {
        return refuse("no disk belongs to a pool; create one with pool.create");
    };
    if newest.commit == 0 {
        return refuse("the creation of this pool did not finish; create it again with pool.create");
    }
    let mut members: Vec<Option<D>> = newest.members.iter().map(|_| None).collect();
    for (device, superblock) in found {
        let name = device.name();
        if superblock.pool != newest.pool {
            return refuse(format_args!(
                "disk {name} belongs to pool {}, not to {}; detach it",
                superblock.name, newest.name
            ));
        }
        let index = usize::from(superblock.member);
        let Some(expected) = newest.members.get(index) else {
            return refuse(format_args!(
                "disk {name} claims to be member {index}, which the pool does not have"
            ));
        };
        if device.geometry().blocks < *expected {
            return refuse(format_args!(
                "disk {name} has shrunk from {expected} blocks to {}; restore its size",
                device.geometry().blocks
            ));
        }
        if let Some(twin) = &members[index] {
            return refuse(format_args!(
                "disks {} and {name} are copies of the same member; detach one",
                twin.name()
            ));
        }
        members[index] = Some(device);
    }
    let count = members.len();
    let mut complete = Vec::new();
    for (index, member) in members.into_iter().enumerate() {
        match member {
            Some(device) => complete.push(device),
            None => {
                return refuse(format_args!(
                    "member {index} of {count} of pool {} is missing; attach its disk",
                    newest.name
                ));
            }
        }
    }
    Ok((complete, newest))
}

/// Replays the log. Returns the proof, if there is one, that something acknowledged was lost.
async fn replay<D: BlockDevice>(shell: &Rc<Shell<D>>) -> Result<Option<Error>> {
    let start = shell.engine.borrow().superblock.log;
    let (sums, generation, durable) = {
        let engine = shell.engine.borrow();
        (engine.forest.sums, engine.superblock.log_generation, engine.superblock.commit)
    };
    let log = Log { shell, sums, generation, piece: RefCell::default() };
    // First pass: how far the log reaches, and every address it names out of reach of the replay.
    let (mut at, mut valid, mut last) = (start, 0u64, None);
    let mut loss = None;
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
    async fn read_several(&self, mut at: LogPosition, most: u64) -> Result<Vec<(LogRecord, LogPosition)>> {
        let (mut records, mut operations) = (Vec::new(), 0);
        while (records.len() as u64) < most && operations < OPERATIONS_AHEAD {
            let Some((record, next)) = self.read(at).await? else { break };
            operations += record.operations.len();
            records.push((record, next));
            at = next;
        }
        Ok(records)
    }

    /// Brings what the replay of these records will look up into memory, many nodes at a time: one after the other, as
    /// each record misses them, they would be most of what an opening takes.
    async fn warm(&self, records: &[(LogRecord, LogPosition)]) {
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
