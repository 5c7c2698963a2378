//! Lives of one pool in a row: each starts the appliance on what the one before has left, looks at everything, lets
//! clients follow their scripts, and ends at some moment in some way.
//!
//! What happens is fixed by a plan, which a seed draws; its steps have numbers, so that a failure is told by the
//! seed and the steps that it needs.

use super::audit::Audit;
use super::client::Client;
use super::control::Control;
use super::judge::Judge;
use super::machine::{Machine, Parts, Pause};
use super::{Context, Counts};
use crate::disk::{DiskImage, PowerLoss, SimulatedDisk};
use crate::fault::{Effect, Request, Rule};
use crate::perform::Disk;
use crate::rng::{Rng, mix};
use crate::simulation::silent;
use crate::world::Ending;
use datum_service::Takeover;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lives of a pool in one run.
const LIVES: usize = 4;

/// NBD clients of a life.
const NBD_CLIENTS: usize = 3;

/// Control clients of a life.
const CONTROL_CLIENTS: usize = 2;

/// Steps of one client's script.
const SCRIPT_STEPS: usize = 40;

/// Executor steps within which a recovery must be done and everything have been looked at.
const AUDIT_STEPS: u64 = 60_000_000;

/// Executor steps within which scripts must be done.
const LIFE_STEPS: u64 = 40_000_000;

/// Runs that shrinking tries before it gives up.
const SHRINK_TRIES_MAX: usize = 400;

/// How long it goes on trying.
const SHRINK_TIME: Duration = Duration::from_secs(60);

/// Failures after which no further seeds are run.
const FAILURES_MAX: usize = 3;

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The first seed.
    pub seed: u64,
    /// Seeds that are run at least.
    pub seeds: u64,
    /// Seeds are run until then.
    pub time: Option<Duration>,
    /// Workers.
    pub threads: usize,
    /// Whether a failure is told with the shortest run that shows it.
    pub shrink: bool,
}

/// What disks do to the appliance for a while.
#[derive(Clone, Debug)]
enum Trouble {
    None,
    /// Requests fail, come late or never come; what was done is done.
    Honest(Vec<(usize, Rule)>),
    /// What was acknowledged is not so.
    Lying(Vec<(usize, Rule)>),
    /// One member is that of an earlier life.
    Stale(usize),
    /// One member is gone, and returns.
    Gone(usize),
}

/// One life of the machine.
#[derive(Clone, Debug)]
struct Life {
    seed: u64,
    takeover: Takeover,
    /// Ends of the machine before anything was looked at: after so many steps.
    false_starts: Vec<(u64, Ending)>,
    trouble: Trouble,
    /// Steps by client: those of NBD first.
    scripts: Vec<Vec<(usize, u64)>>,
    ending: Ending,
    /// Executor steps after which the machine ends at the latest.
    steps: u64,
    /// The first control client switches it off before.
    shutdown: bool,
}

/// A whole run.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    members: Vec<u64>,
    parts: Parts,
    lives: Vec<Life>,
    steps: usize,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5e7_1ce);
        let members =
            rng.pick(&[vec![16384], vec![16384], vec![8192, 8192], vec![4096, 16384, 4097]]).clone();
        let parts = Parts {
            cache_blocks: *rng.pick(&[256, 1024, 8192]),
            buffer_bytes: *rng.pick(&[0, 1 << 20, 8 << 20]),
            takeover: Takeover::Now,
        };
        let mut steps = 0;
        let lives = (0..LIVES).map(|number| Life::new(&mut rng, number, members.len(), &mut steps)).collect();
        Self { seed, members, parts, lives, steps }
    }

    /// The plan with some of its steps only.
    fn with(&self, kept: &BTreeSet<usize>) -> Self {
        let mut plan = self.clone();
        for script in plan.lives.iter_mut().flat_map(|life| &mut life.scripts) {
            script.retain(|(number, _)| kept.contains(number));
        }
        // Lives at the end in which nothing happens show nothing, but for the one that looks at the rest.
        while let [.., last, _] = &plan.lives[..]
            && last.scripts.iter().all(Vec::is_empty)
            && matches!(last.trouble, Trouble::None)
        {
            let last = plan.lives.len() - 2;
            plan.lives.remove(last);
        }
        plan
    }
}

impl Life {
    fn new(rng: &mut Rng, number: usize, members: usize, steps: &mut usize) -> Self {
        let last = number + 1 == LIVES;
        let trouble = match rng.below(100) {
            _ if last => Trouble::None,
            0..60 => Trouble::None,
            60..88 => Trouble::Honest(rules(rng, members, HONEST)),
            88..94 => Trouble::Lying(rules(rng, members, LYING)),
            94..97 if number > 0 => Trouble::Stale(rng.below(members as u64) as usize),
            _ if number > 0 => Trouble::Gone(rng.below(members as u64) as usize),
            _ => Trouble::None,
        };
        let length = if last { 0 } else { *rng.pick(&[4, 20, SCRIPT_STEPS, 2 * SCRIPT_STEPS]) };
        let scripts = (0..NBD_CLIENTS + CONTROL_CLIENTS).map(|client| {
            let length = if client < NBD_CLIENTS { 3 * length } else { length };
            let script = (0..length).map(|_| {
                *steps += 1;
                (*steps, rng.draw())
            });
            script.collect()
        });
        let scripts: Vec<Vec<(usize, u64)>> = scripts.collect();
        let depth = *rng.pick(&[0, 0, 0, 1, 2]);
        let false_starts = (0..depth).map(|_| (rng.below(3000), Ending::pick(rng))).collect();
        Self {
            seed: rng.draw(),
            takeover: if rng.chance(20) { Takeover::Wait } else { Takeover::Now },
            false_starts: if number == 0 { Vec::new() } else { false_starts },
            trouble,
            scripts,
            ending: Ending::pick(rng),
            steps: match rng.below(3) {
                0 => LIFE_STEPS,
                1 => rng.below(20_000),
                _ => rng.below(400_000),
            },
            shutdown: rng.chance(15),
        }
    }
}

/// What honest disks may do.
const HONEST: &[(Request, Effect)] = &[
    (Request::Read, Effect::Fail),
    (Request::Write, Effect::Fail),
    (Request::Write, Effect::FailHalfway),
    (Request::Flush, Effect::Fail),
    (Request::Any, Effect::Delay(200)),
    (Request::Any, Effect::Withhold),
];

/// What lying ones do.
const LYING: &[(Request, Effect)] = &[
    (Request::Write, Effect::Lose),
    (Request::Write, Effect::Corrupt),
    (Request::Write, Effect::Misdirect),
    (Request::Read, Effect::Corrupt),
];

/// One to three rules: once, for a while, for good, or at one place.
fn rules(rng: &mut Rng, members: usize, effects: &[(Request, Effect)]) -> Vec<(usize, Rule)> {
    let count = rng.between(1, 3);
    let rule = |rng: &mut Rng| {
        let (on, effect) = *rng.pick(effects);
        let rule = Rule::once(on).with(effect).after(rng.below(60));
        let rule = match rng.below(4) {
            0 => Rule { times: u64::MAX, ..rule },
            1 => Rule { times: rng.between(2, 9), ..rule },
            2 if on != Request::Flush => rule.sticking(),
            _ => rule,
        };
        (rng.below(members as u64) as usize, rule)
    };
    (0..count).map(|_| rule(rng)).collect()
}

/// What a run has come to, for figures.
#[derive(Clone, Debug, Default)]
struct Tally {
    runs: u64,
    lives: u64,
    power_losses: u64,
    resets: u64,
    shutdowns: u64,
    false_starts: u64,
    troubled: u64,
    requests: u64,
    commands: u64,
    sessions: u64,
    disk_requests: u64,
    steps: u64,
    simulated: u64,
    trace: u64,
    methods: BTreeSet<&'static str>,
}

impl Tally {
    fn add(&mut self, other: Self) {
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
        self.disk_requests += other.disk_requests;
        self.steps += other.steps;
        self.simulated += other.simulated;
        self.methods.extend(other.methods);
    }
}

/// One run of a plan.
struct Run<'a> {
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
    fn new(plan: &'a Plan, judge: Rc<RefCell<Judge>>) -> Self {
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

    fn all(mut self) -> Tally {
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
        let lied = self.judge.borrow().lied;
        if !self.audit(&mut machine, life) || lied {
            self.end(machine, life.ending);
            return !lied;
        }
        self.earlier = Some(start);
        self.work(machine, life)
    }

    fn boot(&mut self, life: &Life, disks: &[Disk]) -> Machine {
        self.tally.lives += 1;
        let parts = Parts { takeover: life.takeover, ..self.plan.parts.clone() };
        let mut judge = self.judge.borrow_mut();
        (judge.faulty, judge.stopping) = (judge.lied, false);
        Machine::boot(disks, &parts, self.now, self.rng.draw())
    }

    fn context(&self, machine: &Machine) -> Context {
        let environment = machine.environment.clone();
        Context { judge: self.judge.clone(), counts: self.counts.clone(), environment }
    }

    /// Looks at everything. False where that does not come to its end, which only lying disks excuse.
    fn audit(&mut self, machine: &mut Machine, life: &Life) -> bool {
        let (control, nbd) = (machine.control_port("control"), machine.nbd_port("nbd"));
        let audit = Audit::new(control, nbd, self.context(machine), life.seed);
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        machine.executor.spawn(async move {
            audit.run().await;
            flag.set(true);
        });
        let pause = machine.run_until(AUDIT_STEPS, || done.get());
        let lied = self.judge.borrow().lied;
        assert!(lied || pause == Pause::Done, "a recovery: {pause:?}; {:?}", machine.said());
        pause == Pause::Done
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
    fn work(&mut self, mut machine: Machine, life: &Life) -> bool {
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
        if let Trouble::Honest(rules) | Trouble::Lying(rules) = &life.trouble {
            let mut judge = self.judge.borrow_mut();
            judge.faulty = true;
            judge.lied |= matches!(life.trouble, Trouble::Lying(_));
            rules.iter().for_each(|(member, rule)| self.disks[*member].add(rule.clone()));
            self.tally.troubled += 1;
        }
        let pause = machine.run_until(life.steps, || left.get() == 0);
        let judge = self.judge.borrow();
        let stuck = pause == Pause::Stuck || (pause == Pause::Budget && life.steps == LIFE_STEPS);
        assert!(!stuck || judge.faulty, "clients wait for what never comes: {pause:?}");
        drop(judge);
        if pause == Pause::PoweredOff {
            self.tally.shutdowns += 1;
        }
        self.end(machine, life.ending);
        true
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
fn carry_out(plan: &Plan) -> Result<Tally, (String, String)> {
    let judge = Rc::new(RefCell::new(Judge::default()));
    let shared = judge.clone();
    let done = silent(|| catch_unwind(AssertUnwindSafe(|| Run::new(plan, shared).all())));
    done.map_err(|what| {
        let log = judge.try_borrow().map(|judge| judge.log.text()).unwrap_or_default();
        (what, log)
    })
}

/// A run that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    seed: u64,
    /// The steps it needs, in ranges.
    kept: String,
    what: String,
    log: String,
}

impl Failure {
    /// What a person needs to know of it.
    pub fn text(&self) -> String {
        let Self { seed, kept, what, log } = self;
        format!(
            "service: seed {seed} fails; all that was asked and answered in the shortest run:\n{log}\n{what}\n\
             replay: cargo xtask sim --service --replay '{seed}:{kept}'"
        )
    }
}

/// Leaves out steps while the run still fails: halves first, then ever smaller pieces.
fn shrink(plan: &Plan, mut failure: (String, String)) -> (BTreeSet<usize>, (String, String)) {
    let mut kept: Vec<usize> = (1..=plan.steps).collect();
    let mut piece = kept.len().div_ceil(2);
    let mut tries = 0;
    let started = Instant::now();
    let goes_on = |tries| tries < SHRINK_TRIES_MAX && started.elapsed() < SHRINK_TIME;
    while goes_on(tries) {
        let mut at = 0;
        let mut dropped = false;
        while at < kept.len() && goes_on(tries) {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + piece).min(fewer.len()));
            tries += 1;
            match carry_out(&plan.with(&fewer.iter().copied().collect())) {
                Err(still) => (kept, failure, dropped) = (fewer, still, true),
                Ok(_) => at += piece,
            }
        }
        if piece == 1 && !dropped {
            break;
        }
        piece = if piece == 1 { 1 } else { piece.div_ceil(2) };
    }
    (kept.into_iter().collect(), failure)
}

/// `1-3,7` for 1, 2, 3 and 7.
fn ranges(numbers: &BTreeSet<usize>) -> String {
    let numbers: Vec<usize> = numbers.iter().copied().collect();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let texts: Vec<String> = runs
        .map(|run| match run {
            [one] => one.to_string(),
            _ => format!("{}-{}", run[0], run[run.len() - 1]),
        })
        .collect();
    texts.join(",")
}

/// The numbers that [`ranges`] has written.
fn numbers(text: &str) -> Option<BTreeSet<usize>> {
    let mut numbers = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(numbers)
}

/// Runs one case again: `seed`, or `seed:steps`.
///
/// # Errors
/// What is wrong with the case, or what fails.
pub fn replay(place: &str) -> Result<(), String> {
    let (seed, kept) = place.split_once(':').unwrap_or((place, ""));
    let plan = Plan::new(seed.parse().map_err(|_| format!("{seed} is no seed"))?);
    let plan = match kept {
        "" => plan,
        _ => plan.with(&numbers(kept).ok_or_else(|| format!("{kept} are no steps"))?),
    };
    carry_out(&plan).map(drop).map_err(|(what, log)| format!("{log}\n{what}"))
}

/// Everything that was asked and answered in the run of a seed, and a digest of what reached the disks.
pub fn trace(seed: u64) -> (String, u64) {
    let judge = Rc::new(RefCell::new(Judge::default()));
    let plan = Plan::new(seed);
    let tally = Run::new(&plan, judge.clone()).all();
    let log = judge.borrow().log.text();
    (log, tally.trace)
}

/// What many runs have come to.
#[derive(Debug)]
pub struct Report {
    tally: Tally,
    /// Runs that failed.
    pub failures: Vec<Failure>,
    elapsed: Duration,
}

/// Runs seeds.
pub fn run(options: Options) -> Report {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let failures: Mutex<Vec<Failure>> = Mutex::default();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let late = options.time.is_none_or(|time| started.elapsed() > time);
            let failed = failures.lock().map_or(FAILURES_MAX, |failures| failures.len()) >= FAILURES_MAX;
            if (number >= options.seeds && late) || failed {
                return;
            }
            let seed = options.seed + number;
            match carry_out(&Plan::new(seed)) {
                Ok(done) => {
                    if let Ok(mut tally) = tally.lock() {
                        tally.add(done);
                    }
                }
                Err(failure) => {
                    eprintln!("service: seed {seed} fails: {}", failure.0);
                    let failure = tell(seed, failure, options.shrink);
                    eprintln!("{}", failure.text());
                    if let Ok(mut failures) = failures.lock() {
                        failures.push(failure);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(work);
        }
    });
    let tally = tally.into_inner().unwrap_or_default();
    Report { tally, failures: failures.into_inner().unwrap_or_default(), elapsed: started.elapsed() }
}

fn tell(seed: u64, failure: (String, String), shorter: bool) -> Failure {
    let plan = Plan::new(seed);
    let (kept, (what, log)) = match shorter {
        true => shrink(&plan, failure),
        false => ((1..=plan.steps).collect(), failure),
    };
    Failure { seed, kept: ranges(&kept), what, log }
}

impl Report {
    /// How many methods of the control port were called.
    pub fn methods(&self) -> usize {
        self.tally.methods.len()
    }

    /// The figures.
    pub fn table(&self) -> String {
        let Tally { simulated, .. } = self.tally;
        let tally = &self.tally;
        let seconds = self.elapsed.as_secs_f64();
        let operations = tally.requests + tally.commands;
        let ratio = simulated as f64 / 1e9 / seconds;
        let rows = [
            ("runs, each of one pool", tally.runs.to_string()),
            ("lives of the appliance", tally.lives.to_string()),
            ("of them ended in the midst of opening the pool", tally.false_starts.to_string()),
            ("of them with disks that fail or lie", tally.troubled.to_string()),
            ("power losses", tally.power_losses.to_string()),
            ("resets that keep the disks' caches", tally.resets.to_string()),
            ("of all these after an orderly shutdown", tally.shutdowns.to_string()),
            ("sessions of clients", tally.sessions.to_string()),
            ("NBD requests", tally.requests.to_string()),
            ("control requests", tally.commands.to_string()),
            ("methods among them", tally.methods.len().to_string()),
            ("disk requests", tally.disk_requests.to_string()),
            ("steps of the executor", tally.steps.to_string()),
            ("client requests a second", format!("{:.0}", operations as f64 / seconds)),
            ("simulated seconds", format!("{:.0}", simulated as f64 / 1e9)),
            ("simulated seconds a second", format!("{ratio:.0}")),
            ("runs that failed", self.failures.len().to_string()),
        ];
        let mut table = String::new();
        for (what, value) in rows {
            let _ = writeln!(table, "{what:>50}  {value}");
        }
        let _ = writeln!(table, "{:>50}  {seconds:.1} s", "service and clients took");
        table
    }
}
