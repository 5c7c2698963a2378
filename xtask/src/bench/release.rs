//! What a release costs those who use the volume meanwhile: the same load while a checkpoint of overwritten blocks is
//! kept, and while it is released. Counts first: device requests, flushes, commits, nodes, instructions; then rates.
//!
//! Both halves of a round have the same volume under them and follow each other at once, and which comes first takes turns.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::compare::{Hosted, Load, Order, Session, allocate, build_hosted};
use super::instructions::{build_counter, counted, counting};
use super::report::median;
use super::{Bench, Report, boot, metrics, sample, volume};
use crate::control::Client;
use crate::qemu::{Accelerator, Disk, Machine, Port};

/// Bytes of the volume, all of which the release gives back.
const SIZE: u64 = 512 << 20;
const DISK_BYTES: u64 = 4 * SIZE;
const MEMORY_MIB: u64 = 256;

const TURN: Duration = Duration::from_secs(1);
/// Requests of the loads whose instructions are counted.
const COUNTED: u64 = 20_000;

const RELEASE_PATIENCE: Duration = Duration::from_secs(120);

const LOADS: [(&str, Load); 2] = [("reads", random(100)), ("writes", random(0))];

const fn random(read_percent: u64) -> Load {
    Load { read_percent, length: 4096, depth: 32, order: Order::Random, flush: false }
}

/// What is counted of a turn.
const COUNTERS: [&str; 8] = [
    "device_reads",
    "device_writes",
    "device_flushes",
    "device_discards",
    "commits",
    "node_reads",
    "node_writes",
    "blocks_released",
];

pub(super) fn all(bench: &Bench, report: &mut Report) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
    let program = build_hosted()?;
    let mut hosted = Hosted::under(Command::new(program), directory.path(), SIZE, DISK_BYTES)?;
    let mut session = Session::connect(&hosted.nbd_socket(), "db", SIZE)?;
    times(bench.scale.rounds, &mut session, &mut hosted.control, "hosted", report)?;
    drop((session, hosted));

    let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
    let (appliance, mut control) = boot(&machine(bench, directory.path())?)?;
    volume(&mut control, "db", SIZE)?;
    let mut session = Session::connect(&appliance.socket(Port::Nbd(0)), "db", SIZE)?;
    times(bench.scale.rounds, &mut session, &mut control, "in the guest", report)?;
    drop(session);
    drop(appliance);
    match bench.accelerator {
        Accelerator::Tcg => instructions(bench, report),
        _ => Ok(()),
    }
}

/// Instructions that the guest executes for each request, and what of the release was done meanwhile.
fn instructions(bench: &Bench, report: &mut Report) -> Result<()> {
    let plugin = build_counter()?;
    let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
    let (machine, counter) = counting(machine(bench, directory.path())?, &plugin, directory.path());
    let (appliance, mut control) = boot(&machine)?;
    volume(&mut control, "db", SIZE)?;
    let mut session = Session::connect(&appliance.socket(Port::Nbd(0)), "db", SIZE)?;
    session.fill()?;
    scatter(&mut session)?;
    for (name, load) in &LOADS {
        point_over(&mut session, &mut control)?;
        session.send_requests(load, COUNTED / 4, 0)?;
        let mut each = |session: &mut Session, control: &mut Client, kind: &str| -> Result<()> {
            let before = (counted(&counter)?, metrics(control)?);
            session.send_requests(load, COUNTED, 1)?;
            let after = (counted(&counter)?, metrics(control)?);
            let each = (after.0 - before.0) as f64 / COUNTED as f64;
            report.add(
                format!("in the guest, {name}, {kind}: instructions a request"),
                each.round(),
                "",
                None,
            );
            for counter in ["blocks_released_total", "commits_total"] {
                let count = sample(&after.1, counter) - sample(&before.1, counter);
                report.add(format!("in the guest, {name}, {kind}: {counter}"), count as f64, "", None);
            }
            Ok(())
        };
        each(&mut session, &mut control, "kept")?;
        let job = convert(&mut control)?;
        each(&mut session, &mut control, "while it releases")?;
        let before = (counted(&counter)?, metrics(&mut control)?);
        control.wait_for_job(&job, RELEASE_PATIENCE, |_| {})?;
        let after = (counted(&counter)?, metrics(&mut control)?);
        let blocks = sample(&after.1, "blocks_released_total") - sample(&before.1, "blocks_released_total");
        let each = (after.0 - before.0) as f64 / blocks as f64;
        report.add(
            format!("in the guest, after {name}: instructions a block released"),
            each.round(),
            "",
            None,
        );
    }
    Ok(())
}

fn machine(bench: &Bench, directory: &Path) -> Result<Machine> {
    let disk = allocate(directory, DISK_BYTES)?;
    Ok(Machine::new(&bench.kernel, directory.join("run"))
        .accelerator(bench.accelerator)
        .memory(MEMORY_MIB)
        .disk(Disk::file(disk, DISK_BYTES).serial("disk0"))
        .option("pool=auto")
        .option("panic=exit"))
}

/// A turn of the load, and what the appliance counted meanwhile.
struct Turn {
    rate: f64,
    requests: u64,
    counts: HashMap<&'static str, u64>,
}

fn times(
    rounds: usize,
    session: &mut Session,
    control: &mut Client,
    place: &str,
    report: &mut Report,
) -> Result<()> {
    session.fill()?;
    scatter(session)?;
    for (name, load) in &LOADS {
        let (mut kept, mut released, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            point_over(session, control)?;
            session.run(load, TURN / 4, 0)?;
            if round % 2 == 0 {
                kept.push(turn(session, control, load, round)?);
            }
            let (job, begun) = (convert(control)?, Instant::now());
            released.push(turn(session, control, load, round)?);
            control.wait_for_job(&job, RELEASE_PATIENCE, |_| {})?;
            ends.push(begun.elapsed().saturating_sub(TURN));
            if round % 2 == 1 {
                point_over(session, control)?;
                session.run(load, TURN / 4, 0)?;
                kept.push(turn(session, control, load, round)?);
                let job = convert(control)?;
                control.wait_for_job(&job, RELEASE_PATIENCE, |_| {})?;
            }
        }
        let what = format!("{place}, {name}");
        for (kind, turns) in [("kept", &kept), ("while it releases", &released)] {
            let requests: u64 = turns.iter().map(|turn| turn.requests).sum();
            for counter in COUNTERS {
                let count: u64 = turns.iter().map(|turn| turn.counts[counter]).sum();
                let name = format!("{what}, {kind}: {counter} for 1,000 requests");
                report.add(name, count as f64 * 1e3 / requests as f64, "", None);
            }
            let rates = turns.iter().map(|turn| turn.rate).collect();
            report.add(format!("{what}, {kind}"), median(rates), "per s", None);
        }
        let mut ratios: Vec<f64> = released.iter().zip(&kept).map(|(a, b)| a.rate / b.rate).collect();
        ratios.sort_by(f64::total_cmp);
        for (name, ratio) in [("least", ratios[0]), ("most", ratios[ratios.len() - 1])] {
            report.add(format!("{what}: {name} of the ratios"), ratio, "", None);
        }
        report.add(format!("{what}: median of the ratios"), median(ratios), "", Some("at least 0.9"));
        report.latency(&format!("{what}: the rest of the release, with no load"), &mut ends, None);
    }
    Ok(())
}

/// Overwrites the volume at random, so that its blocks lie in no order.
fn scatter(session: &mut Session) -> Result<()> {
    session.send_requests(&LOADS[1].1, SIZE / 4096, 7)?;
    session.flush()?;
    Ok(())
}

/// A checkpoint none of whose blocks the volume has any more.
fn point_over(session: &mut Session, control: &mut Client) -> Result<()> {
    control.call("checkpoint.create", json!({ "volumes": ["db"], "name": "point" }))?;
    session.fill()
}

fn convert(control: &mut Client) -> Result<String> {
    let answer = control.call("checkpoint.convert", json!({ "volume": "db", "name": "point" }))?;
    control.call("refpoint.delete", json!({ "volume": "db", "name": "point" }))?;
    answer["job"].as_str().map(String::from).context("checkpoint.convert names no job")
}

fn turn(session: &mut Session, control: &mut Client, load: &Load, seed: usize) -> Result<Turn> {
    let before = metrics(control)?;
    let outcome = session.run(load, TURN, seed as u64)?;
    let after = metrics(control)?;
    let count =
        |name: &str| sample(&after, &format!("{name}_total")) - sample(&before, &format!("{name}_total"));
    let counts = COUNTERS.iter().map(|&name| (name, count(name))).collect();
    Ok(Turn { rate: outcome.rate(), requests: outcome.requests, counts })
}
