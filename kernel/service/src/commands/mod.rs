//! Every command of the table, carried out. Control and console both come here and differ only in how they show
//! the result, so neither can do what the other cannot.

mod changes;
mod checkpoint;
mod jobs;
mod lists;
mod metrics;
mod pool;
mod present;
mod refpoint;
mod system;
mod volume;

use crate::answer::Answer;
use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::events::Stopping;
use crate::exports::{store_name, store_since};
use alloc::rc::Rc;
use alloc::vec::Vec;
use changes::Page;
use datum_protocol::control::{self, Command, ErrorKind, ErrorObject};
use datum_store::device::BlockDevice;
use datum_store::{Error, Result};
use lists::Window;
use serde_json::Value;

/// What a command's own function returns.
type Outcome = Result<Value>;

/// Carries out a command. A subscription belongs to a session and is made there; here it only succeeds.
pub(crate) async fn execute<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Rc<Appliance<D, E>>,
    command: Command,
) -> Result<Answer, ErrorObject> {
    let method = command.method();
    if appliance.is_stopping() && !matches!(command, Command::SystemInfo {} | Command::SystemMetrics {}) {
        let message = "the appliance is going down; connect again when it is back";
        return Err(ErrorObject::new(ErrorKind::Stopping, message).observed(method));
    }
    dispatch(appliance, command).await.map_err(|error| object(appliance, &error.observed(method)))
}

/// An error of the store or the service as clients see it.
fn object<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Appliance<D, E>,
    error: &Error,
) -> ErrorObject {
    let no_pool = appliance.is_why_there_is_no_pool(error);
    let kind = if no_pool { ErrorKind::NoPool } else { control_kind(error) };
    error.observations().iter().fold(ErrorObject::new(kind, error.message()), ErrorObject::observed)
}

/// An error where it is part of a result, such as that of a job.
fn error_value(error: &Error) -> Value {
    let bare = ErrorObject::new(control_kind(error), error.message());
    control::encode::error_value(&error.observations().iter().fold(bare, ErrorObject::observed))
}

/// Store and protocol name the same kinds.
fn control_kind(error: &Error) -> ErrorKind {
    ErrorKind::from_word(error.kind().as_str()).unwrap_or(ErrorKind::Internal)
}

async fn dispatch<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Rc<Appliance<D, E>>,
    command: Command,
) -> Result<Answer> {
    let name = store_name;
    let value: Outcome = match command {
        Command::SystemInfo {} => Ok(appliance.system_info()),
        Command::SystemMetrics {} => Ok(appliance.system_metrics()),
        Command::SystemShutdown {} => Ok(appliance.end(Stopping::Shutdown).await),
        Command::SystemReboot {} => Ok(appliance.end(Stopping::Reboot).await),
        Command::DeviceList { after, limit } => appliance.device_list(&Window::new(after, limit)).await,
        Command::PoolCreate { devices, name } => appliance.pool_create(devices, name.as_ref()).await,
        Command::PoolStatus {} => appliance.pool_status().await,
        Command::PoolCheck {} => appliance.pool_check().await,
        Command::PoolScrub {} => appliance.pool_scrub().await,
        Command::VolumeCreate { name: volume, size } => {
            appliance.volume_create(&name(&volume)?, size.0).await
        }
        Command::VolumeList { after, limit } => appliance.volume_list(&Window::new(after, limit)).await,
        Command::VolumeShow { name: volume } => appliance.volume_show(&name(&volume)?).await,
        Command::VolumeResize { name: volume, size, force } => {
            appliance.volume_resize(&name(&volume)?, size.0, force).await
        }
        Command::VolumeRename { name: volume, new_name } => {
            appliance.volume_rename(&name(&volume)?, &name(&new_name)?).await
        }
        Command::VolumeDelete { name: volume, force } => {
            appliance.volume_delete(&name(&volume)?, force).await
        }
        Command::VolumeClone { volume, checkpoint, name: new_name } => {
            appliance.volume_clone(&name(&volume)?, &name(&checkpoint)?, &name(&new_name)?).await
        }
        Command::VolumeRevert { volume, checkpoint, force } => {
            appliance.volume_revert(name(&volume)?, name(&checkpoint)?, force).await
        }
        Command::VolumeSuspend { volume } => appliance.volume_suspend(&name(&volume)?).await,
        Command::VolumeResume { volume } => appliance.volume_resume(&name(&volume)?).await,
        Command::CheckpointCreate { volumes, name: checkpoint } => {
            checkpoint::check_volumes(volumes.len())?;
            let volumes = volumes.iter().map(name).collect::<Result<Vec<_>>>()?;
            return appliance.checkpoint_create(&volumes, &name(&checkpoint)?).await;
        }
        Command::CheckpointList { volume, after, limit } => {
            appliance.checkpoint_list(&name(&volume)?, &Window::new(after, limit)).await
        }
        Command::CheckpointShow { volume, name: checkpoint } => {
            appliance.checkpoint_show(&name(&volume)?, &name(&checkpoint)?).await
        }
        Command::CheckpointDelete { volume, name: checkpoint } => {
            appliance.checkpoint_delete(&name(&volume)?, &name(&checkpoint)?).await
        }
        Command::CheckpointConvert { volume, name: checkpoint, refpoint } => {
            let refpoint = name(refpoint.as_ref().unwrap_or(&checkpoint))?;
            appliance.checkpoint_convert(&name(&volume)?, &name(&checkpoint)?, &refpoint).await
        }
        Command::RefpointCreate { volume, name: refpoint } => {
            appliance.refpoint_create(&name(&volume)?, &name(&refpoint)?).await
        }
        Command::RefpointList { volume, after, limit } => {
            appliance.refpoint_list(&name(&volume)?, &Window::new(after, limit)).await
        }
        Command::RefpointShow { volume, name: refpoint } => {
            appliance.refpoint_show(&name(&volume)?, &name(&refpoint)?).await
        }
        Command::RefpointDelete { volume, name: refpoint } => {
            appliance.refpoint_delete(&name(&volume)?, &name(&refpoint)?).await
        }
        Command::RefpointToken { volume, name: refpoint } => {
            appliance.refpoint_token(&name(&volume)?, &name(&refpoint)?).await
        }
        Command::ChangesQuery { volume, since, until, offset, limit } => {
            let until = until.as_ref().map(name).transpose()?;
            let page = Page { offset: offset.map(|offset| offset.0), limit: limit.map(|limit| limit.0) };
            let (volume, since) = (name(&volume)?, store_since(&since)?);
            let found = appliance.changes_query(&volume, &since, until.as_ref(), page).await;
            return found.map(Answer::Extents);
        }
        Command::AllocatedQuery { volume, checkpoint, offset, limit } => {
            let checkpoint = checkpoint.as_ref().map(name).transpose()?;
            let page = Page { offset: offset.map(|offset| offset.0), limit: limit.map(|limit| limit.0) };
            let found = appliance.allocated_query(&name(&volume)?, checkpoint.as_ref(), page).await;
            return found.map(Answer::Extents);
        }
        Command::JobList { after, limit } => appliance.job_list(&Window::new(after, limit)),
        Command::JobShow { job } => appliance.job_show(job.0),
        Command::JobCancel { job } => appliance.job_cancel(job.0),
        Command::EventSubscribe {} => Ok(serde_json::json!({})),
        Command::SessionList { after, limit } => appliance.session_list(&Window::new(after, limit)),
    };
    value.map(Answer::Value)
}
