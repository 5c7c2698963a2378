//! `device.list` and `pool.*`.

use super::lists::{ITEM_BYTES, Window};
use super::{Outcome, present};
use crate::appliance::Appliance;
use crate::disks::{Contents, Disk, Entry};
use crate::environment::Environment;
use crate::exports::store_name;
use crate::health::Inspection;
use crate::jobs::Work;
use crate::limits::HELD_LOOK_NANOSECONDS;
use crate::memory::room_for;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::pin::pin;
use datum_protocol::name;
use datum_store::device::{BLOCK_SIZE, BlockDevice};
use datum_store::{Error, ErrorKind, Name, Pool, Probe};
use futures_util::future::{Either, select};
use serde_json::{Value, json};

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    pub(super) async fn device_list(&self, window: &Window) -> Outcome {
        // Until the pool is open or found absent, a disk may not have been looked at, and would pass for a
        // foreign one. Which of the two it is does not matter here.
        let _ = self.pool().await;
        let entries = &self.disks().await.entries;
        let start = match window.after() {
            None => 0,
            Some(after) => {
                entries.iter().position(|entry| entry.name() == after).map_or(entries.len(), |at| at + 1)
            }
        };
        let shown: Vec<&Entry<D>> = entries.iter().skip(start).take(window.probe()).collect();
        window.page(shown, |entry| entry.name().to_string(), |entry| device(entry))
    }

    pub(super) async fn pool_create(
        self: &Rc<Self>,
        devices: Vec<String>,
        name: Option<&name::Name>,
    ) -> Outcome {
        let name = match name {
            Some(name) => store_name(name)?,
            None => Name::new(crate::appliance::DEFAULT_POOL_NAME)
                .ok_or_else(|| Error::new(ErrorKind::Invalid, "give the pool a name"))?,
        };
        let mut disks = Vec::with_capacity(devices.len());
        for device in &devices {
            let entry = self.disks().await.find(device).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("there is no disk {device}; see `device list`"))
            })?;
            if let Some(refusal) = entry.refusal() {
                let message =
                    format!("{refusal}; wipe its first and last MiB yourself, or name another disk");
                return Err(Error::new(ErrorKind::Device, message));
            }
            disks.push(entry.disk.clone());
        }
        let pool = self.create_pool(disks, name).await?;
        Ok(present::pool(&pool.status()))
    }

    pub(super) async fn pool_status(&self) -> Outcome {
        let pool = self.pool().await?;
        // Not waited for where a disk does not answer: the rest is known without it.
        let patience = self.environment.sleep(HELD_LOOK_NANOSECONDS);
        let held = match select(pin!(pool.held()), pin!(patience)).await {
            Either::Left((held, _)) => held.ok(),
            Either::Right(_) => None,
        };
        let status = pool.status();
        let mut shown = present::pool(&status);
        self.health.show(&status, &mut shown);
        if let Some((items, more)) = held {
            room_for(items.len() * ITEM_BYTES)?;
            shown["held"] = items.iter().map(present::held).collect();
            shown["held_more"] = json!(more);
        }
        Ok(shown)
    }

    pub(super) async fn pool_check(self: &Rc<Self>) -> Outcome {
        let pool = self.pool().await?;
        self.jobs.check_room()?;
        let job = self.inspect(Inspection::Check, pool);
        Ok(json!({ "job": job }))
    }

    pub(super) async fn pool_scrub(self: &Rc<Self>) -> Outcome {
        let pool = self.pool().await?;
        self.jobs.check_room()?;
        let job = self.inspect(Inspection::Scrub, pool);
        Ok(json!({ "job": job }))
    }

    fn inspect(self: &Rc<Self>, inspection: Inspection, pool: Pool<Disk<D>>) -> String {
        let subject = pool.status().name.to_string();
        let work = Work { kind: inspection.method(), subject, cancellable: true };
        self.start_job(work, move |appliance, job| async move {
            let report = match inspection {
                Inspection::Check => pool.check(&job.progress).await?,
                Inspection::Scrub => pool.scrub(&job.progress).await?,
            };
            appliance.inspected(inspection, &report);
            Ok(present::report(&report))
        })
    }
}

fn device<D: BlockDevice>(entry: &Entry<D>) -> Value {
    let mut value = json!({
        "name": entry.name(),
        "size": entry.disk.geometry().blocks.saturating_mul(BLOCK_SIZE as u64),
        "state": entry.state(),
        "location": entry.location,
    });
    match &*entry.contents.borrow() {
        Contents::Probed(Probe::Member { pool, name, index, members, .. }) => {
            value["pool"] = json!(name.as_str());
            value["pool_id"] = json!(format!("{pool:032x}"));
            value["member"] = json!(index);
            value["members"] = json!(members);
        }
        _ => {
            if let Some(refusal) = entry.refusal() {
                value["problem"] = json!(refusal);
            }
        }
    }
    value
}
