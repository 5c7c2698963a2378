//! Disks that fail under the real driver, in the middle of a client's load: never a wrong byte; the error is loud and
//! names the disk; the pool takes no more writes where a flush, the log or a superblock could not be written; and
//! on healthy disks everything acknowledged is there again.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::Duration;

use datum_tests::qemu::failing::{Failure, Server, failing};
use datum_tests::qemu::host::HostFileSystem;
use datum_tests::qemu::{History, Stage, boot, call, end, finish, job, nbd, refused, volume};
use datum_tests::rng::Rng;
use serde_json::{Value, json};
use xtask::control::Client;
use xtask::nbd::{self, Command, NbdError};
use xtask::qemu::{Appliance, Disk, Machine};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 512;

/// Requests of a load, and how many are under way at once.
const REQUESTS: u64 = 1500;
const DEPTH: usize = 8;

/// How often a client goes on after an error. Each error may leave a few blocks that it writes no more.
const ROUNDS: u64 = 40;
/// Between two of them: a commit comes with time, not with work.
const PAUSE: Duration = Duration::from_millis(200);

/// What a client did and was told.
struct Story {
    history: History,
    clock: u64,
    rng: Rng,
}

enum Request {
    Write(usize),
    Flush(u64),
}

impl Story {
    fn new(seed: u64) -> Self {
        Self { history: History::default(), clock: 0, rng: Rng::new(seed) }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Writes, with a flush now and then, until a request fails or `requests` are done. Returns the error.
    fn load(&mut self, client: &mut nbd::Client, requests: u64) -> Option<(u32, String)> {
        let mut under_way = HashMap::new();
        let (mut sent, mut failure) = (0, None);
        while sent < requests && failure.is_none() || !under_way.is_empty() {
            while failure.is_none() && sent < requests && under_way.len() < DEPTH {
                let (cookie, request) = self.submit(client);
                under_way.insert(cookie, request);
                sent += 1;
            }
            let reply = client.receive(0, 0).unwrap();
            let request = under_way.remove(&reply.cookie).expect("an answer to nothing");
            match (request, reply.error) {
                (_, Some(error)) => failure = failure.or(Some(error)),
                (Request::Write(number), None) => {
                    let moment = self.tick();
                    self.history.acknowledge(number, moment);
                }
                (Request::Flush(moment), None) => self.history.durable(moment),
            }
        }
        failure
    }

    fn submit(&mut self, client: &mut nbd::Client) -> (u64, Request) {
        let moment = self.tick();
        if self.rng.chance(10) {
            return (client.send(Command::Flush, 0, 0, &[]).unwrap(), Request::Flush(moment));
        }
        let block = loop {
            let block = self.rng.below(BLOCKS);
            if self.history.is_settled(block) {
                break block;
            }
        };
        let number = self.history.submit(block, moment);
        let content = self.history.content(number);
        let cookie = client.send(Command::Write(false), block * BLOCK, BLOCK, &content).unwrap();
        (cookie, Request::Write(number))
    }

    /// Whatever can be read was written there by this client. Returns the errors of what cannot.
    fn reads_nothing_wrong(&self, client: &mut nbd::Client) -> Vec<(u32, String)> {
        let (mut content, mut errors) = (Vec::new(), Vec::new());
        for block in 0..BLOCKS {
            match client.read(block * BLOCK, BLOCK as u32) {
                Ok(bytes) => content.extend(bytes),
                Err(NbdError::Request(code, text)) => {
                    errors.push((code, text));
                    content.resize(content.len() + BLOCK as usize, 0);
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.history.identify(&content);
        errors
    }

    /// On healthy disks everything acknowledged is there, in order, and the pool is sound and takes writes.
    fn is_whole_on(&mut self, machine: &Machine) {
        let (appliance, control) = boot(machine);
        let mut client = nbd(&appliance, "db");
        let content = client.read(0, (BLOCKS * BLOCK) as u32).unwrap();
        let survivors = self.history.identify(&content);
        let moment = self.tick();
        self.history.settle(&survivors, moment);
        assert_eq!(self.load(&mut client, 50), None);
        client.flush().unwrap();
        drop(client);
        finish(appliance, control);
    }
}

/// Makes a pool with a volume of which all is written.
fn make_pool(machine: &Machine, story: &mut Story) {
    let (appliance, mut control) = boot(machine);
    volume(&mut control, "db", BLOCKS * BLOCK);
    let mut client = nbd(&appliance, "db");
    assert_eq!(story.load(&mut client, 300), None);
    client.flush().unwrap();
    let moment = story.tick();
    story.history.durable(moment);
    drop(client);
    finish(appliance, control);
}

/// Works on until the pool has gone read-only. A data write that fails is the client's error alone, and a flush with
/// nothing new to make durable asks nothing of the disk; a command always writes the log.
fn work_until_read_only(story: &mut Story, control: &mut Client, client: &mut nbd::Client) {
    for round in 0..ROUNDS {
        if call(control, "pool.status", json!({}))["state"] == "read_only" {
            return;
        }
        story.load(client, 10);
        // Its answer does not matter: the next look at the pool tells.
        let name = format!("round{round}");
        let _ = control.call("refpoint.create", json!({ "volume": "db", "name": name }));
        thread::sleep(PAUSE);
    }
    panic!("the pool stays open");
}

/// The pool has gone read-only, says that it is because of `disk`, and refuses everything that changes it.
fn is_read_only_because_of(disk: &str, control: &mut Client, client: &mut nbd::Client) {
    let status = call(control, "pool.status", json!({}));
    assert_eq!(status["state"], "read_only", "{status}");
    let why = status["read_only"].as_str().unwrap();
    assert!(why.contains(&format!("disk {disk}")), "{disk} is not named: {why}");
    refused(control, "volume.create", json!({ "name": "other", "size": MIB }), "read_only");
    assert!(matches!(client.write(0, &[1; 4096]), Err(NbdError::Request(..))));
    assert!(matches!(client.flush(), Err(NbdError::Request(..))));
}

/// A pool of these disks, of which `faulty` begins to fail under load.
fn fails(
    disks: &[&str],
    faulty: &str,
    failures: &[Failure],
    judge: impl FnOnce(&mut Story, Appliance, Client),
) {
    let stage = Stage::wait();
    let mut story = Story::new(failures.len() as u64);
    let healthy: Vec<_> = disks.iter().map(|name| stage.disk(name, 64 * MIB)).collect();
    let machine = stage.machine().disks(healthy.clone());
    make_pool(&machine, &mut story);
    let bad = disks.iter().zip(healthy).map(
        |(name, disk)| {
            if *name == faulty { failing(disk, failures) } else { disk }
        },
    );
    let (appliance, control) = boot(&stage.machine().disks(bad));
    judge(&mut story, appliance, control);
    story.is_whole_on(&machine);
}

/// The failure stops the pool, whatever the client is at.
fn stops(disks: &[&str], faulty: &str, failures: &[Failure]) {
    fails(disks, faulty, failures, |story, appliance, mut control| {
        let mut client = nbd(&appliance, "db");
        let failure = story.load(&mut client, REQUESTS);
        let (code, text) = failure.unwrap_or_else(|| panic!("nobody heard of {failures:?}"));
        assert!(code != 0 && text.contains(&format!("disk {faulty}")), "{failures:?}: {code} {text}");
        work_until_read_only(story, &mut control, &mut client);
        is_read_only_because_of(faulty, &mut control, &mut client);
        assert_eq!(story.reads_nothing_wrong(&mut client), []);
        drop(client);
        end(appliance, control);
    });
}

#[test]
fn a_flush_that_fails_stops_the_pool() {
    stops(&["a"], "a", &[Failure::of("flush")]);
}

/// One failed flush is enough: what is durable is unknown from then on.
#[test]
fn a_flush_that_fails_once_stops_the_pool() {
    stops(&["a"], "a", &[Failure { once: true, ..Failure::of("flush") }]);
}

#[test]
fn a_flush_that_fails_on_the_second_member_stops_the_pool_and_names_that_member() {
    stops(&["a", "b"], "b", &[Failure::of("flush")]);
}

#[test]
fn writes_that_fail_stop_the_pool() {
    stops(&["a"], "a", &[Failure::of("write")]);
}

/// ENOSPC, as of a full host. The machine goes on, so that the appliance can say it.
#[test]
fn a_full_host_stops_the_pool() {
    stops(&["a"], "a", &[Failure { errno: 28, ..Failure::of("write") }]);
}

/// The file system under the disk's file has no block left. What lies in blocks that it already has can still be
/// overwritten, so that some writes succeed and others do not, and which is for the host to say.
#[test]
fn a_file_system_of_the_hosts_that_is_really_full_loses_nothing() {
    for (seed, left) in [(1, 0), (2, MIB), (3, 3 * MIB)] {
        let stage = Stage::wait();
        let Some(host) = HostFileSystem::mount(&stage.path(""), 40 * MIB) else { return };
        let mut story = Story::new(seed);
        let machine = stage.machine().disk(Disk::file(host.path("a.img"), 64 * MIB).serial("a"));
        make_pool(&machine, &mut story);
        host.fill(left);
        let (appliance, mut control) = boot(&machine);
        let mut client = nbd(&appliance, "db");
        let mut errors = 0;
        for _ in 0..ROUNDS {
            if let Some((code, text)) = story.load(&mut client, 100) {
                assert!(code != 0 && text.contains("disk a"), "{code} {text}");
                errors += 1;
            }
        }
        assert!(errors > 0, "nobody heard that there is no space");
        assert_eq!(story.reads_nothing_wrong(&mut client), []);
        let state = call(&mut control, "pool.status", json!({}))["state"].clone();
        println!("{left} bytes left: {errors} of {ROUNDS} rounds with an error; the pool is {state}");
        drop(client);
        // Going down would write too, and what the disk says to that is not for the client to know.
        appliance.kill().unwrap();
        host.relieve();
        story.is_whole_on(&machine);
    }
}

/// Both slots at the disk's beginning: whichever commit is next.
#[test]
fn a_superblock_that_cannot_be_written_stops_the_pool() {
    let slots = [0, 8].map(|sector| Failure { sector: Some(sector), ..Failure::of("write") });
    fails(&["a"], "a", &slots, |story, appliance, mut control| {
        let mut client = nbd(&appliance, "db");
        assert_eq!(story.load(&mut client, 100), None, "the log needs no superblock");
        control.call("pool.check", json!({})).unwrap();
        work_until_read_only(story, &mut control, &mut client);
        is_read_only_because_of("a", &mut control, &mut client);
        assert_eq!(story.reads_nothing_wrong(&mut client), []);
        drop(client);
        end(appliance, control);
    });
}

/// Nothing live lies where a data write fails, so it goes elsewhere and nobody hears of it; in the log it stops the pool.
#[test]
fn a_single_write_that_fails_is_done_elsewhere_or_stops_the_pool() {
    for writes_before in [50, 51, 52, 53] {
        let once = [Failure { once: true, writes_before, ..Failure::of("write") }];
        fails(&["a"], "a", &once, |story, appliance, mut control| {
            let mut client = nbd(&appliance, "db");
            match story.load(&mut client, 300) {
                None => assert_eq!(call(&mut control, "pool.status", json!({}))["state"], "open"),
                Some((_, text)) => {
                    assert!(text.contains("disk a"), "{text}");
                    work_until_read_only(story, &mut control, &mut client);
                    is_read_only_because_of("a", &mut control, &mut client);
                }
            }
            assert_eq!(story.reads_nothing_wrong(&mut client), []);
            drop(client);
            end(appliance, control);
        });
    }
}

/// A read that fails is an error of that read, and no reason to stop.
#[test]
fn reads_that_fail_are_errors_that_name_the_disk() {
    fails(&["a"], "a", &[Failure::of("read")], |story, appliance, mut control| {
        let mut client = nbd(&appliance, "db");
        story.load(&mut client, 300);
        let errors = story.reads_nothing_wrong(&mut client);
        assert!(!errors.is_empty(), "every read of the disk fails");
        assert!(errors.iter().all(|(code, text)| *code == 5 && text.contains("disk a")), "{errors:?}");
        let scrub = job_or_error(&mut control, "pool.scrub");
        let found = scrub.to_string();
        assert!(found.contains("of disk a cannot be read") && !found.contains("damaged"), "{found}");
        drop(client);
        end(appliance, control);
    });
}

/// The result of a job, or what the appliance says instead.
fn job_or_error(control: &mut Client, method: &str) -> Value {
    match control.call(method, json!({})) {
        Ok(answer) => {
            let job = answer["job"].as_str().unwrap().to_owned();
            match control.wait_for_job(&job, datum_tests::qemu::JOB_PATIENCE, |_| {}) {
                Ok(result) => result,
                Err(error) => json!(error.to_string()),
            }
        }
        Err(error) => json!(error.to_string()),
    }
}

/// The host's server of the disk dies: everything fails at once, reads too.
#[test]
fn a_disk_that_vanishes_stops_the_pool() {
    let stage = Stage::wait();
    let mut story = Story::new(7);
    make_pool(&stage.with_disk(64 * MIB), &mut story);
    let mut server = Server::start(&stage.path("a.img"), stage.path("server.sock"), &[], &[]);
    let (appliance, mut control) = boot(&stage.machine().disk(server.disk("a")));
    let mut client = nbd(&appliance, "db");
    assert_eq!(story.load(&mut client, 200), None);
    server.kill();
    let (_, text) = story.load(&mut client, REQUESTS).expect("writes to a disk that is gone");
    assert!(text.contains("disk a"), "{text}");
    work_until_read_only(&mut story, &mut control, &mut client);
    is_read_only_because_of("a", &mut control, &mut client);
    let errors = story.reads_nothing_wrong(&mut client);
    assert!(errors.iter().all(|(_, text)| text.contains("disk a")), "{errors:?}");
    drop(client);
    end(appliance, control);
    story.is_whole_on(&stage.with_disk(0));
}

/// A twentieth of all reads and a fifth of all writes fail, while a file on the host is there: data goes elsewhere, time
/// and again, until the log is hit.
#[test]
fn a_disk_that_fails_now_and_then_never_shows_a_wrong_byte() {
    for seed in 0..3 {
        let stage = Stage::wait();
        let mut story = Story::new(seed);
        make_pool(&stage.with_disk(64 * MIB), &mut story);
        let trigger = stage.path("fail");
        let parameters = ["error-pread-rate=5%", "error-pwrite-rate=20%", "error=EIO"].map(String::from);
        let file = format!("error-file={}", trigger.display());
        let parameters: Vec<String> = parameters.into_iter().chain([file]).collect();
        let server = Server::start(&stage.path("a.img"), stage.path("server.sock"), &["error"], &parameters);
        let (appliance, mut control) = boot(&stage.machine().disk(server.disk("a")));
        let mut client = nbd(&appliance, "db");
        fs::write(&trigger, []).unwrap();
        let (_, text) = story.load(&mut client, REQUESTS).expect("many of so many writes fail");
        assert!(text.contains("disk a"), "{text}");
        work_until_read_only(&mut story, &mut control, &mut client);
        is_read_only_because_of("a", &mut control, &mut client);
        story.reads_nothing_wrong(&mut client);
        fs::remove_file(&trigger).unwrap();
        assert_eq!(story.reads_nothing_wrong(&mut client), [], "the disk has recovered");
        drop(client);
        end(appliance, control);
        drop(server);
        story.is_whole_on(&stage.with_disk(0));
    }
}

/// Slow is not broken: each request takes 20 ms, and those under way together finish out of order.
#[test]
fn a_slow_disk_is_only_slow() {
    let stage = Stage::wait();
    let mut story = Story::new(9);
    make_pool(&stage.with_disk(64 * MIB), &mut story);
    let parameters = ["rdelay=20ms", "wdelay=20ms"].map(String::from);
    let server = Server::start(&stage.path("a.img"), stage.path("server.sock"), &["delay"], &parameters);
    let machine = stage.machine().disk(server.disk("a"));
    let (appliance, mut control) = boot(&machine);
    let mut client = nbd(&appliance, "db");
    assert_eq!(story.load(&mut client, 200), None);
    assert_eq!(story.reads_nothing_wrong(&mut client), []);
    assert_eq!(job(&mut control, "pool.scrub", json!({}))["errors"], 0);
    drop(client);
    appliance.kill().unwrap();
    drop(server);
    story.is_whole_on(&stage.with_disk(0));
}
