//! One case, in a process of its own: a workload in which one allocation fails.

use super::{Ending, Workload, say, say_recovered, watched};
use crate::disk::{PowerLoss, SimulatedDisk};
use crate::explore::Breadth;
use crate::explore::history::{Allowed, History};
use crate::explore::prelude::{LARGE, PRELUDES, Prelude};
use crate::explore::recovery::recover;
use crate::explore::sequence::{ALPHABET, Drawer, Letter, Part, VOLUME};
use crate::explore::states;
use crate::model::action::Action;
use crate::model::{Candidate, State};
use crate::rng::{Rng, mix};
use crate::store::perform::name;
use crate::store::world::{World, fail};
use datum_scarcity::Failure;
use datum_store::limits::REQUEST_BLOCKS_MAX;
use datum_store::{BlockIndex, Error, ErrorKind, Progress, Since, View};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Seeds all of it.
const SEED: u64 = 7;
/// Power losses that are recovered from at the moment of a failure.
const LOSSES: usize = 3;
/// Steps of the executor that a letter of background work takes.
const STEP: u64 = 9;

/// What is going on when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The pool is opened after a power loss.
    Open,
    /// A client reads the volume.
    Read,
    /// A client writes as much at once as it may, and flushes.
    Write,
    /// A client asks what has changed since a point.
    Changes,
    /// The pool is checked.
    Check,
    /// Something that changes the pool.
    Letter(Letter),
}

/// A workload, and how many of its last work's allocations succeed before one fails.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where it begins.
    pub prelude: &'static Prelude,
    /// What is done, one after the other.
    pub work: Vec<Work>,
    /// Allocations of the last work that succeed.
    pub after: u64,
}

impl Work {
    const OTHERS: [(Self, &'static str); 5] = [
        (Self::Open, "open"),
        (Self::Read, "read"),
        (Self::Write, "write"),
        (Self::Changes, "changes"),
        (Self::Check, "check"),
    ];

    /// All of it.
    pub fn all() -> Vec<Self> {
        let letters = ALPHABET.iter().map(|(letter, _)| Self::Letter(*letter));
        Self::OTHERS.iter().map(|(work, _)| *work).chain(letters).collect()
    }

    fn word(self) -> &'static str {
        match self {
            Self::Letter(letter) => letter.word(),
            _ => Self::OTHERS.iter().find(|(other, _)| *other == self).map_or("", |(_, word)| word),
        }
    }

    fn parse(word: &str) -> Option<Self> {
        let other = Self::OTHERS.iter().find(|(_, spelt)| *spelt == word).map(|(work, _)| *work);
        other.or_else(|| Letter::parse(word).map(Self::Letter))
    }
}

impl Case {
    /// The case that is spelt `prelude:work,work:after`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let prelude = parts.next()?;
        let prelude = PRELUDES.iter().chain([&LARGE]).find(|known| known.name == prelude)?;
        let work = parts.next()?.split(',').map(Work::parse).collect::<Option<Vec<_>>>()?;
        Some(Self { prelude, work, after: parts.next()?.parse().ok()? })
    }

    /// Runs it. `None` where a work means nothing. What does not hold is a panic; where memory was not to be refused the
    /// process aborts.
    pub fn run(&self) -> Option<Ending> {
        let mut world = World::resume(&self.prelude.setup(mix(SEED)), self.prelude.start(SEED));
        self.prelude.pace(&mut world);
        if self.work.first() != Some(&Work::Open) {
            world.open_again();
        }
        let mut life = Life { case: self, world, refused: false };
        for (position, work) in self.work.iter().enumerate() {
            let salt = mix(SEED ^ position as u64);
            life.world.executor.reseed(salt);
            life.world.rng = Rng::new(salt);
            if position + 1 == self.work.len() {
                let failure =
                    Failure { after: self.after, lasting: false, bytes_min: 0, before: recover_from_here };
                datum_scarcity::begin(Some(failure));
            }
            life.work(*work)?;
        }
        let counted = datum_scarcity::end();
        if !FAILED.get() {
            let (large, sites) = (datum_scarcity::large(), datum_scarcity::sites());
            return Some(Ending::Beyond { count: counted, large, sites });
        }
        let refused = life.refused;
        life.goes_on();
        Some(if refused { Ending::Refused } else { Ending::Absorbed })
    }
}

/// What is known at the moment of a failure: all that a recovery is held against.
struct Scene {
    prelude: &'static Prelude,
    disks: Vec<SimulatedDisk>,
    known: History,
    allowed: Rc<Allowed>,
    after: u64,
}

thread_local! {
    static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// Called in the midst of the product's work, with all disks as they are.
fn recover_from_here(bytes: usize) {
    SCENE.with_borrow(|scene| scene.as_ref().expect("a failure has a scene").recover());
    FAILED.set(true);
    say_recovered(bytes);
}

impl Scene {
    fn recover(&self) {
        let moments = self.disks.iter().map(SimulatedDisk::moment).collect();
        let breadth = Breadth { torn_max: 2, subsets_max: 3, samples: 3 };
        let mut losses = states::losses(&moments, &breadth, self.after);
        let mut rng = Rng::new(self.after);
        rng.shuffle(&mut losses);
        for fates in losses.into_iter().take(LOSSES) {
            let digest = states::digest(&moments, &fates);
            let images = states::images(&moments, &fates);
            recover(self.prelude, &self.known, images, digest, &self.allowed, false);
        }
    }
}

struct Life<'a> {
    case: &'a Case,
    world: World,
    refused: bool,
}

impl Life<'_> {
    fn work(&mut self, work: Work) -> Option<()> {
        match work {
            Work::Open => {
                self.unchanged();
                self.world.open_again();
            }
            Work::Read => {
                self.unchanged();
                self.asked(Self::read);
            }
            Work::Write => {
                let size = self.world.model.state.volumes[VOLUME].head.size();
                let contents =
                    (0..size.min(REQUEST_BLOCKS_MAX)).map(|_| self.world.contents.draw()).collect();
                self.part(Part::Act(Action::Write { volume: VOLUME.into(), first: 0, contents }));
                self.part(Part::Act(Action::Flush));
            }
            Work::Changes => {
                self.world.model.state.volumes.get(VOLUME)?.points.keys().next()?;
                self.unchanged();
                self.asked(Self::changes);
            }
            Work::Check => {
                self.unchanged();
                self.asked(Self::check);
            }
            Work::Letter(letter) => self.letter(letter)?,
        }
        Some(())
    }

    fn letter(&mut self, letter: Letter) -> Option<()> {
        let mut drawn = self.world.drawn();
        let mut drawer = Drawer { contents: &mut self.world.contents, drawn: &mut drawn };
        let parts = letter.parts(&self.world.model.state, &mut drawer)?;
        self.world.set_drawn(drawn);
        parts.into_iter().for_each(|part| self.part(part));
        Some(())
    }

    fn part(&mut self, part: Part) {
        match part {
            Part::Act(action) => {
                self.stage(self.candidates(std::slice::from_ref(&action)));
                self.asked(|life| life.world.attempt_alone(&action).map(drop));
            }
            Part::Together(writes) => {
                self.stage(self.candidates(&writes));
                let replies = self.world.try_together(&writes, true);
                let flush = Action::Flush;
                for (action, reply) in writes.iter().chain([&flush]).zip(replies) {
                    if let Err(error) = reply {
                        self.refusal(&error);
                        self.asked(|life| life.world.attempt_alone(action).map(drop));
                    }
                }
            }
            Part::Step => {
                self.unchanged();
                self.world.executor.step(STEP);
            }
            Part::Background => {
                self.unchanged();
                self.world.executor.idle();
            }
            Part::Reopen => {
                self.unchanged();
                self.world
                    .call(async |pool| watched(pool.close()).await)
                    .unwrap_or_else(fail("close the pool"));
                let state = self.world.model.state.clone();
                self.again(PowerLoss::Nothing, vec![Candidate::exactly(state)]);
            }
            Part::PowerLoss => self.again(PowerLoss::Any, self.candidates(&[])),
        }
    }

    /// The power fails, and the pool is opened again.
    fn again(&mut self, policy: PowerLoss, allowed: Vec<Candidate>) {
        let images = self.world.power_off(policy);
        self.world.power_on(images);
        self.stage(allowed.clone());
        self.world.open_again();
        self.world.settle(allowed);
    }

    /// Asks for something, and once more if there was no memory.
    fn asked(&mut self, ask: impl Fn(&mut Self) -> Result<(), Error>) {
        let Err(error) = ask(self) else { return };
        self.refusal(&error);
        ask(self).unwrap_or_else(fail("do what was refused once"));
    }

    /// One refusal is in order, and leaves everything as it was.
    fn refusal(&mut self, error: &Error) {
        let excused = FAILED.get() && !self.refused && error.kind() == ErrorKind::NoMemory;
        assert!(excused, "refused: {error} {:?}", error.observations());
        self.refused = true;
        self.world.verify();
    }

    fn read(&mut self) -> Result<(), Error> {
        let head = self.world.model.state.volumes[VOLUME].head.clone();
        let (image, size) = (self.world.image(VOLUME), head.size());
        let blocks =
            self.world.executor.run(watched(image.read(BlockIndex(0), size.min(REQUEST_BLOCKS_MAX))))?;
        for (at, block) in (0..).zip(blocks) {
            let known = head.get(at).content.map(|content| self.world.contents.bytes(content));
            assert!(block == known, "block {at} is not what was written there");
        }
        Ok(())
    }

    fn changes(&mut self) -> Result<(), Error> {
        let volume = self.world.model.state.volumes[VOLUME].clone();
        let (point, mark) = volume.points.first_key_value().expect("it has a point");
        let (since, at) = (Since::Point(name(point)), mark.at);
        let image = self.world.image(VOLUME);
        let page = self.world.call(async |pool| {
            watched(async {
                let change = pool.resolve_since(&name(VOLUME), None, &since).await?;
                let end = BlockIndex(image.size() / 4096);
                image.extents(BlockIndex(0), end, View::Changes(change), 1000).await
            })
            .await
        })?;
        for extent in page.extents {
            let blocks = extent.first.0..extent.first.0 + extent.blocks;
            let right = blocks.clone().all(|block| (volume.head.get(block).change > at) == extent.changed);
            assert!(right, "changes of {blocks:?} since {point}");
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Error> {
        let report = self.world.call(async |pool| watched(pool.check(&Progress::new())).await)?;
        assert_eq!(report.errors, 0, "{:?}", report.findings);
        Ok(())
    }

    /// After one failure everything is as ever, also after a power loss.
    fn goes_on(mut self) {
        self.world.executor.idle();
        self.world.verify();
        self.world.check();
        let candidates = self.candidates(&[]);
        let images = self.world.power_off(PowerLoss::Any);
        self.world.recover(images, candidates);
        self.world.verify_changes();
    }

    fn candidates(&self, actions: &[Action]) -> Vec<Candidate> {
        self.world.model.candidates(actions, self.world.incarnation())
    }

    fn unchanged(&self) {
        self.stage(self.candidates(&[]));
    }

    /// From here on a power loss must leave one of these.
    fn stage(&self, allowed: Vec<Candidate>) {
        let world = &self.world;
        let known = History {
            boundaries: Vec::new(),
            contents: world.contents.clone(),
            tokens: world.tokens.clone(),
            drawn: world.drawn(),
            operations: 0,
            requests: 0,
        };
        let disks = world.disks.iter().map(|disk| disk.inner().clone()).collect();
        let (prelude, after, allowed) =
            (self.case.prelude, self.case.after, Rc::new(Allowed { candidates: allowed, digest: 0 }));
        SCENE.set(Some(Scene { prelude, disks, known, allowed, after }));
    }
}

/// Runs the case that the environment names, in the process that was started for it.
pub fn answer(text: &str) {
    let case = Case::parse(text).unwrap_or_else(|| panic!("{text} is no case"));
    say(case.run());
}

/// Every work after every prelude after which it means something. One allocation in `stride` fails.
pub fn workloads(stride: usize) -> Vec<Workload> {
    let mut workloads = Vec::new();
    for prelude in PRELUDES.iter().chain([&LARGE]) {
        let state = prelude.start(1).state;
        let works = Work::all().into_iter().filter(|work| meaningful(&state, *work));
        workloads.extend(works.map(|work| Workload {
            spelling: format!("{}:{}", prelude.name, work.word()),
            word: work.word().into(),
            stride,
            last: 0,
        }));
    }
    workloads
}

/// The works that mean something after a prelude.
fn meaningful(state: &State, work: Work) -> bool {
    let Work::Letter(letter) = work else { return true };
    let (mut contents, mut drawn) = (Default::default(), 0);
    letter.parts(state, &mut Drawer { contents: &mut contents, drawn: &mut drawn }).is_some()
}
