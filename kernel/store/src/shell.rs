//! The shell around the engine: fetches what steps miss, and knows the devices.
//!
//! A step runs against the engine in one go; when it stops for want of a block or of space, the shell gets
//! that and runs it again. The engine is never borrowed across an await.

use crate::damage::Noted;
use crate::device::{Block, BlockDevice, DeviceError};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::forest::{Step, Stop};
use crate::format::pointer::zeroed_block;
use crate::format::{Address, Pointer};
use crate::gate::Gates;
use crate::gather::Gather;
use crate::limits::{OUTWAITED_MAX, PENDING_BYTES_MAX, REQUESTS_PER_STEP};
use crate::space::{Purpose, Urgency};
use crate::spare::Spare;
use crate::sync::{Changed, Deferred, yield_now};
use crate::types::ObjectId;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;
use futures_util::future::{join_all, select};

/// Completed writes of a member, and how many of them a successful flush is known to cover.
#[derive(Default)]
struct FlushState {
    written: Cell<u64>,
    flushed: Cell<u64>,
    /// Flushes asked for, and those under way among them, as bits: each has the one of its number. There are never as many at
    /// once: a commit's, the log's, and what comes at an opening.
    asked: Cell<u64>,
    under_way: Cell<u64>,
    failed: Cell<bool>,
}

impl FlushState {
    /// A flush is asked for, and has this bit.
    fn begin(&self) -> u64 {
        let bit = 1 << (self.asked.get() % 64);
        self.asked.set(self.asked.get() + 1);
        self.under_way.set(self.under_way.get() | bit);
        bit
    }

    fn end(&self, bit: u64) {
        self.under_way.set(self.under_way.get() & !bit);
    }
}

/// Requests and commands of clients, as far as background work gives way to them.
#[derive(Default)]
pub(crate) struct Traffic {
    inside: Cell<usize>,
    ended: Cell<u64>,
    /// How many had ended when background work last went on.
    seen: Cell<u64>,
    /// Somebody was inside, or came, since the last pause began. Between two requests of a busy client there is often
    /// nobody for a moment, and a step taken there holds up the next.
    busy: Cell<bool>,
    /// Notified when so many have ended since that a step is due.
    due: Changed,
}

impl Traffic {
    /// Lets a client in for as long as the guard lives.
    pub(crate) fn enter(&self) -> impl Drop + '_ {
        self.inside.set(self.inside.get() + 1);
        self.busy.set(true);
        Deferred::new(|| {
            self.inside.set(self.inside.get() - 1);
            self.ended.set(self.ended.get() + 1);
            if self.ended.get() - self.seen.get() == REQUESTS_PER_STEP {
                self.due.notify();
            }
        })
    }

    /// Waits for the next step of background work: not at all after a whole pause in which nobody was there, else for a
    /// number of requests or a pause. What clients wait for may be the disk, or that very work: so no longer.
    pub(crate) async fn give_way(&self, pause: &impl AsyncFn()) {
        let is_due = || self.ended.get() - self.seen.get() >= REQUESTS_PER_STEP;
        if self.busy.get() && !is_due() {
            self.busy.set(self.inside.get() > 0);
            select(pin!(pause()), pin!(self.due.until(is_due))).await;
        }
        self.seen.set(self.ended.get());
    }
}

/// An open pool, shared by everything that uses it.
pub(crate) struct Shell<D: BlockDevice> {
    pub(crate) devices: Vec<D>,
    pub(crate) engine: RefCell<Engine>,
    /// Anything that somebody may wait for: loads, commits, flushes, gates.
    pub(crate) changed: Changed,
    pub(crate) gates: Gates,
    pub(crate) traffic: Traffic,
    /// What somebody reads into the cache now.
    pub(crate) loading: RefCell<BTreeSet<Address>>,
    /// Those who wait for readers to go.
    readers_awaited: Cell<usize>,
    pub(crate) committing: Cell<bool>,
    pub(crate) commit_wanted: Cell<bool>,
    /// A look at whose the pool is takes too long.
    pub(crate) owner_in_doubt: Cell<bool>,
    pub(crate) check_hold: crate::check::Hold,
    pub(crate) damage: RefCell<Noted>,
    flushes: Vec<FlushState>,
    /// Data writes that wait, by member.
    pub(crate) gathers: Vec<Gather>,
    pub(crate) spare: Spare,
}

impl<D: BlockDevice> Shell<D> {
    pub(crate) fn new(devices: Vec<D>, engine: Engine) -> Rc<Self> {
        let flushes = devices.iter().map(|_| FlushState::default()).collect();
        let gathers = devices.iter().map(|_| Gather::default()).collect();
        Rc::new(Self {
            devices,
            engine: RefCell::new(engine),
            changed: Changed::new(),
            gates: Gates::default(),
            traffic: Traffic::default(),
            loading: RefCell::new(BTreeSet::new()),
            readers_awaited: Cell::new(0),
            committing: Cell::new(false),
            commit_wanted: Cell::new(false),
            owner_in_doubt: Cell::new(false),
            check_hold: crate::check::Hold::default(),
            damage: RefCell::default(),
            flushes,
            gathers,
            spare: Spare::new(),
        })
    }

    /// Runs a step until it comes to an end.
    pub(crate) async fn run<T>(&self, mut step: impl FnMut(&mut Engine) -> Step<T>) -> Result<T> {
        loop {
            if let Some(value) = self.attempt(&mut step).await? {
                return Ok(value);
            }
        }
    }

    /// Runs a step once; `None` where it got to its end only in part, or not at all, and what it missed is
    /// there now.
    pub(crate) async fn attempt<T>(&self, step: impl FnOnce(&mut Engine) -> Step<T>) -> Result<Option<T>> {
        let outcome = step(&mut self.engine.borrow_mut());
        self.heed_contradictions()?;
        match outcome {
            Ok(value) => return Ok(Some(value)),
            Err(Stop::Miss(pointers)) => self.load_all(&pointers).await?,
            Err(Stop::Window { purpose, blocks, urgency }) => self.refill(purpose, blocks, urgency).await?,
            Err(Stop::Failed(error)) => return Err(error),
        }
        Ok(None)
    }

    /// Stops the pool where steps so far have met what cannot be: nothing of it may reach the disks.
    pub(crate) fn heed_contradictions(&self) -> Result<()> {
        let noted = self.engine.borrow().forest.witness.take();
        noted.map_or(Ok(()), |error| Err(self.latch(&error)))
    }

    /// Keeps what this reader may look up from being reused while the guard lives. To be called in the same
    /// synchronous stretch as the look-up.
    pub(crate) fn read_guard(&self) -> impl Drop + '_ {
        let interval = self.engine.borrow_mut().enter();
        Deferred::new(move || {
            self.engine.borrow_mut().leave(interval);
            if self.readers_awaited.get() > 0 {
                self.changed.notify();
            }
        })
    }

    /// Waits for those who have been reading longest, if all that keeps enough freed space from being taken is that
    /// they may still look at it. Tells whether it was so. Who came after the last commit is waited for after the next.
    async fn outwait_readers(&self, blocks: u64, urgency: Urgency) -> bool {
        let possible = self.engine.borrow().forest.space.could_admit(blocks, urgency);
        possible && (self.outwait_oldest_readers().await || self.engine.borrow().sweep_is_blocked())
    }

    /// Waits for those who have been reading longest, one after the other for as long as all that was freed waits for them; a
    /// check lets go for it. Tells whether it was so. Those who come meanwhile keep only what is freed meanwhile.
    pub(crate) async fn outwait_oldest_readers(&self) -> bool {
        let oldest = || self.engine.borrow().readers.first_key_value().map(|(&interval, _)| interval);
        let blocked = || self.engine.borrow().freed_waits_for_readers();
        let any = blocked();
        self.readers_awaited.set(self.readers_awaited.get() + 1);
        let _done = Deferred::new(|| self.readers_awaited.set(self.readers_awaited.get() - 1));
        while blocked() {
            let awaited = oldest();
            self.check_hold.reclaim();
            self.changed.until(|| oldest() != awaited).await;
        }
        any
    }

    /// Reads one block and checks that it is what its parent says.
    pub(crate) async fn read_verified(&self, pointer: &Pointer) -> Result<Block> {
        let blocks = self.read_blocks(pointer.address, 1).await?;
        let Some(block) = blocks.into_iter().next() else {
            return Err(self.corrupt(pointer));
        };
        match self.verifies(pointer, &block) {
            true => Ok(block),
            false => Err(self.corrupt(pointer)),
        }
    }

    pub(crate) fn verifies(&self, pointer: &Pointer, block: &Block) -> bool {
        self.engine.borrow().forest.sums.verifies(pointer, block)
    }

    /// The error of a block that is not what its parent says. Every reader that meets one comes here.
    pub(crate) fn corrupt(&self, pointer: &Pointer) -> Error {
        self.engine.borrow_mut().counters.checksum_errors += 1;
        self.note_damage(pointer.address);
        let name = self.devices.get(pointer.address.member()).map_or("?", |device| device.name());
        let message = format_args!("disk {name} returned a wrong block; restore the data from a backup");
        Error::new(ErrorKind::Corrupt, message)
            .observed(format_args!("checksum mismatch at {}", self.place(pointer.address)))
    }

    /// The member behind an address; a wrong one in a verified tree is damage all the same.
    fn device(&self, address: Address) -> Result<&D> {
        self.devices.get(address.member()).ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format_args!("{address} is on no member of this pool; run pool.check"),
            )
        })
    }

    /// Where a block lies, as an operator knows it.
    pub(crate) fn place(&self, address: Address) -> String {
        let (member, block) = (address.member(), address.block());
        match self.devices.get(member) {
            Some(device) => alloc::format!("block {block} of disk {}", device.name()),
            None => alloc::format!("block {block} of member {member}"),
        }
    }

    /// Reads so many adjacent blocks, of which there are never very many. What a request asks for goes through
    /// [`Shell::read_into`].
    pub(crate) async fn read_blocks(&self, address: Address, count: u64) -> Result<Vec<Block>> {
        self.read_into(address, (0..count).map(|_| zeroed_block()).collect()).await
    }

    /// Reads as many adjacent blocks as there is room for.
    pub(crate) async fn read_into(&self, address: Address, into: Vec<Block>) -> Result<Vec<Block>> {
        let device = self.device(address)?;
        let count = into.len();
        {
            let counters = &mut self.engine.borrow_mut().counters;
            counters.device_reads += 1;
            counters.device_blocks_read += count as u64;
        }
        let (blocks, result) = device.read(address.block(), into).await;
        let doing = format_args!("reading {count} blocks from {}", address.block());
        result.map_err(|e| Error::device(device.name(), &alloc::format!("{doing}"), e))?;
        Ok(blocks)
    }

    /// Writes adjacent blocks; hands them back either way.
    pub(crate) async fn write_blocks(
        &self,
        address: Address,
        blocks: Vec<Block>,
    ) -> (Vec<Block>, Result<(), DeviceError>) {
        let Ok(device) = self.device(address) else { return (blocks, Err(DeviceError::OutOfRange)) };
        {
            let counters = &mut self.engine.borrow_mut().counters;
            counters.device_writes += 1;
            counters.device_blocks_written += blocks.len() as u64;
        }
        let outcome = device.write(address.block(), blocks).await;
        self.note_written(address.member());
        outcome
    }

    /// Writes adjacent blocks that cannot go anywhere else.
    pub(crate) async fn write_fixed(&self, address: Address, blocks: Vec<Block>) -> Result<()> {
        let (_, result) = self.write_blocks(address, blocks).await;
        let doing = alloc::format!("writing block {}", address.block());
        let name = self.devices.get(address.member()).map_or("?", |device| device.name());
        result.map_err(|e| Error::device(name, &doing, e))
    }

    /// Something on this member is not known to be durable.
    pub(crate) fn note_written(&self, member: usize) {
        if let Some(state) = self.flushes.get(member) {
            state.written.set(state.written.get() + 1);
        }
    }

    /// Flushes every member that has a completed write which no successful flush came after. Somebody
    /// else's flush that is under way does not count: it may fail, or end too late. It may even have lost by then what this one
    /// is for, and not have said so: so one counts only when all that are under way at its end have ended well.
    pub(crate) async fn flush_members(&self) -> Result<()> {
        let members = self.devices.iter().zip(&self.flushes);
        let dirty = members.filter(|(_, state)| state.flushed.get() < state.written.get());
        let flushes = dirty.map(async |(device, state)| {
            let written = state.written.get();
            self.engine.borrow_mut().counters.device_flushes += 1;
            let bit = state.begin();
            let ended = Deferred::new(|| {
                state.end(bit);
                self.changed.notify();
            });
            let outcome = device.flush().await;
            state.failed.set(state.failed.get() || outcome.is_err());
            drop(ended);
            outcome.map_err(|e| Error::device(device.name(), "flushing", e))?;
            let others = state.under_way.get();
            self.changed.until(|| state.under_way.get() & others == 0).await;
            if state.failed.get() {
                return Err(Error::device(device.name(), "flushing", DeviceError::Io));
            }
            state.flushed.set(state.flushed.get().max(written));
            Ok(())
        });
        join_all(flushes).await.into_iter().collect()
    }

    /// Stops acknowledging anything, for good: what could not be made durable must not look as if it were.
    pub(crate) fn latch(&self, cause: &Error) -> Error {
        let mut engine = self.engine.borrow_mut();
        // Damage and exhaustion do not go away by opening it again.
        let stays = matches!(cause.kind(), ErrorKind::Corrupt | ErrorKind::Limit);
        let then = if stays { "" } else { "; then open it again" };
        let message = format_args!("the pool went read-only: {}{then}", cause.message());
        let mut error = Error::new(ErrorKind::ReadOnly, message);
        for observation in cause.observations() {
            error = error.observed(observation);
        }
        let error = error.observed("the pool stopped acknowledging writes");
        engine.failed.get_or_insert_with(|| error.clone());
        drop(engine);
        self.changed.notify();
        error
    }

    /// Gets space into a window, by commits and releases if it must.
    async fn refill(&self, purpose: Purpose, blocks: u64, urgency: Urgency) -> Result<()> {
        loop {
            let (admitted, enough) = {
                let space = &self.engine.borrow().forest.space;
                (space.admits(blocks, urgency), space.window_blocks(purpose) >= blocks)
            };
            if admitted && enough {
                return Ok(());
            }
            // A commit cannot wait for another one; the reserve is there for it.
            if admitted && Box::pin(self.run(|engine| engine.refill_window(purpose))).await? {
                continue;
            }
            if urgency == Urgency::Commit || self.engine.borrow().forest.space.replaying {
                let message = "the reserve for commits is used up; open the pool on larger disks";
                return Err(Error::new(ErrorKind::NoSpace, message));
            }
            Box::pin(self.make_space(blocks, urgency)).await?;
        }
    }

    /// Lets releases and commits return what was freed, as long as that gets anybody anywhere: what one waiter's
    /// commits return another may take, and what others are writing frees blocks only when it ends.
    async fn make_space(&self, blocks: u64, urgency: Urgency) -> Result<()> {
        let free = || self.engine.borrow().forest.space.free();
        let freeing = || self.engine.borrow().forest.space.freeing();
        let granted = || self.engine.borrow().forest.space.granted;
        let (before, unused_before, granted_before) = (free(), free() + freeing(), granted());
        let mut stuck = false;
        for _ in 0..OUTWAITED_MAX {
            // Freed blocks pass through two commits; releases may free more each time.
            for _ in 0..4 {
                for _ in 0..256 {
                    let worked = self.maintain_in_reach().await?;
                    stuck = worked.is_none();
                    if worked != Some(true) {
                        break;
                    }
                    yield_now().await;
                }
                if !self.engine.borrow().commit_gains_space() {
                    break;
                }
                self.commit_now(true).await?;
                if free() > before && self.engine.borrow().forest.space.admits(blocks, urgency) {
                    return Ok(());
                }
            }
            let under_way = |engine: &Engine| engine.active.is_some() || engine.dropping.is_some();
            let progress =
                free() > before || free() + freeing() > unused_before || granted() != granted_before;
            if progress || !stuck && under_way(&self.engine.borrow()) {
                return Ok(());
            }
            if !self.outwait_readers(blocks, urgency).await {
                break;
            }
        }
        let message = "the pool is full; delete or convert checkpoints, trim or delete volumes";
        Err(Error::new(ErrorKind::NoSpace, message))
    }

    /// A step of background work for one who waits for space. It must not wait for space in turn: `None` where it
    /// would have to, for then a commit must come first.
    async fn maintain_in_reach(&self) -> Result<Option<bool>> {
        loop {
            let outcome = self.engine.borrow_mut().maintain();
            self.heed_contradictions()?;
            match outcome {
                Ok(worked) => return Ok(Some(worked)),
                Err(Stop::Miss(pointers)) => self.load_all(&pointers).await?,
                Err(Stop::Window { purpose, blocks, urgency }) => {
                    let admitted = self.engine.borrow().forest.space.admits(blocks, urgency);
                    if !admitted || !Box::pin(self.run(|engine| engine.refill_window(purpose))).await? {
                        return Ok(None);
                    }
                }
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
    }

    /// Whether a commit should start for want of memory or log space, or to keep the next opening short.
    pub(crate) fn commit_due(&self) -> bool {
        let engine = self.engine.borrow();
        let cache = &engine.forest.cache;
        self.commit_wanted.get()
            || cache.dirty_count() > cache.capacity() / 4
            || engine.journal.pending_bytes() > PENDING_BYTES_MAX
            || engine.replay_is_long()
            || engine.forest.space.fresh.len() > crate::limits::FREED_EXTENTS_MAX
            || engine.forest.space.allocated.len() > cache.capacity() / 4
            || engine.sweep_is_due()
            || engine.heads.values().filter(|head| head.dirty).count() > crate::limits::DIRTY_HEADS_MAX
    }

    /// Lets drop jobs of a volume end, so that its checkpoints' block counts can be taken over. Gives up where
    /// background work gets nowhere: then a count stays too high.
    pub(crate) async fn settle_counts(&self, volume: ObjectId) -> Result<()> {
        while self.run(|engine| engine.drops_pending(volume)).await? && self.check_alive().is_ok() {
            if !self.run(Engine::maintain).await? {
                break;
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Changes whenever there may be new background work.
    pub(crate) fn background_mark(&self) -> (u64, u64, usize, bool) {
        let engine = self.engine.borrow();
        let readers = engine.open_versions.len();
        (engine.journal.applied, engine.counters.commits, readers, engine.building.is_some())
    }

    /// Holds a writer back while a commit has yet to write too much of what is in memory.
    pub(crate) async fn throttle(&self) -> Result<()> {
        let crowded = || {
            let engine = self.engine.borrow();
            let cache = &engine.forest.cache;
            engine.failed.is_none()
                && (cache.dirty_count() > cache.capacity() / 2
                    || engine.journal.pending_bytes() > 2 * PENDING_BYTES_MAX)
        };
        while crowded() {
            Box::pin(self.commit_now(false)).await?;
        }
        if self.commit_due() {
            self.changed.notify();
        }
        Ok(())
    }
}
