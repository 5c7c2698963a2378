//! What clients' requests cost the disks, in requests and bytes, from the appliance's own counters; and how many
//! acknowledged writes a second go through.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::compare::{Load, Order, Session};
use super::{BLOCK, Bench, GIB, Report, boot, metrics, sample, volume};
use crate::control::Client;
use crate::nbd;
use crate::qemu::Port;

const ROUNDS: u64 = 500;

/// Bytes of the volume that the loads use.
const SIZE: u64 = GIB / 2;

/// How long no commit has come when none is to be expected any more: they come by time, every 5 s.
const QUIET: Duration = Duration::from_millis(5500);
const QUIET_INTERVAL: Duration = Duration::from_millis(250);
const QUIET_PATIENCE: Duration = Duration::from_secs(300);

/// A name, the load, how many requests of it, and whether a checkpoint is made just before.
const LOADS: [(&str, Load, u64, bool); 10] = [
    ("128 KiB sequential write, depth 8", sequential(0, 128, 8), 8_192, false),
    ("1 MiB sequential write, depth 4", sequential(0, 1024, 4), 1_024, false),
    ("1 MiB sequential read, depth 4", sequential(100, 1024, 4), 1_024, false),
    ("4 KiB random read, depth 1", random(100, 1, false), 5_000, false),
    ("4 KiB random read, depth 32", random(100, 32, false), 20_000, false),
    ("4 KiB random write, depth 1", random(0, 1, false), 5_000, false),
    ("4 KiB random write, depth 32", random(0, 32, false), 20_000, false),
    ("4 KiB write + FLUSH, depth 1", random(0, 1, true), 1_000, false),
    ("4 KiB random 70/30, depth 32", random(70, 32, false), 20_000, false),
    ("4 KiB random write, depth 32, after a checkpoint", random(0, 32, false), 20_000, true),
];

const fn random(read_percent: u64, depth: usize, flush: bool) -> Load {
    Load { read_percent, length: 4096, depth, order: Order::Random, flush }
}

const fn sequential(read_percent: u64, kibibytes: u32, depth: usize) -> Load {
    Load { read_percent, length: kibibytes << 10, depth, order: Order::Sequential, flush: false }
}

pub(super) fn all(bench: &Bench, report: &mut Report) -> Result<()> {
    acknowledged_write(bench, report)?;
    requests(bench, report)
}

/// 4 KiB written, then a FLUSH, one after the other.
fn acknowledged_write(bench: &Bench, report: &mut Report) -> Result<()> {
    let (_directory, machine) = bench.machine(4 * GIB)?;
    let (appliance, mut control) = boot(&machine)?;
    volume(&mut control, "db", GIB)?;
    let mut client = nbd::Client::connect(&appliance.socket(Port::Nbd(0)), "db")?;
    let block = vec![0x5a; BLOCK as usize];
    client.write(0, &block)?;
    client.flush()?;
    let (before, started) = (metrics(&mut control)?, Instant::now());
    for round in 0..ROUNDS {
        client.write(round * 7919 % (GIB / BLOCK) * BLOCK, &block)?;
        client.flush()?;
    }
    let (seconds, after) = (started.elapsed().as_secs_f64(), metrics(&mut control)?);
    let commits = sample(&after, "commits_total") - sample(&before, "commits_total");
    for (name, counter, goal) in
        [("writes", "device_writes_total", "2"), ("flushes", "device_flushes_total", "1")]
    {
        let count = sample(&after, counter) - sample(&before, counter);
        let name = format!("device {name} per 4 KiB write + FLUSH, {commits} commits in between");
        report.add(name, count as f64 / ROUNDS as f64, "requests", Some(goal));
    }
    report.add("4 KiB write + FLUSH, one after the other", ROUNDS as f64 / seconds, "per s", None);
    Ok(())
}

/// Device requests, bytes and flushes for one request of each load, with all that its commits wrote later.
fn requests(bench: &Bench, report: &mut Report) -> Result<()> {
    let (_directory, machine) = bench.machine(4 * GIB)?;
    let (appliance, mut control) = boot(&machine)?;
    volume(&mut control, "db", GIB)?;
    let mut session = Session::connect(&appliance.socket(Port::Nbd(0)), "db", SIZE)?;
    session.fill()?;
    let mut before = settled(&mut control)?;
    for (name, load, requests, after_checkpoint) in &LOADS {
        if *after_checkpoint {
            control.call("checkpoint.create", json!({ "volumes": ["db"], "name": "point" }))?;
        }
        session.run_requests(load, *requests)?;
        let after = settled(&mut control)?;
        Cost { before: &before, after: &after, requests: *requests }.tell(report, name, load);
        before = after;
    }
    Ok(())
}

/// The metrics when everything that was written has been committed, and what that freed as well.
fn settled(control: &mut Client) -> Result<HashMap<String, u64>> {
    let begun = Instant::now();
    let (mut seen, mut since) = (metrics(control)?, Instant::now());
    while since.elapsed() < QUIET {
        ensure!(begun.elapsed() < QUIET_PATIENCE, "commits do not end");
        thread::sleep(QUIET_INTERVAL);
        let now = metrics(control)?;
        if sample(&now, "commits_total") != sample(&seen, "commits_total") {
            since = Instant::now();
        }
        seen = now;
    }
    Ok(seen)
}

/// What a number of requests cost.
struct Cost<'a> {
    before: &'a HashMap<String, u64>,
    after: &'a HashMap<String, u64>,
    requests: u64,
}

impl Cost<'_> {
    fn count(&self, counter: &str) -> f64 {
        (sample(self.after, counter) - sample(self.before, counter)) as f64
    }

    fn each(&self, counter: &str) -> f64 {
        self.count(counter) / self.requests as f64
    }

    fn tell(&self, report: &mut Report, name: &str, load: &Load) {
        let mut add = |what: &str, value, unit| report.add(format!("{name}: {what}"), value, unit, None);
        let asked = f64::from(load.length) * self.requests as f64;
        if load.read_percent > 0 {
            add("device reads a request", self.each("device_reads_total"), "requests");
            let bytes = self.count("device_blocks_read_total") * BLOCK as f64;
            add("bytes read for each asked for", bytes / (asked * load.read_percent as f64 / 100.0), "");
        }
        if load.read_percent < 100 {
            add("device writes a request", self.each("device_writes_total"), "requests");
            add("flushes a request", self.each("device_flushes_total"), "requests");
            let (data, all) = ("data_blocks_written_total", "device_blocks_written_total");
            let metadata = (self.count(all) - self.count(data)) / self.count(all).max(1.0);
            add("bytes written for each of data", self.count(all) / self.count(data).max(1.0), "");
            add("of them metadata and log", 100.0 * metadata, "%");
        }
    }
}
