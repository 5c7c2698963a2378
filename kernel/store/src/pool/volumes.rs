//! A pool's volumes.

use super::Pool;
use crate::catalog::Listing;
use crate::device::BlockDevice;
use crate::engine::{Engine, check_size};
use crate::error::Result;
use crate::forest::Step;
use crate::format::journal::Body;
use crate::image::Image;
use crate::pool::Progress;
use crate::transaction::Transaction;
use crate::types::{Name, ObjectId, TimelineId, VolumeInfo};
use alloc::vec::Vec;

impl<D: BlockDevice> Pool<D> {
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
        let body =
            |_: &mut Transaction<'_>| Ok(Body::CreateVolume { name: name.clone(), size, timeline, time });
        self.administer_and_describe(body, |t, id| self.volume_info(t, id)).await
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
        self.ask(|t| t.named_volume(name).and_then(|id| self.volume_info(t, id))).await
    }

    /// A volume as its lists show it.
    fn volume_info(&self, t: &mut Transaction<'_>, id: ObjectId) -> Step<VolumeInfo> {
        Ok(VolumeInfo { suspended: self.0.gates.is_suspended(id), ..t.volume_info(id)? })
    }

    /// Gives a volume another name; images of it stay open.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn rename_volume(&self, name: &Name, new_name: &Name) -> Result<VolumeInfo> {
        let body = |t: &mut Transaction<'_>| {
            let volume = t.named_volume(name)?;
            t.volume_info(volume)?;
            Ok(Body::RenameVolume { volume, name: new_name.clone() })
        };
        self.administer_and_describe(body, |t, id| self.volume_info(t, id)).await
    }

    /// Changes a volume's size; open images see the new one. What comes or goes counts as trimmed.
    ///
    /// # Errors
    /// `Invalid` for the size.
    pub async fn resize_volume(&self, name: &Name, size: u64) -> Result<VolumeInfo> {
        check_size(size)?;
        let body = |t: &mut Transaction<'_>| {
            let volume = t.named_volume(name)?;
            t.volume_info(volume)?;
            Ok(Body::ResizeVolume { volume, size })
        };
        self.administer_and_describe(body, |t, id| self.volume_info(t, id)).await
    }

    /// Deletes a volume with its checkpoints and reference points. Space that clones need stays.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn delete_volume(&self, name: &Name) -> Result<()> {
        let volume = self.ask(|t| t.named_volume(name)).await?;
        let body = |t: &mut Transaction<'_>| Ok(Body::DeleteVolume { volume: t.named_volume(name)? });
        self.administer(body).await?;
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
        self.administer_and_describe(body, |t, id| self.volume_info(t, id)).await
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
        self.ask(|t| self.volume_info(t, id)).await
    }

    /// Holds a volume's requests. Returns once none is under way.
    ///
    /// # Errors
    /// See [`Pool`].
    pub async fn suspend_volume(&self, name: &Name) -> Result<()> {
        let volume = self.ask(|t| t.named_volume(name)).await?;
        self.0.gates.set_suspended(volume, true);
        // Requests that leave a volume tell only while it is suspended: a resume ends this wait too.
        let ended = || self.0.gates.is_quiet(volume) || !self.0.gates.is_suspended(volume);
        self.0.changed.until(ended).await;
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
