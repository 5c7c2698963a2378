//! The reference model: volumes as arrays of numbered contents, each with the time of its last change, and
//! the points on their clocks. It knows the promises of the store and nothing of the store itself.
//!
//! Time: each volume has a clock that advances at every point (checkpoint or reference point) of it. A point
//! remembers the tick that it ended; a block changed since the point exactly if its own tick is later. These
//! ticks are the model's own; the store's change ids must be *ordered* like them, not equal to them.
//!
//! History: `Model` keeps every state since the last durable moment. After a crash the store must stand at
//! exactly one of them, all volumes and points together.

pub mod action;
pub mod blockmap;
pub mod compare;
pub mod content;
pub mod history;
pub mod mix;
pub mod observe;
pub mod operation;
pub mod orders;

use crate::model::action::Action;
use crate::model::blockmap::{BlockMap, Cell};
use crate::model::orders::{Member, outcomes};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A checkpoint or a reference point.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Point {
    /// The tick it ended.
    pub at: u64,
    /// The opening of the pool in which it was made.
    pub incarnation: u64,
    /// As given at creation.
    pub created: u64,
    /// What a checkpoint holds; `None` for a reference point.
    pub image: Option<Rc<BlockMap>>,
}

/// A volume with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Volume {
    /// Its line of history.
    pub timeline: u128,
    /// As given at creation.
    pub created: u64,
    /// The current tick.
    pub clock: u64,
    /// The live contents.
    pub head: Rc<BlockMap>,
    /// Checkpoints and reference points, which share one name space.
    pub points: BTreeMap<String, Point>,
    /// Older lines of history it grew out of, each with the last tick that is shared.
    pub ancestry: Vec<(u128, u64)>,
    /// Where a clone came from.
    pub origin: Option<(String, String)>,
    /// Requests wait.
    pub suspended: bool,
}

impl Volume {
    /// Names of the checkpoints.
    pub fn checkpoints(&self) -> impl Iterator<Item = (&String, &Rc<BlockMap>)> {
        self.points.iter().filter_map(|(name, point)| Some((name, point.image.as_ref()?)))
    }

    /// Names of the reference points.
    pub fn refpoints(&self) -> impl Iterator<Item = &String> {
        self.points.iter().filter(|(_, point)| point.image.is_none()).map(|(name, _)| name)
    }

    /// Whether changes since a mark can be told for this volume up to the tick `until` (`None`: now).
    pub fn applies(&self, mark: &Mark, until: Option<u64>) -> Applies {
        let inherited = self.ancestry.iter().find(|(timeline, _)| *timeline == mark.timeline);
        match inherited {
            _ if mark.timeline == self.timeline => match until {
                Some(until) if mark.at > until => Applies::Newer,
                _ => Applies::Yes,
            },
            Some((_, last)) if mark.at <= *last => Applies::Yes,
            Some(_) => Applies::BeyondFork,
            None => Applies::Foreign,
        }
    }

    fn set(&mut self, first: u64, blocks: u64, content: Option<u64>) {
        let change = self.clock;
        Rc::make_mut(&mut self.head).set(first, blocks, Cell { content, change });
    }

    fn revert(&mut self, to: &BlockMap) {
        let change = self.clock;
        let old = self.head.clone();
        let mut new = BlockMap::new(to.size(), change);
        for (run, now) in to.segments(&old) {
            let change = if run.cell.content == now.content { now.change } else { change };
            new.set(run.first, run.blocks, Cell { content: run.cell.content, change });
        }
        for run in to.runs().filter(|run| run.first + run.blocks > old.size()) {
            let first = run.first.max(old.size());
            let blocks = run.first + run.blocks - first;
            new.set(first, blocks, Cell { content: run.cell.content, change });
        }
        self.head = Rc::new(new);
    }
}

/// A mark on a volume's clock, as a client may keep it.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// The line of history.
    pub timeline: u128,
    /// The tick that it ended.
    pub at: u64,
}

/// What a change query must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// An exact list.
    Yes,
    /// The mark is newer than what it is compared with.
    Newer,
    /// The mark belongs to an ancestor, but to the time after the fork.
    BeyondFork,
    /// The mark belongs elsewhere.
    Foreign,
}

/// Everything a client can see.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct State {
    /// By name.
    pub volumes: BTreeMap<String, Volume>,
}

impl State {
    /// The state after `action`, which must be possible.
    pub fn apply(&mut self, action: &Action, incarnation: u64) {
        match action {
            Action::CreateVolume { name, size, timeline, time } => {
                let head = Rc::new(BlockMap::new(*size, 1));
                self.add(name, head, 1, (*timeline, *time), Vec::new(), None);
            }
            Action::DeleteVolume { name } => {
                self.volumes.remove(name);
            }
            Action::RenameVolume { name, new_name } => {
                let volume = self.volumes.remove(name).expect("the volume exists");
                self.volumes.insert(new_name.clone(), volume);
            }
            Action::ResizeVolume { name, size } => {
                let volume = self.volume(name);
                let clock = volume.clock;
                Rc::make_mut(&mut volume.head).resize(*size, clock);
            }
            Action::CloneVolume { volume, checkpoint, name, timeline, time } => {
                self.clone_volume(volume, checkpoint, name, *timeline, *time);
            }
            Action::RevertVolume { volume, checkpoint } => {
                let volume = self.volume(volume);
                let image = volume.points[checkpoint].image.clone().expect("a checkpoint has an image");
                volume.revert(&image);
            }
            Action::CreateCheckpoint { volumes, name, time } => {
                for volume in volumes {
                    let image = Some(self.volume(volume).head.clone());
                    self.point(volume, name, image, incarnation, *time);
                }
            }
            Action::CreateRefpoint { volume, name, time } => {
                self.point(volume, name, None, incarnation, *time);
            }
            Action::DeleteCheckpoint { volume, name } | Action::DeleteRefpoint { volume, name } => {
                self.volume(volume).points.remove(name);
            }
            Action::ConvertCheckpoint { volume, name, refpoint } => {
                let points = &mut self.volume(volume).points;
                let point = points.remove(name).expect("the checkpoint exists");
                points.insert(refpoint.clone(), Point { image: None, ..point });
            }
            Action::Write { volume, first, contents } => {
                for (at, content) in (*first..).zip(contents) {
                    self.volume(volume).set(at, 1, Some(*content));
                }
            }
            Action::WritePartial { volume, block, content, .. } => {
                self.volume(volume).set(*block, 1, Some(*content));
            }
            Action::Trim { volume, first, count } => self.volume(volume).set(*first, *count, None),
            Action::Suspend { volume } => self.volume(volume).suspended = true,
            Action::Resume { volume } => self.volume(volume).suspended = false,
            Action::Flush | Action::Commit => {}
        }
    }

    /// A volume that must exist.
    pub fn volume(&mut self, name: &str) -> &mut Volume {
        self.volumes.get_mut(name).unwrap_or_else(|| panic!("the model has no volume {name}"))
    }

    /// What a restart does to it.
    pub fn restart(&mut self) {
        for volume in self.volumes.values_mut() {
            volume.suspended = false;
        }
    }

    /// What the blocks of writes under way may hold instead: volume, block, and that.
    pub fn optional(&self, actions: &[Action]) -> Vec<(String, u64, Cell)> {
        let mut optional = Vec::new();
        for action in actions {
            let (volume, first, contents) = match action {
                Action::Write { volume, first, contents } => (volume, *first, contents.clone()),
                Action::WritePartial { volume, block, content, .. } => (volume, *block, vec![*content]),
                _ => continue,
            };
            let change = self.volumes[volume].clock;
            for (at, content) in (first..).zip(contents) {
                optional.push((volume.clone(), at, Cell { content: Some(content), change }));
            }
        }
        optional
    }

    fn point(
        &mut self,
        volume: &str,
        name: &str,
        image: Option<Rc<BlockMap>>,
        incarnation: u64,
        created: u64,
    ) {
        let volume = self.volume(volume);
        let point = Point { at: volume.clock, incarnation, created, image };
        volume.points.insert(name.into(), point);
        volume.clock += 1;
    }

    fn clone_volume(&mut self, volume: &str, checkpoint: &str, name: &str, timeline: u128, time: u64) {
        let parent = self.volumes[volume].clone();
        let point = &parent.points[checkpoint];
        let mut ancestry = parent.ancestry.clone();
        ancestry.push((parent.timeline, point.at));
        let head = point.image.clone().expect("a checkpoint has an image");
        let origin = Some((volume.into(), checkpoint.into()));
        self.add(name, head, point.at + 1, (timeline, time), ancestry, origin);
    }

    fn add(
        &mut self,
        name: &str,
        head: Rc<BlockMap>,
        clock: u64,
        (timeline, created): (u128, u64),
        ancestry: Vec<(u128, u64)>,
        origin: Option<(String, String)>,
    ) {
        let points = BTreeMap::new();
        let volume = Volume { timeline, created, clock, head, points, ancestry, origin, suspended: false };
        self.volumes.insert(name.into(), volume);
    }
}

/// A state the store may stand at after a crash, with writes that may each be in it or not.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What is certain.
    pub state: State,
    /// Volume, block, and what it may hold instead.
    pub optional: Vec<(String, u64, Cell)>,
}

impl Candidate {
    /// This state and no other.
    pub fn exactly(state: State) -> Self {
        Self { state, optional: Vec::new() }
    }

    /// Every state it stands for. There are `2^n` of them for `n` optional writes.
    pub fn states(&self) -> Vec<State> {
        let mut states = vec![self.state.clone()];
        for (volume, block, cell) in &self.optional {
            let mut with = states.clone();
            for state in &mut with {
                Rc::make_mut(&mut state.volume(volume).head).set(*block, 1, *cell);
            }
            states.extend(with);
        }
        states
    }
}

/// The state now, and all states since the last durable moment.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Now.
    pub state: State,
    history: Vec<Candidate>,
}

impl Model {
    /// Takes in an acknowledged action.
    pub fn acknowledge(&mut self, action: &Action, incarnation: u64) {
        self.state.apply(action, incarnation);
        if action.is_durable() {
            self.history.clear();
        }
        self.record();
    }

    /// Notes the current state as one that a crash may leave.
    pub fn record(&mut self) {
        self.history.push(Candidate { state: self.state.clone(), optional: Vec::new() });
    }

    /// Takes in writes that ran together, all acknowledged, in no known order. With `flushed`, a flush ran among
    /// them: what came before is durable, of them nothing is sure.
    pub fn acknowledge_together(&mut self, actions: &[Action], incarnation: u64, flushed: bool) {
        if flushed {
            self.history.clear();
        }
        let optional = self.state.optional(actions);
        self.history.push(Candidate { state: self.state.clone(), optional });
        for action in actions {
            self.state.apply(action, incarnation);
        }
        self.record();
    }

    /// What a crash may leave while `actions` are under way.
    pub fn candidates(&self, actions: &[Action], incarnation: u64) -> Vec<Candidate> {
        let mut candidates = self.history.clone();
        match actions {
            [action] if action.is_durable() || matches!(action, Action::Trim { .. }) => {
                let mut state = self.state.clone();
                state.apply(action, incarnation);
                candidates.push(Candidate { state, optional: Vec::new() });
            }
            _ => candidates
                .push(Candidate { state: self.state.clone(), optional: self.state.optional(actions) }),
        }
        candidates
    }

    /// What a crash may leave while a group of actions is under way (see [`orders`]). With
    /// `flushed`, one of them has ended that made all before the group durable.
    pub fn candidates_of_group(
        &self,
        group: &[Member<'_>],
        flushed: bool,
        incarnation: u64,
    ) -> Vec<Candidate> {
        let mut candidates = if flushed { Vec::new() } else { self.history.clone() };
        let reached = outcomes(&self.state, group, incarnation);
        candidates.extend(reached.into_iter().map(|state| Candidate { state, optional: Vec::new() }));
        candidates
    }

    /// Stands at `state` from now on, durably.
    pub fn settle(&mut self, state: State) {
        self.state = state;
        self.history.clear();
        self.record();
    }
}

#[cfg(test)]
mod tests;
