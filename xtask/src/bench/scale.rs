//! A machine of 64 MiB with a 16 TiB volume, many scattered blocks, checkpoints and reference points: the most
//! memory it ever had in use, whether that grows, and what opening such a pool reads.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Bench, GIB, Report, Scale, TIB, boot, load, metrics, sample, volume};
use crate::control::Client;
use crate::nbd;
use crate::qemu::{Appliance, Machine, Port};

const SIZE: u64 = 16 * TIB;

/// Commands sent before the first answer is waited for: they share flushes.
const PIPELINE: u64 = 32;

const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn small_machine(bench: &Bench, report: &mut Report) -> Result<()> {
    let scale = bench.scale;
    let (_directory, machine) = bench.machine(32 * GIB)?;
    let machine = machine.memory(64);
    let (appliance, control) = boot(&machine)?;
    fill(&appliance, control, scale, report).map_err(|error| appliance.explain(error))?;
    appliance.kill()?;
    opening(&machine, report)
}

/// Blocks, reference points and checkpoints, with the memory they took.
fn fill(appliance: &Appliance, mut control: Client, scale: Scale, report: &mut Report) -> Result<()> {
    volume(&mut control, "db", SIZE)?;
    let mut client = nbd::Client::connect(&appliance.socket(Port::Nbd(0)), "db")?;
    let half = scale.blocks / 2;
    let started = Instant::now();
    load::scatter(&mut client, SIZE, scale.blocks, 0..half)?;
    let at_half = sample(&metrics(&mut control)?, "memory_high_water_bytes");
    load::scatter(&mut client, SIZE, scale.blocks, half..scale.blocks)?;
    let at_end = sample(&metrics(&mut control)?, "memory_high_water_bytes");
    let what = format!("-m 64, 16 TiB, {} blocks", scale.blocks);
    let rate = scale.blocks as f64 / started.elapsed().as_secs_f64();
    report.add(format!("{what}: scattered 4 KiB writes at depth 32"), rate, "per s", None);
    report.add(format!("{what}: memory high-water at half"), at_half as f64, "bytes", None);
    report.add(format!("{what}: memory high-water at the end"), at_end as f64, "bytes", None);
    make(
        &mut control,
        scale.refpoints,
        "refpoint.create",
        |n| json!({ "volume": "db", "name": format!("r{n}") }),
    )?;
    make(
        &mut control,
        scale.checkpoints,
        "checkpoint.create",
        |n| json!({ "volumes": ["db"], "name": format!("c{n}") }),
    )?;
    let what = format!("{what}, {} checkpoints, {} reference points", scale.checkpoints, scale.refpoints);
    let high = sample(&metrics(&mut control)?, "memory_high_water_bytes");
    report.add(format!("{what}: memory high-water"), high as f64, "bytes", None);
    Ok(())
}

/// A start over what a power loss left.
fn opening(machine: &Machine, report: &mut Report) -> Result<()> {
    let (_appliance, mut control) = boot(machine)?;
    let started = Instant::now();
    control.call_within("volume.show", json!({ "name": "db" }), ANSWER_PATIENCE)?;
    report.add("hello to the first answer from that pool", started.elapsed().as_secs_f64() * 1e3, "ms", None);
    let opened = metrics(&mut control)?;
    for (name, key, unit) in [
        ("device reads at opening it after SIGKILL", "open_reads_total", "requests"),
        ("records replayed", "replayed_records_total", "records"),
        ("memory high-water after opening it", "memory_high_water_bytes", "bytes"),
        ("heap", "memory_heap_bytes", "bytes"),
    ] {
        report.add(name, sample(&opened, key) as f64, unit, None);
    }
    Ok(())
}

/// Sends many commands of a kind, a few ahead of their answers.
fn make(control: &mut Client, count: u64, method: &str, params: impl Fn(u64) -> Value) -> Result<()> {
    for number in 0..count + PIPELINE {
        if number < count {
            control.send(method, params(number))?;
        }
        if number >= PIPELINE {
            let answer = control.receive_within(ANSWER_PATIENCE)?;
            anyhow::ensure!(answer["error"].is_null(), "{method} was refused: {}", answer["error"]);
        }
    }
    let listed = control.call("volume.show", json!({ "name": "db" })).context("after many commands")?;
    anyhow::ensure!(listed["name"] == "db", "the volume is gone: {listed}");
    Ok(())
}
