//! The store's interface: an open pool. Resolves names, runs operations, and makes them durable.

use crate::catalog::Listing;
use crate::check;
use crate::device::{BLOCK_SIZE, BlockDevice};
use crate::engine::{Applied, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::forest::{Step, Stop};
use crate::format::journal::Body;
use crate::image::Image;
use crate::limits::{CHECKPOINT_VOLUMES_MAX, STEP_POINTERS, VOLUME_SIZE_MAX};
use crate::open;
use crate::shell::Shell;
use crate::sync::yield_now;
use crate::token::Token;
use crate::transaction::Transaction;
use crate::types::{
    CheckReport, CheckpointInfo, Counters, MemberInfo, Name, ObjectId, PoolStatus, RefpointInfo, TimelineId,
    VolumeInfo,
};
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
}

impl Config {
    /// The usual steps in this much memory.
    pub fn new(cache_blocks: usize) -> Self {
        Self { cache_blocks, step_pointers: STEP_POINTERS }
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
pub struct Progress(Rc<(Cell<f32>, Cell<bool>)>);

impl Progress {
    /// Work not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// 0 to 1.
    pub fn fraction(&self) -> f32 {
        self.0.0.get()
    }

    /// Asks the work to end with `Cancelled`.
    pub fn cancel(&self) {
        self.0.1.set(true);
    }

    pub(crate) fn set(&self, fraction: f32) {
        self.0.0.set(fraction);
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.0.1.get()
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

    /// What holds it up: clones by volume name, and readers.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub async fn held_by<D: BlockDevice>(&self, pool: &Pool<D>) -> Result<Vec<alloc::string::String>> {
        pool.0.run(|engine| engine.held_by(self.version)).await
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
        open::create(devices, new, config).await.map(Self)
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
    /// runs it.
    pub async fn background(&self) {
        loop {
            self.0.changed.until(|| self.0.check_alive().is_ok()).await;
            if self.0.commit_due() {
                let _latched_if_it_failed = self.0.commit_now(false).await;
                continue;
            }
            // A step that fails does so for want of a disk or of space; what it met is reported by the
            // operations that meet it too. It is tried again after something has changed.
            match self.0.run(Engine::maintain).await {
                Ok(true) => yield_now().await,
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
        self.0.engine.borrow_mut().failed =
            Some(Error::new(ErrorKind::ReadOnly, "the pool was closed; open it again"));
        Ok(())
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
                    allocated_bytes: engine.member_allocated(member) * block,
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

    /// Does one administrative operation: `resolve` finds the objects it names, in the same instant in which
    /// the operation happens. Durable on return.
    async fn administer(
        &self,
        mut resolve: impl FnMut(&mut Transaction<'_>) -> Step<Body>,
    ) -> Result<Applied> {
        self.0.throttle().await?;
        let applied = self
            .0
            .run(|engine| {
                engine.check_writable()?;
                let body = resolve(&mut Transaction::new(engine))?;
                if body.changed_heads().iter().any(|&volume| self.0.gates.is_held(volume)) {
                    let message = "the volume is being reverted; try again when that has ended";
                    return Err(Stop::Failed(Error::new(ErrorKind::InUse, message)));
                }
                let operation = engine.operation(body);
                let applied = engine.apply(&operation)?;
                engine.journal.push(&operation);
                Ok(applied)
            })
            .await?;
        self.0.flush().await?;
        self.0.changed.notify();
        Ok(applied)
    }

    /// Answers a question about the object table.
    async fn ask<T>(&self, mut question: impl FnMut(&mut Transaction<'_>) -> Step<T>) -> Result<T> {
        self.0.run(|engine| question(&mut Transaction::new(engine))).await
    }

    /// Makes an empty volume. `size` in bytes, a multiple of 4096 up to 64 TiB.
    ///
    /// # Errors
    /// `Invalid` for the size.
    pub async fn create_volume(
        &self,
        name: &Name,
        size: u64,
        timeline: TimelineId,
        time: u64,
    ) -> Result<VolumeInfo> {
        check_size(size)?;
        self.administer(|_| Ok(Body::CreateVolume { name: name.clone(), size, timeline, time })).await?;
        self.volume(name).await
    }

    /// Volumes in the order of their creation, after the named one, at most `limit`.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn volumes(&self, after: Option<&Name>, limit: usize) -> Result<Vec<VolumeInfo>> {
        let mut listing = Listing::new(limit);
        self.ask(|t| t.list_volumes(after, &mut listing)).await?;
        let mut infos = listing.items;
        infos.iter_mut().for_each(|info| info.suspended = self.0.gates.is_suspended(info.id));
        Ok(infos)
    }

    /// One volume.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn volume(&self, name: &Name) -> Result<VolumeInfo> {
        let mut info = self.ask(|t| t.named_volume(name).and_then(|id| t.volume_info(id))).await?;
        info.suspended = self.0.gates.is_suspended(info.id);
        Ok(info)
    }

    /// Gives a volume another name; images of it stay open.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn rename_volume(&self, name: &Name, new_name: &Name) -> Result<VolumeInfo> {
        let body = |t: &mut Transaction<'_>| {
            Ok(Body::RenameVolume { volume: t.named_volume(name)?, name: new_name.clone() })
        };
        self.administer(body).await?;
        self.volume(new_name).await
    }

    /// Changes a volume's size; open images see the new one. What comes or goes counts as trimmed.
    ///
    /// # Errors
    /// `Invalid` for the size.
    pub async fn resize_volume(&self, name: &Name, size: u64) -> Result<VolumeInfo> {
        check_size(size)?;
        self.administer(|t| Ok(Body::ResizeVolume { volume: t.named_volume(name)?, size })).await?;
        self.volume(name).await
    }

    /// Deletes a volume with its checkpoints and reference points. Space that clones need stays.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn delete_volume(&self, name: &Name) -> Result<()> {
        let volume = self.ask(|t| t.named_volume(name)).await?;
        self.administer(|t| Ok(Body::DeleteVolume { volume: t.named_volume(name)? })).await?;
        self.0.gates.set_suspended(volume, false);
        self.0.changed.notify();
        Ok(())
    }

    /// Makes a volume with a checkpoint's contents, sharing them.
    ///
    /// # Errors
    /// `Limit` for a chain of clones that is too long.
    pub async fn clone_volume(
        &self,
        volume: &Name,
        checkpoint: &Name,
        name: &Name,
        timeline: TimelineId,
        time: u64,
    ) -> Result<VolumeInfo> {
        let source = self.ask(|t| t.named_volume(volume)).await?;
        self.0.settle_counts(source).await?;
        let body = |t: &mut Transaction<'_>| {
            let (_, checkpoint) = t.named_checkpoint(volume, checkpoint)?;
            Ok(Body::CloneVolume { checkpoint, name: name.clone(), timeline, time })
        };
        self.administer(body).await?;
        self.volume(name).await
    }

    /// Gives a volume a checkpoint's contents. Its requests wait meanwhile; open images then see the
    /// reverted contents. Later checkpoints stay, and so do reference points.
    ///
    /// # Errors
    /// `Cancelled`: the volume is as it was.
    pub async fn revert_volume(
        &self,
        volume: &Name,
        checkpoint: &Name,
        progress: &Progress,
    ) -> Result<VolumeInfo> {
        let (id, checkpoint) = self.ask(|t| t.named_checkpoint(volume, checkpoint)).await?;
        self.0.settle_counts(id).await?;
        self.0.revert(id, checkpoint, progress).await?;
        self.0.changed.notify();
        self.volume(volume).await
    }

    /// Holds a volume's requests. Returns once none is under way.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn suspend_volume(&self, name: &Name) -> Result<()> {
        let volume = self.ask(|t| t.named_volume(name)).await?;
        self.0.gates.set_suspended(volume, true);
        self.0.changed.until(|| self.0.gates.is_quiet(volume)).await;
        Ok(())
    }

    /// Lets a volume's requests go on.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn resume_volume(&self, name: &Name) -> Result<()> {
        let volume = self.ask(|t| t.named_volume(name)).await?;
        self.0.gates.set_suspended(volume, false);
        self.0.changed.notify();
        Ok(())
    }

    /// A checkpoint of each volume, all of one instant and one name.
    ///
    /// # Errors
    /// `Invalid` for no volume or one named twice, `Limit` for too many. Then no checkpoint was made.
    pub async fn create_checkpoint(
        &self,
        volumes: &[Name],
        name: &Name,
        time: u64,
    ) -> Result<Vec<CheckpointInfo>> {
        if volumes.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "name at least one volume to take a checkpoint of"));
        }
        if volumes.len() > CHECKPOINT_VOLUMES_MAX {
            let message =
                format_args!("a checkpoint takes at most {CHECKPOINT_VOLUMES_MAX} volumes; take several");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        if let Some(n) = (1..volumes.len()).find(|&n| volumes[..n].contains(&volumes[n])) {
            return Err(Error::new(ErrorKind::Invalid, format_args!("volume {} is named twice", volumes[n])));
        }
        let incarnation = self.0.engine.borrow().incarnation;
        let body = |t: &mut Transaction<'_>| {
            let volumes = volumes.iter().map(|volume| t.named_volume(volume)).collect::<Step<Vec<_>>>()?;
            Ok(Body::Checkpoint { volumes, name: name.clone(), time, incarnation })
        };
        self.administer(body).await?;
        let mut infos = Vec::new();
        for volume in volumes {
            infos.push(self.checkpoint(volume, name).await?);
        }
        Ok(infos)
    }

    /// A volume's checkpoints in the order of their creation, after the named one, at most `limit`.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn checkpoints(
        &self,
        volume: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<CheckpointInfo>> {
        let mut listing = Listing::new(limit);
        self.ask(|t| t.list_checkpoints(volume, after, &mut listing)).await?;
        Ok(listing.items)
    }

    /// One checkpoint.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn checkpoint(&self, volume: &Name, name: &Name) -> Result<CheckpointInfo> {
        self.ask(|t| t.named_checkpoint(volume, name).and_then(|(_, id)| t.checkpoint_info(id))).await
    }

    /// Deletes a checkpoint. Its name is free at once; the space follows, once nothing holds it.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn delete_checkpoint(&self, volume: &Name, name: &Name) -> Result<Release> {
        let body = |t: &mut Transaction<'_>| {
            Ok(Body::DeleteCheckpoint { checkpoint: t.named_checkpoint(volume, name)?.1 })
        };
        self.administer(body).await.map(|applied| Release { version: applied.object })
    }

    /// Turns a checkpoint into a reference point named `refpoint`. The space follows.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn convert_checkpoint(
        &self,
        volume: &Name,
        name: &Name,
        refpoint: &Name,
    ) -> Result<(RefpointInfo, Release)> {
        let mut version = ObjectId::NONE;
        let body = |t: &mut Transaction<'_>| {
            let (_, checkpoint) = t.named_checkpoint(volume, name)?;
            version = checkpoint;
            Ok(Body::ConvertCheckpoint { checkpoint, name: refpoint.clone() })
        };
        self.administer(body).await?;
        Ok((self.refpoint(volume, refpoint).await?, Release { version }))
    }

    /// Bytes that deleting the checkpoint would free now; 0 while clones or other versions share it.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn unique_bytes(&self, volume: &Name, checkpoint: &Name) -> Result<u64> {
        let (_, id) = self.ask(|t| t.named_checkpoint(volume, checkpoint)).await?;
        let _guard = self.0.read_guard();
        let Some(mut walk) = self.0.run(|engine| engine.unique_walk(id)).await? else { return Ok(0) };
        loop {
            let step = |engine: &mut Engine| engine.unique_step(id, &mut walk);
            if self.0.run(step).await? {
                return Ok(walk.freed * BLOCK_SIZE as u64);
            }
            yield_now().await;
        }
    }

    /// Makes a reference point of a volume as it is now.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn create_refpoint(&self, volume: &Name, name: &Name, time: u64) -> Result<RefpointInfo> {
        let incarnation = self.0.engine.borrow().incarnation;
        let body = |t: &mut Transaction<'_>| {
            let volume = t.named_volume(volume)?;
            Ok(Body::CreateRefpoint { volume, name: name.clone(), time, incarnation })
        };
        self.administer(body).await?;
        self.refpoint(volume, name).await
    }

    /// A volume's reference points in the order of their creation, after the named one, at most `limit`.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn refpoints(
        &self,
        volume: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<RefpointInfo>> {
        let mut listing = Listing::new(limit);
        self.ask(|t| t.list_refpoints(volume, after, &mut listing)).await?;
        Ok(listing.items)
    }

    /// One reference point.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn refpoint(&self, volume: &Name, name: &Name) -> Result<RefpointInfo> {
        self.ask(|t| t.named_refpoint(volume, name).and_then(|id| t.refpoint_info(id))).await
    }

    /// Deletes a reference point; tokens of it stay valid.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn delete_refpoint(&self, volume: &Name, name: &Name) -> Result<()> {
        let body =
            |t: &mut Transaction<'_>| Ok(Body::DeleteRefpoint { refpoint: t.named_refpoint(volume, name)? });
        self.administer(body).await.map(|_| ())
    }

    /// A reference point as a token.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn token(&self, volume: &Name, refpoint: &Name) -> Result<Token> {
        let RefpointInfo { timeline, incarnation, change, .. } = self.refpoint(volume, refpoint).await?;
        Ok(Token { timeline, incarnation, change })
    }

    /// The change id to compare a volume (or its checkpoint `until`) with, for [`crate::View::Changes`].
    ///
    /// # Errors
    /// `RefpointForeign`, `RefpointNewer`.
    pub async fn resolve_since(
        &self,
        volume: &Name,
        until: Option<&Name>,
        since: &Since,
    ) -> Result<crate::types::ChangeId> {
        self.ask(|t| t.resolve_since(volume, until, since)).await
    }

    /// Opens the live volume, or one of its checkpoints to read.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn open_image(&self, volume: &Name, checkpoint: Option<&Name>) -> Result<Image<D>> {
        let found = |engine: &mut Engine| {
            let mut t = Transaction::new(engine);
            let Some(checkpoint) = checkpoint else {
                let id = t.named_volume(volume)?;
                engine.load_head(id)?;
                return Ok((id, None));
            };
            let (id, checkpoint) = t.named_checkpoint(volume, checkpoint)?;
            let size = t.version(checkpoint)?.size;
            Ok((id, Some((checkpoint, size))))
        };
        let (id, checkpoint) = self.0.run(found).await?;
        Ok(Image::new(self.0.clone(), id, checkpoint))
    }
}

fn check_size(size: u64) -> Result<()> {
    if size > VOLUME_SIZE_MAX {
        return Err(Error::new(
            ErrorKind::Limit,
            format_args!("a volume has at most 64 TiB; {size} bytes are more"),
        ));
    }
    let valid =
        (BLOCK_SIZE as u64..=VOLUME_SIZE_MAX).contains(&size) && size.is_multiple_of(BLOCK_SIZE as u64);
    if !valid {
        let message =
            format_args!("a volume's size must be a multiple of 4096 bytes and not 0; {size} is not");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}
