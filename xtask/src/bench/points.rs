//! Checkpoints on volumes of any size, and the question what changed, on volumes of any size.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::report::milliseconds;
use super::{BLOCK, Bench, GIB, Report, TIB, boot, load, metrics, sample, volume};
use crate::control::Client;
use crate::nbd;
use crate::qemu::{Machine, Port};

const CHECKPOINTS: usize = 300;
const CHANGED: u64 = 1_000;
const QUERIES: usize = 20;

pub(super) fn all(bench: &Bench, report: &mut Report) -> Result<()> {
    for (name, size) in [("1 GiB", GIB), ("1 TiB", TIB), ("64 TiB", 64 * TIB)] {
        checkpoints(bench, report, name, size)?;
    }
    let spread = [("10 GiB", 10 * GIB, 10 * GIB), ("10 TiB", 10 * TIB, 10 * TIB)];
    // The same blocks in both: what is left is what the volume's size itself costs.
    let same = ("10 TiB, all in its first 10 GiB", 10 * TIB, 10 * GIB);
    for (name, size, used) in spread.into_iter().chain([same]) {
        changes(bench, report, name, size, used)?;
    }
    Ok(())
}

/// `checkpoint.create`, each after one write, so that each has something to hold; `checkpoint.convert` of each; and in
/// turns with them what the host itself needs to make two blocks of a file durable.
fn checkpoints(bench: &Bench, report: &mut Report, name: &str, size: u64) -> Result<()> {
    let (directory, machine) = bench.machine(8 * GIB)?;
    let (appliance, mut control) = boot(&machine)?;
    volume(&mut control, "db", size)?;
    let mut client = nbd::Client::connect(&appliance.socket(Port::Nbd(0)), "db")?;
    load::scatter(&mut client, size, 10_000, 0..10_000)?;
    let (mut samples, mut conversions, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
    let file = File::create(directory.path().join("flushed"))?;
    for number in 0..CHECKPOINTS {
        flushes.push(host_flush(&file, number as u64)?);
        client.write(number as u64 * (size / CHECKPOINTS as u64 / BLOCK) * BLOCK, &[7; BLOCK as usize])?;
        let started = Instant::now();
        control.call("checkpoint.create", json!({ "volumes": ["db"], "name": format!("c{number}") }))?;
        samples.push(started.elapsed());
    }
    for number in 0..CHECKPOINTS {
        let started = Instant::now();
        control.call("checkpoint.convert", json!({ "volume": "db", "name": format!("c{number}") }))?;
        conversions.push(started.elapsed());
    }
    report.latency(&format!("checkpoint.create on {name}"), &mut samples, Some("under 1"));
    report.latency(&format!("checkpoint.convert on {name}, returns"), &mut conversions, Some("under 1"));
    report.latency(&format!("beside it, 8 KiB written and flushed by the host, {name}"), &mut flushes, None);
    Ok(())
}

/// 8 KiB written to a file of the host and made durable.
fn host_flush(file: &File, number: u64) -> Result<Duration> {
    let started = Instant::now();
    file.write_all_at(&[7; 2 * BLOCK as usize], number % 64 * 2 * BLOCK)?;
    file.sync_data()?;
    Ok(started.elapsed())
}

/// `changes.query` with a thousand blocks changed among many that lie in the first `used` bytes, warm and just after a
/// start.
fn changes(bench: &Bench, report: &mut Report, name: &str, size: u64, used: u64) -> Result<()> {
    let (_directory, machine) = bench.machine(16 * GIB)?;
    let machine = machine.memory(256);
    let blocks = bench.scale.blocks;
    let (appliance, mut control) = boot(&machine)?;
    volume(&mut control, "db", size)?;
    let mut client = nbd::Client::connect(&appliance.socket(Port::Nbd(0)), "db")?;
    load::scatter(&mut client, used, blocks, 0..blocks)?;
    control.call("refpoint.create", json!({ "volume": "db", "name": "mark" }))?;
    // The same places again, every so many: changed blocks lie among unchanged ones.
    let step = blocks / CHANGED;
    for number in 0..CHANGED {
        let from = number * step;
        load::scatter_one(&mut client, used, blocks, from)?;
    }
    client.flush()?;
    let what = format!("changes.query, {CHANGED} of {blocks} blocks on {name}");
    query(&mut control)?;
    let mut samples = Vec::new();
    let before = metrics(&mut control)?;
    for _ in 0..QUERIES {
        samples.push(query(&mut control)?);
    }
    let after = metrics(&mut control)?;
    report.latency(&format!("{what}, warm"), &mut samples, Some("under 50"));
    let reads = |key: &str| sample(&after, key) - sample(&before, key);
    report.add(
        format!("{what}, warm, node reads"),
        reads("node_reads_total") as f64 / QUERIES as f64,
        "blocks",
        None,
    );
    report.add(
        format!("{what}, warm, node hits"),
        reads("node_hits_total") as f64 / QUERIES as f64,
        "blocks",
        None,
    );
    drop((client, control));
    appliance.shut_down(Duration::from_secs(30))?;
    cold(&machine, report, &what)
}

/// The first query after a start.
fn cold(machine: &Machine, report: &mut Report, what: &str) -> Result<()> {
    let (_appliance, mut control) = boot(machine)?;
    let before = metrics(&mut control)?;
    let took = query(&mut control)?;
    let reads = sample(&metrics(&mut control)?, "node_reads_total") - sample(&before, "node_reads_total");
    report.add(format!("{what}, cold"), milliseconds(took), "ms", None);
    report.add(format!("{what}, cold, node reads"), reads as f64, "blocks", None);
    Ok(())
}

/// One query for everything that changed; it must find what was written.
fn query(control: &mut Client) -> Result<Duration> {
    let started = Instant::now();
    let params = json!({ "volume": "db", "since": "mark", "limit": 4096 });
    let answer = control.call("changes.query", params)?;
    let took = started.elapsed();
    anyhow::ensure!(
        answer["changed_bytes"] == CHANGED * BLOCK,
        "the query found {} bytes, {} were written",
        answer["changed_bytes"],
        CHANGED * BLOCK
    );
    Ok(took)
}
