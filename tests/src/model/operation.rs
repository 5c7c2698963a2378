//! Random operations, each a kind and a salt: what it means is worked out from the model's state when it runs.
//!
//! So any operation can be left out of a list and the others still make sense, which is what shrinking a failure
//! needs.

use crate::disk::PowerLoss;
use crate::model::action::Action;
use crate::model::content::Contents;
use crate::model::mix::Mix;
use crate::model::{State, Volume};
use crate::rng::Rng;
use std::ops::Range;

/// Kinds of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Write,
    WritePartial,
    Trim,
    Flush,
    Commit,
    CreateVolume,
    DeleteVolume,
    Rename,
    Resize,
    Checkpoint,
    Convert,
    DeleteCheckpoint,
    Clone,
    Revert,
    Refpoint,
    DeleteRefpoint,
    KeepToken,
    Suspend,
    Together,
    AroundCheckpoint,
    AtOnce,
    OnOneBlock,
    ReadBeside,
    SlowReader,
    Queue,
    CommitBeside,
    SlowCommit,
    Burst,
    Fill,
    FailedFlush,
    Scatter,
    Rush,
    CutRush,
    Brim,
    DropCache,
    Hold,
    Unhold,
    Background,
    Reopen,
    Crash,
    Verify,
    Check,
    Scrub,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What kind.
    pub kind: Kind,
    /// Seeds every choice it makes.
    pub salt: u64,
}

/// A random list.
pub fn generate(rng: &mut Rng, length: usize, mix: Mix) -> Vec<Operation> {
    let total: u64 = mix.iter().map(|(_, weight)| weight).sum();
    let draw = |rng: &mut Rng| {
        let mut ticket = rng.below(total);
        let (kind, _) = mix
            .iter()
            .find(|(_, weight)| {
                let hit = ticket < *weight;
                ticket = ticket.wrapping_sub(*weight);
                hit
            })
            .expect("a ticket lies below the total");
        Operation { kind: *kind, salt: rng.draw() }
    };
    (0..length).map(|_| draw(rng)).collect()
}

/// Shapes a run: how large things get.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Volume sizes in blocks to choose from.
    pub sizes: Vec<u64>,
    /// Most blocks in one write.
    pub write_max: u64,
    /// Most volumes at a time.
    pub volumes_max: usize,
    /// Most points on a volume.
    pub points_max: usize,
}

/// Largest volume in blocks: 64 TiB.
pub const VOLUME_BLOCKS_MAX: u64 = 1 << 34;

impl Shape {
    /// Volumes of a few blocks: deep histories of few things.
    pub fn tiny() -> Self {
        Self { sizes: vec![1, 2, 4, 5], write_max: 2, volumes_max: 3, points_max: 5 }
    }

    /// Volumes of every height, work clustered at the borders of tree nodes.
    pub fn tall() -> Self {
        let sizes = vec![
            1,
            127,
            128,
            129,
            200,
            128 * 128 - 1,
            128 * 128,
            128 * 128 + 1,
            128 * 128 * 128,
            128 * 128 * 128 + 1,
            1 << 28,
            (1 << 28) + 1,
            VOLUME_BLOCKS_MAX,
        ];
        Self { sizes, write_max: 140, volumes_max: 4, points_max: 6 }
    }
}

impl Shape {
    /// Volumes that together are more than a small pool holds, some so large that a trim is left to a drop job, and
    /// requests as large as they get.
    pub fn crowded() -> Self {
        Self { sizes: vec![700, 1500, 3000, 6000, 20_000], write_max: 256, volumes_max: 3, points_max: 3 }
    }

    /// Volumes of which a trim cuts off whole subtrees, small enough that others are freed with them.
    pub fn wide() -> Self {
        let sizes = vec![5000, 8192, 128 * 128, 128 * 128 + 1, 3 * 128 * 128, 128 * 128 * 128];
        Self { sizes, write_max: 140, volumes_max: 4, points_max: 6 }
    }
}

/// Kinds that a group is drawn from.
const GROUP: &[Kind] = &[
    Kind::Write,
    Kind::Write,
    Kind::Write,
    Kind::Trim,
    Kind::Flush,
    Kind::Flush,
    Kind::Commit,
    Kind::Commit,
    Kind::Checkpoint,
    Kind::Convert,
    Kind::DeleteCheckpoint,
    Kind::DeleteCheckpoint,
    Kind::Clone,
    Kind::Revert,
    Kind::Revert,
    Kind::Revert,
    Kind::Resize,
    Kind::Refpoint,
    Kind::DeleteRefpoint,
    Kind::DeleteVolume,
];

/// Draws what one operation is about.
pub struct Chooser<'a> {
    /// The operation's own stream.
    pub rng: Rng,
    /// What exists.
    pub state: &'a State,
    /// How large things get.
    pub shape: &'a Shape,
    /// The volume and checkpoint that everything is about, if anything.
    pub focus: Option<(String, String)>,
}

impl<'a> Chooser<'a> {
    /// A chooser without a focus.
    pub fn new(salt: u64, state: &'a State, shape: &'a Shape) -> Self {
        Self { rng: Rng::new(salt), state, shape, focus: None }
    }

    /// A volume.
    pub fn volume(&mut self) -> Option<(&'a String, &'a Volume)> {
        if let Some((volume, _)) = &self.focus {
            return self.state.volumes.get_key_value(volume);
        }
        let volumes: Vec<_> = self.state.volumes.iter().collect();
        (!volumes.is_empty()).then(|| *self.rng.pick(&volumes))
    }

    /// A volume and one of its checkpoints.
    pub fn checkpoint(&mut self) -> Option<(String, String)> {
        if self.focus.is_some() {
            return self.focus.clone();
        }
        let all = self.state.volumes.iter();
        let all: Vec<_> =
            all.flat_map(|(v, volume)| volume.checkpoints().map(move |(c, _)| (v, c))).collect();
        (!all.is_empty()).then(|| *self.rng.pick(&all)).map(|(v, c)| (v.clone(), c.clone()))
    }

    /// A volume and one of its reference points.
    pub fn refpoint(&mut self) -> Option<(String, String)> {
        let all = self.state.volumes.iter();
        let all: Vec<_> = all.flat_map(|(v, volume)| volume.refpoints().map(move |r| (v, r))).collect();
        (!all.is_empty()).then(|| *self.rng.pick(&all)).map(|(v, c)| (v.clone(), c.clone()))
    }

    /// A size for a volume.
    pub fn size(&mut self) -> u64 {
        *self.rng.pick(&self.shape.sizes)
    }

    /// A position in a volume, near a border of the tree.
    pub fn position(&mut self, size: u64) -> u64 {
        let mut places = vec![0, 0, 0, size - 1, size / 2];
        for height in 1..5 {
            let border = 128_u64.pow(height);
            places.extend([border, border - 1, border + 1, border * 127]);
        }
        places.retain(|at| *at < size);
        let place = *self.rng.pick(&places);
        (place + self.rng.below(3)).min(size - 1)
    }

    /// A write of fresh contents.
    pub fn write(&mut self, contents: &mut Contents) -> Option<Action> {
        self.write_up_to(None, contents)
    }

    /// The same, where it is said of how many blocks at most.
    pub fn write_up_to(&mut self, most: Option<u64>, contents: &mut Contents) -> Option<Action> {
        let (volume, known) = self.volume()?;
        let first = self.position(known.head.size());
        let most = most.unwrap_or_else(|| if self.rng.chance(10) { self.shape.write_max } else { 3 });
        let count = self.rng.between(1, most.min(self.shape.write_max)).min(known.head.size() - first);
        let contents = (0..count).map(|_| contents.draw()).collect();
        Some(Action::Write { volume: volume.clone(), first, contents })
    }

    /// A write of part of a block.
    pub fn write_partial(&mut self, contents: &mut Contents) -> Option<Action> {
        let (volume, known) = self.volume()?;
        let block = self.position(known.head.size());
        let length = self.rng.between(16, 2048) as usize;
        let offset = self.rng.below((4096 - length) as u64 + 1) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| self.rng.draw() as u8).collect();
        let content = contents.compose(known.head.get(block).content, offset, &bytes);
        Some(Action::WritePartial { volume: volume.clone(), block, offset, bytes, content })
    }

    /// A trim, small or huge.
    pub fn trim(&mut self) -> Option<Action> {
        let (volume, known) = self.volume()?;
        let size = known.head.size();
        let first = if self.rng.chance(20) { 0 } else { self.position(size) };
        let count = match self.rng.below(6) {
            0 => size,
            1 => 128,
            2 => 128 * 128,
            3 => self.rng.between(1, 300),
            _ => self.rng.between(1, 4),
        };
        Some(Action::Trim { volume: volume.clone(), first, count: count.min(size - first) })
    }

    /// A policy for a power loss.
    pub fn power_loss(&mut self) -> PowerLoss {
        *self.rng.pick(&PowerLoss::ALL)
    }

    /// The administrative or data action of a kind, if the state allows one. `fresh` makes new names.
    pub fn action(
        &mut self,
        kind: Kind,
        contents: &mut Contents,
        mut fresh: impl FnMut(&str) -> String,
    ) -> Option<Action> {
        let time = self.rng.below(1 << 40);
        match kind {
            Kind::Write => self.write(contents),
            Kind::WritePartial => self.write_partial(contents),
            Kind::Trim => self.trim(),
            Kind::Flush => Some(Action::Flush),
            Kind::Commit => Some(Action::Commit),
            Kind::CreateVolume => {
                let room = self.state.volumes.len() < self.shape.volumes_max;
                let (size, timeline) = (self.size(), self.rng.wide());
                room.then(|| Action::CreateVolume { name: fresh("v"), size, timeline, time })
            }
            Kind::DeleteVolume => Some(Action::DeleteVolume { name: self.volume()?.0.clone() }),
            Kind::Rename => {
                Some(Action::RenameVolume { name: self.volume()?.0.clone(), new_name: fresh("v") })
            }
            Kind::Resize => {
                let (name, known) = self.volume()?;
                let near = (known.head.size() + self.rng.below(5)).saturating_sub(2);
                let size = if self.rng.chance(50) { self.size() } else { near };
                Some(Action::ResizeVolume { name: name.clone(), size: size.clamp(1, VOLUME_BLOCKS_MAX) })
            }
            Kind::Checkpoint => {
                let volumes = self.volumes_with_room();
                (!volumes.is_empty()).then(|| Action::CreateCheckpoint { volumes, name: fresh("c"), time })
            }
            Kind::Convert => {
                let (volume, name) = self.checkpoint()?;
                let refpoint = if self.rng.chance(50) { name.clone() } else { fresh("r") };
                Some(Action::ConvertCheckpoint { volume, name, refpoint })
            }
            Kind::DeleteCheckpoint => {
                let (volume, name) = self.checkpoint()?;
                Some(Action::DeleteCheckpoint { volume, name })
            }
            Kind::Clone => {
                let room = self.state.volumes.len() < self.shape.volumes_max + 1;
                let ((volume, checkpoint), timeline) = (self.checkpoint()?, self.rng.wide());
                room.then(|| Action::CloneVolume { volume, checkpoint, name: fresh("v"), timeline, time })
            }
            Kind::Revert => {
                let (volume, checkpoint) = self.checkpoint()?;
                Some(Action::RevertVolume { volume, checkpoint })
            }
            Kind::Refpoint => {
                let (volume, known) = self.volume()?;
                let room = known.points.len() < self.shape.points_max + 3;
                room.then(|| Action::CreateRefpoint { volume: volume.clone(), name: fresh("r"), time })
            }
            Kind::DeleteRefpoint => {
                let (volume, name) = self.refpoint()?;
                Some(Action::DeleteRefpoint { volume, name })
            }
            _ => None,
        }
    }

    /// One volume or all of them, as far as they may have another point.
    pub fn volumes_with_room(&mut self) -> Vec<String> {
        let room = |volume: &&String| self.state.volumes[*volume].points.len() < self.shape.points_max;
        let mut volumes: Vec<String> = self.state.volumes.keys().filter(room).cloned().collect();
        if !volumes.is_empty() && self.rng.chance(60) {
            volumes = vec![self.rng.pick(&volumes).clone()];
        }
        volumes
    }

    /// Two to four actions, to run together; mostly about one volume, so that they meet.
    pub fn group(&mut self, contents: &mut Contents, mut fresh: impl FnMut(&str) -> String) -> Vec<Action> {
        if self.rng.chance(75) {
            self.focus = self.checkpoint();
        }
        let mut group: Vec<Action> = Vec::new();
        for _ in 0..self.rng.between(2, 4) {
            let kind = *self.rng.pick(GROUP);
            let Some(mut action) = self.action(kind, contents, &mut fresh) else { continue };
            if let Action::Write { contents, .. } = &mut action {
                contents.truncate(1);
            }
            group.push(action);
        }
        group
    }

    /// Writes to parts of one block that do not overlap, to run together.
    pub fn parts_of_a_block(&mut self, contents: &mut Contents) -> Vec<Action> {
        let Some((volume, known)) = self.volume() else { return Vec::new() };
        let block = self.position(known.head.size());
        let mut content = known.head.get(block).content;
        let mut parts = Vec::new();
        for third in 0..3 {
            let offset = third * 1365 + self.rng.below(600) as usize;
            let bytes: Vec<u8> = (0..self.rng.between(16, 700)).map(|_| self.rng.draw() as u8).collect();
            let made = contents.compose(content, offset, &bytes);
            content = Some(made);
            let volume = volume.clone();
            parts.push(Action::WritePartial { volume, block, offset, bytes, content: made });
        }
        parts
    }

    /// Clients that each have a stretch of a volume of their own and go on at it, one request after the other, and
    /// some that delete what is nobody's or ask for a flush or commit.
    pub fn clients(&mut self, contents: &mut Contents) -> Vec<Vec<Action>> {
        let volumes: Vec<(&String, u64)> =
            self.state.volumes.iter().map(|(name, volume)| (name, volume.head.size())).collect();
        if volumes.is_empty() {
            return Vec::new();
        }
        let most = *self.rng.pick(&[1, 2, 4, 8, 12, 16]);
        let rounds = *self.rng.pick(&[1, 3, 10, 40]);
        let length_max = *self.rng.pick(&[1, 16, 32, 64, self.shape.write_max]).min(&(2560 / rounds));
        let length_min = if self.rng.chance(50) { length_max } else { 1 };
        // Where all come back to the same few blocks, whatever they free is soon wanted again.
        let narrow = *self.rng.pick(&[None, Some(1), Some(2)]);
        let mut clients = Vec::new();
        for client in 0..most {
            let (volume, size) = *self.rng.pick(&volumes);
            let (from, to) = (size * client / most, size * (client + 1) / most);
            let to = narrow.map_or(to, |times| to.min(from + times * length_max));
            if from < to {
                let lengths = (length_min, length_max);
                clients
                    .push((0..rounds).map(|_| self.stretch(volume, from..to, lengths, contents)).collect());
            }
        }
        let mut spare: Vec<(String, String)> = Vec::new();
        for _ in 0..self.rng.below(3) {
            spare.extend(self.checkpoint().filter(|one| !spare.contains(one)));
        }
        clients.extend(spare.into_iter().map(|(volume, name)| match self.rng.chance(50) {
            true => vec![Action::DeleteCheckpoint { volume, name }],
            false => vec![Action::ConvertCheckpoint { volume, refpoint: name.clone(), name }],
        }));
        let commits = *self.rng.pick(&[0, 0, 1, 40]);
        clients.push((0..commits).flat_map(|_| [Action::Flush, Action::Commit]).collect());
        clients
    }

    /// A request for some of a stretch of blocks.
    fn stretch(
        &mut self,
        volume: &str,
        blocks: Range<u64>,
        lengths: (u64, u64),
        contents: &mut Contents,
    ) -> Action {
        let first = self.rng.between(blocks.start, blocks.end - 1);
        let count = self.rng.between(lengths.0, lengths.1).min(blocks.end - first);
        let volume = volume.to_string();
        if self.rng.chance(10) {
            return Action::Flush;
        }
        if self.rng.chance(10) {
            return Action::Trim { volume, first, count };
        }
        Action::Write { volume, first, contents: (0..count).map(|_| contents.draw()).collect() }
    }

    /// Single blocks far apart: many leaves of one tree.
    pub fn scattered_writes(&mut self, contents: &mut Contents) -> Vec<Action> {
        let Some((volume, known)) = self.volume() else { return Vec::new() };
        let stride = 128 * *self.rng.pick(&[1, 1, 2, 128]);
        let first = self.rng.below(stride.min(known.head.size()));
        let places = (first..known.head.size()).step_by(stride as usize);
        let places = places.take(self.rng.between(10, 80) as usize);
        let mut write =
            |first| Action::Write { volume: volume.clone(), first, contents: vec![contents.draw()] };
        places.map(&mut write).collect()
    }

    /// Single blocks, each in another leaf of one volume: overwritten or trimmed below a checkpoint, each takes a node.
    pub fn leaves(&mut self) -> Vec<(String, u64)> {
        let Some((volume, known)) = self.volume() else { return Vec::new() };
        let mut leaves: Vec<u64> = (0..known.head.size()).step_by(128).take(1000).collect();
        self.rng.shuffle(&mut leaves);
        leaves.truncate(*self.rng.pick(&[0, 30, 300]));
        leaves.into_iter().map(|first| (volume.clone(), first)).collect()
    }

    /// Writes that together fill every volume, each of so many blocks.
    pub fn filling(&mut self, length: u64) -> Vec<(String, u64, u64)> {
        let mut volumes: Vec<(&String, u64)> =
            self.state.volumes.iter().map(|(name, volume)| (name, volume.head.size())).collect();
        self.rng.shuffle(&mut volumes);
        let stretches = volumes.into_iter().flat_map(|(name, size)| {
            let firsts = (0..size).step_by(length as usize).take(40);
            firsts.map(move |first| (name.clone(), first, length.min(size - first)))
        });
        stretches.collect()
    }

    /// Writes to disjoint blocks, to run together.
    pub fn writes_together(&mut self, contents: &mut Contents) -> Vec<Action> {
        let mut taken: Vec<(String, u64, u64)> = Vec::new();
        let mut writes = Vec::new();
        for _ in 0..self.rng.between(2, 8) {
            let Some(Action::Write { volume, first, contents }) = self.write(contents) else { break };
            let end = first + contents.len() as u64;
            let clash = |(v, start, stop): &(String, u64, u64)| *v == volume && first < *stop && *start < end;
            if !taken.iter().any(clash) {
                taken.push((volume.clone(), first, end));
                writes.push(Action::Write { volume, first, contents });
            }
        }
        writes
    }
}
