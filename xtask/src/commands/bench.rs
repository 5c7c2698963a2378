//! `cargo xtask bench`: the appliance's figures, by [`crate::bench`].

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use crate::bench::compare::Compare;
use crate::bench::{Bench, Scale};
use crate::qemu::Accelerator;
use crate::setup::{Need, ensure};
use crate::{kernel, size};

/// Measure the appliance in QEMU: start, size, idling, cost of requests, checkpoints, change queries, opening, memory,
/// scale; or compare it with others.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    own: Own,
}

#[derive(Subcommand)]
enum What {
    Compare(Comparison),
}

#[derive(clap::Args)]
struct Own {
    /// A million blocks, 10,000 checkpoints and 100,000 reference points instead of a fiftieth of that, and three times the rounds
    /// beside releases.
    #[arg(long)]
    full: bool,
    /// How instructions are executed.
    #[arg(long, value_enum, default_value = "tcg")]
    accel: Accelerator,
    /// Also write the figures to this file.
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Only measurements whose names contain one of these: start, size, idle, cost, points, release, changes, open,
    /// memory, instructions-store, instructions-hosted, instructions-guest, scale.
    filters: Vec<String>,
}

/// Give the same requests to Datum and to what people would use instead, in turns.
#[derive(clap::Args)]
struct Comparison {
    /// Only peers whose names contain one of these.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    peers: Vec<String>,
    /// Only scenarios whose names contain one of these.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// How long one turn of a peer takes.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Turns of each peer in each scenario.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// How much of the volume is used.
    #[arg(long, value_parser = size::parse, default_value = "512M")]
    size: u64,
    /// Where the disks are made; the system's directory for temporary files otherwise.
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    /// How instructions are executed.
    #[arg(long, value_enum, default_value = "tcg")]
    accel: Accelerator,
    /// Also draw each scenario, into this directory.
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
    /// Also write every turn to this file.
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        ensure(&[Need::BareTarget, Need::Qemu])?;
        let kernel = kernel::build(false)?.elf;
        match self.what {
            Some(What::Compare(comparison)) => comparison.run(kernel)?,
            None => self.own.run(kernel)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Own {
    fn run(self, kernel: PathBuf) -> Result<()> {
        let scale = if self.full { Scale::FULL } else { Scale::SMALL };
        let report = Bench::new(kernel, self.accel, scale).run(&self.filters)?;
        report.print();
        save(self.json, &report.json())
    }
}

impl Comparison {
    fn run(self, kernel: PathBuf) -> Result<()> {
        ensure(&[Need::Peers])?;
        let table = Compare {
            kernel,
            accelerator: self.accel.resolve(),
            peers: self.peers,
            scenarios: self.scenarios,
            turn: Duration::try_from_secs_f64(self.seconds)?,
            repeat: self.repeat,
            size: self.size,
            directory: self.directory.unwrap_or_else(std::env::temp_dir),
        }
        .run()?;
        table.print();
        if let Some(directory) = self.svg {
            fs::create_dir_all(&directory)?;
            for (name, picture) in table.charts() {
                fs::write(directory.join(name).with_extension("svg"), picture)?;
            }
        }
        save(self.json, &table.json())
    }
}

fn save(path: Option<PathBuf>, figures: &Value) -> Result<()> {
    match path {
        Some(path) => Ok(fs::write(path, format!("{figures:#}\n"))?),
        None => Ok(()),
    }
}
