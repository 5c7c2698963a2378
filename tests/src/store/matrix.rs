//! Every class of fault during every operation: what the table of `store_matrix` is made of.
//!
//! A case is one operation on a small pool of two members with one fault at one of its requests. An *honest*
//! fault is one that the disk admits, or that only takes time: after healing and a power loss the pool must
//! stand at one state of its history, no older than what was acknowledged, sound and exact. A *lie* damages
//! what was written: every block must read as it was before or after the operation, or as an error, and
//! where anything is amiss the pool or its check must say so.

mod lies;
mod operations;

use crate::disk::fault::{Effect, Request, Rule};
use crate::disk::{DiskImage, PowerLoss};
use crate::model::action::Action;
use crate::model::{Candidate, State};
use crate::store::story::Story;
use crate::store::world::{Setup, World};
use datum_store::ErrorKind;
pub use operations::Operation;

/// Members of the pool.
const MEMBERS: usize = 2;
/// Blocks of the volume.
const SIZE: u64 = 300;
/// Blocks of another volume that leave less than a quarter of the pool free.
const SCARCE: u64 = 256 * 22;
/// Steps after which an operation that waits for a request without an answer is given up.
const STEPS: u64 = 100_000;

/// Requests that are each struck; of those beyond, which look for a lost end of the log or walk the trees of a
/// check, every so many.
const EACH: u64 = 32;
const STRIDE: usize = 9;

/// A class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The disk says that a request failed: one, all from then on, or all at one place.
    Fails(Request, Often),
    /// A write fails, and its first half was carried out.
    Halfway,
    /// A flush fails, and what the disk held is lost; so many turns pass before it says so.
    Forgets(u32),
    /// An answer takes long.
    Slow,
    /// An answer never comes.
    Hangs,
    /// A member is gone in the middle, and back after the next power loss.
    Gone,
    /// No block is free.
    Full,
    /// A bit of a block turns over on its way.
    Rot(Request),
    /// A write lands elsewhere.
    Misdirected,
    /// A write that never happened was answered well, or a flush whose blocks were lost.
    Lost(Request),
    /// After the operation a member is what it was before.
    Stale,
}

/// How often a class of faults strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Often {
    /// One request.
    Once,
    /// Every request from one on.
    Always,
    /// Every request at the place of one.
    Here,
}

impl Class {
    /// Discards come with commits only, and where freed space has come together or is wanted.
    const DISCARD: Self = Self::Fails(Request::Discard, Often::Once);

    /// All classes, each with its name.
    pub fn all() -> Vec<(&'static str, Self)> {
        vec![
            ("a read fails", Self::Fails(Request::Read, Often::Once)),
            ("reads fail from then on", Self::Fails(Request::Read, Often::Always)),
            ("a place cannot be read", Self::Fails(Request::Read, Often::Here)),
            ("a write fails", Self::Fails(Request::Write, Often::Once)),
            ("writes fail from then on", Self::Fails(Request::Write, Often::Always)),
            ("a place cannot be written", Self::Fails(Request::Write, Often::Here)),
            ("a write fails half-way", Self::Halfway),
            ("a flush fails", Self::Fails(Request::Flush, Often::Once)),
            ("flushes fail from then on", Self::Fails(Request::Flush, Often::Always)),
            ("a flush fails and loses what it was for", Self::Forgets(0)),
            ("the same, and is long about it", Self::Forgets(40)),
            ("a discard fails", Self::DISCARD),
            ("an answer comes late", Self::Slow),
            ("an answer never comes", Self::Hangs),
            ("a member goes and returns", Self::Gone),
            ("no space", Self::Full),
            ("a read is rotten", Self::Rot(Request::Read)),
            ("a write is rotten", Self::Rot(Request::Write)),
            ("a write is misdirected", Self::Misdirected),
            ("a write is lost", Self::Lost(Request::Write)),
            ("a flush is lost, with what it was for", Self::Lost(Request::Flush)),
            ("a member is of an older day", Self::Stale),
        ]
    }

    fn rule(self, nth: u64) -> Option<Rule> {
        let rule = match self {
            Self::Fails(on, Often::Once) => Rule::once(on),
            Self::Fails(on, Often::Always) => Rule::always(on),
            Self::Fails(on, Often::Here) => Rule::once(on).sticking(),
            Self::Halfway => Rule::once(Request::Write).with(Effect::FailHalfway),
            Self::Forgets(turns) => Rule::once(Request::Flush).with(Effect::Forget(turns)),
            Self::Slow => Rule::once(Request::Any).with(Effect::Delay(400)),
            Self::Hangs => Rule::once(Request::Any).with(Effect::Withhold),
            Self::Gone => Rule::always(Request::Any),
            Self::Rot(on) => Rule::once(on).with(Effect::Corrupt),
            Self::Misdirected => Rule::once(Request::Write).with(Effect::Misdirect),
            Self::Lost(on) => Rule::once(on).with(Effect::Lose),
            Self::Full | Self::Stale => return None,
        };
        Some(rule.after(nth))
    }

    /// Whether the disk admits the fault.
    fn is_honest(self) -> bool {
        !matches!(self, Self::Rot(_) | Self::Misdirected | Self::Lost(_) | Self::Stale)
    }
}

/// A cell of the table.
pub struct Cell {
    class: Class,
    operation: Operation,
    world: World,
    images: Vec<DiskImage>,
    state: State,
    /// What the pool held before the last record of its log.
    earlier: State,
    /// That, and all that it has held since, in the order of history.
    passed: Vec<Candidate>,
}

/// What an operation came to.
enum Outcome {
    /// All of it was answered well.
    Done,
    /// It was refused, and why; `part` of its actions had been answered well by then.
    Refused { kind: ErrorKind, part: usize },
    /// There is no answer.
    Unknown,
}

impl Cell {
    /// The pool in which all cases of a cell begin.
    pub fn new(class: Class, operation: Operation) -> Self {
        let setup = Setup { members: vec![4096; MEMBERS], ..Setup::small(11) };
        let mut story = Story::with(&setup, SIZE);
        story.fill(0, 290);
        story.checkpoint("a");
        story.fill(50, 100);
        story.refpoint("r");
        story.world.keep_token("v", "r");
        story.checkpoint("b");
        story.fill(0, 20);
        story.trim(180, 20);
        story.world.quiesce();
        if operation == Operation::Release {
            // Nothing of the release happens before the case begins.
            story.world.executor.set_background_share(0);
            story.delete("a");
        }
        let earlier = story.world.model.state.clone();
        story.fill(140, 20);
        story.flush();
        let world = story.world;
        let state = world.model.state.clone();
        let mut cell =
            Self { class, operation, world, images: Vec::new(), state, earlier, passed: Vec::new() };
        if class == Class::DISCARD {
            cell.make_space_scarce();
        }
        if (class, operation) == (Class::Full, Operation::Open) {
            cell.fill_up(0);
            cell.world.act(Action::Flush);
            cell.state = cell.world.model.state.clone();
        }
        cell.images = cell.world.power_off(PowerLoss::Nothing);
        cell
    }

    /// The cases of the cell: the fault at each request of the operation on each member, at some where they are
    /// very many and much alike. Returns how many.
    pub fn run(&mut self) -> u64 {
        let mut cases = 0;
        for member in 0..MEMBERS {
            let requests = (0..EACH).chain((EACH..).step_by(STRIDE));
            cases += requests.take_while(|nth| self.case(member, *nth)).count() as u64;
        }
        cases
    }

    /// One case; false where the operation makes no such request.
    fn case(&mut self, member: usize, nth: u64) -> bool {
        self.begin(member as u64 * 1000 + nth);
        if self.class == Class::Full {
            // Not at a request: with ever more writes tried after space has run out.
            let opening = self.operation == Operation::Open;
            if member > 0 || nth > if opening { 0 } else { 2 } {
                return false;
            }
            if !opening {
                self.fill_up(nth);
            }
        }
        let before = self.world.disks[member].struck();
        if let Some(rule) = self.class.rule(nth) {
            self.world.disks[member].add(rule);
        }
        let (outcome, candidates) = self.perform();
        self.world.disks.iter().for_each(|disk| disk.heal());
        let struck = match self.class {
            Class::Full => true,
            Class::Stale => nth == 0,
            _ => self.world.disks[member].struck() > before,
        };
        if struck {
            self.judge(member, &outcome, candidates);
        }
        struck
    }

    /// The pool as it was, open with something in memory, unless opening it is the operation.
    fn begin(&mut self, seed: u64) {
        self.world.power_off(PowerLoss::Nothing);
        self.world.power_on(self.images.clone());
        self.world.executor.reseed(seed);
        self.world.model.settle(self.state.clone());
        self.passed = [&self.earlier, &self.state].map(|state| Candidate::exactly(state.clone())).into();
        if self.operation == Operation::Open {
            return;
        }
        self.world.open().expect("a healthy pool opens");
        let write = self.write(160, 2);
        for action in [write, Action::Trim { volume: "v".into(), first: 30, count: 3 }] {
            self.world.act(action);
            self.pass();
        }
        if self.class == Class::DISCARD {
            self.free_a_run();
        }
        self.world.call(async |pool| pool.drop_cache());
    }

    /// Fills the pool so far that each commit takes up what was freed before it, with discards.
    fn make_space_scarce(&mut self) {
        self.world.act(Action::CreateVolume { name: "w".into(), size: 1 << 20, timeline: 99, time: 1 });
        for at in (0..SCARCE).step_by(256) {
            let contents = (0..256).map(|_| self.world.contents.draw()).collect();
            self.world.act(Action::Write { volume: "w".into(), first: at, contents });
        }
        self.free_a_run();
        self.state = self.world.model.state.clone();
    }

    /// Frees adjacent blocks for the next commit but this to take up.
    fn free_a_run(&mut self) {
        for _ in 0..2 {
            let write = self.write(200, 40);
            self.world.act(write);
        }
        self.world.act(Action::Commit);
        self.pass();
    }

    /// Notes where the history of the case has come to.
    fn pass(&mut self) {
        self.passed.push(Candidate::exactly(self.world.model.state.clone()));
    }

    fn write(&mut self, first: u64, count: u64) -> Action {
        let contents = (0..count).map(|_| self.world.contents.draw()).collect();
        Action::Write { volume: "v".into(), first, contents }
    }

    /// Takes all space there is for data, and asks for more so often.
    fn fill_up(&mut self, more: u64) {
        self.world.act(Action::CreateVolume { name: "w".into(), size: 1 << 20, timeline: 99, time: 1 });
        for (round, length) in [256, 16, 1].into_iter().enumerate() {
            for at in (0..1 << 18).step_by(256) {
                let contents = (0..length).map(|_| self.world.contents.draw()).collect();
                let first = at + round as u64 * (1 << 18);
                let write = Action::Write { volume: "w".into(), first, contents };
                if self.world.attempt(write).is_err() {
                    break;
                }
            }
        }
        for _ in 0..more {
            let write = self.write(200, 8);
            drop(self.world.attempt(write));
        }
    }

    /// Holds what came of a case against what was promised.
    fn judge(&mut self, member: usize, outcome: &Outcome, candidates: Vec<Candidate>) {
        let (class, operation) = (self.class, self.operation);
        let what = move || format!("{class:?} during {operation:?}");
        if let Outcome::Refused { kind, .. } = outcome {
            let told = match class {
                Class::Full => *kind == ErrorKind::NoSpace,
                class if class.is_honest() => matches!(kind, ErrorKind::Io | ErrorKind::ReadOnly),
                _ => matches!(
                    kind,
                    ErrorKind::Io | ErrorKind::ReadOnly | ErrorKind::Corrupt | ErrorKind::Device
                ),
            };
            assert!(told, "{}: refused as {kind:?}", what());
        }
        let full = class == Class::Full;
        assert!(!full || !matches!(outcome, Outcome::Unknown), "{}: no answer", what());
        if class == Class::Fails(Request::Write, Often::Here) && operation == Operation::Write {
            let data_failed = matches!(outcome, Outcome::Refused { part: 0, .. });
            assert!(!data_failed, "a data write has other places to go to");
        }
        if class == Class::Slow {
            assert!(matches!(outcome, Outcome::Done), "{}: patience is all it takes", what());
        }
        if class == Class::DISCARD {
            assert!(matches!(outcome, Outcome::Done), "{}: a discard is a courtesy", what());
        }
        if class.is_honest() {
            let policy = *self.world.rng.pick(&PowerLoss::ALL);
            let images = self.world.power_off(policy);
            self.world.recover(images, candidates);
            self.world.verify_changes();
            self.world.executor.idle();
            self.world.check();
        } else {
            self.judge_lie(member, candidates);
        }
    }
}
