//! A machine for the real appliance: simulated disks and ports, and a clock that jumps.
//!
//! Nothing passes time but the clock, which moves to the next sleeper when nothing else can move, and now and then
//! while requests are under way: to the appliance those were slow.

use super::wire::Wire;
use crate::executor::Executor;
use crate::rng::Rng;
use crate::store::perform::Disk;
use crate::store::scarcity::watched;
use datum_service::environment::{Environment, MemoryUsage, Power};
use datum_service::{Appliance, FoundDisk, FoundDisks, PoolOption, Setup, Takeover};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Simulated time in which the appliance rests and no byte moves between it and its clients, after which clients that still
/// wait are forgotten. Its heartbeat goes on for ever.
const PATIENCE_NANOSECONDS: u64 = 600_000_000_000;

#[derive(Default)]
struct Instruments {
    now: Cell<u64>,
    sleeps: Cell<u64>,
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
    entropy: RefCell<Option<Rng>>,
    power: Cell<Option<Power>>,
}

/// Clock, entropy and power switch; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Simulated(Rc<Instruments>);

impl Simulated {
    fn new(now: u64, seed: u64) -> Self {
        let simulated = Self::default();
        simulated.0.now.set(now);
        *simulated.0.entropy.borrow_mut() = Some(Rng::new(seed));
        simulated
    }

    /// Moves the clock to the next sleeper; false where nobody sleeps.
    fn jump(&self) -> bool {
        let Some(((at, _), waker)) = self.0.sleepers.borrow_mut().pop_first() else { return false };
        self.0.now.set(self.0.now.get().max(at));
        waker.wake();
        true
    }
}

impl Environment for Simulated {
    fn unix_time_nanoseconds(&self) -> u64 {
        1_700_000_000_000_000_000 + self.0.now.get()
    }

    fn monotonic_nanoseconds(&self) -> u64 {
        self.0.now.get()
    }

    fn random(&self) -> u64 {
        self.0.entropy.borrow_mut().get_or_insert_with(|| Rng::new(0)).draw()
    }

    fn sleep(&self, nanoseconds: u64) -> impl Future<Output = ()> {
        let machine = self.0.clone();
        let until = machine.now.get() + nanoseconds;
        let mut registered = false;
        poll_fn(move |context| {
            if machine.now.get() >= until {
                return Poll::Ready(());
            }
            // A task that is polled for another reason must not fill the list; its waker stays the same.
            if !std::mem::replace(&mut registered, true) {
                machine.sleeps.set(machine.sleeps.get() + 1);
                let place = (until, machine.sleeps.get());
                let waker = context.waker().clone();
                datum_scarcity::exempt(|| machine.sleepers.borrow_mut().insert(place, waker));
            }
            Poll::Pending
        })
    }

    fn memory(&self) -> MemoryUsage {
        MemoryUsage { heap_bytes: 64 << 20, used_bytes: 1 << 20, high_water_bytes: 2 << 20 }
    }

    fn power(&self, how: Power) {
        self.0.power.set(Some(how));
    }
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) cache_blocks: usize,
    pub(crate) buffer_bytes: u64,
    pub(crate) takeover: Takeover,
}

/// How a stretch of time ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// What was waited for is there.
    Done,
    /// The steps are used up.
    Budget,
    /// The appliance has switched itself off.
    PoweredOff,
    /// Ten minutes of simulated time have brought nobody anything.
    Stuck,
}

/// One life of the appliance, from power on to its end.
pub(crate) struct Machine {
    pub(crate) executor: Executor,
    pub(crate) environment: Simulated,
    appliance: Rc<Appliance<Disk, Simulated>>,
    wires: Vec<Wire>,
    rng: Rng,
    born: u64,
    /// Steps between two looks at the clock, at most.
    stride: u64,
    said: Rc<RefCell<Option<String>>>,
}

impl Machine {
    /// Switches on at simulated time `now`.
    pub(crate) fn boot(disks: &[Disk], parts: &Parts, now: u64, seed: u64) -> Self {
        let environment = Simulated::new(now, seed);
        let mut rng = Rng::new(seed ^ 0xb007);
        let mut executor = Executor::new(rng.draw());
        for disk in disks {
            executor.attach(Rc::new(disk.inner().clone()));
        }
        let disk = |(slot, disk): (usize, &Disk)| FoundDisk {
            device: disk.clone(),
            location: format!("0000:00:{slot:02x}.0"),
        };
        let found = FoundDisks { disks: disks.iter().enumerate().map(disk).collect(), problems: Vec::new() };
        let appliance = Appliance::new(Setup {
            pool: PoolOption::Auto,
            takeover: parts.takeover,
            environment: environment.clone(),
            version: "0.1.0".into(),
            cache_blocks: parts.cache_blocks,
            buffer_bytes: parts.buffer_bytes,
        });
        let said = Rc::new(RefCell::new(None));
        let (background, starting, saying) = (appliance.clone(), appliance.clone(), said.clone());
        executor.spawn(watched(async move { background.background().await }));
        executor.spawn(async move {
            let sentence = watched(starting.start(found)).await;
            *saying.borrow_mut() = Some(sentence);
        });
        let stride = *rng.pick(&[20, 300, 3000, 30_000]);
        Self { executor, environment, appliance, wires: Vec::new(), rng, born: now, stride, said }
    }

    /// What the appliance said of its pool at the start, once it has.
    pub(crate) fn said(&self) -> Option<String> {
        self.said.borrow().clone()
    }

    /// Where it says so.
    pub(crate) fn saying(&self) -> Rc<RefCell<Option<String>>> {
        self.said.clone()
    }

    /// A port served as NBD.
    pub(crate) fn nbd_port(&mut self, name: &str) -> Wire {
        let wire = self.wire(name);
        let (port, appliance) = (wire.clone(), self.appliance.clone());
        self.executor.spawn(watched(async move { appliance.serve_nbd(port).await }));
        wire
    }

    /// A port served as control.
    pub(crate) fn control_port(&mut self, name: &str) -> Wire {
        let wire = self.wire(name);
        let (port, appliance) = (wire.clone(), self.appliance.clone());
        self.executor.spawn(watched(async move { appliance.serve_control(port).await }));
        wire
    }

    /// A port served as console.
    pub(crate) fn console_port(&mut self, name: &str) -> Wire {
        let wire = self.wire(name);
        let (port, appliance) = (wire.clone(), self.appliance.clone());
        self.executor.spawn(watched(async move { appliance.serve_console(port).await }));
        wire
    }

    fn wire(&mut self, name: &str) -> Wire {
        let wire = Wire::new(name, &mut self.rng);
        self.executor.attach(Rc::new(wire.clone()));
        self.wires.push(wire.clone());
        wire
    }

    /// Lets everything happen until `done`, the machine's end, or so many steps later.
    pub(crate) fn run_until(&mut self, steps: u64, mut done: impl FnMut() -> bool) -> Pause {
        let last = self.executor.steps().saturating_add(steps);
        let (mut carried, mut idle) = (self.carried(), 0);
        loop {
            if done() {
                return Pause::Done;
            }
            if self.environment.0.power.get().is_some() {
                return Pause::PoweredOff;
            }
            let left = last.saturating_sub(self.executor.steps());
            if left == 0 {
                return Pause::Budget;
            }
            let stride = self.rng.between(1, self.stride).min(left);
            let rests = !self.executor.goes_on(stride);
            if rests && done() {
                return Pause::Done;
            }
            let before = self.now();
            let jumped = (rests || self.rng.chance(10)) && self.environment.jump();
            idle += if rests { self.now() - before } else { 0 };
            if carried != self.carried() {
                (carried, idle) = (self.carried(), 0);
            }
            let stuck = rests && !jumped;
            if stuck || idle > PATIENCE_NANOSECONDS {
                return Pause::Stuck;
            }
        }
    }

    /// Pieces that all ports have carried so far.
    fn carried(&self) -> u64 {
        self.wires.iter().map(Wire::carried).sum()
    }

    /// Nanoseconds since the beginning of everything.
    pub(crate) fn now(&self) -> u64 {
        self.environment.0.now.get()
    }

    /// Nanoseconds this life has lasted.
    pub(crate) fn age(&self) -> u64 {
        self.now() - self.born
    }
}
