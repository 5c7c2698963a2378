//! Reading and writing volumes and checkpoints.
//!
//! A write goes to freshly allocated blocks first; the tree takes it once it is on the device. Nothing is
//! ordered between requests under way together, as NBD has it.

use crate::device::{BLOCK_SIZE, Block, BlockDevice};
use crate::engine::{Engine, Head, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::forest::{Forest, LEAF_BLOCKS, Step, Stop};
use crate::format::journal::{Body, Run};
use crate::format::pointer::{pointer_at, zeroed_block};
use crate::format::{Address, Pointer};
use crate::limits::{EXTENTS_MAX, QUERY_POINTERS, REQUEST_BLOCKS_MAX, WRITE_ATTEMPTS};
use crate::scan::Scan;
use crate::shell::Shell;
use crate::space::{Purpose, Urgency};
use crate::sync::{Deferred, yield_now};
use crate::transaction::Transaction;
use crate::types::{BlockIndex, Epoch, ExtentPage, ObjectId, View};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;
use futures_util::future::{join, join_all};

/// An open volume or checkpoint. Any number may be open, and calls run concurrently. An open checkpoint
/// keeps its space even when it is deleted. After its volume is deleted every call fails with `NotFound`.
pub struct Image<D: BlockDevice> {
    shell: Rc<Shell<D>>,
    volume: ObjectId,
    checkpoint: Option<ObjectId>,
    /// Size of a checkpoint; that of a volume can change.
    size: u64,
}

impl<D: BlockDevice> Drop for Image<D> {
    fn drop(&mut self) {
        let Some(checkpoint) = self.checkpoint else { return };
        let mut engine = self.shell.engine.borrow_mut();
        if let Some(count) = engine.open_versions.get_mut(&checkpoint) {
            *count -= 1;
            if *count == 0 {
                engine.open_versions.remove(&checkpoint);
            }
        }
        drop(engine);
        self.shell.changed.notify();
    }
}

/// Blocks of a write that are on a device, and what is to verify them.
struct Placed {
    run: Run,
    blocks: Vec<Block>,
    /// The birth is part of the checksums.
    birth: Epoch,
    checksums: Vec<u64>,
}

impl<D: BlockDevice> Image<D> {
    /// Opens a head, or a version that is to stay while it is open.
    pub(crate) fn new(shell: Rc<Shell<D>>, volume: ObjectId, checkpoint: Option<(ObjectId, u64)>) -> Self {
        if let Some((id, _)) = checkpoint {
            *shell.engine.borrow_mut().open_versions.entry(id).or_default() += 1;
        }
        let (checkpoint, size) = (checkpoint.map(|c| c.0), checkpoint.map_or(0, |c| c.1));
        Self { shell, volume, checkpoint, size }
    }

    /// Size in bytes, now; 0 once the volume is deleted.
    pub fn size(&self) -> u64 {
        match self.checkpoint {
            Some(_) => self.size,
            None => self.shell.engine.borrow().heads.get(&self.volume).map_or(0, |head| head.size),
        }
    }

    /// Whether it is a checkpoint, or of a pool that takes no writes.
    pub fn read_only(&self) -> bool {
        self.checkpoint.is_some() || self.shell.engine.borrow().failed.is_some()
    }

    /// The volume's record.
    pub fn volume(&self) -> ObjectId {
        self.volume
    }

    /// Waits while the volume is suspended; holds off whoever suspends it next.
    async fn enter(&self) -> impl Drop + '_ {
        let gates = &self.shell.gates;
        let live = self.checkpoint.is_none();
        if live {
            self.shell.changed.until(|| gates.enter(self.volume)).await;
        }
        let inside = self.shell.traffic.enter();
        Deferred::new(move || {
            drop(inside);
            if live {
                gates.leave(self.volume);
                if !gates.is_open(self.volume) {
                    self.shell.changed.notify();
                }
            }
        })
    }

    fn check_writable(&self) -> Result<()> {
        match self.checkpoint {
            Some(_) => Err(Error::new(
                ErrorKind::ReadOnly,
                "a checkpoint cannot be changed; clone it and write there",
            )),
            None => Ok(()),
        }
    }

    /// Root of the contents, and how many blocks they are.
    fn contents(&self, engine: &mut Engine) -> Step<(Pointer, u64)> {
        match self.checkpoint {
            Some(checkpoint) => Ok((engine.version(checkpoint)?.root, self.size / BLOCK_SIZE as u64)),
            None => engine.load_head(self.volume).map(|head| (head.root, head.blocks())),
        }
    }

    /// Reads blocks: one entry each, `None` for a hole. At most `limits::REQUEST_BLOCKS_MAX` a call.
    ///
    /// # Errors
    /// `Invalid` beyond the end, `Corrupt` where a block is not what was written, `Io`, `NoMemory`.
    pub async fn read(&self, first: BlockIndex, count: u64) -> Result<Vec<Option<Block>>> {
        let _inside = self.enter().await;
        self.read_inside(first, count).await.map(|(blocks, _)| blocks)
    }

    /// The blocks, and what points to them.
    async fn read_inside(&self, first: BlockIndex, count: u64) -> Result<(Vec<Option<Block>>, Vec<Pointer>)> {
        check_request(count)?;
        let _guard = self.shell.read_guard();
        let pointers = self
            .shell
            .run(|engine| {
                let (root, blocks) = self.contents(engine)?;
                if first.0.checked_add(count).is_none_or(|end| end > blocks) {
                    return Err(Stop::Failed(beyond_end(first)));
                }
                engine.forest.lookup_range(&root, first.0, count)
            })
            .await?;
        self.shell.engine.borrow_mut().counters.data_blocks_read +=
            pointers.iter().filter(|pointer| !pointer.is_hole()).count() as u64;
        let runs = pointers.chunk_by(|a, b| !a.is_hole() && a.address.0.checked_add(1) == Some(b.address.0));
        let mut at = first.0;
        let mut reads = runs.map(|run| {
            let first = at;
            at += run.len() as u64;
            self.read_run(first, run)
        });
        let Some(first) = reads.next() else { return Ok(Default::default()) };
        let (first, others) = join(first, join_all(reads)).await;
        let mut blocks = first?;
        blocks.try_reserve_exact(pointers.len() - blocks.len()).map_err(|_| Error::no_memory())?;
        for other in others {
            blocks.extend(other?);
        }
        Ok((blocks, pointers))
    }

    /// Reads adjacent blocks, of which this one is the first here, and verifies each.
    async fn read_run(&self, first: u64, run: &[Pointer]) -> Result<Vec<Option<Block>>> {
        if run[0].is_hole() {
            return Ok(run.iter().map(|_| None).collect());
        }
        let into = self.shell.spare.take(run.len()).ok_or_else(Error::no_memory)?;
        let blocks = self.shell.read_into(run[0].address, into).await?;
        for ((pointer, block), index) in run.iter().zip(&blocks).zip(first..) {
            if !self.shell.verifies(pointer, block) {
                return Err(Box::pin(self.corrupt(pointer, index)).await);
            }
        }
        Ok(blocks.into_iter().map(Some).collect())
    }

    /// The error of a block that is not what was written; says whose it is.
    async fn corrupt(&self, pointer: &Pointer, index: u64) -> Error {
        let error = self.shell.corrupt(pointer);
        let live = |engine: &Engine| engine.heads.get(&self.volume).map(|head| head.version);
        let version = self.checkpoint.or_else(|| live(&self.shell.engine.borrow()));
        if let Some(version) = version
            && let Ok(Some(known)) = self.shell.run(|engine| Transaction::new(engine).known_as(version)).await
        {
            self.shell.tell_whose(pointer.address, &known, index);
        }
        error
    }

    /// Blocks to receive in what is to be written. They hold anything, so all of each must be overwritten. `None` where
    /// there is no memory for them.
    pub fn buffers(&self, count: usize) -> Option<Vec<Block>> {
        self.shell.spare.take(count)
    }

    /// Takes back a block of [`Image::read`] or [`Image::buffers`] that is not needed any more, for the next request.
    pub fn give_back(&self, block: Block) {
        self.shell.spare.give([block]);
    }

    /// Writes whole blocks, at most `limits::REQUEST_BLOCKS_MAX` a call. Each block changes as a whole. Not
    /// durable before a flush.
    ///
    /// # Errors
    /// `ReadOnly`, `Invalid` beyond the end, `NoSpace` with nothing written, `Io`.
    pub async fn write(&self, first: BlockIndex, blocks: Vec<Block>) -> Result<()> {
        self.check_writable()?;
        let _inside = self.enter().await;
        self.write_inside(first, blocks, None).await.map(|_| ())
    }

    /// Replaces `bytes` within one block, from byte `offset` of it on. Concurrent writers of other bytes of
    /// the block lose nothing.
    ///
    /// # Errors
    /// As [`Image::write`], and those of the read it takes.
    pub async fn write_partial(&self, block: BlockIndex, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check_writable()?;
        if offset.checked_add(bytes.len()).is_none_or(|end| end > BLOCK_SIZE) {
            return Err(Error::new(ErrorKind::Invalid, "a partial write must lie within one block"));
        }
        let _inside = self.enter().await;
        loop {
            let (mut old, pointers) = self.read_inside(block, 1).await?;
            let Some((old, pointer)) = old.pop().zip(pointers.first()) else { return Err(beyond_end(block)) };
            let mut new = old.unwrap_or_else(zeroed_block);
            new[offset..offset + bytes.len()].copy_from_slice(bytes);
            // Somebody else may have changed the block since it was read; then the other bytes are stale.
            if self.write_inside(block, alloc::vec![new], Some(*pointer)).await? {
                return Ok(());
            }
        }
    }

    /// Writes blocks; with `expected`, only where that is still the (single) block: an address may be used again, but not
    /// in the same epoch. Tells whether it did.
    async fn write_inside(
        &self,
        first: BlockIndex,
        blocks: Vec<Block>,
        expected: Option<Pointer>,
    ) -> Result<bool> {
        let count = blocks.len() as u64;
        check_request(count)?;
        self.shell.throttle().await?;
        self.shell
            .run(|engine| {
                engine.check_writable()?;
                check_range(first.0, count, &engine.load_head(self.volume)?)
            })
            .await?;
        let mut placed = self.place(blocks).await?;
        let mut installed = false;
        let outcome = self.install(first, &mut placed, expected, &mut installed).await;
        if !installed {
            let space = &mut self.shell.engine.borrow_mut().forest.space;
            placed.iter().for_each(|placed| space.unreserve(placed.run));
        }
        placed.into_iter().for_each(|placed| self.shell.spare.give(placed.blocks));
        outcome.map(|()| installed)
    }

    /// Writes blocks to free places, elsewhere where a device refuses.
    async fn place(&self, blocks: Vec<Block>) -> Result<Vec<Placed>> {
        let runs = self.reserve(blocks.len() as u64).await?;
        if let [run] = runs[..] {
            return self.place_run(run, blocks).await;
        }
        let mut blocks = blocks.into_iter();
        let writes = runs.into_iter().map(|run| {
            let blocks: Vec<Block> = blocks.by_ref().take(run.blocks as usize).collect();
            self.place_run(run, blocks)
        });
        let writes: Vec<_> = writes.collect();
        let mut placed = Vec::new();
        let mut failure = None;
        for outcome in join_all(writes).await {
            match outcome {
                Ok(some) => placed.extend(some),
                Err(error) => failure = Some(error),
            }
        }
        let Some(error) = failure else { return Ok(placed) };
        let space = &mut self.shell.engine.borrow_mut().forest.space;
        placed.iter().for_each(|placed| space.unreserve(placed.run));
        Err(error)
    }

    async fn reserve(&self, blocks: u64) -> Result<Vec<Run>> {
        self.shell
            .run(|engine| {
                let space = &mut engine.forest.space;
                let (purpose, urgency) = (Purpose::Data, Urgency::Write);
                let admitted = space.admits(blocks, urgency);
                admitted.then(|| space.reserve(blocks)).flatten().ok_or(Stop::Window {
                    purpose,
                    blocks,
                    urgency,
                })
            })
            .await
    }

    async fn place_run(&self, run: Run, mut blocks: Vec<Block>) -> Result<Vec<Placed>> {
        let mut runs = alloc::vec![run];
        let mut attempt = 1;
        let mut placed = Vec::new();
        while let Some(run) = runs.pop() {
            let rest = blocks.split_off(run.blocks as usize);
            // Before the device has them: they have just come, so the processor still has them at hand.
            let (birth, checksums) = seal(&self.shell.engine.borrow().forest, run, &blocks);
            let (back, result) = self.shell.write_data(run.address, blocks).await;
            let Err(error) = result else {
                self.shell.engine.borrow_mut().counters.data_blocks_written += run.blocks;
                placed.push(Placed { run, blocks: back, birth, checksums });
                blocks = rest;
                continue;
            };
            // Nothing live lay there: leave the place alone until the pool is opened again, and go elsewhere.
            self.shell.engine.borrow_mut().forest.space.abandon(run);
            attempt += 1;
            if attempt > WRITE_ATTEMPTS || back.len() as u64 != run.blocks {
                let name = self.shell.devices.get(run.address.member()).map_or("?", |d| d.name());
                let space = &mut self.shell.engine.borrow_mut().forest.space;
                placed.iter().for_each(|placed| space.unreserve(placed.run));
                runs.iter().for_each(|&run| space.unreserve(run));
                return Err(Error::device(name, "writing data", error));
            }
            blocks = back;
            blocks.extend(rest);
            // The stack is taken from its end, so the retried part comes out first, in order.
            match self.reserve(run.blocks).await {
                Ok(elsewhere) => runs.extend(elsewhere.into_iter().rev()),
                Err(error) => {
                    let space = &mut self.shell.engine.borrow_mut().forest.space;
                    placed.iter().for_each(|placed| space.unreserve(placed.run));
                    runs.iter().for_each(|&run| space.unreserve(run));
                    return Err(error);
                }
            }
        }
        Ok(placed)
    }

    /// Puts written blocks into the tree; `installed` tells whether it did, also where it failed in the end.
    async fn install(
        &self,
        first: BlockIndex,
        placed: &mut [Placed],
        expected: Option<Pointer>,
        installed: &mut bool,
    ) -> Result<()> {
        self.shell
            .run(|engine| {
                engine.check_writable()?;
                let head = engine.load_head(self.volume)?;
                if let Some(expected) = expected
                    && !engine.forest.lookup(&head.root, first.0)?.is_same_block(&expected)
                {
                    return Ok(());
                }
                // A checkpoint or commit may have passed.
                for old in placed.iter_mut().filter(|placed| placed.birth != engine.forest.epoch) {
                    (old.birth, old.checksums) = seal(&engine.forest, old.run, &old.blocks);
                }
                let runs = placed.iter().map(|placed| placed.run).collect();
                let checksums = placed.iter().flat_map(|placed| &placed.checksums).copied().collect();
                let body = Body::Write { volume: self.volume, first, runs, checksums };
                let operation = engine.operation(body)?;
                engine.apply(&operation)?;
                placed.iter().for_each(|placed| engine.forest.space.install(placed.run));
                engine.journal.push(&operation);
                *installed = true;
                Ok(())
            })
            .await
    }

    /// Makes blocks holes: NBD's TRIM and WRITE_ZEROES, of any length. Every block counts as changed, holes
    /// too. Not durable before a flush.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub async fn trim(&self, first: BlockIndex, count: u64) -> Result<()> {
        self.check_writable()?;
        if count == 0 {
            return Ok(());
        }
        let _inside = self.enter().await;
        self.shell.throttle().await?;
        self.shell
            .run(|engine| {
                engine.check_writable()?;
                let head: Head = engine.load_head(self.volume)?;
                check_range(first.0, count, &head)?;
                let operation = engine.operation(Body::Trim { volume: self.volume, first, count })?;
                engine.apply(&operation)?;
                engine.journal.push(&operation);
                Ok(())
            })
            .await?;
        self.shell.changed.notify();
        Ok(())
    }

    /// The extents of `first..end` under a view, at most `limit` of them.
    ///
    /// # Errors
    /// `Invalid` beyond the end, `Corrupt`, `Io`.
    pub async fn extents(
        &self,
        first: BlockIndex,
        end: BlockIndex,
        view: View,
        limit: usize,
    ) -> Result<ExtentPage> {
        let Range { start, end } = first.0..end.0;
        let limit = limit.clamp(1, EXTENTS_MAX);
        let mut scan = Scan { view, at: start, end, limit, extents: Vec::new() };
        let _inside = self.enter().await;
        let _guard = self.shell.read_guard();
        loop {
            let done = self
                .shell
                .run(|engine| {
                    let (root, blocks) = self.contents(engine)?;
                    // A volume may shrink between two steps of a query.
                    scan.end = scan.end.min(blocks.max(scan.at));
                    if start > end || end > blocks && scan.at == start {
                        return Err(Stop::Failed(beyond_end(first)));
                    }
                    engine.forest.scan_step(&root, &mut scan, QUERY_POINTERS)
                })
                .await?;
            if done {
                break;
            }
            yield_now().await;
        }
        let next = (scan.at < scan.end).then_some(BlockIndex(scan.at));
        Ok(ExtentPage { extents: scan.extents, next })
    }

    /// Makes everything acknowledged so far durable.
    ///
    /// # Errors
    /// `ReadOnly` once a flush has failed: from then on nothing is promised before the pool is reopened.
    pub async fn flush(&self) -> Result<()> {
        self.shell.flush().await
    }
}

fn check_request(count: u64) -> Result<()> {
    if !(1..=REQUEST_BLOCKS_MAX).contains(&count) {
        let message = format_args!("a request takes 1 to {REQUEST_BLOCKS_MAX} blocks, not {count}");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

fn beyond_end(first: BlockIndex) -> Error {
    Error::new(ErrorKind::Invalid, format_args!("blocks from {first} on reach beyond the end"))
}

/// The birth of blocks that are written now, and their checksums.
fn seal(forest: &Forest, run: Run, blocks: &[Block]) -> (Epoch, Vec<u64>) {
    let birth = forest.epoch;
    let addresses = (run.address.0..).map(Address);
    (birth, addresses.zip(blocks).map(|(address, block)| forest.sums.block(address, birth, block)).collect())
}

impl Forest {
    /// The content pointers of `count` blocks.
    pub(crate) fn lookup_range(&self, root: &Pointer, first: u64, count: u64) -> Step<Vec<Pointer>> {
        let mut pointers = Vec::new();
        pointers.try_reserve_exact(count as usize).map_err(|_| Stop::Failed(Error::no_memory()))?;
        let mut at = first;
        while at < first + count {
            let end = (first + count).min((at / LEAF_BLOCKS + 1) * LEAF_BLOCKS);
            let leaf = self.lookup_leaf(root, at)?;
            let slots = (at % LEAF_BLOCKS) as usize..((end - 1) % LEAF_BLOCKS) as usize + 1;
            match leaf.is_hole() {
                true => pointers.extend(slots.map(|_| leaf)),
                false => {
                    let node = self.load(&leaf)?.block();
                    pointers.extend(slots.map(|slot| pointer_at(node, slot)));
                }
            }
            at = end;
        }
        Ok(pointers)
    }
}
