//! Memory that runs out under the whole appliance: of small workloads on its ports each allocation of service and store
//! fails in turn.
//!
//! As in `crate::store::scarcity`, a case has a process of its own, and in the midst of the step, before the product learns that
//! there is no memory, takes the power from copies of the disks, starts another appliance on what that leaves, and holds
//! all that it shows against what was acknowledged. Then either the machine ends, or one request is refused as is
//! documented, the session goes on, and the request is done when it is asked for again.

mod asker;
mod refusal;
mod works;

use super::audit::Audit;
use super::judge::Judge;
use super::machine::{Machine, Parts, Pause};
use super::{Context, Counts};
use crate::disk::{DiskImage, PowerLoss, SimulatedDisk};
use crate::explore::{Breadth, states};
use crate::rng::Rng;
use crate::store::perform::Disk;
use crate::store::scarcity::{Ending, Workload, say, say_again, say_recovered};
use asker::Asker;
use datum_scarcity::Failure;
use datum_service::Takeover;
use refusal::Refusals;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use works::{Ask, Pool, Work, works};

/// Seeds all of it.
const SEED: u64 = 7;
/// Blocks of each member.
const MEMBERS: [u64; 2] = [4096, 4096];
/// Power losses that are recovered from at the moment of a failure.
const LOSSES: usize = 2;
/// Questions for changes after a recovery.
const QUESTIONS: usize = 12;
/// How often work that was refused is done again, each time without memory at the same place: more requests than a
/// session may have under way, and more payload than all sessions may.
const REPETITIONS: usize = 70;
/// Executor steps within which anything is done.
const STEPS: u64 = 40_000_000;
/// The machine starts, and nobody asks for anything.
const START: &str = "start";

/// Allocations that a command makes once it is carried out, or some more.
const ANSWERING: u64 = 8;

/// Everything that is asked for, one allocation in `stride` failing; of pools that take long to make, fewer; and each of
/// those with which a command is answered, which must not say that it was refused.
pub fn workloads(stride: usize, long_stride: usize) -> Vec<Workload> {
    let start = Workload { spelling: START.into(), word: START.into(), stride, last: 0 };
    let others = works().into_iter().map(|work| Workload {
        stride: if work.pool == Pool::Few { stride } else { long_stride },
        word: work.word().into(),
        last: if matches!(work.asks[..], [Ask::Command(..)]) { ANSWERING } else { 0 },
        spelling: work.name,
    });
    [start].into_iter().chain(others).collect()
}

/// Runs the case `work:after`, in the process that was started for it.
pub fn answer(text: &str) {
    let (name, after) = text.split_once(':').unwrap_or((text, ""));
    let after = after.parse().unwrap_or_else(|_| panic!("{text} is no case"));
    let work = works().into_iter().find(|work| work.name == name);
    assert!(work.is_some() || name == START, "{text} is no case");
    say(Some(run(work.as_ref(), after)));
}

fn run(work: Option<&Work>, after: u64) -> Ending {
    let mut life = Life::with_pool(work.map_or(Pool::Few, |work| work.pool));
    let counted = match work {
        None => life.start(after),
        Some(work) => life.work(work, after),
    };
    if !life.refusals.failed.get() {
        let (large, sites) = (datum_scarcity::large(), datum_scarcity::sites());
        return Ending::Beyond { count: counted, large, sites };
    }
    let refused = life.refusals.any();
    life.at_rest();
    if let Some(work) = work.filter(|work| refused && work.is_repeatable()) {
        life.repeat(work, after);
        life.at_rest();
    }
    life.end();
    if refused { Ending::Refused } else { Ending::Absorbed }
}

/// What is known at the moment of a failure.
struct Scene {
    disks: Vec<Disk>,
    judge: Rc<RefCell<Judge>>,
    refusals: Rc<Refusals>,
    now: u64,
    seed: u64,
}

thread_local! {
    static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
}

/// Called in the midst of the product's work, with all disks as they are.
fn recover_from_here(bytes: usize) {
    SCENE.with_borrow(|scene| {
        let scene = scene.as_ref().expect("a failure has a scene");
        scene.recover();
        scene.refusals.failed.set(true);
    });
    say_recovered(bytes);
}

impl Scene {
    fn recover(&self) {
        let moments = self.disks.iter().map(|disk| disk.inner().moment()).collect();
        let breadth = Breadth { torn_max: 2, subsets_max: 3, samples: 3 };
        let mut losses = states::losses(&moments, &breadth, self.seed);
        Rng::new(self.seed).shuffle(&mut losses);
        for fates in losses.into_iter().take(LOSSES) {
            let judge = Rc::new(RefCell::new(self.judge.borrow().clone()));
            let disks = power_on(states::images(&moments, &fates));
            audited(&disks, &judge, self.now);
        }
    }
}

fn power_on(images: Vec<DiskImage>) -> Vec<Disk> {
    let disk = |(at, image)| Disk::new(SimulatedDisk::power_on(&format!("vd{at}"), image));
    images.into_iter().enumerate().map(disk).collect()
}

fn boot(disks: &[Disk], now: u64) -> Machine {
    let parts = Parts { cache_blocks: 1024, buffer_bytes: 0, takeover: Takeover::Now };
    Machine::boot(disks, &parts, now, SEED)
}

/// A machine that has been started, and of which all was looked at.
fn audited(disks: &[Disk], judge: &Rc<RefCell<Judge>>, now: u64) -> Machine {
    judge.borrow_mut().stopping = false;
    let mut machine = boot(disks, now);
    audit(&mut machine, judge);
    machine
}

fn audit(machine: &mut Machine, judge: &Rc<RefCell<Judge>>) {
    let context = context(machine, judge);
    let audit = Audit::new(machine.control_port("audit"), machine.nbd_port("audit"), context, SEED);
    run_to_its_end(machine, async move { audit.brief(QUESTIONS).run().await });
}

fn context(machine: &Machine, judge: &Rc<RefCell<Judge>>) -> Context {
    let counts = Rc::<Counts>::default();
    Context { judge: judge.clone(), counts, environment: machine.environment.clone() }
}

/// Lets a client do what it does; or the machine end, if that was it.
fn run_to_its_end(machine: &mut Machine, client: impl Future<Output = ()> + 'static) {
    let done = Rc::new(Cell::new(false));
    let flag = done.clone();
    machine.executor.spawn(async move {
        client.await;
        flag.set(true);
    });
    let pause = machine.run_until(STEPS, || done.get());
    let over = [Pause::Done, Pause::PoweredOff].contains(&pause);
    assert!(over, "a client waits for what never comes: {pause:?}; {:?}", machine.said());
}

/// One pool, and the machine that has it.
struct Life {
    disks: Vec<Disk>,
    judge: Rc<RefCell<Judge>>,
    refusals: Rc<Refusals>,
    machine: Machine,
    asker: Option<Asker>,
}

impl Life {
    /// The pool, made and opened again.
    fn with_pool(pool: Pool) -> Self {
        let judge = Rc::new(RefCell::new(Judge::default()));
        let disks = power_on(MEMBERS.map(DiskImage::blank).into());
        let machine = audited(&disks, &judge, 0);
        let mut life = Self { disks, judge, refusals: Rc::default(), machine, asker: None };
        life.connect();
        life.ask(move |mut asker| async move {
            asker.all(&pool.asks()).await;
            asker
        });
        life.end();
        life
    }

    fn connect(&mut self) {
        let machine = &mut self.machine;
        let ports =
            [machine.nbd_port("nbd"), machine.control_port("control"), machine.console_port("console")];
        self.asker = Some(Asker::new(context(machine, &self.judge), self.refusals.clone(), ports));
    }

    fn ask<F: Future<Output = Asker> + 'static>(&mut self, what: impl FnOnce(Asker) -> F) {
        let back = Rc::new(Cell::new(None));
        let asked = what(self.asker.take().expect("the client is there"));
        let returned = back.clone();
        run_to_its_end(&mut self.machine, async move { returned.set(Some(asked.await)) });
        self.asker = back.take();
    }

    fn all(&mut self, asks: Vec<Ask>) {
        self.ask(|mut asker| async move {
            asker.all(&asks).await;
            asker
        });
    }

    fn some(&mut self, asks: Vec<Ask>) {
        self.ask(|mut asker| async move {
            asker.some(&asks).await;
            asker
        });
    }

    /// Asks while an allocation fails. Returns how many allocations there were.
    fn work(&mut self, work: &Work, after: u64) -> u64 {
        self.connect();
        let asks = work.asks.clone();
        self.ask(|mut asker| async move {
            asker.rehearse(&asks).await;
            asker
        });
        self.arm(after);
        self.all(work.asks.clone());
        datum_scarcity::end()
    }

    /// Starts a machine while an allocation fails.
    fn start(&mut self, after: u64) -> u64 {
        let now = self.machine.now() + 1_000_000_000;
        self.arm(after);
        self.machine = boot(&self.disks, now);
        let said = self.machine.saying();
        let pause = self.machine.run_until(STEPS, || said.borrow().is_some());
        let counted = datum_scarcity::end();
        assert_eq!(pause, Pause::Done, "the machine does not start");
        let words = self.machine.said().unwrap_or_default();
        if words.starts_with("no pool") {
            self.refusals.take(words.contains("memory"), &words);
        }
        counted
    }

    fn arm(&self, after: u64) {
        let scene = Scene {
            disks: self.disks.clone(),
            judge: self.judge.clone(),
            refusals: self.refusals.clone(),
            now: self.machine.now() + 1_000_000_000,
            seed: after,
        };
        SCENE.set(Some(scene));
        let failure = Failure { after, lasting: false, bytes_min: 0, before: recover_from_here };
        datum_scarcity::begin(Some(failure));
    }

    /// What a refusal leaves behind adds up: in many sessions, and in one.
    fn repeat(&mut self, work: &Work, after: u64) {
        say_again();
        (0..REPETITIONS).for_each(|_| self.without_memory(after, |life| life.all(work.asks.clone())));
        let (opening, rest) = work.opening();
        datum_scarcity::begin(None);
        self.some(opening.to_vec());
        let opened = datum_scarcity::end();
        if let Some(after) = after.checked_sub(opened) {
            (0..REPETITIONS).for_each(|_| self.without_memory(after, |life| life.some(rest.to_vec())));
        }
        self.all(Vec::new());
    }

    fn without_memory(&mut self, after: u64, work: impl FnOnce(&mut Self)) {
        let failure = Failure { after, lasting: false, bytes_min: 0, before: |_| {} };
        datum_scarcity::begin(Some(failure));
        work(self);
        datum_scarcity::end();
        self.refusals.any();
    }

    /// With everything answered, nothing is held for anybody.
    fn at_rest(&mut self) {
        if self.judge.borrow().stopping {
            return;
        }
        let machine = &mut self.machine;
        let (control, nbd) = (machine.control_port("rest"), machine.nbd_port("rest"));
        let audit = Audit::new(control, nbd, context(machine, &self.judge), SEED);
        run_to_its_end(machine, audit.at_rest());
    }

    /// After one failure everything is as ever, also after a power loss.
    fn end(&mut self) {
        let mut rng = Rng::new(SEED);
        let images =
            self.disks.iter().map(|disk| disk.inner().power_loss(PowerLoss::Any, &mut rng)).collect();
        let now = self.machine.now() + 1_000_000_000;
        self.disks = power_on(images);
        self.machine = audited(&self.disks, &self.judge, now);
    }
}
