//! The disks the machine has: what lies on each, which of them make a pool, and why not.
//!
//! Nothing here writes. A disk is either blank, a member of a pool, or not ours; what is not ours is named and
//! left alone. Two disks of one name are both refused, because a name must tell them apart.

use crate::environment::Environment;
use crate::limits::DISKS_MAX;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};
use datum_store::{Error, Name, Probe};

/// A disk that discovery found. Its name is [`BlockDevice::name`].
pub struct FoundDisk<D> {
    /// The device.
    pub device: D,
    /// Where it sits, e.g. its PCI address: tells two disks of one name apart.
    pub location: String,
}

/// What discovery found.
pub struct FoundDisks<D> {
    /// The disks, in discovery order.
    pub disks: Vec<FoundDisk<D>>,
    /// What it could not make sense of, each as a sentence.
    pub problems: Vec<String>,
}

/// A shared disk, so that a pool that cannot be opened does not swallow its disks.
pub struct Disk<D>(Rc<D>);

impl<D> Clone for Disk<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: BlockDevice> BlockDevice for Disk<D> {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, start: u64, into: Vec<Block>) -> impl Future<Output = Transfer> {
        self.0.read(start, into)
    }
    fn write(&self, start: u64, from: Vec<Block>) -> impl Future<Output = Transfer> {
        self.0.write(start, from)
    }
    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> {
        self.0.flush()
    }
    fn discard(&self, start: u64, count: u64) -> impl Future<Output = Result<(), DeviceError>> {
        self.0.discard(start, count)
    }
}

/// What is known of what lies on a disk.
#[derive(Clone, Debug)]
pub(crate) enum Contents {
    /// Not looked at yet.
    Unknown,
    /// It was read.
    Probed(Probe),
    /// It is not used, and why.
    Refused(String),
}

/// One disk of the machine.
pub(crate) struct Entry<D> {
    pub(crate) disk: Disk<D>,
    pub(crate) location: String,
    pub(crate) contents: RefCell<Contents>,
}

impl<D: BlockDevice> Entry<D> {
    pub(crate) fn name(&self) -> &str {
        self.disk.name()
    }

    /// The stable word of `device.list`.
    pub(crate) fn state(&self) -> &'static str {
        match &*self.contents.borrow() {
            Contents::Probed(Probe::Member { .. }) if self.disk.geometry().read_only => "read_only",
            Contents::Probed(Probe::Member { .. }) => "member",
            Contents::Probed(Probe::Blank | Probe::Unfinished { .. }) if self.disk.geometry().read_only => {
                "read_only"
            }
            Contents::Probed(Probe::Blank | Probe::Unfinished { .. }) => "blank",
            Contents::Probed(Probe::Foreign(_) | Probe::TooSmall)
            | Contents::Refused(_)
            | Contents::Unknown => "foreign",
        }
    }

    /// Why the disk cannot be used for a new pool, if it cannot.
    pub(crate) fn refusal(&self) -> Option<String> {
        let name = self.name();
        Some(match &*self.contents.borrow() {
            Contents::Unknown => format!("disk {name} was not looked at; restart with fewer disks"),
            Contents::Refused(why) => why.clone(),
            Contents::Probed(Probe::Foreign(why)) => {
                format!("disk {name} is neither blank nor Datum's ({why})")
            }
            Contents::Probed(Probe::TooSmall) => format!("disk {name} is too small to be a member"),
            Contents::Probed(Probe::Member { name: pool, index, .. }) => {
                format!("disk {name} is member {index} of pool {pool}")
            }
            Contents::Probed(Probe::Blank | Probe::Unfinished { .. }) if self.disk.geometry().read_only => {
                format!("disk {name} is read-only")
            }
            Contents::Probed(Probe::Blank | Probe::Unfinished { .. }) => return None,
        })
    }

    pub(crate) fn is_member(&self) -> bool {
        matches!(&*self.contents.borrow(), Contents::Probed(Probe::Member { .. }))
    }

    /// Reads what lies on the disk, unless it is refused for another reason.
    pub(crate) async fn look(&self) {
        if matches!(&*self.contents.borrow(), Contents::Refused(_)) {
            return;
        }
        let contents = match datum_store::probe(&self.disk).await {
            Ok(probe) => Contents::Probed(probe),
            Err(error) => {
                Contents::Refused(format!("disk {} cannot be read: {}", self.name(), chain(&error)))
            }
        };
        *self.contents.borrow_mut() = contents;
    }
}

/// All disks, in discovery order, and what is none.
pub(crate) struct Disks<D> {
    pub(crate) entries: Vec<Entry<D>>,
    pub(crate) problems: Vec<String>,
}

impl<D: BlockDevice> Disks<D> {
    pub(crate) fn new(found: FoundDisks<D>) -> Self {
        let entries: Vec<Entry<D>> = found
            .disks
            .into_iter()
            .map(|found| Entry {
                disk: Disk(Rc::new(found.device)),
                location: found.location,
                contents: RefCell::new(Contents::Unknown),
            })
            .collect();
        for entry in &entries {
            let twins: Vec<&str> =
                entries.iter().filter(|e| e.name() == entry.name()).map(|e| e.location.as_str()).collect();
            if twins.len() > 1 {
                *entry.contents.borrow_mut() = Contents::Refused(format!(
                    "the disks at {} have the same serial {}; give each its own serial= and restart",
                    twins.join(" and "),
                    entry.name()
                ));
            }
        }
        Self { entries, problems: found.problems }
    }

    /// Looks at every disk.
    pub(crate) async fn look(&self) {
        for entry in self.entries.iter().take(DISKS_MAX) {
            entry.look().await;
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Entry<D>> {
        self.entries.iter().find(|entry| entry.name() == name)
    }

    /// One sentence for each disk that is of no use.
    pub(crate) fn refusals(&self) -> Vec<String> {
        let unusable = self.entries.iter().filter(|entry| !entry.is_member());
        let mut refusals: Vec<String> = unusable.filter_map(Entry::refusal).collect();
        refusals.dedup();
        refusals
    }

    /// The disks of the one pool that is present, in member order.
    pub(crate) fn members(&self) -> Result<Vec<Disk<D>>, Members> {
        let mut found = Vec::new();
        for entry in &self.entries {
            if let Contents::Probed(Probe::Member { pool, name, index, members, .. }) =
                &*entry.contents.borrow()
            {
                found.push(Found {
                    pool: *pool,
                    name: name.clone(),
                    index: *index,
                    members: *members,
                    entry,
                });
            }
        }
        found.sort_by_key(|member| (member.pool, member.index));
        let first = found.first().ok_or(Members::None)?;
        if let Some(other) = found.iter().find(|member| member.pool != first.pool) {
            return Err(Members::Unfit(format!(
                "disk {} belongs to pool {} ({:032x}) and disk {} to pool {} ({:032x}); detach the disks of one of \
                 them and restart",
                first.entry.name(),
                first.name,
                first.pool,
                other.entry.name(),
                other.name,
                other.pool
            )));
        }
        if let Some(pair) = found.windows(2).find(|pair| pair[0].index == pair[1].index) {
            return Err(Members::Unfit(format!(
                "disks {} and {} both carry member {} of pool {}: one is a copy; detach it and restart",
                pair[0].entry.name(),
                pair[1].entry.name(),
                pair[0].index,
                pair[0].name
            )));
        }
        let missing: Vec<String> = (0..first.members)
            .filter(|index| !found.iter().any(|member| member.index == *index))
            .map(|index| index.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(Members::Unfit(format!(
                "pool {} has {} members, but member {} was not found; attach its disk and restart",
                first.name,
                first.members,
                missing.join(" and ")
            )));
        }
        Ok(found.iter().map(|member| member.entry.disk.clone()).collect())
    }

    /// All disks, where each may become a member of a new pool.
    pub(crate) fn all_blank(&self) -> Result<Vec<Disk<D>>, String> {
        if let Some(refusal) = self.entries.iter().find_map(Entry::refusal) {
            return Err(format!(
                "no pool was made, because {refusal}; detach that disk and restart, or name the disks to use with \
                 `pool create`"
            ));
        }
        Ok(self.entries.iter().map(|entry| entry.disk.clone()).collect())
    }
}

struct Found<'a, D> {
    pool: u128,
    name: Name,
    index: u8,
    members: u8,
    entry: &'a Entry<D>,
}

/// Why the disks present are not one whole pool.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Members {
    /// There is no member at all.
    None,
    /// There are members, but they do not make a pool.
    Unfit(String),
}

/// An error with its causes in one line, for where there is no room for a chain.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.message().to_string();
    for observation in error.observations() {
        text.push_str("; ");
        text.push_str(observation);
    }
    text
}

/// 128 random bits, never zero.
pub(crate) fn random_identity(environment: &impl Environment) -> u128 {
    let (high, low) = (u128::from(environment.random()), u128::from(environment.random()));
    (high << 64 | low).max(1)
}
