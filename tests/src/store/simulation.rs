//! Random runs: draws operations, carries them out on a `World`, shrinks what fails, and prints how to replay it.
//!
//! `DATUM_SEEDS=n` runs n seeds instead of the fixed number, `DATUM_SEED=s` one alone, `DATUM_TRACE=1` prints each
//! action on the way.

mod losses;
mod space;

use crate::disk::{Slow, Sort};
use crate::model::action::Action;
use crate::model::blockmap::BlockMap;
use crate::model::compare::compare;
use crate::model::mix::Mix;
use crate::model::observe;
use crate::model::operation::{Chooser, Kind, Operation, Shape, generate};
use crate::rng::Rng;
use crate::store::perform::{Disk, name};
use crate::store::world::{Setup, World, fail};
use datum_store::{ErrorKind, Image};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;

/// A family of random runs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The test's name and its file, for the replay command.
    pub test: (&'static str, &'static str),
    /// Member disks in blocks.
    pub members: Vec<u64>,
    /// The pool's memory.
    pub cache_blocks: usize,
    /// How large things get.
    pub shape: Shape,
    /// Operations a run.
    pub length: usize,
    /// Whether running out of space is part of the game.
    pub may_fill: bool,
    /// What is done, and how often.
    pub mix: Mix,
    /// How many turns in a hundred background work gets while others can go on: one of these for each run.
    pub background: &'static [u64],
}

/// In some runs background work gets hardly a turn, so that it pauses over commits and crashes.
pub const NOW_AND_THEN_SLOW: &[u64] = &[100, 100, 20, 0];

/// Steps in which something that goes on beside the rest gets to its first requests.
const STEPS_TO_BEGIN: u64 = 12;

/// Runs shrinking tries before it gives up.
const SHRINK_TRIES_MAX: usize = 300;

impl Plan {
    /// Runs `seeds` seeds, or what the environment asks for.
    pub fn explore(&self, seeds: u64) {
        let number = |key: &str| std::env::var(key).ok().map(|text| text.parse::<u64>().expect("a number"));
        if let Some(seed) = number("DATUM_SEED") {
            return self.run_seed(seed);
        }
        for seed in 0..number("DATUM_SEEDS").unwrap_or(seeds) {
            self.run_seed(seed);
        }
    }

    fn run_seed(&self, seed: u64) {
        let operations = generate(&mut Rng::new(seed), self.length, self.mix);
        let Err(first) = self.quietly(seed, &operations) else { return };
        let (file, test) = self.test;
        let (operations, what) = if std::env::var_os("DATUM_NO_SHRINK").is_some() {
            (operations, first.clone())
        } else {
            self.shrink(seed, operations, first.clone())
        };
        eprintln!(
            "\nseed {seed} fails with {} operations; the actions of the shortest run:",
            operations.len()
        );
        let trace = self.traced(seed, &operations);
        eprintln!("{trace}\nfirst: {first}\nshortest: {what}");
        panic!(
            "{what}\nreplay: DATUM_SEED={seed} cargo test -p datum-tests --test {file} {test} -- --exact --nocapture"
        );
    }

    /// Drops operations while the run still fails: halves first, then ever smaller pieces.
    fn shrink(
        &self,
        seed: u64,
        mut operations: Vec<Operation>,
        mut what: String,
    ) -> (Vec<Operation>, String) {
        let mut tries = 0;
        let mut piece = operations.len().div_ceil(2);
        while piece >= 1 && tries < SHRINK_TRIES_MAX {
            let mut at = 0;
            let mut dropped = false;
            while at < operations.len() && tries < SHRINK_TRIES_MAX {
                let mut fewer = operations.clone();
                fewer.drain(at..(at + piece).min(operations.len()));
                tries += 1;
                match self.quietly(seed, &fewer) {
                    Err(still) => (operations, what, dropped) = (fewer, still, true),
                    Ok(()) => at += piece,
                }
            }
            if piece == 1 && !dropped {
                break;
            }
            piece = if piece == 1 { 1 } else { piece.div_ceil(2) };
        }
        (operations, what)
    }

    fn quietly(&self, seed: u64, operations: &[Operation]) -> Result<(), String> {
        silent(|| {
            catch_unwind(AssertUnwindSafe(|| {
                self.run(seed, operations, false);
            }))
        })
    }

    fn traced(&self, seed: u64, operations: &[Operation]) -> String {
        let result = silent(|| {
            catch_unwind(AssertUnwindSafe(|| {
                self.run(seed, operations, true);
            }))
        });
        result.err().unwrap_or_else(|| "(the last run passed: the failure is not deterministic)".into())
    }

    /// Runs a list of operations. Returns a digest of all that reached the disks.
    pub fn run(&self, seed: u64, operations: &[Operation], trace: bool) -> u64 {
        let setup = Setup { members: self.members.clone(), cache_blocks: self.cache_blocks, seed };
        let mut run = Run { world: World::new(&setup), plan: self, held: Vec::new() };
        if trace {
            run.world.trace();
        }
        run.world.executor.set_background_share(*Rng::new(seed ^ 0xba6c).pick(self.background));
        run.world.quiesce();
        let empty = run.world.pool().status().allocated_bytes;
        for operation in operations {
            run.world.executor.reseed(operation.salt);
            run.world.rng = Rng::new(operation.salt ^ 1);
            run.step(*operation);
        }
        run.finish(empty);
        run.world.disks.iter().fold(0, |sum, disk| sum ^ disk.inner().trace())
    }
}

/// Serialises use of the panic hook among test threads.
static HOOK: Mutex<()> = Mutex::new(());

thread_local! {
    static LAST_PANIC: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `work` without panic messages on the terminal, and turns a panic into its message and place.
pub(crate) fn silent<T>(work: impl FnOnce() -> std::thread::Result<T>) -> Result<T, String> {
    install_hook();
    QUIET.set(true);
    let result = work();
    QUIET.set(false);
    result.map_err(|_| LAST_PANIC.take().unwrap_or_else(|| "a panic without a message".into()))
}

fn install_hook() {
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    let _guard = HOOK.lock();
    INSTALLED.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                LAST_PANIC.with(|last| {
                    let mut last = last.borrow_mut();
                    if last.is_none() {
                        *last = Some(info.to_string());
                    }
                });
            } else {
                usual(info);
            }
        }));
    });
}

/// An open checkpoint and what it must keep showing.
struct Held {
    timeline: u128,
    image: Image<Disk>,
    map: Rc<BlockMap>,
}

struct Run<'a> {
    world: World,
    plan: &'a Plan,
    held: Vec<Held>,
}

impl Run<'_> {
    fn step(&mut self, operation: Operation) {
        self.world.say(format_args!("{:?}", operation.kind));
        if self.world.model.state.volumes.is_empty() {
            // Nothing else means anything.
            self.plain(Operation { kind: Kind::CreateVolume, salt: !operation.salt });
        }
        match operation.kind {
            Kind::KeepToken => self.keep_token(operation),
            Kind::Suspend => self.suspend(operation),
            Kind::Together => self.together(operation),
            Kind::AroundCheckpoint => self.around_checkpoint(operation),
            Kind::AtOnce => self.at_once(operation),
            Kind::OnOneBlock => self.on_one_block(operation),
            Kind::ReadBeside => self.read_beside(operation),
            Kind::SlowReader => self.slow_reader(operation),
            Kind::Queue => self.queue(operation),
            Kind::CommitBeside => self.world.commit_beside(),
            Kind::SlowCommit => self.slow_commit(operation),
            Kind::Burst => self.burst(operation),
            Kind::Fill => self.fill_up(operation),
            Kind::FailedFlush => self.failed_flush(operation),
            Kind::Scatter => self.scatter(operation),
            Kind::Rush => self.rush(operation),
            Kind::CutRush => self.cut_rush(operation),
            Kind::Brim => self.brim(operation),
            Kind::DropCache => self.world.pool().drop_cache(),
            Kind::Hold => self.hold(operation),
            Kind::Unhold => {
                self.verify_held();
                self.held.clear();
            }
            Kind::Background => {
                let steps = Rng::new(operation.salt).below(300);
                self.world.executor.step(steps);
            }
            Kind::Reopen => {
                self.held.clear();
                self.world.reopen();
                self.world.verify();
            }
            Kind::Crash => self.crash(operation),
            Kind::Verify => {
                self.world.verify();
                self.verify_held();
                self.world.check();
            }
            Kind::Check => self.world.check(),
            Kind::Scrub => self.world.scrub(),
            _ => self.plain(operation),
        }
    }

    fn plain(&mut self, operation: Operation) {
        let Some(action) = self.choose(operation, operation.kind) else { return };
        if self.refused(action) {
            self.world.verify();
        }
    }

    /// Carries out an action; true if there was no space for it, where that is part of the game.
    fn refused(&mut self, action: Action) -> bool {
        let room = self.world.room();
        let Err(error) = self.world.attempt(action.clone()) else { return false };
        let full = error.kind() == ErrorKind::NoSpace && self.plan.may_fill;
        assert!(full, "{action:?}: {error} {:?}", error.observations());
        assert!(!action.is_removal(), "{action:?}: {error}");
        if matches!(action, Action::Write { .. } | Action::WritePartial { .. }) {
            self.world.demand_reasons(&[(&action, error)], room, &[vec![action.clone()]]);
        }
        true
    }

    fn choose(&mut self, operation: Operation, kind: Kind) -> Option<Action> {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let mut drawn = self.world.drawn();
        let action = chooser.action(kind, &mut self.world.contents, |prefix| {
            drawn += 1;
            format!("{prefix}{drawn}")
        });
        self.world.set_drawn(drawn);
        action
    }

    fn keep_token(&mut self, operation: Operation) {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        if let Some((volume, refpoint)) = chooser.refpoint() {
            self.world.keep_token(&volume, &refpoint);
        }
    }

    /// A write to a suspended volume waits, and is done once the volume is resumed.
    fn suspend(&mut self, operation: Operation) {
        let Some(write) = self.choose(operation, Kind::Write) else { return };
        if !self.plan.may_fill {
            self.world.act_suspended(write);
        }
    }

    fn together(&mut self, operation: Operation) {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let writes = chooser.writes_together(&mut self.world.contents);
        let flush = chooser.rng.chance(50);
        if writes.is_empty() {
            return;
        }
        let room = self.world.room();
        let replies = self.world.try_together(&writes, flush);
        let refused =
            writes.iter().zip(&replies).filter_map(|(action, reply)| Some((action, reply.clone().err()?)));
        let refused: Vec<_> = refused.collect();
        assert!(self.plan.may_fill || refused.is_empty(), "{refused:?}");
        assert!(!flush || replies.last().is_some_and(Result::is_ok), "a flush beside writes: {replies:?}");
        let clients: Vec<Vec<Action>> = writes.iter().map(|action| vec![action.clone()]).collect();
        self.world.demand_reasons(&refused, room, &clients);
    }

    fn around_checkpoint(&mut self, operation: Operation) {
        if self.plan.may_fill {
            return;
        }
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let writes = chooser.writes_together(&mut self.world.contents);
        let volumes = chooser.volumes_with_room();
        if volumes.is_empty() {
            return;
        }
        let point = self.world.fresh("c");
        self.world.act_around_checkpoint(writes, Action::CreateCheckpoint { volumes, name: point, time: 5 });
    }

    /// Commands and requests that may get in each other's way.
    fn at_once(&mut self, operation: Operation) {
        let group = self.group(operation);
        if !self.plan.may_fill && !group.is_empty() {
            self.world.act_at_once(&group);
        }
    }

    fn group(&mut self, operation: Operation) -> Vec<Action> {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let mut drawn = self.world.drawn();
        let group = chooser.group(&mut self.world.contents, |prefix| {
            drawn += 1;
            format!("{prefix}{drawn}")
        });
        self.world.set_drawn(drawn);
        group
    }

    /// Parts of one block, written by several at once.
    fn on_one_block(&mut self, operation: Operation) {
        if self.plan.may_fill {
            return;
        }
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let parts = chooser.parts_of_a_block(&mut self.world.contents);
        if !parts.is_empty() {
            self.world.act_on_one_block(&parts);
        }
    }

    /// Reads that go on beside what follows.
    fn read_beside(&mut self, operation: Operation) {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let Some((volume, known)) = chooser.volume() else { return };
        let first = chooser.position(known.head.size());
        let count = (known.head.size() - first).min(56);
        self.world.read_beside(volume, first, count);
    }

    /// The same, by a reader whose disk takes so long over it that commits come and go.
    fn slow_reader(&mut self, operation: Operation) {
        self.slow_disks(operation, Sort::Reads);
        self.read_beside(operation);
        self.world.executor.step(STEPS_TO_BEGIN);
    }

    /// A commit that goes on beside what follows, held up by its disks.
    fn slow_commit(&mut self, operation: Operation) {
        let sort = *Rng::new(operation.salt ^ 0x50f7).pick(&[Sort::Changes, Sort::Flushes]);
        self.slow_disks(operation, sort);
        self.world.commit_beside();
        self.world.executor.step(STEPS_TO_BEGIN);
    }

    fn slow_disks(&mut self, operation: Operation, sort: Sort) {
        let mut rng = Rng::new(operation.salt ^ 0x510);
        self.world.disks.iter().for_each(|disk| disk.inner().slow(Slow::pick(&mut rng, sort)));
    }

    fn slow_alike(&mut self, slow: Slow) {
        self.world.disks.iter().for_each(|disk| disk.inner().slow(slow));
    }

    /// Writes to many leaves of one tree.
    fn scatter(&mut self, operation: Operation) {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let writes = chooser.scattered_writes(&mut self.world.contents);
        let _ = writes.into_iter().chain([Action::Flush]).any(|action| self.refused(action));
    }

    fn hold(&mut self, operation: Operation) {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let Some((volume, checkpoint)) = chooser.checkpoint() else { return };
        let image = self
            .world
            .call(async |pool| pool.open_image(&name(&volume), Some(&name(&checkpoint))).await)
            .unwrap_or_else(fail("open a checkpoint"));
        let known = &state.volumes[&volume];
        let map = known.points[&checkpoint].image.clone().expect("a checkpoint");
        self.held.push(Held { timeline: known.timeline, image, map });
    }

    /// An open checkpoint shows what it always showed, deleted or not; only its volume's end ends it.
    fn verify_held(&mut self) {
        for held in &self.held {
            if !self.world.model.state.volumes.values().any(|volume| volume.timeline == held.timeline) {
                continue;
            }
            let contents = &self.world.contents;
            let shown = self.world.executor.run(observe::image_map(&held.image, contents, 64));
            for (run, cell) in shown.segments(&held.map) {
                assert_eq!(run.cell.content, cell.content, "an open checkpoint at block {}", run.first);
            }
        }
    }

    /// Compares everything, deletes everything, and wants all space back.
    fn finish(&mut self, empty: u64) {
        self.world.verify();
        self.verify_held();
        self.held.clear();
        self.world.check();
        self.world.scrub();
        self.world.drop_images();
        let volumes: Vec<String> = self.world.model.state.volumes.keys().cloned().collect();
        for volume in volumes {
            self.world.act(Action::DeleteVolume { name: volume });
        }
        self.world.quiesce();
        self.world.check();
        let view = self.world.observe();
        compare(&view, &self.world.model.state, &[]).unwrap_or_else(|what| panic!("{what}"));
        let left = self.world.pool().status().allocated_bytes;
        // Sixteen lists of freed extents are worth a sweep, in a pool with space; some nodes lead to them.
        let slack = 24 * 4096;
        assert!(left <= empty + slack, "{left} bytes are allocated with nothing left, {empty} in a new pool");
    }
}
