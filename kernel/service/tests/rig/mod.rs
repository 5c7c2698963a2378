//! The appliance on a bench: disks and ports in memory, a clock that only moves when nothing else does, and
//! clients that speak bytes.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test binary uses a part of the bench")]

pub mod disk;
pub mod nbd;
pub mod port;

use datum_service::environment::{Environment, MemoryUsage, Power};
use datum_service::{Appliance, FoundDisk, FoundDisks, PoolOption, Setup, Takeover};
use disk::MemoryDisk;
use futures_executor::{LocalPool, LocalSpawner};
use port::{Client, MemoryPort};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Time and randomness that repeat exactly.
#[derive(Clone, Default)]
pub struct Bench(Rc<Machine>);

#[derive(Default)]
struct Machine {
    now: Cell<u64>,
    drawn: Cell<u64>,
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
    power: Cell<Option<Power>>,
}

impl Bench {
    /// Moves the clock to the next sleeper; false where nobody sleeps.
    fn advance(&self) -> bool {
        let Some(((at, _), waker)) = self.0.sleepers.borrow_mut().pop_first() else { return false };
        self.0.now.set(self.0.now.get().max(at));
        waker.wake();
        true
    }
}

impl Environment for Bench {
    fn unix_time_nanoseconds(&self) -> u64 {
        1_700_000_000_000_000_000 + self.0.now.get()
    }
    fn monotonic_nanoseconds(&self) -> u64 {
        self.0.now.get()
    }
    fn random(&self) -> u64 {
        self.0.drawn.set(self.0.drawn.get() + 1);
        self.0.drawn.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    fn sleep(&self, nanoseconds: u64) -> impl Future<Output = ()> {
        let machine = self.0.clone();
        let until = machine.now.get() + nanoseconds;
        poll_fn(move |context| {
            if machine.now.get() >= until {
                return Poll::Ready(());
            }
            machine.drawn.set(machine.drawn.get() + 1);
            machine.sleepers.borrow_mut().insert((until, machine.drawn.get()), context.waker().clone());
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

fn found(disks: &[&MemoryDisk]) -> FoundDisks<MemoryDisk> {
    let disk = |(slot, disk): (usize, &&MemoryDisk)| FoundDisk {
        device: (*disk).clone(),
        location: format!("0000:00:{slot:02x}.0"),
    };
    FoundDisks { disks: disks.iter().enumerate().map(disk).collect(), problems: Vec::new() }
}

fn appliance(bench: &Bench, pool: PoolOption) -> Rc<Appliance<MemoryDisk, Bench>> {
    Appliance::new(Setup {
        pool,
        takeover: Takeover::Wait,
        environment: bench.clone(),
        version: "0.1.0".into(),
        cache_blocks: 1024,
        buffer_bytes: 4 << 20,
    })
}

/// One appliance, its executor and its ports.
pub struct Rig {
    executor: LocalPool,
    spawner: LocalSpawner,
    bench: Bench,
    pub appliance: Rc<Appliance<MemoryDisk, Bench>>,
}

impl Rig {
    /// An appliance that has not looked for disks yet.
    pub fn unstarted() -> Self {
        Self::over(Bench::default(), PoolOption::Auto)
    }

    /// An appliance over these disks, started.
    pub fn start(disks: &[&MemoryDisk], pool: PoolOption) -> Self {
        Self::start_as(0, disks, pool).0
    }

    /// The same as the `number`th of several, which draw other numbers. Returns what it says of its pool too.
    pub fn start_as(number: u64, disks: &[&MemoryDisk], pool: PoolOption) -> (Self, String) {
        let bench = Bench::default();
        bench.0.drawn.set(number << 32);
        let mut rig = Self::over(bench, pool);
        let said = rig.find(disks);
        (rig, said)
    }

    fn over(bench: Bench, pool: PoolOption) -> Self {
        let appliance = appliance(&bench, pool);
        let executor = LocalPool::new();
        let spawner = executor.spawner();
        let rig = Self { executor, spawner, bench, appliance };
        let background = rig.appliance.clone();
        rig.spawn(async move { background.background().await });
        rig
    }

    /// Gives the appliance its disks; returns what it says of its pool.
    pub fn find(&mut self, disks: &[&MemoryDisk]) -> String {
        let (starting, found) = (self.appliance.clone(), found(disks));
        self.run(async move { starting.start(found).await })
    }

    /// Starts another appliance in the same time; returns what it says of its pool.
    pub fn start_beside(&mut self, number: u64, disk: &MemoryDisk) -> String {
        self.bench.0.drawn.set(number << 32);
        let (other, found) = (appliance(&self.bench, PoolOption::Open), found(&[disk]));
        let background = other.clone();
        self.spawn(async move { background.background().await });
        self.run(async move { other.start(found).await })
    }

    /// An appliance with a fresh pool on one disk of this many MiB.
    pub fn with_pool(mebibytes: u64) -> Self {
        Self::start(&[&MemoryDisk::blank("vd0", mebibytes)], PoolOption::Auto)
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        use futures_util::task::LocalSpawnExt;
        self.spawner.spawn_local(task).unwrap();
    }

    /// Runs until `work` is done. Time passes only while nothing else can.
    pub fn run<T: 'static>(&mut self, work: impl Future<Output = T> + 'static) -> T {
        self.try_run(work).expect("everything waits, and nothing will ever happen")
    }

    /// As `run`; `None` where everything waits for what will not come within ten minutes.
    pub fn try_run<T: 'static>(&mut self, work: impl Future<Output = T> + 'static) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.spawn(async move {
            let done = work.await;
            *slot.borrow_mut() = Some(done);
        });
        let give_up = self.bench.0.now.get() + 600_000_000_000;
        loop {
            self.executor.run_until_stalled();
            if let Some(done) = result.borrow_mut().take() {
                return Some(done);
            }
            if self.bench.0.now.get() > give_up || !self.bench.advance() {
                return None;
            }
        }
    }

    /// Lets everything happen that can without time passing.
    pub fn settle(&mut self) {
        self.executor.run_until_stalled();
    }

    /// Nanoseconds that have passed.
    pub fn now(&self) -> u64 {
        self.bench.0.now.get()
    }

    /// Lets time pass.
    pub fn sleep(&mut self, nanoseconds: u64) {
        let bench = self.bench.clone();
        self.run(async move { bench.sleep(nanoseconds).await });
    }

    pub fn power(&self) -> Option<Power> {
        self.bench.0.power.get()
    }

    pub fn nbd_port(&self, name: &str) -> Client {
        let port = MemoryPort::new(name);
        let (client, appliance) = (port.client(), self.appliance.clone());
        self.spawn(async move { appliance.serve_nbd(port).await });
        client
    }

    pub fn console(&self) -> Client {
        let port = MemoryPort::new("org.datum.console.0");
        let (client, appliance) = (port.client(), self.appliance.clone());
        self.spawn(async move { appliance.serve_console(port).await });
        client
    }

    pub fn control(&mut self) -> Control {
        let port = MemoryPort::new("org.datum.control.0");
        let (client, appliance) = (port.client(), self.appliance.clone());
        self.spawn(async move { appliance.serve_control(port).await });
        client.connect();
        let mut control = Control { client, next: 1 };
        let hello = control.line(self);
        assert_eq!(hello["method"], "hello");
        control
    }
}

/// A JSON-RPC client.
pub struct Control {
    pub client: Client,
    next: u64,
}

impl Control {
    /// The next line that comes.
    pub fn line(&mut self, rig: &mut Rig) -> Value {
        let client = self.client.clone();
        let line = rig.run(async move { client.receive_line().await });
        serde_json::from_slice(&line).unwrap()
    }

    /// Sends a line as it is and returns the answer.
    pub fn raw(&mut self, rig: &mut Rig, line: &[u8]) -> Value {
        self.client.send(line);
        self.client.send(b"\n");
        self.line(rig)
    }

    pub fn send(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.client.send(format!("{request}\n").as_bytes());
        id
    }

    /// Sends a request and returns the whole answer. Events in between are skipped.
    pub fn answer(&mut self, rig: &mut Rig, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        loop {
            let line = self.line(rig);
            if line["id"] == id {
                return line;
            }
            assert_eq!(line["method"], "event", "{line}");
        }
    }

    /// The result of a request that must succeed.
    pub fn call(&mut self, rig: &mut Rig, method: &str, params: Value) -> Value {
        let answer = self.answer(rig, method, params);
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// The kind of the error of a request that must fail.
    pub fn kind(&mut self, rig: &mut Rig, method: &str, params: Value) -> String {
        let answer = self.answer(rig, method, params);
        let error = &answer["error"];
        assert!(error["message"].as_str().is_some_and(|m| m.len() > 10), "{method}: {answer}");
        assert!(error["data"]["observations"].is_array(), "{method}: {answer}");
        error["data"]["kind"].as_str().unwrap().into()
    }

    /// Waits for a job and returns how it ended.
    pub fn wait(&mut self, rig: &mut Rig, answer: &Value) -> Value {
        let id = answer["job"].as_str().unwrap().to_string();
        for _ in 0..1000 {
            let job = self.call(rig, "job.show", json!({"job": id}));
            if job["state"] != "queued" && job["state"] != "running" {
                return job;
            }
            let bench = rig.bench.clone();
            rig.run(async move { bench.sleep(50_000_000).await });
        }
        panic!("job {id} does not end");
    }
}
