//! The store and the model, driven side by side over simulated disks.
//!
//! Whatever the store acknowledges, the model takes in; whatever the store shows must be what the model knows.
//! A difference is a panic with what differs. A power loss takes the disks' images under a policy, opens the
//! pool again, and demands that it stand at exactly one state of its history since the last durable moment.

mod crash;
mod durable;
mod glance;
mod group;
mod start;
mod verify;

pub use crash::{Ending, Moment};
pub use group::{Fate, Room, Stretch};
pub use start::Start;

use crate::disk::{DiskImage, PowerLoss, SimulatedDisk};
use crate::executor::{BoxFuture, Executor, turn};
use crate::model::action::Action;
use crate::model::compare::KeptToken;
use crate::model::content::Contents;
use crate::model::observe;
use crate::model::{Mark, Model, State};
use crate::rng::Rng;
use crate::store::perform::{Disk, Reply, name, perform};
use crate::store::scarcity::watched;
use datum_store::device::Block;
use datum_store::{Config, Error, ErrorKind, Image, NewPool, Pool};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Turns of the others that stand for a pause: few, so that releases go on beside clients in every run.
const PAUSE_TURNS: usize = 25;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Sizes of the member disks in blocks.
    pub members: Vec<u64>,
    /// The pool's memory.
    pub cache_blocks: usize,
    /// The world's seed.
    pub seed: u64,
}

impl Setup {
    /// One disk of 64 MiB and little memory.
    pub fn small(seed: u64) -> Self {
        Self { members: vec![16384], cache_blocks: 256, seed }
    }
}

/// An open pool. Whatever its disks do, unless somebody forges checksums its contents never contradict each other:
/// where the store finds that they do, it is a defect of the store, and the test fails.
struct Watched(Pool<Disk>, bool);

impl Drop for Watched {
    fn drop(&mut self) {
        let why = self.0.status().read_only.unwrap_or_default();
        if why.contains("contradict") && !self.1 && !std::thread::panicking() {
            panic!("{why}");
        }
    }
}

/// The store, its disks, and what is known of it.
pub struct World {
    /// Runs everything.
    pub executor: Executor,
    /// The members.
    pub disks: Vec<Disk>,
    /// What the store must show.
    pub model: Model,
    /// All contents ever written.
    pub contents: Contents,
    /// Tokens that a client keeps, whatever becomes of the volumes.
    pub tokens: Vec<KeptToken>,
    /// Random numbers for the world's own choices.
    pub rng: Rng,
    /// Creation times are compared in this many nanoseconds: what a client was told of them.
    pub time_grain: u64,
    /// Entries a page of what is read back; of random size unless it is set.
    pub page: Option<usize>,
    config: Config,
    pool: Option<Watched>,
    images: BTreeMap<u128, Rc<Image<Disk>>>,
    incarnation: u64,
    drawn: u64,
    trace: bool,
    /// Somebody has forged what lies on the disks, so that it may contradict itself.
    pub forged: bool,
}

impl World {
    /// A new pool on blank disks.
    pub fn new(setup: &Setup) -> Self {
        let mut world = Self::unborn(setup);
        let disks = world.disks.clone();
        let (id, incarnation) = (world.rng.wide(), world.rng.draw());
        let new = NewPool { name: name("tank"), id, incarnation, time: 1 };
        let pool = world
            .executor
            .run(Pool::create(disks, new, world.config))
            .unwrap_or_else(fail("create the pool"));
        world.start(pool, incarnation);
        world.model.settle(State::default());
        world
    }

    /// Blank disks, and no pool yet.
    pub fn unborn(setup: &Setup) -> Self {
        let images = setup.members.iter().map(|blocks| DiskImage::blank(*blocks)).collect();
        let mut world = Self {
            executor: Executor::new(setup.seed),
            disks: Vec::new(),
            model: Model::default(),
            contents: Contents::default(),
            tokens: Vec::new(),
            rng: Rng::new(setup.seed),
            time_grain: 1,
            page: None,
            // Steps small enough that releases and sweeps pause everywhere.
            config: Config {
                cache_blocks: setup.cache_blocks,
                step_pointers: [1, 3, 17, 130, 512][(setup.seed % 5) as usize],
                sweep_bitmaps: [1, 2, 16][(setup.seed / 5 % 3) as usize],
            },
            pool: None,
            images: BTreeMap::new(),
            incarnation: 0,
            drawn: 0,
            trace: std::env::var_os("DATUM_TRACE").is_some(),
            forged: false,
        };
        world.power_on(images);
        world
    }

    /// The open pool.
    pub fn pool(&self) -> Pool<Disk> {
        self.pool.as_ref().expect("the pool is open").0.clone()
    }

    /// Number of this opening.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// A name nobody has.
    pub fn fresh(&mut self, prefix: &str) -> String {
        self.drawn += 1;
        format!("{prefix}{}", self.drawn)
    }

    /// Prints each action from now on.
    pub fn trace(&mut self) {
        self.trace = true;
    }

    /// How many names were drawn.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Takes in names drawn elsewhere.
    pub fn set_drawn(&mut self, drawn: u64) {
        self.drawn = drawn;
    }

    /// Runs one call on the pool.
    pub fn call<T>(&mut self, work: impl AsyncFnOnce(Pool<Disk>) -> T) -> T {
        let pool = self.pool();
        self.executor.run(work(pool))
    }

    /// The live image of a volume, opened once and kept over renames.
    pub fn image(&mut self, volume: &str) -> Rc<Image<Disk>> {
        let timeline = self.model.state.volumes[volume].timeline;
        if let Some(image) = self.images.get(&timeline) {
            return image.clone();
        }
        let image = self.call(async |pool| pool.open_image(&name(volume), None).await);
        let image = Rc::new(image.unwrap_or_else(fail("open the volume")));
        self.images.insert(timeline, image.clone());
        image
    }

    /// Closes every image the world keeps open.
    pub fn drop_images(&mut self) {
        self.images.clear();
    }

    /// Carries out `action`; it must succeed.
    pub fn act(&mut self, action: Action) {
        if let Err(error) = self.attempt(action.clone()) {
            panic!("{action:?}: {error} {:?}", error.observations());
        }
    }

    /// Carries out `action`. An error must leave nothing behind; the model stays as it was.
    pub fn attempt(&mut self, action: Action) -> Result<Reply, Error> {
        let reply = self.attempt_alone(&action)?;
        self.after(&action);
        Ok(reply)
    }

    /// As [`World::attempt`], without looking afterwards at what the action has changed.
    pub fn attempt_alone(&mut self, action: &Action) -> Result<Reply, Error> {
        self.note(action);
        let work = self.prepare(action);
        let before = self.clocks();
        let reply = self.executor.run(work)?;
        if action.is_durable() {
            self.demand_durable(&before);
        }
        self.model.acknowledge(action, self.incarnation);
        self.check_reply(action, &reply);
        Ok(reply)
    }

    /// Carries out data requests together. A flush may run among them.
    pub fn act_together(&mut self, actions: Vec<Action>, flush: bool) {
        for reply in self.try_together(&actions, flush) {
            reply.unwrap_or_else(fail("run requests together"));
        }
    }

    /// The same; the answers are the caller's, the flush's the last. The model knows of those that were done.
    pub fn try_together(&mut self, actions: &[Action], flush: bool) -> Vec<Result<Reply, Error>> {
        let mut work = Vec::new();
        for action in actions {
            self.note(action);
            work.push(self.prepare(action));
        }
        if flush {
            work.push(self.prepare(&Action::Flush));
        }
        let replies = self.executor.run_all(work);
        let done = actions.iter().zip(&replies).filter(|(_, reply)| reply.is_ok());
        let done: Vec<Action> = done.map(|(action, _)| action.clone()).collect();
        let flushed = flush && replies.last().is_some_and(Result::is_ok);
        self.model.acknowledge_together(&done, self.incarnation, flushed);
        replies
    }

    /// Suspends the volume of a write, sees the write wait, resumes, and sees it done.
    pub fn act_suspended(&mut self, write: Action) {
        let Action::Write { volume, .. } = &write else { panic!("{write:?}") };
        let volume = volume.clone();
        self.act(Action::Suspend { volume: volume.clone() });
        let done = Rc::new(std::cell::RefCell::new(None));
        let slot = done.clone();
        let work = self.prepare(&write);
        self.executor.spawn(async move {
            let reply = work.await;
            *slot.borrow_mut() = Some(reply);
        });
        self.executor.step(500);
        assert!(done.borrow().is_none(), "a write to a suspended volume must wait");
        self.act(Action::Resume { volume });
        self.executor.idle();
        let reply = done.borrow_mut().take().expect("a held write goes on after resume");
        reply.unwrap_or_else(fail("finish a held write"));
        self.model.acknowledge(&write, self.incarnation);
        self.after(&write);
    }

    /// Runs writes together with a checkpoint of their volumes, then asks the checkpoint which of them it holds.
    pub fn act_around_checkpoint(&mut self, writes: Vec<Action>, checkpoint: Action) {
        let Action::CreateCheckpoint { volumes, name: point, .. } = &checkpoint else {
            panic!("{checkpoint:?}")
        };
        let mut work = Vec::new();
        for action in writes.iter().chain([&checkpoint]) {
            self.note(action);
            work.push(self.prepare(action));
        }
        for reply in self.executor.run_all(work) {
            reply.unwrap_or_else(fail("run requests together"));
        }
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for write in writes {
            let Action::Write { volume, first, contents } = write else { panic!("{write:?}") };
            for (block, content) in (first..).zip(contents) {
                let one = Action::Write { volume: volume.clone(), first: block, contents: vec![content] };
                let held = volumes.contains(&volume) && self.holds(&volume, point, block, content);
                if held { before.push(one) } else { after.push(one) }
            }
        }
        for action in &before {
            self.model.acknowledge(action, self.incarnation);
        }
        self.model.acknowledge(&checkpoint, self.incarnation);
        self.model.acknowledge_together(&after, self.incarnation, false);
    }

    fn holds(&mut self, volume: &str, checkpoint: &str, block: u64, content: u64) -> bool {
        let pool = self.pool();
        let contents = &self.contents;
        let held = self.executor.run(async {
            let image = pool.open_image(&name(volume), Some(&name(checkpoint))).await;
            observe::read(&image.unwrap_or_else(fail("open the checkpoint")), contents, block, 1).await
        });
        held == [Some(content)]
    }

    /// Takes the power away and returns what is on the disks.
    pub fn power_off(&mut self, policy: PowerLoss) -> Vec<DiskImage> {
        let images = self.disks.iter().map(|disk| disk.inner().power_loss(policy, &mut self.rng)).collect();
        self.forget_machine();
        self.disks.clear();
        images
    }

    /// Ends the machine, whatever it is at.
    fn forget_machine(&mut self) {
        self.executor.power_off();
        self.images.clear();
        self.pool = None;
    }

    /// Gives disks with these contents power; the pool is not opened.
    pub fn power_on(&mut self, images: Vec<DiskImage>) {
        self.disks.clear();
        for (i, image) in images.into_iter().enumerate() {
            let disk = SimulatedDisk::power_on(&format!("vd{i}"), image);
            self.executor.attach(Rc::new(disk.clone()));
            self.disks.push(Disk::new(disk));
        }
    }

    /// Opens the pool on the disks as they are.
    pub fn open(&mut self) -> Result<(), Error> {
        self.open_for(u64::MAX).expect("the opening comes to an end")
    }

    /// The same within so many steps; `None` if it is not done by then, or nothing moves.
    pub fn open_for(&mut self, steps: u64) -> Option<Result<(), Error>> {
        let incarnation = self.rng.draw();
        let open = watched(Pool::open(self.disks.clone(), incarnation, self.config));
        let before = self.watch_superblocks();
        let (mut opened, _) = self.executor.drive(vec![Box::pin(open)], steps);
        self.executor.watch(before);
        match opened.remove(0)? {
            Ok(pool) => self.start(pool, incarnation),
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(()))
    }

    /// Handles to the members.
    fn simulated_disks(&self) -> Vec<SimulatedDisk> {
        self.disks.iter().map(|disk| disk.inner().clone()).collect()
    }

    /// Whether the pool is open.
    pub fn is_open(&self) -> bool {
        self.pool.is_some()
    }

    fn start(&mut self, pool: Pool<Disk>, incarnation: u64) {
        let background = pool.clone();
        self.executor.spawn(watched(async move {
            background.background(pause).await;
        }));
        self.pool = Some(Watched(pool, self.forged));
        self.incarnation = incarnation;
    }

    /// Keeps a token of a reference point for later.
    pub fn keep_token(&mut self, volume: &str, refpoint: &str) {
        let token = self.call(async |pool| pool.token(&name(volume), &name(refpoint)).await);
        let token = token.unwrap_or_else(fail("make a token"));
        let text = token.encode();
        assert!(text.starts_with("datum:1:"), "{text}");
        assert_eq!(datum_store::Token::decode(&text).as_ref(), Ok(&token));
        let known = &self.model.state.volumes[volume];
        let mark = Mark { timeline: known.timeline, at: known.points[refpoint].at };
        self.tokens.push((token, mark));
    }

    fn note(&self, action: &Action) {
        self.say(format_args!("  {action:?}"));
    }

    /// Prints what happens, where that is wanted.
    pub fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.trace {
            eprintln!("{what}");
        }
    }

    /// The future that asks the store for `action`.
    fn prepare(&mut self, action: &Action) -> BoxFuture<'static, datum_store::Result<Reply>> {
        let (image, blocks) = match action {
            Action::Write { volume, contents, .. } => {
                let blocks: Vec<Block> =
                    contents.iter().map(|content| self.contents.bytes(*content)).collect();
                (Some(self.image(volume)), blocks)
            }
            Action::WritePartial { volume, .. } | Action::Trim { volume, .. } => {
                (Some(self.image(volume)), Vec::new())
            }
            _ => (None, Vec::new()),
        };
        Box::pin(watched(perform(self.pool(), image, action.clone(), blocks)))
    }

    fn check_reply(&self, action: &Action, reply: &Reply) {
        let volume = |n: &str| &self.model.state.volumes[n];
        match (action, reply) {
            (
                Action::CreateVolume { name: n, .. } | Action::CloneVolume { name: n, .. },
                Reply::Volume(info),
            ) => {
                assert_eq!(info.name, name(n));
                assert_eq!(info.size, volume(n).head.size() * 4096);
                assert_eq!(info.timeline.0, volume(n).timeline);
            }
            (Action::CreateCheckpoint { volumes, name: n, .. }, Reply::Checkpoints(infos)) => {
                assert_eq!(infos.len(), volumes.len());
                assert!(infos.iter().all(|info| info.name == name(n)));
            }
            (Action::CreateRefpoint { volume: v, name: n, time }, Reply::Refpoint(info)) => {
                assert_eq!((&info.volume, &info.name, info.created), (&name(v), &name(n), *time));
                assert_eq!((info.timeline.0, info.incarnation), (volume(v).timeline, self.incarnation));
            }
            (Action::ConvertCheckpoint { volume: v, refpoint, .. }, Reply::Refpoint(info)) => {
                assert_eq!((&info.volume, &info.name), (&name(v), &name(refpoint)));
            }
            _ => {}
        }
    }

    fn after(&mut self, action: &Action) {
        match action {
            Action::Write { volume, first, contents } => {
                self.verify_range(volume, *first, contents.len() as u64)
            }
            Action::WritePartial { volume, block, .. } => self.verify_range(volume, *block, 1),
            Action::Trim { volume, first, count } => {
                self.verify_range(volume, *first, (*count).min(8));
                self.verify_range(volume, first + count - 1, 1);
            }
            Action::DeleteVolume { .. } => self.verify_gone(),
            _ => {}
        }
    }

    /// Images of volumes that are no more answer `NotFound`.
    fn verify_gone(&mut self) {
        let alive: Vec<u128> = self.model.state.volumes.values().map(|volume| volume.timeline).collect();
        let gone: Vec<u128> =
            self.images.keys().copied().filter(|timeline| !alive.contains(timeline)).collect();
        for timeline in gone {
            let image = self.images.remove(&timeline).expect("listed just now");
            let error = self.executor.run(image.read(datum_store::BlockIndex(0), 1)).err();
            assert_eq!(
                error.map(|error| error.kind()),
                Some(ErrorKind::NotFound),
                "read of a deleted volume"
            );
        }
    }
}

/// What background work waits for while clients are busy: a short while, where there is no clock.
async fn pause() {
    for _ in 0..PAUSE_TURNS {
        turn().await;
    }
}

/// Panics with what could not be done and why.
pub fn fail<T>(what: &'static str) -> impl FnOnce(Error) -> T {
    move |error| panic!("cannot {what}: {error} {:?}", error.observations())
}
