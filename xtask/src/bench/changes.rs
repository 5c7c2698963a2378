//! The question what changed: against the volume's size, against the number of changes, and natively.
//!
//! What is timed is the appliance: from sending a request until its answer's line is there. Reading that line as JSON
//! is this client's work and happens outside. Every answer is checked against what was written.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::compare::{Hosted, Load, Order, Session, build_hosted};
use super::report::{milliseconds, percentile};
use super::{BLOCK, Bench, GIB, Report, TIB, boot, load, metrics, sample, volume};
use crate::control::Client;
use crate::nbd;
use crate::qemu::{Machine, Port};

/// Changed blocks where the volume's size is in question.
const CHANGED: u64 = 1_000;
const QUERIES: usize = 20;

/// Most extents of an answer; a longer one comes in pages.
const PAGE: u64 = 4096;

/// How long one page may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of changes in the appliance, and in the hosted binary; the last of each only at the large scale.
const GUEST_COUNTS: [u64; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];
const HOSTED_COUNTS: [u64; 6] = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// Every other block of a volume: each changed one is an extent of its own, and half of a leaf's blocks are.
const EVERY_OTHER: Load =
    Load { read_percent: 0, length: BLOCK as u32, depth: 32, order: Order::Every(2), flush: false };

/// Of every other block, so many lie in one leaf.
const CHANGES_PER_LEAF: u64 = 64;

pub(super) fn all(bench: &Bench, report: &mut Report) -> Result<()> {
    for (name, size) in [("10 GiB", 10 * GIB), ("1 TiB", TIB), ("10 TiB", 10 * TIB), ("64 TiB", 64 * TIB)] {
        against_size(bench, report, name, size, size)?;
    }
    // The same blocks in the larger one: what is left is what the volume's size itself costs.
    against_size(bench, report, "10 TiB, all in its first 10 GiB", 10 * TIB, 10 * GIB)?;
    in_the_appliance(bench, report)?;
    natively(bench, report)
}

/// A thousand blocks changed among many that lie in the first `used` bytes, warm and just after a start.
fn against_size(bench: &Bench, report: &mut Report, name: &str, size: u64, used: u64) -> Result<()> {
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
        load::scatter_one(&mut client, used, blocks, number * step)?;
    }
    client.flush()?;
    let what = format!("changes.query, {CHANGED} of {blocks} blocks on {name}");
    query(&mut control, "db", CHANGED)?;
    let before = metrics(&mut control)?;
    let samples = (0..QUERIES).map(|_| query(&mut control, "db", CHANGED));
    let mut samples = samples.collect::<Result<Vec<_>>>()?;
    let after = metrics(&mut control)?;
    report.latency(&format!("{what}, warm"), &mut samples, Some("under 10"));
    for (name, key) in [("node reads", "node_reads_total"), ("node hits", "node_hits_total")] {
        let each = (sample(&after, key) - sample(&before, key)) as f64 / QUERIES as f64;
        report.add(format!("{what}, warm, {name}"), each, "blocks", None);
    }
    drop((client, control));
    appliance.shut_down(Duration::from_secs(30))?;
    cold(&machine, report, &what)
}

/// The first query after a start.
fn cold(machine: &Machine, report: &mut Report, what: &str) -> Result<()> {
    let (_appliance, mut control) = boot(machine)?;
    control.call("volume.show", json!({ "name": "db" }))?;
    let before = metrics(&mut control)?;
    let took = query(&mut control, "db", CHANGED)?;
    let reads = sample(&metrics(&mut control)?, "node_reads_total") - sample(&before, "node_reads_total");
    report.add(format!("{what}, cold"), milliseconds(took), "ms", None);
    report.add(format!("{what}, cold, node reads"), reads as f64, "blocks", None);
    Ok(())
}

/// Every other block written, a volume of 10 TiB for each number of them.
fn in_the_appliance(bench: &Bench, report: &mut Report) -> Result<()> {
    let (_directory, machine) = bench.machine(64 * GIB)?;
    let (appliance, mut control) = boot(&machine.memory(256))?;
    for &count in bench.scale.all_or_most(&GUEST_COUNTS) {
        let name = marked_volume(&mut control, count, 10 * TIB)?;
        Session::connect(&appliance.socket(Port::Nbd(0)), &name, 10 * TIB)?
            .run_requests(&EVERY_OTHER, count)?;
        answer(&mut control, report, &name, count, &format!("changes.query, {count} changes on 10 TiB"))?;
    }
    Ok(())
}

/// Every other block trimmed, which takes as many pointers and no room for data, in the hosted binary with memory for
/// all nodes.
fn natively(bench: &Bench, report: &mut Report) -> Result<()> {
    let counts = bench.scale.all_or_most(&HOSTED_COUNTS);
    let nodes = counts.iter().sum::<u64>() / CHANGES_PER_LEAF * 2 + 16_384;
    let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
    let mut command = Command::new(build_hosted()?);
    command.arg("--cache-blocks").arg(nodes.to_string());
    let disk = super::sparse(&directory.path().join("disk.img"), 256 * GIB)?;
    let mut hosted = Hosted::on(command, directory.path(), &[disk])?;
    for &count in counts {
        let name = marked_volume(&mut hosted.control, count, 10 * TIB)?;
        Session::connect(&hosted.nbd_socket(), &name, 10 * TIB)?.trim(&EVERY_OTHER, count)?;
        let what = format!("changes.query natively, {count} changes on 10 TiB");
        answer(&mut hosted.control, report, &name, count, &what)?;
    }
    Ok(())
}

/// A volume with a reference point before anything is in it.
fn marked_volume(control: &mut Client, count: u64, size: u64) -> Result<String> {
    let name = format!("v{count}");
    volume(control, &name, size)?;
    control.call("refpoint.create", json!({ "volume": name, "name": "mark" }))?;
    Ok(name)
}

/// What the whole answer takes, all its pages one after the other, warm.
fn answer(control: &mut Client, report: &mut Report, volume: &str, count: u64, what: &str) -> Result<()> {
    query(control, volume, count)?;
    let rounds = if count <= 100_000 { QUERIES } else { 3 };
    let samples = (0..rounds).map(|_| query(control, volume, count));
    let mut samples = samples.collect::<Result<Vec<_>>>()?;
    samples.sort();
    let median = percentile(&samples, 50);
    report.add(format!("{what}, warm, median of {rounds}"), milliseconds(median), "ms", None);
    report.add(format!("{what}, warm"), count as f64 / median.as_secs_f64(), "extents/s", None);
    Ok(())
}

/// All pages of one answer; it must find what was changed.
fn query(control: &mut Client, volume: &str, changed: u64) -> Result<Duration> {
    let (mut took, mut extents, mut bytes) = (Duration::ZERO, 0, 0);
    let mut offset = Some(0);
    while let Some(from) = offset {
        let params = json!({ "volume": volume, "since": "mark", "offset": from, "limit": PAGE });
        let (line, waited) = control.call_timed("changes.query", params, PATIENCE)?;
        took += waited;
        let answer: Value = serde_json::from_slice(&line)?;
        let page = &answer["result"];
        extents +=
            page["extents"].as_array().with_context(|| format!("no extents in {answer}"))?.len() as u64;
        bytes += page["changed_bytes"].as_u64().unwrap_or(0);
        offset = page["next_offset"].as_u64();
    }
    ensure!(
        (extents, bytes) == (changed, changed * BLOCK),
        "the query found {extents} extents of {bytes} bytes, {changed} blocks were changed"
    );
    Ok(took)
}
