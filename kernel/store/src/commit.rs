//! Flushes and commits: how what is in memory becomes durable.
//!
//! A flush appends one intent-log record and flushes the members. A commit writes everything a freeze has
//! seen, flushes, writes the superblocks, flushes. Records go on during a commit, up to the moment its
//! superblock is written.

use crate::cache::{LEVELS, Place, Tree};
use crate::counters::next;
use crate::device::{BLOCK_SIZE, Block, BlockDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Address;
use crate::format::journal::{HEADER_SIZE, Header};
use crate::format::pointer::zeroed_block;
use crate::format::superblock::{SLOTS, SUPERBLOCK_SIZE, Superblock};
use crate::freeze::Frozen;
use crate::journal::Batch;
use crate::limits::REQUEST_BLOCKS_MAX;
use crate::shell::Shell;
use crate::space::Urgency;
use crate::sync::{Deferred, yield_now};
use alloc::vec::Vec;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};

/// Device writes a commit has under way at a time.
const COMMIT_WRITES: usize = 8;
/// Checksums computed ahead without a turn for others: about as much work as ten small writes. With fewer, a flush that
/// comes meanwhile waits for more turns.
const FORESEEN_TOGETHER: usize = 64;
/// Frozen blocks copied for the disk without a turn for others.
const COPIED_TOGETHER: usize = 32;
/// Shortest run worth a discard (64 KiB), and how many a commit asks for at most.
const DISCARD_BLOCKS_MIN: u64 = 16;
const DISCARDS_MAX: usize = 256;

/// The four places of a superblock on a member: both slots at both ends.
pub(crate) fn superblock_places(blocks: u64) -> [u64; 4] {
    [0, 1, blocks - SLOTS, blocks - SLOTS + 1]
}

impl<D: BlockDevice> Shell<D> {
    /// Makes every operation applied so far durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        let target = self.engine.borrow().journal.applied;
        loop {
            self.check_alive()?;
            if self.engine.borrow().journal.durable >= target {
                return self.be_certain_of_owner().await;
            }
            if !self.engine.borrow().journal.next_batch_fits(self.engine.borrow().superblock.log_blocks) {
                self.commit_now(false).await?;
                continue;
            }
            let idle = |journal: &crate::journal::Journal| !journal.busy && !journal.sealing;
            if idle(&self.engine.borrow().journal) {
                self.write_records().await?;
                continue;
            }
            let settled = || {
                let engine = self.engine.borrow();
                engine.failed.is_some() || engine.journal.durable >= target || idle(&engine.journal)
            };
            self.changed.until(settled).await;
        }
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        match &self.engine.borrow().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// A flush or commit that its caller drops half-way has lost track of what is durable.
    fn latch_if_abandoned(&self) -> Deferred<impl FnOnce() + '_> {
        Deferred::new(|| {
            self.latch(&Error::new(ErrorKind::Io, "a flush was given up half-way; report this"));
        })
    }

    /// Writes one batch of operations as records, each flushed before the next is written.
    async fn write_records(&self) -> Result<()> {
        let (batch, cut, durable) = {
            let mut engine = self.engine.borrow_mut();
            let (batch, cut) = engine.journal.take();
            engine.journal.busy = true;
            let durable = if cut { engine.journal.frozen } else { engine.journal.applied };
            (batch, cut, durable)
        };
        let idle = Deferred::new(|| {
            self.engine.borrow_mut().journal.busy = false;
            self.changed.notify();
        });
        let abandoned = self.latch_if_abandoned();
        let written = self.write_batch(&batch).await;
        abandoned.defuse();
        if let Err(error) = written {
            return Err(self.latch(&error));
        }
        let mut engine = self.engine.borrow_mut();
        if cut {
            engine.journal.cut_written();
        }
        engine.journal.durable = engine.journal.durable.max(durable);
        drop(engine);
        drop(idle);
        Ok(())
    }

    async fn write_batch(&self, batch: &Batch) -> Result<()> {
        for payload in batch.payloads() {
            self.write_record(payload).await?;
            self.flush_members().await?;
        }
        Ok(())
    }

    async fn write_record(&self, payload: &[u8]) -> Result<()> {
        let (address, bytes) = self.seal_record(payload)?;
        self.engine.borrow_mut().counters.log_records += 1;
        let blocks = bytes.chunks_exact(BLOCK_SIZE).map(|chunk| {
            let mut block = zeroed_block();
            block.copy_from_slice(chunk);
            block
        });
        self.write_fixed(address, blocks.collect()).await
    }

    fn seal_record(&self, payload: &[u8]) -> Result<(Address, Vec<u8>)> {
        let mut engine = self.engine.borrow_mut();
        let following = next(engine.journal.position.sequence, "numbers of log records")?;
        let blocks = (HEADER_SIZE + payload.len()).div_ceil(BLOCK_SIZE) as u64;
        let Some(place) = engine.journal.place(blocks, engine.superblock.log_blocks) else {
            let message = "the intent log is full though a commit has emptied it; report this";
            return Err(Error::new(ErrorKind::Limit, message));
        };
        let position = engine.journal.position;
        let header = Header {
            generation: engine.superblock.log_generation,
            sequence: position.sequence,
            chain: position.chain,
            commit: engine.superblock.commit,
            flushed: position.sequence.wrapping_sub(1),
            payload: payload.len() as u32,
        };
        let (bytes, checksum) = header.seal(payload, &engine.forest.sums);
        let position = &mut engine.journal.position;
        position.block = place + header.blocks();
        position.sequence = following;
        position.chain = checksum;
        Ok((Address::new(0, engine.superblock.log_first + place), bytes))
    }

    /// Commits everything applied so far. With a commit under way already, waits for it and starts another
    /// only if something was left. `eager`: return as much freed space as possible.
    pub(crate) async fn commit_now(&self, eager: bool) -> Result<()> {
        let target = self.engine.borrow().journal.applied;
        loop {
            self.check_alive()?;
            if !self.committing.get() {
                break;
            }
            self.changed.until(|| !self.committing.get()).await;
            if !eager && self.engine.borrow().journal.durable >= target && !self.engine.borrow().dirty_aside {
                return self.check_alive();
            }
        }
        self.commit(eager, None).await
    }

    /// One commit. In a replay, `replayed` says up to where the log is in it; no epoch passes then.
    pub(crate) async fn commit(
        &self,
        eager: bool,
        replayed: Option<crate::format::superblock::LogPosition>,
    ) -> Result<()> {
        self.committing.set(true);
        self.commit_wanted.set(false);
        let done = Deferred::new(|| {
            self.committing.set(false);
            self.changed.notify();
        });
        let abandoned = self.latch_if_abandoned();
        let result = self.commit_inner(eager, replayed).await;
        abandoned.defuse();
        // Where something else has stopped the pool meanwhile, this commit's own failure still leaves it read-only.
        if let Err(error) = &result
            && (self.engine.borrow().failed.is_none() || error.kind() != ErrorKind::ReadOnly)
        {
            return Err(self.latch(error));
        }
        drop(done);
        result
    }

    async fn commit_inner(
        &self,
        eager: bool,
        replayed: Option<crate::format::superblock::LogPosition>,
    ) -> Result<()> {
        self.leave_space_for_commits().await;
        let sweep = self.run(|engine| engine.plan_sweep(eager)).await?;
        self.discard(&sweep).await;
        self.foresee().await;
        let advance = replayed.is_none();
        let mut frozen = loop {
            // A record that is being written belongs wholly to one side of the freeze.
            self.changed.until(|| !self.engine.borrow().journal.busy).await;
            let frozen = self.run(|engine| match engine.journal.busy {
                true => Ok(None),
                false => engine.freeze(&sweep, advance).map(Some),
            });
            if let Some(frozen) = frozen.await? {
                break frozen;
            }
        };
        self.write_frozen(&mut frozen).await?;
        self.flush_members().await?;
        self.check_owner().await?;
        self.changed.until(|| !self.engine.borrow().journal.busy).await;
        self.check_alive()?;
        let log = {
            let mut engine = self.engine.borrow_mut();
            let log = engine.journal.seal();
            replayed.unwrap_or(log)
        };
        self.write_superblocks(&Superblock { log, ..frozen.superblock.clone() }, |_| true).await?;
        self.install_commit(frozen, log);
        self.heed_contradictions()
    }

    /// Computes checksums ahead, a few at a time: the freeze computes only what changes after this, and all others wait
    /// for it.
    async fn foresee(&self) {
        for level in 1..=LEVELS {
            let places = self.engine.borrow().forest.cache.dirty(Tree::Volume, level).to_vec();
            for some in places.chunks(FORESEEN_TOGETHER) {
                some.iter().for_each(|&place| self.engine.borrow_mut().forest.foresee(place));
                yield_now().await;
            }
        }
    }

    /// Waits for readers where space is short: commits that return none would leave none to those that do.
    async fn leave_space_for_commits(&self) {
        let scarce = || !self.engine.borrow().forest.space.admits(0, Urgency::Release);
        while scarce() && self.outwait_oldest_readers().await {}
    }

    /// Tells the devices of space that the coming freeze frees. Short runs are soon written again and not
    /// worth a request each. A refusal costs nothing.
    async fn discard(&self, sweep: &[crate::format::journal::Run]) {
        let worth = sweep.iter().filter(|run| run.blocks >= DISCARD_BLOCKS_MIN).take(DISCARDS_MAX);
        let requests = worth.map(async |run| {
            let Some(device) = self.devices.get(run.address.member()) else { return };
            if device.geometry().discard {
                self.engine.borrow_mut().counters.device_discards += 1;
                let _refused_is_fine = device.discard(run.address.block(), run.blocks).await;
            }
        });
        let requests: Vec<_> = requests.collect();
        stream::iter(requests).buffer_unordered(COMMIT_WRITES).collect::<()>().await;
    }

    async fn write_frozen(&self, frozen: &mut Frozen) -> Result<()> {
        yield_now().await;
        frozen.blocks.sort_unstable_by_key(|place| place.address);
        let runs = frozen.blocks.chunk_by(|a, b| a.address.0 + 1 == b.address.0);
        let pieces = runs.flat_map(|run| run.chunks(REQUEST_BLOCKS_MAX as usize));
        let copies = stream::iter(pieces).then(|places| async move {
            let mut blocks = Vec::new();
            for some in places.chunks(COPIED_TOGETHER) {
                yield_now().await;
                self.copy_frozen(some, &mut blocks);
            }
            (places[0].address, blocks)
        });
        let writes = copies.map(|(first, blocks)| self.write_fixed(first, blocks));
        writes.buffer_unordered(COMMIT_WRITES).try_collect::<()>().await
    }

    fn copy_frozen(&self, places: &[Place], to: &mut Vec<Block>) {
        let mut engine = self.engine.borrow_mut();
        engine.counters.node_writes += places.len() as u64;
        for &place in places {
            let Some(entry) = engine.forest.cache.entry(place) else {
                panic!("{} left the cache before it was written", place.address)
            };
            to.push(entry.block().clone());
        }
    }

    /// Writes a superblock to its slot at both ends of each member chosen, and flushes.
    pub(crate) async fn write_superblocks(
        &self,
        superblock: &Superblock,
        chosen: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let slot = (superblock.commit % SLOTS) as usize;
        let mut writes = Vec::new();
        for (member, &blocks) in superblock.members.iter().enumerate().filter(|(member, _)| chosen(*member)) {
            let bytes = Superblock { member: member as u8, ..superblock.clone() }.encode();
            let places = superblock_places(blocks);
            for place in [places[slot], places[slot + SLOTS as usize]] {
                let mut block = zeroed_block();
                block[..SUPERBLOCK_SIZE].copy_from_slice(&bytes);
                writes.push(self.write_fixed(Address::new(member, place), alloc::vec![block]));
            }
        }
        join_all(writes).await.into_iter().collect::<Result<()>>()?;
        self.flush_members().await
    }

    /// The commit is durable: memory follows.
    fn install_commit(&self, frozen: Frozen, log: crate::format::superblock::LogPosition) {
        let mut engine = self.engine.borrow_mut();
        let engine = &mut *engine;
        frozen.blocks.iter().for_each(|&place| engine.forest.cache.written(place));
        engine.forest.cache.trim();
        engine.forest.space.settled();
        engine.superblock = Superblock { log, ..frozen.superblock };
        engine.listed = engine.superblock.freed.next;
        engine.journal.committed(log);
        engine.counters.commits += 1;
    }
}
