//! Checkpoints and reference points of a pool's volumes, and what they are asked about.

use super::{Pool, Release, Since};
use crate::catalog::Listing;
use crate::device::{BLOCK_SIZE, BlockDevice};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::forest::Step;
use crate::format::journal::Body;
use crate::holders::Search;
use crate::limits::CHECKPOINT_VOLUMES_MAX;
use crate::sync::yield_now;
use crate::token::Token;
use crate::transaction::Transaction;
use crate::types::{ChangeId, CheckpointInfo, HeldVersion, Name, ObjectId, RefpointInfo};
use alloc::vec::Vec;

impl<D: BlockDevice> Pool<D> {
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
        let infos = |t: &mut Transaction<'_>, _| {
            let made = volumes.iter().map(|volume| {
                let (_, id) = t.named_checkpoint(volume, name)?;
                t.checkpoint_info(id)
            });
            made.collect()
        };
        self.administer_and_describe(body, infos).await
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
        self.administer(body).await.map(|version| Release { version })
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
        let info = self.administer_and_describe(body, |t, id| t.refpoint_info(id)).await?;
        Ok((info, Release { version }))
    }

    /// Bytes that deleting the checkpoint would free now; 0 while clones or other versions share it.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn unique_bytes(&self, volume: &Name, checkpoint: &Name) -> Result<u64> {
        let (_, id) = self.ask(|t| t.named_checkpoint(volume, checkpoint)).await?;
        let _guard = self.0.read_guard();
        let mut walk = self.0.run(|engine| engine.unique_walk(id)).await?;
        loop {
            let step = |engine: &mut Engine| engine.unique_step(id, &mut walk);
            if self.0.run(step).await? {
                return Ok(walk.freed * BLOCK_SIZE as u64);
            }
            yield_now().await;
        }
    }

    /// Versions whose space is still to come back, those that something holds first, and how many more there are. What
    /// trims cut off is not among them.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub async fn held(&self) -> Result<(Vec<HeldVersion>, u64)> {
        let mut search = Search::default();
        while !self.ask(|t| t.search_step(&mut search)).await? {
            yield_now().await;
        }
        let (found, drops) = search.found();
        let mut items = Vec::with_capacity(found.len());
        for id in found {
            items.extend(self.ask(|t| t.held_version(id)).await?);
        }
        let more = self.status().releases_pending.saturating_sub(drops + items.len() as u64);
        Ok((items, more))
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
        self.administer_and_describe(body, |t, id| t.refpoint_info(id)).await
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
    ) -> Result<ChangeId> {
        self.ask(|t| t.resolve_since(volume, until, since)).await
    }
}
