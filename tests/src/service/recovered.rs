//! What a recovery shows, held against what is known, and kept as what is known from then on.
//!
//! All that is found together is one look, at the moment to which the pool has come: no earlier than what was
//! acknowledged as durable, and no earlier than the sending of anything that is found. How it is read is the
//! business of `audit`.

use super::block::{Bytes, Look};
use super::judge::Judge;
use super::log::{NEVER, OpId, Span, Tick};
use super::volume::{Image, Life, Place, PointId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// A volume as it is shown.
pub(super) struct Shown {
    pub(super) blocks: Vec<Bytes>,
    pub(super) checkpoints: BTreeMap<String, Vec<Bytes>>,
    pub(super) refpoints: BTreeSet<String>,
}

/// A pool as it is shown.
pub(super) type View = BTreeMap<String, Shown>;

impl Shown {
    fn has(&self, name: &str, checkpoint: bool) -> bool {
        if checkpoint { self.checkpoints.contains_key(name) } else { self.refpoints.contains(name) }
    }
}

/// What has changed since a mark?
pub(super) struct Question {
    pub(super) place: Place,
    pub(super) mark: usize,
    pub(super) since: String,
    pub(super) volume: String,
    pub(super) until: Option<String>,
}

impl Judge {
    /// No byte is shown that nobody wrote there.
    pub(super) fn right_bytes(&self, view: &View) -> Result<(), String> {
        let look = Look::at(Span { from: 0, to: NEVER - 1 });
        let explains = |volume: VolumeId, shown: &Shown| -> Result<(), String> {
            for (block, bytes) in (0..).zip(&shown.blocks) {
                if let Some(known) = self.volumes[volume].blocks.get(block as usize) {
                    known.with_old().look(&self.log, block, 0, &bytes[..], look)?;
                }
            }
            Ok(())
        };
        for (name, shown) in view {
            // An older one of that name may be back, or still be there where the newer one was asked for and not answered.
            let outcomes = self.named(name, look.span).into_iter().map(|volume| explains(volume, shown));
            outcomes.reduce(|one, other| one.or(other)).unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    /// The span of the look that follows a recovery.
    pub(super) fn horizon(&self) -> Span {
        Span { from: self.recovery, to: NEVER - 1 }
    }

    /// Holds what a recovery shows against the log.
    pub(super) fn recovered(&mut self, view: &View) -> Result<(), String> {
        let mut horizon = self.log.durable();
        let mut found: BTreeSet<OpId> = BTreeSet::new();
        let first = Look { span: Span { from: horizon, to: NEVER - 1 }, durable: true };
        self.match_names(view)?;
        let places: Vec<(VolumeId, &Shown)> =
            self.found.iter().map(|(name, volume)| (*volume, &view[name])).collect();
        for (volume, shown) in &places {
            self.found_in(*volume, shown, first, &mut found)?;
        }
        for (id, volume) in self.volumes.iter().enumerate() {
            let names = volume.names.iter();
            found.extend(names.filter_map(|(name, life)| self.proof(life, self.is_found(id, name))));
        }
        for op in &found {
            horizon = horizon.max(self.log.op(*op).reached);
        }
        self.recovery = horizon;
        let look = Look { span: self.horizon(), durable: true };
        // A command that was found has happened, wholly.
        found.into_iter().for_each(|op| self.log.happened(op));
        for volume in 0..self.volumes.len() {
            let shown = places.iter().find(|(id, _)| *id == volume).map(|(_, shown)| *shown);
            self.there_or_not(volume, shown, look)?;
        }
        for (volume, shown) in &places {
            let known = &self.volumes[*volume];
            let mut sizes = known.sizes_at(&self.log, look);
            let size = shown.blocks.len() as u64;
            if !sizes.any(|known| known == size) {
                return Err(format!("volume {volume} has {size} blocks"));
            }
            for (block, bytes) in (0..).zip(&shown.blocks) {
                let block_known = known.blocks.get(block as usize).ok_or("a block that never was")?;
                block_known
                    .look(&self.log, block, 0, &bytes[..], look)
                    .map_err(|what| format!("after a recovery, volume {volume}: {what}"))?;
            }
        }
        for (volume, shown) in &places {
            self.checkpoints_hold(*volume, shown)?;
        }
        Ok(())
    }

    /// Which volume each name stands for.
    fn match_names(&mut self, view: &View) -> Result<(), String> {
        self.found.clear();
        for name in view.keys() {
            let named = self.named(name, Span { from: self.log.durable(), to: NEVER - 1 });
            let volume =
                *named.first().ok_or_else(|| format!("volume {name} is there, and should not be"))?;
            if self.found.values().any(|known| *known == volume) {
                return Err(format!("volume {name} is there twice"));
            }
            self.found.insert(name.clone(), volume);
        }
        Ok(())
    }

    /// Whether a recovery has found a volume, under this name.
    fn is_found(&self, volume: VolumeId, name: &str) -> bool {
        self.found.get(name) == Some(&volume)
    }

    /// Operations that what is shown of a volume proves.
    fn found_in(
        &self,
        volume: VolumeId,
        shown: &Shown,
        look: Look,
        found: &mut BTreeSet<OpId>,
    ) -> Result<(), String> {
        let known = &self.volumes[volume];
        for (block, bytes) in (0..).zip(&shown.blocks) {
            if let Some(known) = known.blocks.get(block as usize) {
                let seen = known.look(&self.log, block, 0, &bytes[..], look);
                let seen = seen.map_err(|what| format!("after a recovery, volume {volume}: {what}"))?;
                found.extend(seen.into_iter().map(|at| known.puts[at].op));
            }
        }
        let points = known.points.iter().map(|p| (&p.life, shown.has(&p.name, p.image.is_some())));
        for (life, is_shown) in points {
            found.extend(self.proof(life, is_shown));
        }
        Ok(())
    }

    /// The operation that something's being there, or not, proves.
    fn proof(&self, life: &Life, is_shown: bool) -> Option<OpId> {
        let mut ends = life.ends.iter().copied().filter(|end| !self.log.op(*end).void);
        if is_shown {
            return Some(life.born).filter(|born| !self.log.op(*born).void);
        }
        let end = ends.next().filter(|_| ends.next().is_none())?;
        let born = self.log.op(life.born);
        (!born.void && born.durable && born.span.to < NEVER).then_some(end)
    }

    /// What must be there is, and what must not is not.
    fn there_or_not(&self, volume: VolumeId, shown: Option<&Shown>, look: Look) -> Result<(), String> {
        let known = &self.volumes[volume];
        for (at, (name, life)) in known.names.iter().enumerate() {
            // A rename that was refused may have been asked for again.
            let again = known.names[at + 1..].iter().any(|(later, _)| later == name);
            if again && self.log.op(life.born).void {
                continue;
            }
            self.lives(life, self.is_found(volume, name), look)
                .map_err(|what| format!("volume {name} {what}"))?;
        }
        for point in &known.points {
            let Some(shown) = shown else { break };
            let is_shown = shown.has(&point.name, point.image.is_some());
            let others = known
                .points
                .iter()
                .filter(|other| other.name == point.name && other.image.is_some() == point.image.is_some());
            if others.count() == 1 {
                let name = &point.name;
                self.lives(&point.life, is_shown, look)
                    .map_err(|what| format!("{name} of {volume} {what}"))?;
            }
        }
        let points = known.points.iter().map(|point| (&point.name, point.image.is_some()));
        let points: BTreeSet<(&String, bool)> = points.collect();
        let Some(shown) = shown else { return Ok(()) };
        let all = shown.checkpoints.keys().map(|name| (name, true));
        match all.chain(shown.refpoints.iter().map(|name| (name, false))).find(|key| !points.contains(key)) {
            Some((name, _)) => Err(format!("{name} of {volume} is there, and nobody made it")),
            None => Ok(()),
        }
    }

    fn lives(&self, life: &Life, shown: bool, look: Look) -> Result<(), String> {
        let been = |op: OpId| {
            let op = self.log.op(op);
            !op.void && (op.span.to < look.span.from || (op.durable && op.span.to < NEVER))
        };
        let ended = life.ends.iter().copied().find(|end| been(*end));
        if shown && let Some(end) = ended {
            return Err(format!("is there, although it was ended by [{}]", self.log.line(end)));
        }
        if shown && self.log.op(life.born).void {
            return Err(format!("is there, although [{}] was refused", self.log.line(life.born)));
        }
        let may_have_ended = life.ends.iter().any(|end| !self.log.op(*end).void);
        if !shown && been(life.born) && !may_have_ended {
            return Err(format!("is gone, although it was made by [{}]", self.log.line(life.born)));
        }
        Ok(())
    }

    /// Each checkpoint holds what its volume held at one instant of its making, and keeps it.
    fn checkpoints_hold(&mut self, volume: VolumeId, shown: &Shown) -> Result<(), String> {
        // What one block proves of that instant holds for all the others.
        for round in 0..2 {
            for (name, blocks) in &shown.checkpoints {
                let Some(point) = self.point(volume, name, true) else { continue };
                let known = &self.volumes[volume];
                let made = known.marks[known.points[point].mark].made;
                let span = Span { from: self.log.op(made).reached, to: self.log.op(made).span.to };
                let image = known.points[point].image.as_ref();
                let mut proved: Vec<Tick> = Vec::new();
                for (block, bytes) in (0..).zip(blocks) {
                    let read = image.and_then(|image| image.blocks.get(&block));
                    if read.is_some_and(|read| read != bytes) {
                        return Err(format!("block {block} of checkpoint {name} is not what it was"));
                    }
                    let Some(puts) = known.blocks.get(block as usize).filter(|_| !self.is_settled(made))
                    else {
                        continue;
                    };
                    let seen = puts.look(&self.log, block, 0, &bytes[..], Look::at(span));
                    let seen = seen.map_err(|what| format!("checkpoint {name} of {volume}: {what}"))?;
                    proved.extend(seen.into_iter().map(|at| self.log.op(puts.puts[at].op).span.from));
                }
                if round == 0 {
                    proved.into_iter().for_each(|moment| self.log.reach(made, moment));
                }
            }
        }
        Ok(())
    }

    /// Whether an operation is older than the last recovery.
    fn is_settled(&self, op: OpId) -> bool {
        op < self.settled_before
    }

    /// Whether nobody was ever told that a mark had been made.
    pub(super) fn is_lost(&self, volume: VolumeId, mark: usize) -> bool {
        self.log.op(self.volumes[volume].marks[mark].made).span.to == NEVER
    }

    /// All questions about changes that have an answer.
    pub(super) fn questions(&self) -> Vec<Question> {
        let mut questions = Vec::new();
        for volume in self.likely() {
            let known = &self.volumes[volume];
            let Some(name) = known.name(&self.log) else { continue };
            let points = [self.likely_points(volume, true), self.likely_points(volume, false)].concat();
            let named = points.iter().map(|id| (known.points[*id].mark, known.points[*id].name.clone()));
            let tokens = known.marks.iter().enumerate();
            let tokens = tokens.filter_map(|(mark, known)| Some((mark, known.tokens.first()?.clone())));
            for (mark, since) in named.chain(tokens) {
                for checkpoint in self.likely_points(volume, true).into_iter().map(Some).chain([None]) {
                    let until = checkpoint.map(|id| known.points[id].name.clone());
                    let place = Place { volume, checkpoint };
                    let (since, volume) = (since.clone(), name.to_owned());
                    questions.push(Question { place, mark, since, volume, until });
                }
            }
        }
        questions
    }

    /// Where a mark's own checkpoint is still there, what differs from it must have changed.
    pub(super) fn differences(
        &self,
        place: Place,
        mark: usize,
        changed: &[bool],
        head: &Shown,
    ) -> Result<(), String> {
        let known = &self.volumes[place.volume];
        let image = |id: PointId| known.points[id].image.as_ref();
        let same = |id: &PointId| known.points[*id].mark == mark;
        let Some(then) = self.likely_points(place.volume, true).into_iter().find(same).and_then(image) else {
            return Ok(());
        };
        let now = place.checkpoint.and_then(image);
        for (block, told) in (0..).zip(changed) {
            let now = now.map_or_else(|| head.blocks.get(block as usize), |image| image.blocks.get(&block));
            if !told && then.blocks.get(&block).is_some_and(|then| Some(then) != now) {
                return Err(format!("block {block} differs and is said not to have changed"));
            }
        }
        Ok(())
    }

    /// What is shown is there from now on, and nothing else.
    pub(super) fn keep(&mut self, view: &View) {
        let op = self.log.recovered();
        for (id, volume) in self.volumes.iter_mut().enumerate() {
            let name = self.found.iter().find(|(_, volume)| **volume == id).map(|(name, _)| name);
            let shown = name.map(|name| &view[name]);
            let stays = |life: &mut Life, is_shown: bool| {
                if is_shown { life.ends.clear() } else { life.ends.push(op) }
            };
            volume.names.iter_mut().for_each(|(known, life)| stays(life, name == Some(known)));
            // A conversion that left open whether it happened may have been asked for again: then the last one made the point.
            let mut seen = BTreeSet::new();
            for point in volume.points.iter_mut().rev() {
                let is_checkpoint = point.image.is_some();
                let is_shown = shown.is_some_and(|shown| shown.has(&point.name, is_checkpoint));
                let is_last =
                    !self.log.op(point.life.born).void && seen.insert((point.name.clone(), is_checkpoint));
                stays(&mut point.life, is_shown && is_last);
                let blocks = shown.and_then(|shown| shown.checkpoints.get(&point.name));
                if let (Some(image), Some(blocks)) = (&mut point.image, blocks) {
                    let blocks: BTreeMap<u64, Bytes> = (0..).zip(blocks.iter().cloned()).collect();
                    *image = Image { size: Some(blocks.len() as u64), blocks };
                }
            }
            if let Some(shown) = shown {
                volume.sizes = vec![(op, shown.blocks.len() as u64)];
            }
        }
    }

    /// Starts afresh with what is shown.
    pub(super) fn settle(&mut self, view: &View) {
        let op = self.log.recovered();
        self.settled_before = op;
        for (id, volume) in self.volumes.iter_mut().enumerate() {
            let name = self.found.iter().find(|(_, volume)| **volume == id).map(|(name, _)| name);
            let shown = name.map(|name| &view[name]);
            let blocks = shown.map_or(&[][..], |shown| &shown.blocks);
            let mut before = std::mem::take(&mut volume.blocks).into_iter();
            let settled = |bytes: &Bytes| before.next().unwrap_or_default().settled(op, bytes.clone());
            volume.blocks = blocks.iter().map(settled).collect();
            volume.sizes = vec![(op, blocks.len() as u64)];
            (volume.busy, volume.reverted, volume.forced) = (false, false, NEVER);
            volume.read_whole = false;
        }
    }
}
