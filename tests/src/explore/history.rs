//! Running one sequence, and keeping every moment of its last letter at which the power could fail.
//!
//! Only the last letter: what comes before is the last letter of a shorter sequence. Each letter reseeds the world
//! from the letters up to it, so that a sequence begins exactly as its beginnings run alone.

use super::prelude::Prelude;
use super::sequence::{Drawer, Letter, Part};
use super::states::Moments;
use crate::disk::{PowerLoss, SimulatedDisk};
use crate::model::compare::KeptToken;
use crate::model::content::Contents;
use crate::model::{Candidate, Model};
use crate::rng::{Rng, mix};
use crate::store::world::{Start, World, fail};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// States of history that a power loss may leave.
pub struct Allowed {
    /// As the world compares them.
    pub candidates: Vec<Candidate>,
    /// A digest of the set.
    pub digest: u64,
}

impl Allowed {
    /// One of these.
    pub fn new(candidates: Vec<Candidate>) -> Rc<Self> {
        let state_digest = |state| {
            let mut hasher = DefaultHasher::new();
            Hash::hash(&state, &mut hasher);
            hasher.finish()
        };
        let states: BTreeSet<u64> = candidates.iter().flat_map(Candidate::states).map(state_digest).collect();
        let digest = states.iter().fold(0, |sum, state| mix(sum ^ state));
        Rc::new(Self { candidates, digest })
    }
}

/// A moment at which the power could fail.
pub struct Boundary {
    /// What the disks are at.
    pub moments: Moments,
    /// What must come out.
    pub allowed: Rc<Allowed>,
}

/// Notes the disks whenever what a power loss could leave has changed.
pub struct Recorder {
    disks: Vec<SimulatedDisk>,
    seen: Cell<u64>,
    moments: RefCell<Vec<Moments>>,
}

impl Recorder {
    /// Records what happens to a world's disks from now on.
    pub fn attach(world: &mut World) -> Rc<Self> {
        let disks: Vec<SimulatedDisk> = world.disks.iter().map(|disk| disk.inner().clone()).collect();
        let recorder = Rc::new(Self { disks, seen: Cell::new(0), moments: RefCell::default() });
        recorder.seen.set(recorder.changes());
        let watcher = recorder.clone();
        world.executor.watch(Some(Rc::new(move || watcher.look())));
        recorder
    }

    /// Ends a recording.
    pub fn detach(&self, world: &mut World) -> Vec<Moments> {
        world.executor.watch(None);
        self.moments.take()
    }

    fn changes(&self) -> u64 {
        self.disks.iter().map(SimulatedDisk::changes).sum()
    }

    fn look(&self) {
        let changes = self.changes();
        if self.seen.replace(changes) != changes {
            self.moments.borrow_mut().push(self.disks.iter().map(SimulatedDisk::moment).collect());
        }
    }
}

/// The disks of a world as they are now.
pub fn now(world: &World) -> Moments {
    world.disks.iter().map(|disk| disk.inner().moment()).collect()
}

/// Requests that a world's disks have seen.
pub fn requests(world: &World) -> u64 {
    world.disks.iter().map(|disk| disk.inner().requests()).sum()
}

/// A sequence that has run.
pub struct History {
    /// Every moment of its last letter.
    pub boundaries: Vec<Boundary>,
    /// What a client knows by then.
    pub contents: Contents,
    /// Tokens it keeps.
    pub tokens: Vec<KeptToken>,
    /// Names drawn by then.
    pub drawn: u64,
    /// Operations carried out.
    pub operations: u64,
    /// Requests that reached the disks.
    pub requests: u64,
}

/// Steps of the executor that one letter of background work takes.
const STEP: u64 = 9;

/// Runs `letters` from a start. `None` where a letter means nothing.
pub fn run(prelude: &Prelude, start: &Start, letters: &[Letter], seed: u64) -> Option<History> {
    let mut world = World::resume(&prelude.setup(mix(seed)), start.clone());
    prelude.pace(&mut world);
    world.open_again();
    let mut run = Run { world, recorded: None, operations: 0, requests: 0 };
    let mut salt = mix(seed);
    for (position, letter) in letters.iter().enumerate() {
        salt = mix(salt ^ (*letter as u64 + 1));
        run.world.executor.reseed(salt);
        run.world.rng = Rng::new(salt);
        if position + 1 == letters.len() {
            run.recorded = Some(Vec::new());
        }
        run.letter(*letter)?;
    }
    let Run { world, recorded, operations, requests: earlier } = run;
    Some(History {
        boundaries: recorded.unwrap_or_default(),
        requests: earlier + requests(&world),
        drawn: world.drawn(),
        contents: world.contents,
        tokens: world.tokens,
        operations,
    })
}

struct Run {
    world: World,
    /// What was recorded, once it is the last letter's turn.
    recorded: Option<Vec<Boundary>>,
    operations: u64,
    /// Requests to disks that lost their power on the way.
    requests: u64,
}

impl Run {
    fn letter(&mut self, letter: Letter) -> Option<()> {
        let mut drawn = self.world.drawn();
        let mut drawer = Drawer { contents: &mut self.world.contents, drawn: &mut drawn };
        let parts = letter.parts(&self.world.model.state, &mut drawer)?;
        self.world.set_drawn(drawn);
        for part in parts {
            self.operations += 1;
            self.part(part);
            self.keep(vec![now(&self.world)], self.world.model.candidates(&[], self.world.incarnation()));
        }
        Some(())
    }

    fn part(&mut self, part: Part) {
        let model = &self.world.model;
        let as_it_is = model.candidates(&[], self.world.incarnation());
        match part {
            Part::Act(action) => {
                let allowed = model.candidates(std::slice::from_ref(&action), self.world.incarnation());
                self.record(allowed, |world| {
                    if let Err(error) = world.attempt_alone(&action) {
                        panic!("{action:?}: {error} {:?}", error.observations());
                    }
                });
            }
            Part::Together(writes) => {
                let allowed = model.candidates(&writes, self.world.incarnation());
                self.operations += writes.len() as u64;
                self.record(allowed, |world| world.act_together(writes, true));
            }
            Part::Step => self.record(as_it_is, |world| world.executor.step(STEP)),
            Part::Background => self.record(as_it_is, |world| world.executor.idle()),
            Part::Reopen => self.reopen(as_it_is),
            Part::PowerLoss => {
                self.cut(PowerLoss::Any);
                self.record(as_it_is.clone(), World::open_again);
                self.world.settle(as_it_is);
            }
        }
    }

    fn reopen(&mut self, as_it_is: Vec<Candidate>) {
        self.record(as_it_is, |world| {
            world.call(async |pool| pool.close().await).unwrap_or_else(fail("close the pool"));
        });
        let state = self.world.model.state.clone();
        self.world.model = Model::default();
        self.world.model.settle(state.clone());
        self.cut(PowerLoss::Nothing);
        self.record(vec![Candidate::exactly(state)], World::open_again);
    }

    fn cut(&mut self, policy: PowerLoss) {
        self.requests += requests(&self.world);
        let images = self.world.power_off(policy);
        self.world.power_on(images);
    }

    fn record(&mut self, allowed: Vec<Candidate>, work: impl FnOnce(&mut World)) {
        if self.recorded.is_none() {
            return work(&mut self.world);
        }
        let recorder = Recorder::attach(&mut self.world);
        work(&mut self.world);
        let moments = recorder.detach(&mut self.world);
        self.keep(moments, allowed);
    }

    fn keep(&mut self, moments: Vec<Moments>, allowed: Vec<Candidate>) {
        let Some(recorded) = &mut self.recorded else { return };
        let allowed = Allowed::new(allowed);
        recorded.extend(moments.into_iter().map(|moments| Boundary { moments, allowed: allowed.clone() }));
    }
}
