//! Carries out one `Action` on the real store.

use crate::disk::fault::FaultyDisk;
use crate::model::action::Action;
use datum_store::device::Block;
use datum_store::{
    BlockIndex, CheckpointInfo, Image, Name, Pool, Progress, RefpointInfo, Result, TimelineId, VolumeInfo,
};
use std::rc::Rc;

/// The disk that all tests use.
pub type Disk = FaultyDisk;

/// What the store answered.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the variants are the store's own result types")]
pub enum Reply {
    Nothing,
    Volume(VolumeInfo),
    Checkpoints(Vec<CheckpointInfo>),
    Refpoint(RefpointInfo),
}

/// A valid name.
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|| panic!("{text} is not a valid name"))
}

/// Asks the store for `action`. `image` is the live volume that a data request goes to, `blocks` what it writes.
pub async fn perform(
    pool: Pool<Disk>,
    image: Option<Rc<Image<Disk>>>,
    action: Action,
    blocks: Vec<Block>,
) -> Result<Reply> {
    if let Some(image) = image {
        return perform_on_image(&image, action, blocks).await.map(|()| Reply::Nothing);
    }
    Ok(match action {
        Action::CreateVolume { name: n, size, timeline, time } => {
            Reply::Volume(pool.create_volume(&name(&n), size * 4096, TimelineId(timeline), time).await?)
        }
        Action::DeleteVolume { name: n } => {
            pool.delete_volume(&name(&n)).await?;
            Reply::Nothing
        }
        Action::RenameVolume { name: n, new_name } => {
            Reply::Volume(pool.rename_volume(&name(&n), &name(&new_name)).await?)
        }
        Action::ResizeVolume { name: n, size } => {
            Reply::Volume(pool.resize_volume(&name(&n), size * 4096).await?)
        }
        Action::CloneVolume { volume, checkpoint, name: n, timeline, time } => {
            let timeline = TimelineId(timeline);
            Reply::Volume(
                pool.clone_volume(&name(&volume), &name(&checkpoint), &name(&n), timeline, time).await?,
            )
        }
        Action::RevertVolume { volume, checkpoint } => {
            Reply::Volume(pool.revert_volume(&name(&volume), &name(&checkpoint), &Progress::new()).await?)
        }
        Action::CreateCheckpoint { volumes, name: n, time } => {
            let volumes: Vec<Name> = volumes.iter().map(|volume| name(volume)).collect();
            Reply::Checkpoints(pool.create_checkpoint(&volumes, &name(&n), time).await?)
        }
        Action::DeleteCheckpoint { volume, name: n } => {
            pool.delete_checkpoint(&name(&volume), &name(&n)).await?;
            Reply::Nothing
        }
        Action::ConvertCheckpoint { volume, name: n, refpoint } => {
            Reply::Refpoint(pool.convert_checkpoint(&name(&volume), &name(&n), &name(&refpoint)).await?.0)
        }
        Action::CreateRefpoint { volume, name: n, time } => {
            Reply::Refpoint(pool.create_refpoint(&name(&volume), &name(&n), time).await?)
        }
        Action::DeleteRefpoint { volume, name: n } => {
            pool.delete_refpoint(&name(&volume), &name(&n)).await?;
            Reply::Nothing
        }
        Action::Flush => {
            pool.flush().await?;
            Reply::Nothing
        }
        Action::Commit => {
            pool.commit().await?;
            Reply::Nothing
        }
        Action::Suspend { volume } => {
            pool.suspend_volume(&name(&volume)).await?;
            Reply::Nothing
        }
        Action::Resume { volume } => {
            pool.resume_volume(&name(&volume)).await?;
            Reply::Nothing
        }
        Action::Write { .. } | Action::WritePartial { .. } | Action::Trim { .. } => {
            unreachable!("data requests go to an image")
        }
    })
}

async fn perform_on_image(image: &Image<Disk>, action: Action, blocks: Vec<Block>) -> Result<()> {
    match action {
        Action::Write { first, .. } => image.write(BlockIndex(first), blocks).await,
        Action::WritePartial { block, offset, bytes, .. } => {
            image.write_partial(BlockIndex(block), offset, &bytes).await
        }
        Action::Trim { first, count, .. } => image.trim(BlockIndex(first), count).await,
        other => unreachable!("{other:?} goes to the pool"),
    }
}
