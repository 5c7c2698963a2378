//! What disks have done in a life so far, and which errors that excuses. What a rule might yet do excuses nothing, nor does
//! an answer that came late.

use crate::disk::fault::{Effect, Request};
use crate::store::perform::Disk;

/// What disks have done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Harm {
    /// Reads have failed.
    reads: bool,
    /// Writes have failed.
    writes: bool,
    /// Flushes have failed.
    flushes: bool,
    /// What is read, or was written, may be another thing.
    contents: bool,
    /// An answer never came: whoever needs it waits for ever, and so does whoever waits for that one.
    pub(crate) withheld: bool,
    /// What they acknowledged is not so.
    pub(crate) lied: bool,
}

/// What a request or command takes, as far as disks can refuse it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Takes {
    /// It reads.
    pub(crate) reads: bool,
    /// It writes data, which goes elsewhere where a disk refuses, but only so often.
    pub(crate) data: bool,
    /// It needs a pool that takes writes.
    pub(crate) changes: bool,
    /// It takes space.
    pub(crate) space: bool,
}

impl Harm {
    /// What these disks have done.
    pub(crate) fn of(disks: &[Disk]) -> Self {
        let mut harm = Self::default();
        for (on, effect) in disks.iter().flat_map(Disk::misdeeds) {
            match effect {
                Effect::Fail | Effect::FailHalfway | Effect::Forget(_) => match on {
                    Request::Read => harm.reads = true,
                    Request::Write => harm.writes = true,
                    Request::Flush => {
                        harm.flushes = true;
                        harm.contents |= matches!(effect, Effect::Forget(_));
                    }
                    // Discards are advice.
                    Request::Discard | Request::Any => {}
                },
                // The disk still shows what such a flush leaves in its cache.
                Effect::Skip => harm.lied = true,
                Effect::Lose | Effect::Corrupt | Effect::Misdirect => {
                    (harm.contents, harm.lied) = (true, true);
                }
                Effect::Withhold => harm.withheld = true,
                Effect::Delay(_) => {}
            }
        }
        harm
    }

    /// Whether an error of this kind has its reason in it.
    pub(crate) fn excuses(self, kind: &str, takes: Takes) -> bool {
        match kind {
            "io" => (takes.reads && self.reads) || (takes.data && self.writes),
            "corrupt" => takes.reads && self.contents,
            "read_only" => takes.changes && self.stops(),
            // Places that a disk refuses are left alone.
            "no_space" => takes.space && self.writes,
            _ => false,
        }
    }

    /// Whether the pool may take no writes any more.
    fn stops(self) -> bool {
        self.writes || self.flushes || self.contents
    }

    /// Whether a look at the pool's blocks may find something wrong.
    pub(crate) fn spoils(self) -> bool {
        self.reads || self.stops()
    }

    /// Whether what could be read a moment ago may be unreadable.
    pub(crate) fn hides(self) -> bool {
        self.reads || self.contents
    }
}
