//! Questions to the object table: names, lists, descriptions, and whether a reference point applies.

use crate::contradiction::contradiction;
use crate::device::BLOCK_SIZE;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::forest::{Step, Stop, TREE_BLOCKS};
use crate::format::Pointer;
use crate::format::object::{List, Record, VersionKind, VersionRecord};
use crate::limits::{LIST_MAX, QUERY_POINTERS};
use crate::names::Key;
use crate::pool::Since;
use crate::release::Walk;
use crate::token::Token;
use crate::transaction::{Chain, Transaction};
use crate::types::{ChangeId, CheckpointInfo, CheckpointState, Name, ObjectId, RefpointInfo, VolumeInfo};
use alloc::vec::Vec;

fn fail<T>(kind: ErrorKind, message: impl core::fmt::Display) -> Step<T> {
    Err(Stop::Failed(Error::new(kind, message)))
}

/// A page of a list in the making: a step that misses a block goes on where it stopped.
pub(crate) struct Listing<T> {
    pub(crate) items: Vec<T>,
    limit: usize,
    /// The member to come, once the list's start was found.
    next: Option<ObjectId>,
}

impl<T> Listing<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { items: Vec::new(), limit: limit.min(LIST_MAX), next: None }
    }

    /// `start` finds the list and the member after which the page begins.
    fn go_on<'a>(
        &mut self,
        transaction: &mut Transaction<'a>,
        start: impl FnOnce(&mut Transaction<'a>) -> Step<(List, Option<ObjectId>)>,
        mut describe: impl FnMut(&mut Transaction<'a>, ObjectId) -> Step<T>,
    ) -> Step<()> {
        let mut id = match self.next {
            Some(id) => id,
            None => match start(transaction)? {
                (_, Some(after)) => transaction.next(after)?,
                (list, None) => transaction.first_in(Chain::Member, list)?,
            },
        };
        self.next = Some(id);
        while id != ObjectId::NONE && self.items.len() < self.limit {
            // A member that went while the page was being made ends it: what follows is on the next one.
            if transaction.find_record(id)?.is_none() {
                break;
            }
            let (item, next) = (describe(transaction, id)?, transaction.next(id)?);
            self.items.try_reserve(1).map_err(|_| Stop::Failed(Error::no_memory()))?;
            self.items.push(item);
            id = next;
            self.next = Some(id);
        }
        Ok(())
    }
}

impl Transaction<'_> {
    /// The volume of this name.
    pub(crate) fn named_volume(&mut self, name: &Name) -> Step<ObjectId> {
        match self.find_name(Key { owner: ObjectId::NONE, name })? {
            Some(id) => Ok(id),
            None => fail(ErrorKind::NotFound, format_args!("there is no volume {name}; see volume.list")),
        }
    }

    /// The volume and checkpoint of these names.
    pub(crate) fn named_checkpoint(&mut self, volume: &Name, name: &Name) -> Step<(ObjectId, ObjectId)> {
        let owner = self.named_volume(volume)?;
        match self.find_name(Key { owner, name })? {
            Some(id) if matches!(self.record(id)?, Record::Version(_)) => Ok((owner, id)),
            Some(_) => {
                let message =
                    format_args!("{name} of volume {volume} is a reference point, not a checkpoint");
                fail(ErrorKind::NotFound, message)
            }
            None => {
                let message = format_args!("volume {volume} has no checkpoint {name}; see checkpoint.list");
                fail(ErrorKind::NotFound, message)
            }
        }
    }

    /// The reference point of these names.
    pub(crate) fn named_refpoint(&mut self, volume: &Name, name: &Name) -> Step<ObjectId> {
        let owner = self.named_volume(volume)?;
        match self.find_name(Key { owner, name })? {
            Some(id) if matches!(self.record(id)?, Record::Refpoint(_)) => Ok(id),
            Some(_) => {
                let message =
                    format_args!("{name} of volume {volume} is a checkpoint, not a reference point");
                fail(ErrorKind::NotFound, message)
            }
            None => {
                let message =
                    format_args!("volume {volume} has no reference point {name}; see refpoint.list");
                fail(ErrorKind::NotFound, message)
            }
        }
    }

    /// The volumes after the named one, one after the other.
    pub(crate) fn list_volumes(
        &mut self,
        after: Option<&Name>,
        listing: &mut Listing<VolumeInfo>,
    ) -> Step<()> {
        let start = |t: &mut Self| {
            let after = after.map(|name| t.named_volume(name)).transpose()?;
            Ok((t.root()?.volumes, after))
        };
        listing.go_on(self, start, Self::volume_info)
    }

    /// A volume's checkpoints after the named one.
    pub(crate) fn list_checkpoints(
        &mut self,
        volume: &Name,
        after: Option<&Name>,
        listing: &mut Listing<CheckpointInfo>,
    ) -> Step<()> {
        let start = |t: &mut Self| {
            let id = t.named_volume(volume)?;
            let after = after.map(|name| t.named_checkpoint(volume, name)).transpose()?;
            Ok((t.volume(id)?.checkpoints, after.map(|found| found.1)))
        };
        listing.go_on(self, start, Self::checkpoint_info)
    }

    /// A volume's reference points after the named one.
    pub(crate) fn list_refpoints(
        &mut self,
        volume: &Name,
        after: Option<&Name>,
        listing: &mut Listing<RefpointInfo>,
    ) -> Step<()> {
        let start = |t: &mut Self| {
            let id = t.named_volume(volume)?;
            let after = after.map(|name| t.named_refpoint(volume, name)).transpose()?;
            Ok((t.volume(id)?.refpoints, after))
        };
        listing.go_on(self, start, Self::refpoint_info)
    }

    pub(crate) fn volume_info(&mut self, id: ObjectId) -> Step<VolumeInfo> {
        let (record, head) = (self.volume(id)?, self.head(id)?);
        let origin = match record.origin.some() {
            Some(origin) => match self.record(origin)? {
                Record::Origin(origin) => Some((origin.volume, origin.checkpoint)),
                _ => None,
            },
            None => None,
        };
        Ok(VolumeInfo {
            name: record.name,
            id,
            timeline: self.timeline(record.timeline)?.id,
            size: head.size,
            allocated_bytes: head.allocated * BLOCK_SIZE as u64,
            change: head.clock,
            suspended: false,
            created: record.created,
            origin,
        })
    }

    pub(crate) fn checkpoint_info(&mut self, id: ObjectId) -> Step<CheckpointInfo> {
        let version = self.version(id)?;
        let Some(name) = version.name else {
            return fail(ErrorKind::Corrupt, "a checkpoint has no name; run pool.check");
        };
        Ok(CheckpointInfo {
            volume: self.volume(version.volume)?.name,
            name,
            id,
            size: version.size,
            change: version.change,
            created: version.created,
            state: CheckpointState::Ready,
            held_by: self.holders(id)?.by,
        })
    }

    pub(crate) fn refpoint_info(&mut self, id: ObjectId) -> Step<RefpointInfo> {
        let point = self.refpoint(id)?;
        Ok(RefpointInfo {
            volume: self.volume(point.volume)?.name,
            name: point.name,
            id,
            timeline: point.timeline,
            incarnation: point.incarnation,
            change: point.change,
            created: point.created,
        })
    }

    /// The change id that changes are counted from.
    pub(crate) fn resolve_since(
        &mut self,
        volume: &Name,
        until: Option<&Name>,
        since: &Since,
    ) -> Step<ChangeId> {
        let id = self.named_volume(volume)?;
        // Points made so far have a change id below the clock.
        let newest = match until {
            Some(checkpoint) => {
                let (_, checkpoint) = self.named_checkpoint(volume, checkpoint)?;
                self.version(checkpoint)?.change
            }
            None => ChangeId(self.head(id)?.clock.0 - 1),
        };
        let change = match since {
            Since::Point(name) => self.point_change(id, volume, name)?,
            Since::Token(token) => self.token_change(id, volume, token)?,
        };
        if change > newest {
            let message =
                format_args!("the point is newer than the contents of {volume} it is compared with");
            return fail(ErrorKind::RefpointNewer, message);
        }
        Ok(change)
    }

    fn point_change(&mut self, owner: ObjectId, volume: &Name, name: &Name) -> Step<ChangeId> {
        let found = self.find_name(Key { owner, name })?;
        match found.map(|id| self.record(id)).transpose()? {
            Some(Record::Version(version)) => Ok(version.change),
            Some(Record::Refpoint(point)) => Ok(point.change),
            _ => {
                let message = format_args!("volume {volume} has no point {name}; see refpoint.list");
                fail(ErrorKind::NotFound, message)
            }
        }
    }

    /// Finds the token's line of history among the volume's and its ancestors', and its opening on it.
    fn token_change(&mut self, id: ObjectId, volume: &Name, token: &Token) -> Step<ChangeId> {
        let foreign = |why: &str| {
            let message =
                format_args!("the token does not apply to volume {volume}: {why}; take a full backup");
            fail(ErrorKind::RefpointForeign, message)
        };
        let mut line = self.volume(id)?.timeline;
        let mut fork = None;
        loop {
            let timeline = self.timeline(line)?;
            if timeline.id == token.timeline {
                if fork.is_some_and(|fork| token.change > fork) {
                    return foreign("it was made after the volume was cloned");
                }
                return match self.incarnation_at(line, token.change)? == token.incarnation {
                    true => Ok(token.change),
                    false => foreign("it was made on another copy of this pool"),
                };
            }
            if timeline.parent == ObjectId::NONE {
                return foreign("it is of another volume");
            }
            fork = Some(fork.map_or(timeline.fork, |earlier: ChangeId| earlier.min(timeline.fork)));
            line = timeline.parent;
            let ancestor = self.timeline(line)?.depth;
            if ancestor >= timeline.depth {
                let what =
                    format_args!("a timeline of depth {} descends from depth {ancestor}", timeline.depth);
                return Err(Stop::Failed(contradiction(what)));
            }
        }
    }

    /// The opening in which a point with this change id was made on a timeline.
    pub(crate) fn incarnation_at(&mut self, timeline: ObjectId, change: ChangeId) -> Step<u64> {
        let mut place = self.timeline(timeline)?.incarnations.last;
        let mut before = ChangeId(u64::MAX);
        while let Some(id) = place.some() {
            let Record::Incarnation(record) = self.record(id)? else { break };
            if record.first <= change {
                return Ok(record.incarnation);
            }
            if record.first >= before {
                let what = format_args!("opening {id} of a timeline is out of order");
                return Err(Stop::Failed(contradiction(what)));
            }
            before = record.first;
            place = record.link.previous;
        }
        Ok(0)
    }
}

impl Engine {
    /// How far a version's release has come; 1 when it is gone.
    pub(crate) fn release_progress(&mut self, version: ObjectId) -> Step<f32> {
        let Some(Record::Version(record)) = Transaction::new(self).find_record(version)? else {
            return Ok(1.0);
        };
        let blocks = (record.size / BLOCK_SIZE as u64).max(1);
        let mut under_way = self.active.iter().chain(&self.dropping);
        let active = under_way.find(|active| active.version == version);
        let cursor = active.map_or(record.cursor.0, |active| active.walk.cursor);
        Ok((cursor.min(blocks) as f32 / blocks as f32).min(0.99))
    }

    /// A checkpoint that was found some steps ago.
    fn checkpoint_still(&self, id: ObjectId) -> Step<VersionRecord> {
        match Transaction::new(self).find_record(id)? {
            Some(Record::Version(version)) if version.kind == VersionKind::Checkpoint => Ok(version),
            _ => fail(ErrorKind::NotFound, "the checkpoint was deleted meanwhile; see checkpoint.list"),
        }
    }

    /// Starts counting what a checkpoint's release would free.
    pub(crate) fn unique_walk(&mut self, id: ObjectId) -> Step<Walk> {
        let version = self.checkpoint_still(id)?;
        let parent_epoch = Transaction::new(self).epoch_of(version.parent)?;
        let bound = self.bound_below(version.parent, parent_epoch);
        Ok(Walk { dry: true, ..Walk::new(version.root, Pointer::default(), bound) })
    }

    /// Goes on counting; true when done.
    pub(crate) fn unique_step(&mut self, id: ObjectId, walk: &mut Walk) -> Step<bool> {
        let version = self.checkpoint_still(id)?;
        if version.child_count > 1 {
            walk.freed = 0;
            return Ok(true);
        }
        // A version that is being released has lost nodes already: in its place comes its own child, as once it has gone.
        let going = self.active.as_ref().map(|active| active.version);
        let last = going.filter(|going| *going == version.children.first).unwrap_or(id);
        // Both roots may have been written, and with that got checksums, since the last step.
        (walk.old, walk.new) = (version.root, self.only_child_root(last)?);
        Ok(self.forest.release_step(walk, QUERY_POINTERS)? || walk.cursor >= TREE_BLOCKS)
    }
}
