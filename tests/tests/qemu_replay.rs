//! The order in which QEMU saw writes, flushes and discards reach the disks, under a random load, and a power loss
//! at every point of it: the engine opens what each would have left, on the host, and must stand at one moment of
//! what the client knows.
//!
//! `DATUM_SEEDS=n` runs n seeds of each test in place of one, `DATUM_SEED=s` one alone, `DATUM_REPLAY_STEPS=n`
//! lets the client take n steps a life. The load's timing is QEMU's own, so a seed names what the client does and
//! not the log; a log that fails is kept beside its disks, and the failure says where.

use std::time::{Duration, Instant};

use datum_store::{Config, ErrorKind, NewPool, Pool};
use datum_tests::disk::{DiskImage, PowerLoss};
use datum_tests::model::action::Action;
use datum_tests::qemu::chronicle::Chronicle;
use datum_tests::qemu::load::{Load, NBD_PORTS, shape};
use datum_tests::qemu::writelog::{Entry, Kind, LoggedDisks, Replay};
use datum_tests::qemu::{Stage, boot, call};
use datum_tests::rng::Rng;
use datum_tests::store::perform::name;
use datum_tests::store::world::{Setup, World};
use serde_json::json;
use xtask::qemu::Machine;

/// Blocks of all members together: 64 MiB.
const BLOCKS: u64 = 16384;

/// Lives of the machine, each ended by a power loss under load.
const LIVES: usize = 2;

/// Steps of the client in a life.
const STEPS: u64 = 50;

/// How long the log must not have grown for nothing to be under way.
const QUIET: Duration = Duration::from_millis(300);

#[test]
fn every_entry_of_one_disks_log_is_a_moment_of_history() {
    explore(1);
}

#[test]
fn every_entry_of_two_disks_common_log_is_a_moment_of_history() {
    explore(2);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn explore(members: u64) {
    if let Some(seed) = number("DATUM_SEED") {
        return Run::new(members, seed).run();
    }
    for seed in 0..number("DATUM_SEEDS").unwrap_or(1) {
        Run::new(members, seed).run();
    }
}

/// One pool, its client and all that is known.
struct Run {
    stage: Stage,
    disks: LoggedDisks,
    world: World,
    chronicle: Chronicle,
    rng: Rng,
    members: u64,
    seed: u64,
    entries: u64,
    images: u64,
    /// What is being opened, for a failure.
    at: String,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = self.stage.keep();
            eprintln!(
                "{} members, seed {}, {}; disks and log: {}",
                self.members,
                self.seed,
                self.at,
                kept.display()
            );
        }
    }
}

impl Run {
    fn new(members: u64, seed: u64) -> Self {
        let stage = Stage::wait();
        let disks = LoggedDisks::blank(&stage.path("."), members, BLOCKS / members).unwrap();
        let setup = Setup {
            members: vec![BLOCKS / members; members as usize],
            cache_blocks: 1024,
            seed: seed * 5 + 4,
        };
        let mut world = World::unborn(&setup);
        world.time_grain = 1_000_000;
        let (chronicle, rng) = (Chronicle::default(), Rng::new(seed));
        Self { stage, disks, world, chronicle, rng, members, seed, entries: 0, images: 0, at: String::new() }
    }

    fn machine(&self) -> Machine {
        self.disks.attach(self.stage.machine().nbd_ports(NBD_PORTS)).unwrap()
    }

    fn run(&mut self) {
        for life in 0..LIVES {
            self.at = format!("life {life}");
            let before = self.disks.images().unwrap();
            let length = self.live(life);
            self.replay(before, length);
            self.lose_power();
        }
        println!(
            "{} members, seed {}: {} entries of the log replayed, {} images opened",
            self.members, self.seed, self.entries, self.images
        );
    }

    /// Boots, lets the client work, and kills QEMU while writes are under way. Returns a length of the log up to
    /// which it is whole.
    fn live(&mut self, life: usize) -> u64 {
        let (appliance, mut control) = boot(&self.machine());
        let Self { disks, world, chronicle, rng, .. } = self;
        // Waits for the pool, which the greeting does not.
        let status = call(&mut control, "pool.status", json!({}));
        chronicle.incarnation = status["incarnation"].as_str().unwrap().parse().unwrap();
        if life == 0 {
            chronicle.pool_made(disks.position());
        }
        let mut load = Load::new((&appliance, control), disks, chronicle, &mut world.contents, rng);
        if life == 0 {
            shape().sizes[1..].iter().for_each(|size| load.create(*size));
        }
        for _ in 0..number("DATUM_REPLAY_STEPS").unwrap_or(STEPS) {
            load.step();
        }
        let length = quiet(disks);
        load.leave_under_way();
        appliance.kill().unwrap();
        length
    }

    /// Takes the power away after every entry.
    fn replay(&mut self, before: Vec<DiskImage>, length: u64) {
        let log = self.disks.read_log(length).unwrap();
        let mut replay = Replay::new(&log, before, self.seed);
        let entries = log.entries();
        for (index, entry) in entries.iter().enumerate() {
            replay.apply(entry);
            self.entries += 1;
            self.at = format!("after entry {index} of {}, everything kept", entries.len());
            self.open_as_of(entry, replay.lose(PowerLoss::Everything));
            let next_is_flush = entries.get(index + 1).is_none_or(|next| next.kind == Kind::Flush);
            if replay.is_flushed() || !(next_is_flush || self.rng.chance(10)) {
                continue;
            }
            // The most that can be lost, just before the next flush.
            for policy in [PowerLoss::Nothing, PowerLoss::DropOne, PowerLoss::KeepOne, PowerLoss::Any] {
                self.at = format!("after entry {index} of {}, kept: {policy:?}", entries.len());
                self.open_as_of(entry, replay.lose(policy));
            }
        }
    }

    /// Opens what a power loss left after this entry, and works with it.
    fn open_as_of(&mut self, entry: &Entry, images: Vec<DiskImage>) {
        self.images += 1;
        if entry.end <= self.chronicle.made_at() && !self.is_made(&images) {
            return;
        }
        let (candidates, tokens) = self.chronicle.candidates(entry.end);
        self.world.tokens = tokens;
        self.world.recover(images, candidates);
        self.world.verify_changes();
        self.go_on();
    }

    /// The pool takes a write and a flush.
    fn go_on(&mut self) {
        let Some((volume, _)) = self.world.model.state.volumes.iter().next() else { return };
        let write =
            Action::Write { volume: volume.clone(), first: 0, contents: vec![self.world.contents.draw()] };
        self.world.act(write);
        self.world.act(Action::Flush);
    }

    /// Before the first greeting there need not be a pool yet; then one can be made.
    fn is_made(&mut self, images: &[DiskImage]) -> bool {
        self.world.power_on(images.to_vec());
        match self.world.open() {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Device, "{error}");
                let new = NewPool { name: name("again"), id: 7, incarnation: 8, time: 9 };
                let again = Pool::create(self.world.disks.clone(), new, Config::new(1024));
                if let Err(error) = self.world.executor.run(again) {
                    panic!("the creation cannot be carried on: {error} {:?}", error.observations());
                }
                false
            }
        }
    }

    /// The disks as the killed QEMU left them: where they stand the next life begins.
    fn lose_power(&mut self) {
        self.at = "as QEMU left the disks".into();
        let (candidates, tokens) = self.chronicle.candidates(u64::MAX);
        self.world.tokens = tokens;
        self.world.recover(self.disks.images().unwrap(), candidates);
        self.images += 1;
        self.chronicle.begin_life(self.world.model.state.clone());
    }
}

/// Waits until the log has stopped growing; returns its length.
fn quiet(disks: &LoggedDisks) -> u64 {
    let (mut length, mut since) = (disks.position(), Instant::now());
    while since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(10));
        if disks.position() != length {
            (length, since) = (disks.position(), Instant::now());
        }
    }
    length
}
