//! `system.info`, `system.shutdown` and `system.reboot`, and the power button, which is the second by other means.

use crate::appliance::Appliance;
use crate::disks::chain;
use crate::environment::Environment;
use crate::events::Stopping;
use crate::limits::POWER_DELAY_NANOSECONDS;
use crate::time::rfc3339;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use datum_protocol::control::encode::PROTOCOL;
use datum_store::device::BlockDevice;
use serde_json::{Value, json};

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    pub(super) fn system_info(&self) -> Value {
        let memory = self.environment.memory();
        let uptime = self.environment.monotonic_nanoseconds().saturating_sub(self.started);
        // Not waited for: who asks while a disk does not answer wants to see that the pool is "opening".
        let found = self.disks_now();
        let mut value = json!({
            "product": "datum",
            "version": self.version,
            "protocol": PROTOCOL,
            "time": rfc3339(self.now()),
            "uptime_seconds": uptime / 1_000_000_000,
            "memory": {
                "heap_bytes": memory.heap_bytes,
                "used_bytes": memory.used_bytes,
                "high_water_bytes": memory.high_water_bytes,
            },
            "devices": found.map_or(0, |disks| disks.entries.len()),
            "sessions": self.sessions.count(),
            "jobs_active": self.jobs.active(),
            "problems": self.problems(),
        });
        match self.pool_now() {
            None => value["pool_state"] = json!("opening"),
            Some(Ok(pool)) => {
                let status = pool.status();
                value["pool"] = json!(status.name.as_str());
                value["pool_state"] = json!(if status.read_only.is_some() { "read_only" } else { "open" });
            }
            Some(Err(error)) => {
                value["pool_state"] = json!("absent");
                value["pool_problem"] = json!(chain(&error));
            }
        }
        value
    }

    /// Somebody pressed the machine's power button: does what `system.shutdown` does, unless the machine goes down already.
    pub async fn power_button(self: &Rc<Self>) {
        if !self.is_stopping() {
            // What could not be closed has said so on every port that asked; nobody waits for an answer here.
            self.end(Stopping::PowerButton).await;
        }
    }

    /// What an operator should look after.
    fn problems(&self) -> Vec<String> {
        let mut problems = self.disks_now().map_or_else(Vec::new, |disks| disks.problems.clone());
        if let Some(Ok(pool)) = self.pool_now() {
            problems.extend(self.health.problems(&pool.status()));
        }
        problems
    }

    /// Makes everything durable, then ends the machine as soon as the answer had time to leave.
    pub(super) async fn end(self: &Rc<Self>, reason: Stopping) -> Value {
        self.stop(reason);
        // A pool that cannot be closed has said so already, and is as durable as it will ever be.
        let closed = match self.pool_now() {
            Some(Ok(pool)) => pool.close().await,
            Some(Err(_)) | None => Ok(()),
        };
        let appliance = self.clone();
        self.tasks.spawn(async move {
            appliance.environment.sleep(POWER_DELAY_NANOSECONDS).await;
            appliance.environment.power(reason.power());
        });
        match closed {
            Ok(()) => json!({}),
            Err(error) => json!({ "warning": chain(&error) }),
        }
    }
}
