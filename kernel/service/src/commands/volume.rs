//! `volume.*`.

use super::lists::Window;
use super::{Outcome, present};
use crate::appliance::Appliance;
use crate::disks::random_identity;
use crate::environment::Environment;
use crate::events::Event;
use crate::jobs::Work;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use datum_store::device::BlockDevice;
use datum_store::{Name, TimelineId};
use serde_json::json;

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    pub(super) async fn volume_create(&self, name: &Name, size: u64) -> Outcome {
        let pool = self.pool().await?;
        let volume = pool.create_volume(name, size, self.new_timeline(), self.now()).await?;
        self.publish(&Event::VolumeCreated { volume: name.to_string() });
        Ok(present::volume(&volume))
    }

    pub(super) async fn volume_list(&self, window: &Window) -> Outcome {
        let pool = self.pool().await?;
        let volumes = pool.volumes(window.after_name()?.as_ref(), window.probe()).await?;
        window.page(volumes, |volume| volume.name.to_string(), present::volume)
    }

    pub(super) async fn volume_show(&self, name: &Name) -> Outcome {
        Ok(present::volume(&self.pool().await?.volume(name).await?))
    }

    pub(super) async fn volume_resize(&self, name: &Name, size: u64, force: bool) -> Outcome {
        let pool = self.pool().await?;
        let volume = pool.volume(name).await?;
        if size < volume.size {
            self.sessions.claim(volume.id, name, force)?;
        }
        let volume = pool.resize_volume(name, size).await?;
        self.publish(&Event::VolumeResized { volume: name.to_string(), size });
        Ok(present::volume(&volume))
    }

    pub(super) async fn volume_rename(&self, name: &Name, new_name: &Name) -> Outcome {
        let volume = self.pool().await?.rename_volume(name, new_name).await?;
        self.publish(&Event::VolumeRenamed { volume: name.to_string(), new_name: new_name.to_string() });
        Ok(present::volume(&volume))
    }

    pub(super) async fn volume_delete(&self, name: &Name, force: bool) -> Outcome {
        let pool = self.pool().await?;
        let volume = pool.volume(name).await?;
        self.sessions.claim(volume.id, name, force)?;
        pool.delete_volume(name).await?;
        self.publish(&Event::VolumeDeleted { volume: name.to_string() });
        Ok(json!({}))
    }

    pub(super) async fn volume_clone(&self, volume: &Name, checkpoint: &Name, name: &Name) -> Outcome {
        let pool = self.pool().await?;
        let clone = pool.clone_volume(volume, checkpoint, name, self.new_timeline(), self.now()).await?;
        self.publish(&Event::VolumeCreated { volume: name.to_string() });
        Ok(present::volume(&clone))
    }

    pub(super) async fn volume_revert(
        self: &Rc<Self>,
        volume: Name,
        checkpoint: Name,
        force: bool,
    ) -> Outcome {
        let pool = self.pool().await?;
        let info = pool.volume(&volume).await?;
        pool.checkpoint(&volume, &checkpoint).await?;
        self.jobs.check_room()?;
        self.sessions.claim(info.id, &volume, force)?;
        let subject = format!("{volume}@{checkpoint}");
        let work = Work { kind: "volume.revert", subject, cancellable: true };
        let job = self.start_job(work, |appliance, job| async move {
            let reverted = pool.revert_volume(&volume, &checkpoint, &job.progress).await?;
            let (volume, checkpoint) = (volume.to_string(), checkpoint.to_string());
            appliance.publish(&Event::VolumeReverted { volume, checkpoint });
            Ok(present::volume(&reverted))
        });
        Ok(json!({ "job": job }))
    }

    pub(super) async fn volume_suspend(&self, volume: &Name) -> Outcome {
        let pool = self.pool().await?;
        pool.suspend_volume(volume).await?;
        self.publish(&Event::VolumeSuspended { volume: volume.to_string() });
        Ok(present::volume(&pool.volume(volume).await?))
    }

    pub(super) async fn volume_resume(&self, volume: &Name) -> Outcome {
        let pool = self.pool().await?;
        pool.resume_volume(volume).await?;
        self.publish(&Event::VolumeResumed { volume: volume.to_string() });
        Ok(present::volume(&pool.volume(volume).await?))
    }

    fn new_timeline(&self) -> TimelineId {
        TimelineId(random_identity(&self.environment))
    }
}
