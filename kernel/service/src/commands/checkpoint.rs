//! `checkpoint.*`. What a deleted or converted checkpoint held comes back in the background; a job shows how far.

use super::lists::{ITEM_BYTES, Window};
use super::{Outcome, present};
use crate::answer::Answer;
use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::events::Event;
use crate::jobs::{Job, Work};
use crate::limits::{JOB_POLL_NANOSECONDS, READERS_PATIENCE_NANOSECONDS};
use crate::memory::keep_room_for;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use datum_store::device::BlockDevice;
use datum_store::limits::CHECKPOINT_VOLUMES_MAX;
use datum_store::{Error, ErrorKind, Name, Release, Result};
use serde_json::{Value, json};

/// What one of several checkpoints takes as text, for however it grows and is shown.
const ITEM_TEXT_BYTES: usize = 2048;

/// Whether one checkpoint may span so many volumes.
pub(super) fn check_volumes(count: usize) -> Result<()> {
    if count <= CHECKPOINT_VOLUMES_MAX {
        return Ok(());
    }
    let message = format!("one checkpoint spans at most {CHECKPOINT_VOLUMES_MAX} volumes; name fewer");
    Err(Error::new(ErrorKind::Limit, message))
}

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    pub(super) async fn checkpoint_create(&self, volumes: &[Name], name: &Name) -> Result<Answer> {
        let pool = self.pool().await?;
        let room = keep_room_for(volumes.len() * ITEM_BYTES)?;
        let text_room = keep_room_for(volumes.len() * ITEM_TEXT_BYTES)?;
        let checkpoints = pool.create_checkpoint(volumes, name, self.now()).await?;
        for checkpoint in &checkpoints {
            let (volume, name) = (checkpoint.volume.to_string(), name.to_string());
            self.publish(&Event::CheckpointCreated { volume, name });
        }
        drop(room);
        let items: Vec<Value> = checkpoints.iter().map(present::checkpoint).collect();
        Ok(Answer::Done(json!({ "items": items }), text_room))
    }

    pub(super) async fn checkpoint_list(&self, volume: &Name, window: &Window) -> Outcome {
        let pool = self.pool().await?;
        let checkpoints = pool.checkpoints(volume, window.after_name()?.as_ref(), window.probe()).await?;
        window.page(checkpoints, |checkpoint| checkpoint.name.to_string(), present::checkpoint)
    }

    pub(super) async fn checkpoint_show(&self, volume: &Name, name: &Name) -> Outcome {
        let pool = self.pool().await?;
        let mut shown = present::checkpoint(&pool.checkpoint(volume, name).await?);
        shown["unique_bytes"] = json!(pool.unique_bytes(volume, name).await?);
        Ok(shown)
    }

    pub(super) async fn checkpoint_delete(self: &Rc<Self>, volume: &Name, name: &Name) -> Outcome {
        let pool = self.pool().await?;
        self.jobs.check_room()?;
        let release = pool.delete_checkpoint(volume, name).await?;
        self.publish(&Event::CheckpointDeleted { volume: volume.to_string(), name: name.to_string() });
        let job = self.watch_release("checkpoint.delete", format!("{volume}@{name}"), release);
        Ok(json!({ "job": job }))
    }

    pub(super) async fn checkpoint_convert(
        self: &Rc<Self>,
        volume: &Name,
        name: &Name,
        refpoint: &Name,
    ) -> Outcome {
        let pool = self.pool().await?;
        self.jobs.check_room()?;
        let (made, release) = pool.convert_checkpoint(volume, name, refpoint).await?;
        self.publish(&Event::CheckpointConverted {
            volume: volume.to_string(),
            name: name.to_string(),
            refpoint: refpoint.to_string(),
        });
        let job = self.watch_release("checkpoint.convert", format!("{volume}@{name}"), release);
        Ok(json!({ "refpoint": present::refpoint(&made), "job": job }))
    }

    /// A job that ends when the space is back, or when it is somebody else's to give back: whoever follows the job must not
    /// wait for what nobody does. The store does the work; the job only looks.
    fn watch_release(self: &Rc<Self>, kind: &'static str, subject: String, release: Release) -> String {
        let work = Work { kind, subject, cancellable: false };
        self.start_job(work, |appliance, job| async move { appliance.follow(&release, &job).await })
    }

    async fn follow(&self, release: &Release, job: &Job) -> Outcome {
        let pool = self.pool().await?;
        let patient_until = self.environment.monotonic_nanoseconds() + READERS_PATIENCE_NANOSECONDS;
        loop {
            let fraction = release.progress(&pool).await?;
            job.fraction.set(fraction);
            if fraction >= 1.0 {
                return Ok(Value::Object(serde_json::Map::new()));
            }
            if let Some(reason) = pool.status().read_only {
                let message =
                    format!("the pool takes no writes ({reason}); the space returns after it is reopened");
                return Err(Error::new(ErrorKind::ReadOnly, message));
            }
            let holders = release.holders(&pool).await?;
            let is_late = self.environment.monotonic_nanoseconds() >= patient_until;
            if holders.versions || holders.readers && is_late {
                return Ok(json!({ "held_by": holders.by }));
            }
            *job.held_by.borrow_mut() = holders.by;
            self.environment.sleep(JOB_POLL_NANOSECONDS).await;
        }
    }
}
