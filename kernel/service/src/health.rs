//! What is known of damage in the pool: what reads met, which the store notes, and what the last check and the last
//! scrub of this run found. It stays in sight until a scrub finds nothing.

use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::events::Event;
use crate::time::rfc3339;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use datum_store::device::BlockDevice;
use datum_store::{CheckReport, DamagedPlace, Name, PoolStatus};
use serde_json::{Value, json};

/// How a check or scrub ended.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Nanoseconds since 1970.
    time: u64,
    pub(crate) errors: u64,
    volumes: Vec<Name>,
    /// A later scrub found nothing.
    disproved: bool,
}

impl Verdict {
    fn to_json(&self) -> Value {
        let volumes: Vec<&str> = self.volumes.iter().map(Name::as_str).collect();
        json!({ "time": rfc3339(self.time), "errors": self.errors, "volumes": volumes })
    }

    fn problem(&self, pool: &Name, what: &str) -> Option<String> {
        if self.errors == 0 || self.disproved {
            return None;
        }
        let volumes: Vec<&str> = self.volumes.iter().map(Name::as_str).collect();
        let of =
            if volumes.is_empty() { String::new() } else { format!(" (volumes: {})", volumes.join(", ")) };
        let (time, errors) = (rfc3339(self.time), self.errors);
        Some(format!(
            "pool {pool}: the {what} that ended at {time} found {errors} error(s){of}; its job and pool.status tell where"
        ))
    }
}

/// Which way of looking at the whole pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inspection {
    Check,
    Scrub,
}

impl Inspection {
    /// The method that asks for it.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Check => "pool.check",
            Self::Scrub => "pool.scrub",
        }
    }
}

/// What this run's inspections found.
#[derive(Default)]
pub(crate) struct Health {
    pub(crate) check: RefCell<Option<Verdict>>,
    pub(crate) scrub: RefCell<Option<Verdict>>,
}

impl Health {
    fn take(&self, inspection: Inspection, report: &CheckReport, time: u64) {
        let (errors, volumes) = (report.errors, report.volumes.clone());
        let verdict = Some(Verdict { time, errors, volumes, disproved: false });
        match inspection {
            Inspection::Check => *self.check.borrow_mut() = verdict,
            Inspection::Scrub => {
                *self.scrub.borrow_mut() = verdict;
                // A scrub looks at all that a check looks at.
                if let Some(check) = self.check.borrow_mut().as_mut().filter(|_| errors == 0) {
                    check.disproved = true;
                }
            }
        }
    }

    /// What `pool.status` says beside the store's own.
    pub(crate) fn show(&self, status: &PoolStatus, shown: &mut Value) {
        let damage = &status.damage;
        shown["damage"] = json!({ "read_errors": damage.read_errors });
        if let Some(last) = last_place(status) {
            shown["damage"]["last"] = place(last);
        }
        shown["damaged"] = damage.places.iter().map(place).collect();
        for (key, verdict) in [("last_check", &self.check), ("last_scrub", &self.scrub)] {
            if let Some(verdict) = &*verdict.borrow() {
                shown[key] = verdict.to_json();
            }
        }
    }

    /// A sentence for each kind of damage that is not disproved.
    pub(crate) fn problems(&self, status: &PoolStatus) -> Vec<String> {
        let pool = &status.name;
        let met = last_place(status).map(|last| {
            let errors = status.damage.read_errors;
            let whose = match (&last.volume, &last.checkpoint, last.offset) {
                (Some(volume), None, Some(offset)) => format!(", byte {offset} of volume {volume}"),
                (Some(volume), Some(name), Some(offset)) => format!(", byte {offset} of {volume}@{name}"),
                _ => String::new(),
            };
            format!(
                "pool {pool}: {errors} read(s) met a wrong block, the last one block {} of disk {}{whose}; run pool.scrub, \
                 and restore what it names from a backup",
                last.block, last.disk
            )
        });
        let verdicts = [("check", &self.check), ("scrub", &self.scrub)];
        let found = verdicts.map(|(what, verdict)| verdict.borrow().as_ref()?.problem(pool, what));
        met.into_iter().chain(found.into_iter().flatten()).collect()
    }
}

fn last_place(status: &PoolStatus) -> Option<&DamagedPlace> {
    status.damage.places.iter().max_by_key(|place| place.last_met)
}

/// Where a damaged block lies.
pub(crate) fn place(place: &DamagedPlace) -> Value {
    let mut value = json!({ "disk": place.disk, "block": place.block });
    let names = [("volume", &place.volume), ("checkpoint", &place.checkpoint)];
    for (key, name) in names {
        if let Some(name) = name {
            value[key] = json!(name.as_str());
        }
    }
    if let Some(offset) = place.offset {
        value["offset"] = json!(offset);
    }
    value
}

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    /// A check or scrub has come to its end.
    pub(crate) fn inspected(&self, inspection: Inspection, report: &CheckReport) {
        self.health.take(inspection, report, self.now());
        if report.errors > 0 {
            let volumes: Vec<&str> = report.volumes.iter().map(Name::as_str).collect();
            let found = json!({ "method": inspection.method(), "errors": report.errors, "volumes": volumes });
            self.publish(&Event::PoolDamaged { found });
        }
    }

    /// Tells of places that were first met since the `told`th meeting; returns how many have been told of now.
    pub(crate) fn tell_of_damage(&self, status: &PoolStatus, told: u64) -> u64 {
        let new = status.damage.places.iter().filter(|place| place.first_met > told);
        new.fold(told, |told, damaged| {
            self.publish(&Event::PoolDamaged { found: place(damaged) });
            told.max(damaged.first_met)
        })
    }
}
