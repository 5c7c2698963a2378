//! Lives of one pool in a row: each starts the appliance on what the one before has left, looks at everything, lets
//! clients follow their scripts, and ends at some moment in some way, as its plan says.

use super::audit::Audit;
use super::client::Client;
use super::control::Control;
use super::judge::Judge;
use super::machine::{Machine, Parts, Pause};
use super::plan::{LIFE_STEPS, Life, NBD_CLIENTS, Plan, Trouble};
use super::{Context, Counts};
use crate::disk::{DiskImage, PowerLoss, SimulatedDisk};
use crate::rng::{Rng, mix};
use crate::store::perform::Disk;
use crate::store::simulation::silent;
use crate::store::world::Ending;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// Executor steps within which a recovery must be done and everything have been looked at.
const AUDIT_STEPS: u64 = 60_000_000;
/// What a run has come to, for figures.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) runs: u64,
    pub(super) lives: u64,
    pub(super) power_losses: u64,
    pub(super) resets: u64,
    pub(super) shutdowns: u64,
    pub(super) false_starts: u64,
    pub(super) troubled: u64,
    pub(super) requests: u64,
    pub(super) commands: u64,
    pub(super) sessions: u64,
    pub(super) full: u64,
    pub(super) disk_requests: u64,
    pub(super) steps: u64,
    pub(super) simulated: u64,
    pub(super) trace: u64,
    pub(super) methods: BTreeSet<&'static str>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.lives += other.lives;
        self.power_losses += other.power_losses;
        self.resets += other.resets;
        self.shutdowns += other.shutdowns;
        self.false_starts += other.false_starts;
        self.troubled += other.troubled;
        self.requests += other.requests;
        self.commands += other.commands;
        self.sessions += other.sessions;
        self.full += other.full;
        self.disk_requests += other.disk_requests;
        self.steps += other.steps;
        self.simulated += other.simulated;
        self.methods.extend(other.methods);
    }
}

/// One run of a plan.
pub(super) struct Run<'a> {
    plan: &'a Plan,
    judge: Rc<RefCell<Judge>>,
    counts: Rc<Counts>,
    disks: Vec<Disk>,
    /// What was on the disks at the beginning of the last life that had a pool.
    earlier: Option<Vec<DiskImage>>,
    rng: Rng,
    now: u64,
    tally: Tally,
}

impl<'a> Run<'a> {
    pub(super) fn new(plan: &'a Plan, judge: Rc<RefCell<Judge>>) -> Self {
        let images = plan.members.iter().map(|blocks| DiskImage::blank(*blocks));
        let mut run = Self {
            plan,
            judge,
            counts: Rc::default(),
            disks: Vec::new(),
            earlier: None,
            rng: Rng::new(plan.seed ^ 0xd15c),
            now: 0,
            tally: Tally::default(),
        };
        run.power_on(images.collect());
        run
    }

    fn power_on(&mut self, images: Vec<DiskImage>) {
        let disk = |(i, image)| Disk::new(SimulatedDisk::power_on(&format!("vd{i}"), image));
        self.disks = images.into_iter().enumerate().map(disk).collect();
    }

    pub(super) fn all(mut self) -> Tally {
        for life in &self.plan.lives {
            self.rng = Rng::new(life.seed);
            if !self.live(life) {
                break;
            }
        }
        let counts = &self.counts;
        self.tally.runs = 1;
        self.tally.requests = counts.requests.get();
        self.tally.commands = counts.commands.get();
        self.tally.sessions = counts.sessions.get();
        self.tally.full = counts.full.get();
        self.tally.methods = counts.methods.borrow().clone();
        self.tally
    }

    /// One life. False where the pool does not outlive it.
    fn live(&mut self, life: &Life) -> bool {
        for (steps, ending) in &life.false_starts {
            let mut machine = self.boot(life, &self.disks.clone());
            machine.run_until(*steps, || false);
            self.tally.false_starts += 1;
            self.end(machine, *ending);
        }
        if let Trouble::Gone(member) = life.trouble {
            self.without(life, member);
        }
        if let (Trouble::Stale(member), Some(earlier)) = (&life.trouble, &self.earlier) {
            let mut images: Vec<DiskImage> = self.disks.iter().map(|disk| disk.inner().visible()).collect();
            images[*member] = earlier[*member].clone();
            self.power_on(images);
            self.judge.borrow_mut().lied = true;
        }
        let start: Vec<DiskImage> = self.disks.iter().map(|disk| disk.inner().visible()).collect();
        let mut machine = self.boot(life, &self.disks.clone());
        self.audit(&mut machine, life);
        if self.judge.borrow().lied {
            self.end(machine, life.ending);
            return false;
        }
        self.earlier = Some(start);
        self.work(machine, life);
        true
    }

    fn boot(&mut self, life: &Life, disks: &[Disk]) -> Machine {
        self.tally.lives += 1;
        let parts = Parts { takeover: life.takeover, ..self.plan.parts.clone() };
        let mut judge = self.judge.borrow_mut();
        (judge.stopping, judge.left_suspended, judge.disks) = (false, false, disks.to_vec());
        Machine::boot(disks, &parts, self.now, self.rng.draw())
    }

    fn context(&self, machine: &Machine) -> Context {
        let environment = machine.environment.clone();
        Context { judge: self.judge.clone(), counts: self.counts.clone(), environment }
    }

    /// Looks at everything. Whatever the disks have done, that comes to its end.
    fn audit(&mut self, machine: &mut Machine, life: &Life) {
        let (control, nbd) = (machine.control_port("control"), machine.nbd_port("nbd"));
        let audit = Audit::new(control, nbd, self.context(machine), life.seed);
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        machine.executor.spawn(async move {
            audit.run().await;
            flag.set(true);
        });
        let pause = machine.run_until(AUDIT_STEPS, || done.get());
        assert_eq!(pause, Pause::Done, "a recovery; {:?}", machine.said());
    }

    /// A member is missing: nothing may be written, and the ports say what is missing.
    fn without(&mut self, life: &Life, member: usize) {
        let mut disks = self.disks.clone();
        disks.remove(member);
        let before: Vec<u64> = disks.iter().map(|disk| disk.inner().changes()).collect();
        let mut machine = self.boot(life, &disks);
        let said = machine.run_until(AUDIT_STEPS, || false);
        assert_ne!(said, Pause::PoweredOff);
        let said = machine.said().unwrap_or_default();
        assert!(said.starts_with("no pool"), "without a member: {said}");
        let after: Vec<u64> = disks.iter().map(|disk| disk.inner().changes()).collect();
        assert_eq!(before, after, "without a member something was written");
        self.end(machine, life.ending);
    }

    /// Clients at work, until they are done or the machine ends.
    fn work(&mut self, mut machine: Machine, life: &Life) {
        let context = self.context(&machine);
        let left = Rc::new(Cell::new(life.scripts.len()));
        for (number, script) in life.scripts.iter().enumerate() {
            let script: Vec<u64> = script.iter().map(|(_, draw)| *draw).collect();
            let (context, left) = (context.clone(), left.clone());
            if number < NBD_CLIENTS {
                let name = format!("nbd{number}");
                let client = Client::new(name.clone(), machine.nbd_port(&name), context);
                machine.executor.spawn(async move {
                    client.run(script).await;
                    left.set(left.get() - 1);
                });
            } else {
                let first = number == NBD_CLIENTS;
                let name = format!("control{}", number - NBD_CLIENTS);
                let client = Control::new(name.clone(), machine.control_port(&name), context, first);
                let shutdown = first && life.shutdown;
                machine.executor.spawn(async move {
                    client.run(script, shutdown).await;
                    left.set(left.get() - 1);
                });
            }
        }
        if let Trouble::Rules(rules) = &life.trouble {
            rules.iter().for_each(|(_, member, rule)| self.disks[*member].add(rule.clone()));
            self.tally.troubled += 1;
        }
        let mut pause = machine.run_until(life.steps, || left.get() == 0);
        let (may_wait, stopping) = {
            let judge = self.judge.borrow();
            (judge.may_wait_for_ever(), judge.stopping)
        };
        let stuck = pause == Pause::Stuck || (pause == Pause::Budget && life.steps == LIFE_STEPS);
        assert!(!stuck || may_wait, "clients wait for what never comes: {pause:?}");
        if pause == Pause::Done && stopping {
            let end = machine.run_until(LIFE_STEPS, || false);
            assert_eq!(end, Pause::PoweredOff, "a shutdown that was answered");
            pause = end;
        } else if pause == Pause::Done && !self.judge.borrow().harm().withheld {
            self.at_rest(&mut machine, life);
        }
        self.judge.borrow_mut().note_lies();
        if pause == Pause::PoweredOff {
            self.tally.shutdowns += 1;
        }
        self.end(machine, life.ending);
    }

    /// Everybody is gone: nothing is held for them.
    fn at_rest(&self, machine: &mut Machine, life: &Life) {
        let (control, nbd) = (machine.control_port("rest"), machine.nbd_port("rest"));
        let audit = Audit::new(control, nbd, self.context(machine), life.seed);
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        machine.executor.spawn(async move {
            audit.at_rest().await;
            flag.set(true);
        });
        let pause = machine.run_until(LIFE_STEPS, || done.get());
        assert_eq!(pause, Pause::Done, "a machine at rest");
    }

    /// The machine ends, and the disks keep what they must.
    fn end(&mut self, machine: Machine, ending: Ending) {
        self.now = machine.now() + 1_000_000_000;
        self.tally.simulated += machine.age();
        self.tally.steps += machine.executor.steps();
        drop(machine);
        self.tally.trace =
            self.disks.iter().fold(self.tally.trace, |sum, disk| mix(sum ^ disk.inner().trace()));
        self.tally.disk_requests += self.disks.iter().map(|disk| disk.inner().requests()).sum::<u64>();
        match ending {
            Ending::PowerLoss(policy) => {
                self.tally.power_losses += 1;
                self.power_loss(policy);
            }
            Ending::Reset => {
                self.tally.resets += 1;
                for disk in &self.disks {
                    disk.heal();
                    disk.inner().reset(&mut self.rng);
                }
            }
        }
    }

    fn power_loss(&mut self, policy: PowerLoss) {
        let images = self.disks.iter().map(|disk| disk.inner().power_loss(policy, &mut self.rng)).collect();
        self.power_on(images);
    }
}

/// A plan, carried out. An error is what is wrong, and the log so far.
pub(super) fn carry_out(plan: &Plan) -> Result<Tally, (String, String)> {
    let judge = Rc::new(RefCell::new(Judge::default()));
    let shared = judge.clone();
    let done = silent(|| catch_unwind(AssertUnwindSafe(|| Run::new(plan, shared).all())));
    done.map_err(|what| {
        let log = judge.try_borrow().map(|judge| judge.log.text()).unwrap_or_default();
        (what, log)
    })
}
