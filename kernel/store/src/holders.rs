//! What keeps the space of a version that goes, or would go: one rule for `checkpoint.list`, for jobs and for
//! `pool.status`. And the search for the versions whose space is still to come back.
//!
//! A version is released once at most one child is left, for one child takes over what it needs. So one child holds
//! nothing: the one that leads to the volume's live contents, which nobody wants to remove. All that is shown below
//! the others holds the space, however deep, because what is removed there leaves its own children behind.

use crate::engine::Engine;
use crate::forest::Step;
use crate::format::object::{List, Record, VersionKind, VersionRecord, VolumeRecord};
use crate::limits::{HELD_LISTED_MAX, HELD_LOOKED_AT_MAX, HOLDERS_LOOKED_AT_MAX, HOLDERS_MAX};
use crate::transaction::{Chain, Transaction};
use crate::types::{HeldVersion, Holders, Name, ObjectId};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Records that one step of the search looks at.
const SEARCH_STEP: usize = 64;

impl Holders {
    fn add(&mut self, holder: String) {
        if !self.by.contains(&holder) {
            self.by.push(holder);
        }
    }

    fn add_version(&mut self, holder: String) {
        self.versions = true;
        self.add(holder);
    }

    fn add_readers(&mut self, holder: String) {
        self.readers = true;
        self.add(holder);
    }
}

/// What an operator knows a version as.
pub(crate) struct KnownAs {
    /// Absent where the volume has gone.
    pub(crate) volume: Option<Name>,
    /// The checkpoint's name, also of one that was deleted or converted.
    pub(crate) point: Option<Name>,
    pub(crate) kind: VersionKind,
    /// Bytes.
    pub(crate) size: u64,
}

impl Transaction<'_> {
    /// A version in an operator's words; `None` where it has gone.
    pub(crate) fn known_as(&mut self, id: ObjectId) -> Step<Option<KnownAs>> {
        let Some(Record::Version(VersionRecord { kind, name, volume, size, .. })) = self.find_record(id)?
        else {
            return Ok(None);
        };
        let volume = match self.find_record(volume)? {
            Some(Record::Volume(volume)) => Some(volume.name),
            _ => None,
        };
        Ok(Some(KnownAs { volume, point: name, kind, size }))
    }

    /// What keeps a version's space, or would keep it if a checkpoint were deleted now.
    pub(crate) fn holders(&mut self, id: ObjectId) -> Step<Holders> {
        let mut holders = Holders::default();
        let Some(Record::Version(version)) = self.find_record(id)? else { return Ok(holders) };
        if let Some(readers) = self.engine.open_versions.get(&id) {
            holders.add_readers(format!("{readers} open reader(s)"));
        }
        if version.child_count > 1 {
            self.add_all_below(id, &version, &mut holders)?;
        } else if version.kind == VersionKind::Hidden {
            self.add_turn(id, &version, &mut holders)?;
        }
        Ok(holders)
    }

    /// What a version waits for that nothing else shares any more.
    fn add_turn(&mut self, id: ObjectId, version: &VersionRecord, holders: &mut Holders) -> Step<()> {
        if let Some(child) = version.children.first.some()
            && self.version(child)?.kind == VersionKind::Building
        {
            holders.add("a revert under way".into());
        }
        let mut others = self.engine.active.iter().chain(&self.engine.dropping);
        if others.any(|other| other.version != id) {
            holders.add("another release under way".into());
        }
        Ok(())
    }

    /// Adds what is shown below all children but the heir.
    fn add_all_below(&mut self, id: ObjectId, version: &VersionRecord, holders: &mut Holders) -> Step<()> {
        let heir = self.heir(id, version)?;
        let mut left = HOLDERS_LOOKED_AT_MAX;
        // Who comes next, and on the way up: each is followed by its siblings.
        let mut waiting = alloc::vec![self.first_in(Chain::Sibling, version.children)?];
        while let Some(id) = waiting.pop() {
            if id == ObjectId::NONE {
                continue;
            }
            if left == 0 || holders.by.len() >= HOLDERS_MAX {
                holders.add_version("and more".into());
                break;
            }
            left -= 1;
            waiting.push(self.next_in(Chain::Sibling, id)?);
            if Some(id) != heir {
                let below = self.version(id)?;
                waiting.push(self.first_in(Chain::Sibling, below.children)?);
                self.add_holder(version.volume, id, below, holders)?;
            }
        }
        Ok(())
    }

    fn add_holder(
        &mut self,
        owner: ObjectId,
        id: ObjectId,
        version: VersionRecord,
        holders: &mut Holders,
    ) -> Step<()> {
        let is_leaf = version.children == List::default();
        match (self.live_volume(version.volume)?, version.kind, version.name) {
            (_, VersionKind::Building, _) => holders.add("a revert under way".into()),
            (Some(volume), VersionKind::Checkpoint, Some(name)) if version.volume == owner => {
                holders.add_version(format!("checkpoint {}@{name}", volume.name));
            }
            (Some(volume), VersionKind::Checkpoint | VersionKind::Head, _) => {
                holders.add_version(format!("volume {}", volume.name));
            }
            (volume, _, name) => {
                if let Some(readers) = self.engine.open_versions.get(&id) {
                    let whose = match (volume, name) {
                        (Some(volume), Some(name)) => format!("{}@{name}", volume.name),
                        _ => format!("version {id}"),
                    };
                    holders.add_readers(format!("{readers} open reader(s) of {whose}"));
                }
                if is_leaf {
                    holders.add("contents waiting to be released".into());
                }
            }
        }
        Ok(())
    }

    fn live_volume(&mut self, id: ObjectId) -> Step<Option<VolumeRecord>> {
        match self.find_record(id)? {
            Some(Record::Volume(volume)) if volume.head != ObjectId::NONE => Ok(Some(volume)),
            _ => Ok(None),
        }
    }

    /// The child that leads to the live contents of the version's own volume, or else the newest that stays.
    fn heir(&mut self, id: ObjectId, version: &VersionRecord) -> Step<Option<ObjectId>> {
        let mut own = Vec::new();
        let mut next = self.first_in(Chain::Sibling, version.children)?;
        for _ in 0..HOLDERS_LOOKED_AT_MAX {
            let Some(at) = next.some() else { break };
            let child = self.version(at)?;
            let goes = child.kind == VersionKind::Hidden && child.children == List::default();
            if child.volume == version.volume && !goes {
                own.push(at);
            }
            next = self.next_in(Chain::Sibling, at)?;
        }
        // Several are there only after reverts.
        if own.len() > 1
            && let Some(volume) = self.live_volume(version.volume)?
        {
            let mut at = volume.head;
            for _ in 0..HOLDERS_LOOKED_AT_MAX {
                let parent = self.version(at)?.parent;
                if parent == id {
                    return Ok(Some(at));
                }
                let Some(parent) = parent.some() else { break };
                at = parent;
            }
        }
        Ok(own.pop())
    }
}

/// A search for versions whose space is still to come back, over many steps.
///
/// Those that are ready are in a list. The others are in none: they are met on the way up from what is shown, as long as
/// the count of all says that there are any.
#[derive(Default)]
pub(crate) struct Search {
    /// The next of what is ready, once that list was found.
    next_ready: Option<ObjectId>,
    /// Volumes, checkpoints and what is being taken out that come next, each followed by the rest of its list.
    shown: Option<Vec<ObjectId>>,
    /// Ready versions and drop jobs met, and the latter alone.
    met: u64,
    drops: u64,
    ready: Vec<ObjectId>,
    held: Vec<ObjectId>,
    looked_at: usize,
}

impl Transaction<'_> {
    /// Goes on with a search; true when it has come to its end.
    pub(crate) fn search_step(&mut self, search: &mut Search) -> Step<bool> {
        for _ in 0..SEARCH_STEP {
            let all = search.met + search.held.len() as u64 >= self.root()?.releases;
            let full = search.held.len() >= HELD_LISTED_MAX || search.looked_at >= HELD_LOOKED_AT_MAX;
            if all || full || self.search_on(search)? {
                return Ok(true);
            }
            search.looked_at += 1;
        }
        Ok(false)
    }

    /// Looks at one record; true where there is none left. A list that changes meanwhile may end there: this is a look, not
    /// a proof.
    fn search_on(&mut self, search: &mut Search) -> Step<bool> {
        let root = self.root()?;
        let Some(next_ready) = search.next_ready else {
            search.next_ready = Some(self.first_in(Chain::Member, root.ready)?);
            return Ok(false);
        };
        if let Some(id) = next_ready.some() {
            let record = self.find_record(id)?;
            search.next_ready = Some(if record.is_some() { self.next(id)? } else { ObjectId::NONE });
            search.met += 1;
            match record {
                Some(Record::Version(version)) if version.kind == VersionKind::Hidden => {
                    search.ready.extend((search.ready.len() < HELD_LISTED_MAX).then_some(id));
                }
                _ => search.drops += 1,
            }
            return Ok(false);
        }
        let Some(shown) = &search.shown else {
            let lists = [root.purging, root.volumes, root.ready];
            let firsts = lists.into_iter().map(|list| self.first_in(Chain::Member, list));
            search.shown = Some(firsts.collect::<Step<_>>()?);
            return Ok(false);
        };
        let Some(&id) = shown.last() else { return Ok(true) };
        let mut follow = Vec::new();
        if id != ObjectId::NONE
            && let Some(record) = self.find_record(id)?
        {
            follow.push(self.next(id)?);
            match record {
                Record::Volume(volume) => {
                    if let Some(head) = volume.head.some() {
                        self.search_up(head, search)?;
                    }
                    follow.push(self.first_in(Chain::Member, volume.checkpoints)?);
                }
                Record::Version(_) => self.search_up(id, search)?,
                _ => {}
            }
        }
        let shown = search.shown.get_or_insert_default();
        shown.pop();
        shown.extend(follow);
        Ok(false)
    }

    /// Takes up the hidden versions right above one that have several children.
    fn search_up(&mut self, id: ObjectId, search: &mut Search) -> Step<()> {
        let mut at = self.version(id)?;
        if at.kind == VersionKind::Drop {
            return Ok(());
        }
        while let Some(parent) = at.parent.some() {
            at = self.version(parent)?;
            if at.kind != VersionKind::Hidden || search.held.contains(&parent) {
                break;
            }
            search.looked_at += 1;
            if at.child_count > 1 && search.held.len() < HELD_LISTED_MAX {
                search.held.push(parent);
            }
        }
        Ok(())
    }

    pub(crate) fn held_version(&mut self, id: ObjectId) -> Step<Option<HeldVersion>> {
        let Some(known) = self.known_as(id)? else { return Ok(None) };
        let held_by = self.holders(id)?.by;
        Ok(Some(HeldVersion { version: id, volume: known.volume, name: known.point, held_by }))
    }
}

impl Search {
    /// What was found, what something holds first, and how many drop jobs were met.
    pub(crate) fn found(self) -> (Vec<ObjectId>, u64) {
        let mut found = self.held;
        found.extend(self.ready);
        found.truncate(HELD_LISTED_MAX);
        (found, self.drops)
    }
}

impl Engine {
    pub(crate) fn holders(&mut self, version: ObjectId) -> Step<Holders> {
        Transaction::new(self).holders(version)
    }
}
