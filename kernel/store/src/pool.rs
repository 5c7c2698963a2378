//! The store's interface: an open pool. Resolves names, runs operations, and makes them durable.

mod points;
mod volumes;

use crate::device::{BLOCK_SIZE, BlockDevice};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::forest::{Step, Stop};
use crate::format::journal::Body;
use crate::format::owner::Mark;
use crate::limits::STEP_POINTERS;
use crate::shell::Shell;
use crate::sync::{Changed, yield_now};
use crate::token::Token;
use crate::transaction::Transaction;
use crate::types::{CheckReport, Counters, Holders, MemberInfo, Name, ObjectId, PoolStatus};
use crate::{check, create, open};
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::Cell;

/// Memory a pool may use, fixed at opening.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Metadata blocks held in memory, at least 256. A quarter may be dirty before a commit starts.
    pub cache_blocks: usize,
    /// Pointers a step of background work looks at before others get their turn, at least 1.
    pub step_pointers: usize,
    /// Bitmaps of the free map that one commit returns freed extents to, at least 1.
    pub sweep_bitmaps: usize,
}

impl Config {
    /// The usual steps in this much memory.
    pub fn new(cache_blocks: usize) -> Self {
        Self { cache_blocks, step_pointers: STEP_POINTERS, sweep_bitmaps: (cache_blocks / 16).max(16) }
    }
}

/// What a new pool is to be.
#[derive(Clone, Debug)]
pub struct NewPool {
    /// Its name.
    pub name: Name,
    /// Random.
    pub id: u128,
    /// Random: the number of this opening.
    pub incarnation: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
}

/// What a change query starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// A reference point or checkpoint of the volume.
    Point(Name),
    /// A reference point that the client holds; for a clone, also one of an ancestor.
    Token(Token),
}

/// How far long work has come, and the wish to stop it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Rc<Work>);

#[derive(Debug, Default)]
struct Work {
    fraction: Cell<f32>,
    cancelled: Cell<bool>,
    changed: Changed,
}

impl Progress {
    /// Work not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// 0 to 1.
    pub fn fraction(&self) -> f32 {
        self.0.fraction.get()
    }

    /// Asks the work to end with `Cancelled`.
    pub fn cancel(&self) {
        self.0.cancelled.set(true);
        self.0.changed.notify();
    }

    pub(crate) fn set(&self, fraction: f32) {
        self.0.fraction.set(fraction);
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.0.cancelled.get()
    }

    pub(crate) async fn until_cancelled(&self) {
        self.0.changed.until(|| self.cancelled()).await;
    }
}

/// Watches a version's space being returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The version that goes.
    pub version: ObjectId,
}

impl Release {
    /// 0 to 1; 1 when all space is back.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub async fn progress<D: BlockDevice>(&self, pool: &Pool<D>) -> Result<f32> {
        pool.0.run(|engine| engine.release_progress(self.version)).await
    }

    /// What holds it up.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub async fn holders<D: BlockDevice>(&self, pool: &Pool<D>) -> Result<Holders> {
        pool.0.run(|engine| engine.holders(self.version)).await
    }
}

/// An open pool; clones share it. An administrative method returns once its effect is durable.
///
/// Unless said otherwise, methods fail with `NotFound` or `Exists` for names, `ReadOnly` once the pool takes
/// no writes, `NoSpace`, `Corrupt` and `Io`.
pub struct Pool<D: BlockDevice>(pub(crate) Rc<Shell<D>>);

impl<D: BlockDevice> Clone for Pool<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: BlockDevice> Pool<D> {
    /// Makes a pool of 1 to 16 devices and opens it.
    ///
    /// # Errors
    /// `Device` names the first device that is not blank, too small or read-only; nothing is written then.
    pub async fn create(devices: Vec<D>, new: NewPool, config: Config) -> Result<Self> {
        create::create(devices, new, config).await.map(Self)
    }

    /// Opens the pool whose members these devices all are, in any order. `incarnation`: random, of this
    /// opening. Where a loss is proven the pool opens read-only, and its status says why.
    ///
    /// # Errors
    /// `Device` names the member that is missing, foreign, doubled or shrunk.
    pub async fn open(devices: Vec<D>, incarnation: u64, config: Config) -> Result<Self> {
        open::open(devices, incarnation, config).await.map(Self)
    }

    /// Runs commits (for want of memory or log space) and background work; never returns. Exactly one task
    /// runs it. Where clients are busy a step waits for so many requests or for `pause`, which should take some ten
    /// milliseconds.
    pub async fn background(&self, pause: impl AsyncFn()) {
        loop {
            self.0.changed.until(|| self.0.check_alive().is_ok()).await;
            if self.0.commit_due() {
                let _latched_if_it_failed = self.0.commit_now(false).await;
                continue;
            }
            // A step that fails does so for want of a disk or of space; what it met is reported by the
            // operations that meet it too. It is tried again after something has changed.
            match self.0.run(Engine::maintain).await {
                Ok(true) => {
                    yield_now().await;
                    self.0.traffic.give_way(&pause).await;
                }
                Ok(false) | Err(_) => self.rest().await,
            }
        }
    }

    /// Waits until something happens after background work has come to its end.
    async fn rest(&self) {
        let seen = self.0.background_mark();
        let news = || self.0.background_mark() != seen || self.0.commit_due();
        self.0.changed.until(|| news() && self.0.check_alive().is_ok()).await;
    }

    /// Makes everything so far part of a durable commit. The caller also calls this by time, every few
    /// seconds while [`Pool::is_dirty`].
    ///
    /// # Errors
    /// `ReadOnly`, also if this commit failed.
    pub async fn commit(&self) -> Result<()> {
        self.0.commit_now(false).await
    }

    /// Whether a commit would have anything to do.
    pub fn is_dirty(&self) -> bool {
        self.0.engine.borrow().is_dirty()
    }

    /// Makes everything acknowledged so far durable: NBD's FLUSH.
    ///
    /// # Errors
    /// `ReadOnly`, also if this flush failed.
    pub async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }

    /// A last commit, then read-only.
    ///
    /// # Errors
    /// `ReadOnly` if that commit failed.
    pub async fn close(&self) -> Result<()> {
        self.0.commit_now(false).await?;
        self.0.mark_owner(Mark::default()).await?;
        self.0.flush_members().await?;
        self.0.engine.borrow_mut().failed =
            Some(Error::new(ErrorKind::ReadOnly, "the pool was closed; open it again"));
        Ok(())
    }

    /// Answers other appliances that ask whether somebody has the pool open, and looks whether one has taken it
    /// over. The caller calls this several times a second; how often is how long a paused appliance that was
    /// taken for dead may go on acknowledging. Once `patience` has ended before the disk has answered, nothing is
    /// acknowledged as durable until it has.
    ///
    /// # Errors
    /// `ReadOnly`: another appliance has the pool now; nothing is acknowledged any more. `Io`: an answer could not be
    /// written; the next call tries again.
    pub async fn guard(&self, patience: impl Future<Output = ()>) -> Result<()> {
        self.0.guard_owner(patience).await
    }

    /// The pool as a whole.
    pub fn status(&self) -> PoolStatus {
        let engine = self.0.engine.borrow();
        let (space, superblock) = (&engine.forest.space, &engine.superblock);
        let block = BLOCK_SIZE as u64;
        let members = self.0.devices.iter().zip(&space.members).enumerate();
        PoolStatus {
            name: superblock.name.clone(),
            id: superblock.pool,
            members: members
                .map(|(member, (device, &blocks))| MemberInfo {
                    name: device.name().to_string(),
                    size: blocks * block,
                    allocated_bytes: space
                        .mapped_of_members
                        .get(member)
                        .map_or(0, |blocks| blocks.saturating_mul(block)),
                })
                .collect(),
            total_bytes: space.total() * block,
            allocated_bytes: (space.total() - space.free()).saturating_sub(space.freeing()) * block,
            available_bytes: space.available() * block,
            freeing_bytes: space.freeing() * block,
            commit: superblock.commit,
            epoch: engine.forest.epoch,
            incarnation: engine.incarnation,
            read_only: engine.failed.as_ref().map(|error| error.message().into()),
            damage: self.0.damage.borrow().shown(),
            releases_pending: engine.releases_pending().unwrap_or(u64::from(engine.active.is_some())),
        }
    }

    /// What was counted since the pool was opened.
    pub fn counters(&self) -> Counters {
        let engine = self.0.engine.borrow();
        Counters { node_hits: engine.forest.cache.hits.get(), ..engine.counters }
    }

    /// Drops from memory all metadata that is on disk too: what follows is measured cold.
    pub fn drop_cache(&self) {
        self.0.engine.borrow_mut().forest.cache.clear_clean();
    }

    /// Proves the pool sound as of a commit made now; reads all metadata, and leaves clients undisturbed.
    ///
    /// # Errors
    /// `Cancelled`, or what keeps the commit from being made; damage is in the report.
    pub async fn check(&self, progress: &Progress) -> Result<CheckReport> {
        check::check(&self.0, false, progress).await
    }

    /// As [`Pool::check`], and reads and verifies all data too.
    ///
    /// # Errors
    /// As [`Pool::check`].
    pub async fn scrub(&self, progress: &Progress) -> Result<CheckReport> {
        check::check(&self.0, true, progress).await
    }

    /// Does one administrative operation; returns the object it is about. `resolve` finds what it names in the same
    /// instant in which the operation happens. Durable on return.
    async fn administer(&self, resolve: impl FnMut(&mut Transaction<'_>) -> Step<Body>) -> Result<ObjectId> {
        self.administer_and_describe(resolve, |_, object| Ok(object)).await
    }

    /// As `administer`; `describe` says what came of the operation in the instant in which it happens, so that
    /// nobody else's command comes in between. What it needs to read, `resolve` must have read or the operation
    /// written.
    async fn administer_and_describe<T>(
        &self,
        mut resolve: impl FnMut(&mut Transaction<'_>) -> Step<Body>,
        mut describe: impl FnMut(&mut Transaction<'_>, ObjectId) -> Step<T>,
    ) -> Result<T> {
        let _inside = self.0.traffic.enter();
        self.0.throttle().await?;
        let mut applied = None;
        let described = self
            .0
            .run(|engine| {
                let object = match applied {
                    Some(object) => object,
                    None => *applied.insert(self.apply(engine, &mut resolve)?),
                };
                describe(&mut Transaction::new(engine), object)
            })
            .await;
        if applied.is_some() {
            self.0.flush().await?;
            self.0.changed.notify();
        }
        described
    }

    /// Applies an operation to what it names; returns the object it is about.
    fn apply(
        &self,
        engine: &mut Engine,
        resolve: impl FnOnce(&mut Transaction<'_>) -> Step<Body>,
    ) -> Step<ObjectId> {
        engine.check_writable()?;
        let body = resolve(&mut Transaction::new(engine))?;
        if body.changed_heads().iter().any(|&volume| self.0.gates.is_held(volume)) {
            let message = "the volume is being reverted; try again when that has ended";
            return Err(Stop::Failed(Error::new(ErrorKind::InUse, message)));
        }
        let operation = engine.operation(body)?;
        let applied = engine.apply(&operation)?;
        engine.journal.push(&operation);
        Ok(applied.object)
    }

    /// Answers a question about the object table.
    async fn ask<T>(&self, mut question: impl FnMut(&mut Transaction<'_>) -> Step<T>) -> Result<T> {
        self.0.run(|engine| question(&mut Transaction::new(engine))).await
    }
}
