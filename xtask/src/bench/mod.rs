//! The appliance's own figures, measured in QEMU from outside: through its ports, its metrics, and the host's
//! clock. `docs/PERFORMANCE.md` tells how each is measured and what came out.
//!
//! What always holds: nothing here is a test, so no figure fails; counts (writes, flushes, node reads) mean the
//! same on every machine, times only on the machine they were taken on.
//!
//! [`start`] times the boot, [`opening`] what comes after it, [`points`] checkpoints, [`changes`] change queries; [`scale`]
//! loads a small machine, [`memory`] looks at volumes of any size; [`cost`] counts device requests, [`instructions`] the
//! processor's; [`load`] makes blocks, [`report`] prints. [`compare`] measures others beside it.

mod changes;
pub mod compare;
mod cost;
mod instructions;
mod load;
mod memory;
mod opening;
mod points;
mod release;
mod report;
mod scale;
mod start;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control::Client;
use crate::qemu::{Accelerator, Appliance, Disk, Machine};
use crate::shell::say;
pub use report::Report;

const BLOCK: u64 = 4096;
const TIB: u64 = 1 << 40;
const GIB: u64 = 1 << 30;

const HELLO_PATIENCE: Duration = Duration::from_secs(120);

/// How much to put into the pool of the scale measurement.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Scattered blocks.
    pub blocks: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Reference points.
    pub refpoints: u64,
    /// Rounds of a load beside a release and without one.
    pub rounds: usize,
}

impl Scale {
    /// What the issue of this project asks for.
    pub const FULL: Scale = Scale { blocks: 1_000_000, checkpoints: 10_000, refpoints: 100_000, rounds: 15 };
    /// A fiftieth of it.
    pub const SMALL: Scale = Scale { blocks: 20_000, checkpoints: 200, refpoints: 2_000, rounds: 5 };

    /// All of a row at the large scale, all but the last else.
    fn all_or_most<'a, T>(&self, row: &'a [T]) -> &'a [T] {
        if self.blocks >= Scale::FULL.blocks { row } else { &row[..row.len() - 1] }
    }
}

/// One measurement.
type Measure = fn(&Bench, &mut Report) -> Result<()>;

/// Everything a run of measurements needs.
pub struct Bench {
    kernel: PathBuf,
    accelerator: Accelerator,
    scale: Scale,
}

impl Bench {
    /// Measures this kernel.
    pub fn new(kernel: PathBuf, accelerator: Accelerator, scale: Scale) -> Bench {
        Bench { kernel, accelerator: accelerator.resolve(), scale }
    }

    /// Takes every measurement whose name contains one of `filters`; all where there is none. One that fails is
    /// reported as such, and the others go on.
    pub fn run(&self, filters: &[String]) -> Result<Report> {
        let all: [(&str, Measure); 13] = [
            ("start", start::hello),
            ("size", start::size),
            ("idle", start::idle),
            ("cost", cost::all),
            ("points", points::all),
            ("release", release::all),
            ("changes", changes::all),
            ("open", opening::all),
            ("memory", memory::against_size),
            ("instructions-store", instructions::store),
            ("instructions-hosted", instructions::hosted),
            ("instructions-guest", instructions::guest),
            ("scale", scale::small_machine),
        ];
        let mut report = Report::new(self.accelerator);
        for (name, measure) in all {
            if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
                continue;
            }
            say(format!("measuring: {name}"));
            measure(self, &mut report).with_context(|| format!("the measurement {name} failed"))?;
        }
        Ok(report)
    }

    /// A machine with one sparse disk, and the directory it lives in.
    fn machine(&self, disk_bytes: u64) -> Result<(TempDir, Machine)> {
        let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
        let machine = self.machine_of(&self.kernel, directory.path(), disk_bytes);
        Ok((directory, machine))
    }

    /// The same of any kernel, in a directory that its caller keeps.
    fn machine_of(&self, kernel: &Path, directory: &Path, disk_bytes: u64) -> Machine {
        Machine::new(kernel, directory.join("run"))
            .accelerator(self.accelerator)
            .disk(Disk::file(directory.join("disk.img"), disk_bytes).serial("disk0"))
            .option("pool=auto")
            .option("panic=exit")
    }
}

/// A file of that size without anything in it.
fn sparse(path: &Path, bytes: u64) -> Result<PathBuf> {
    File::create(path)?.set_len(bytes)?;
    Ok(path.into())
}

/// Starts a machine and waits for its greeting.
fn boot(machine: &Machine) -> Result<(Appliance, Client)> {
    let mut appliance = machine.start()?;
    let control = appliance.wait_for_hello(HELLO_PATIENCE)?;
    Ok((appliance, control))
}

/// Makes a volume.
fn volume(control: &mut Client, name: &str, size: u64) -> Result<()> {
    control.call("volume.create", json!({ "name": name, "size": size }))?;
    Ok(())
}

/// Every sample of `system.metrics`, by name.
fn metrics(control: &mut Client) -> Result<HashMap<String, u64>> {
    let answer: Value = control.call("system.metrics", json!({}))?;
    let text = answer["text"].as_str().context("system.metrics has no text")?;
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    Ok(samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// A counter's or gauge's value; 0 where the appliance has none of that name.
fn sample(metrics: &HashMap<String, u64>, name: &str) -> u64 {
    metrics.get(&format!("datum_{name}")).copied().unwrap_or(0)
}
