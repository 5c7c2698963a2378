//! Checkpoints and conversions, on volumes of any size and after any amount of writing, in the appliance and natively.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::compare::{Hosted, Load, Order, Session, build_hosted};
use super::{BLOCK, Bench, GIB, Report, TIB, boot, load, sparse, volume};
use crate::control::Client;
use crate::nbd;
use crate::qemu::Port;

const CHECKPOINTS: usize = 300;

/// Blocks written before each checkpoint, and how many times that is done.
const WRITTEN: [(u64, u64); 4] = [(1, 200), (100, 100), (10_000, 20), (100_000, 3)];

const SIZES: [(&str, u64); 3] = [("1 GiB", GIB), ("1 TiB", TIB), ("64 TiB", 64 * TIB)];
const DISK_BYTES: u64 = 8 * GIB;

pub(super) fn all(bench: &Bench, report: &mut Report) -> Result<()> {
    for (name, size) in SIZES {
        let (directory, machine) = bench.machine(DISK_BYTES)?;
        let (appliance, mut control) = boot(&machine)?;
        let socket = appliance.socket(Port::Nbd(0));
        checkpoints(&mut control, &socket, size, directory.path(), name, report)?;
    }
    WRITTEN.into_iter().try_for_each(|(blocks, rounds)| after_writing(bench, report, blocks, rounds))?;
    let program = build_hosted()?;
    for (name, size) in SIZES {
        let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
        let disk = sparse(&directory.path().join("disk.img"), DISK_BYTES)?;
        let mut hosted = Hosted::on(Command::new(&program), directory.path(), &[disk])?;
        let socket = hosted.nbd_socket();
        checkpoints(
            &mut hosted.control,
            &socket,
            size,
            directory.path(),
            &format!("{name}, natively"),
            report,
        )?;
    }
    Ok(())
}

/// `checkpoint.create`, each after one write, so that each has something to hold; `checkpoint.convert` of each; and in
/// turns with them what the host itself needs to make two blocks of a file durable.
fn checkpoints(
    control: &mut Client,
    socket: &Path,
    size: u64,
    directory: &Path,
    name: &str,
    report: &mut Report,
) -> Result<()> {
    volume(control, "db", size)?;
    let mut client = nbd::Client::connect(socket, "db")?;
    load::scatter(&mut client, size, 10_000, 0..10_000)?;
    let (mut samples, mut conversions, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
    let file = File::create(directory.join("flushed"))?;
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

/// `checkpoint.create` and `checkpoint.convert` after so many blocks of a 1 TiB volume were written at random, at depth 32
/// and without a flush.
fn after_writing(bench: &Bench, report: &mut Report, blocks: u64, rounds: u64) -> Result<()> {
    let (_directory, machine) = bench.machine(DISK_BYTES)?;
    let (appliance, mut control) = boot(&machine)?;
    volume(&mut control, "db", TIB)?;
    let mut session = Session::connect(&appliance.socket(Port::Nbd(0)), "db", TIB)?;
    let load = Load { read_percent: 0, length: BLOCK as u32, depth: 32, order: Order::Random, flush: false };
    let (mut created, mut converted) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        session.send_requests(&load, blocks, round)?;
        let started = Instant::now();
        control.call("checkpoint.create", json!({ "volumes": ["db"], "name": "point" }))?;
        created.push(started.elapsed());
        let started = Instant::now();
        let convert = json!({ "volume": "db", "name": "point", "refpoint": format!("r{round}") });
        control.call("checkpoint.convert", convert)?;
        converted.push(started.elapsed());
    }
    report.latency(&format!("checkpoint.create after {blocks} blocks written"), &mut created, None);
    report.latency(&format!("checkpoint.convert after that, {blocks} blocks"), &mut converted, None);
    Ok(())
}
