//! Power losses under load: QEMU is killed with SIGKILL in the middle of writes and administrative commands,
//! again and again over the same pool. In every third cycle the machine is reset first, so that the appliance starts
//! over devices that were stopped with requests under way.
//!
//! The host keeps what QEMU had written, so this shows order and recovery rather than the durability of a
//! FLUSH, which the simulated disk proves.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use datum_tests::qemu::{
    History, INSTALLED, Stage, Survivors, Tools, ask_monitor, boot, call, changes, check, end, nbd, volume,
    wait_until_open,
};
use datum_tests::rng::Rng;
use datum_tests::with_tools;
use serde_json::{Value, json};
use xtask::control::Client;
use xtask::nbd::{self, Command};
use xtask::qemu::Appliance;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 4096;
const CYCLES: u64 = 24;
const CYCLES_SHORT: u64 = 6;
const CHECK_EVERY: u64 = 6;
const RESET_EVERY: u64 = 3;

/// Requests under way at once.
const DEPTH: usize = 8;

/// A mark that was made during the load: between these two moments.
#[derive(Clone, Debug)]
struct Mark {
    name: String,
    asked: u64,
    answered: u64,
}

/// The client's clock and everything it knows.
#[derive(Default)]
struct Story {
    clock: AtomicU64,
    history: Mutex<History>,
    marks: Mutex<Vec<Mark>>,
    /// The machine is being reset. What answers a command from now on may be its next life, which knows nothing of the
    /// writes that the former one had acknowledged and not flushed.
    resetting: AtomicBool,
}

impl Story {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

#[test]
fn every_power_loss_leaves_one_moment_of_history() {
    power_losses(INSTALLED, CYCLES);
}

with_tools!([qemu_newest][a_few_power_losses_leave_one_moment_of_history]);

fn a_few_power_losses_leave_one_moment_of_history(tools: Tools) {
    power_losses(tools, CYCLES_SHORT);
}

fn power_losses(tools: Tools, cycles: u64) {
    let stage = Stage::wait_with(tools);
    let machine = stage.with_disk(1 << 30);
    let (mut story, mut rng, mut acknowledged) = (Story::default(), Rng::new(24), 0);
    for cycle in 0..cycles {
        let (appliance, mut control) = boot(&machine);
        if cycle == 0 {
            volume(&mut control, "db", BLOCKS * BLOCK);
        } else {
            verify(&mut story, &appliance, &mut control);
        }
        if cycle % CHECK_EVERY == CHECK_EVERY - 1 {
            check(&mut control);
        }
        let load = Duration::from_millis(rng.between(20, 400));
        thread::scope(|scope| {
            let writes = scope.spawn(|| write(&story, nbd(&appliance, "db"), cycle));
            let commands = scope.spawn(|| administer(&story, control, cycle));
            thread::sleep(load);
            if cycle % RESET_EVERY == RESET_EVERY - 1 {
                story.resetting.store(true, Ordering::SeqCst);
                ask_monitor(&machine.monitor(), "system_reset");
                wait_until_open(&appliance, 2);
            }
            // The clients' sockets outlive a reset; this ends them.
            kill(appliance.process_id());
            let count = writes.join().unwrap();
            assert!(count > 0, "cycle {cycle} wrote nothing");
            acknowledged += count;
            commands.join().unwrap();
        });
        drop(appliance);
        story.resetting.store(false, Ordering::SeqCst);
    }
    let (appliance, mut control) = boot(&machine);
    verify(&mut story, &appliance, &mut control);
    check(&mut control);
    end(appliance, control);
    let marks = story.marks.lock().unwrap().len();
    println!(
        "{cycles} SIGKILLs, {} of them after a reset: {acknowledged} requests and {marks} marks acknowledged, none lost",
        cycles / RESET_EVERY
    );
}

/// Power off, by the process id of a machine that this test started.
fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Writes, with a flush now and then, until the machine is gone. Returns how many were acknowledged.
fn write(story: &Story, mut client: nbd::Client, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut under_way = HashMap::new();
    let mut acknowledged = 0;
    loop {
        while under_way.len() < DEPTH {
            let Some((cookie, request)) = submit(story, &mut client, &mut rng) else { return acknowledged };
            under_way.insert(cookie, request);
        }
        let Ok(reply) = client.receive(0, 0) else { return acknowledged };
        let request = under_way.remove(&reply.cookie).expect("an answer to nothing");
        assert_eq!(reply.error, None, "the appliance refused a request");
        let mut history = story.history.lock().unwrap();
        match request {
            Request::Write(number) => history.acknowledge(number, story.tick()),
            Request::Flush(moment) => history.durable(moment),
        }
        acknowledged += 1;
    }
}

enum Request {
    Write(usize),
    Flush(u64),
}

/// Sends one request; `None` once the connection is gone.
fn submit(story: &Story, client: &mut nbd::Client, rng: &mut Rng) -> Option<(u64, Request)> {
    if rng.chance(3) {
        let moment = story.tick();
        return Some((client.send(Command::Flush, 0, 0, &[]).ok()?, Request::Flush(moment)));
    }
    let mut history = story.history.lock().unwrap();
    // Half of the writes go to a small region, so that blocks are overwritten within one interval.
    let block = loop {
        let block = if rng.chance(50) { rng.below(64) } else { rng.below(BLOCKS) };
        if history.is_settled(block) {
            break block;
        }
    };
    let number = history.submit(block, story.tick());
    let content = history.content(number);
    drop(history);
    let cookie = client.send(Command::Write(false), block * BLOCK, BLOCK, &content).ok()?;
    Some((cookie, Request::Write(number)))
}

/// Makes marks of both kinds until the machine is gone. Each command is durable once answered.
fn administer(story: &Story, mut control: Client, cycle: u64) {
    for count in 0.. {
        let name = format!("m{cycle}-{count}");
        let asked = story.tick();
        let made = match count % 3 {
            0 => control.call("refpoint.create", json!({ "volume": "db", "name": name })),
            _ => control.call("checkpoint.create", json!({ "volumes": ["db"], "name": name })),
        };
        if made.is_err() || story.resetting.load(Ordering::SeqCst) {
            return;
        }
        let answered = story.tick();
        story.history.lock().unwrap().durable(asked);
        story.marks.lock().unwrap().push(Mark { name: name.clone(), asked, answered });
        if count % 3 == 1
            && control.call("checkpoint.convert", json!({ "volume": "db", "name": name })).is_err()
        {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Holds the volume and its marks against what the client was told.
fn verify(story: &mut Story, appliance: &Appliance, control: &mut Client) {
    let mut client = nbd(appliance, "db");
    let content = client.read(0, (BLOCKS * BLOCK) as u32).unwrap();
    client.disconnect().unwrap();
    let moment = story.tick();
    let mut history = story.history.lock().unwrap();
    let survivors = history.identify(&content);
    history.settle(&survivors, moment);
    let marks = story.marks.lock().unwrap();
    let all = names(control);
    for mark in marks.iter() {
        assert!(all.contains(&mark.name), "{} was acknowledged and is gone; there are {all:?}", mark.name);
    }
    for mark in marks.iter().rev().take(6) {
        changed_since(&history, &survivors, mark, &changes(control, "db", &mark.name));
    }
}

/// The blocks reported are those written since the mark; a write that was under way when it was made may be either.
fn changed_since(history: &History, survivors: &Survivors, mark: &Mark, extents: &[(u64, u64)]) {
    let reported = |block: u64| {
        extents.iter().any(|(offset, length)| (*offset..offset + length).contains(&(block * BLOCK)))
    };
    for (block, survivor) in survivors.iter().enumerate() {
        let write = survivor.map(|number| history.write(number));
        let block = block as u64;
        match write {
            Some(write) if write.submitted > mark.answered => {
                assert!(reported(block), "{write:?} came after {mark:?} and is not reported");
            }
            Some(write) if write.acknowledged.is_some_and(|moment| moment < mark.asked) => {
                assert!(!reported(block), "{write:?} came before {mark:?} and is reported");
            }
            Some(_) => {}
            None => {
                assert!(!reported(block), "block {block} was never written and is reported since {mark:?}")
            }
        }
    }
}

/// Every checkpoint and reference point of the volume.
fn names(control: &mut Client) -> Vec<String> {
    let mut names = Vec::new();
    for method in ["checkpoint.list", "refpoint.list"] {
        let mut after = Value::Null;
        loop {
            let page = call(control, method, json!({ "volume": "db", "after": after, "limit": 1000 }));
            let items = page["items"].as_array().unwrap();
            names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
            after = page["next"].clone();
            if after.is_null() {
                break;
            }
        }
    }
    names
}
