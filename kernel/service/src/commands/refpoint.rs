//! `refpoint.*`.

use super::lists::Window;
use super::{Outcome, present};
use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::events::Event;
use alloc::string::ToString;
use datum_store::Name;
use datum_store::device::BlockDevice;
use serde_json::json;

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    pub(super) async fn refpoint_create(&self, volume: &Name, name: &Name) -> Outcome {
        let refpoint = self.pool().await?.create_refpoint(volume, name, self.now()).await?;
        self.publish(&Event::RefpointCreated { volume: volume.to_string(), name: name.to_string() });
        Ok(present::refpoint(&refpoint))
    }

    pub(super) async fn refpoint_list(&self, volume: &Name, window: &Window) -> Outcome {
        let pool = self.pool().await?;
        let refpoints = pool.refpoints(volume, window.after_name()?.as_ref(), window.probe()).await?;
        window.page(refpoints, |refpoint| refpoint.name.to_string(), present::refpoint)
    }

    pub(super) async fn refpoint_show(&self, volume: &Name, name: &Name) -> Outcome {
        Ok(present::refpoint(&self.pool().await?.refpoint(volume, name).await?))
    }

    pub(super) async fn refpoint_delete(&self, volume: &Name, name: &Name) -> Outcome {
        self.pool().await?.delete_refpoint(volume, name).await?;
        self.publish(&Event::RefpointDeleted { volume: volume.to_string(), name: name.to_string() });
        Ok(json!({}))
    }

    pub(super) async fn refpoint_token(&self, volume: &Name, name: &Name) -> Outcome {
        Ok(json!({ "token": self.pool().await?.token(volume, name).await?.encode() }))
    }
}
