//! `cargo xtask bench`: the appliance's figures, by [`crate::bench`].

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::bench::{Bench, Scale};
use crate::kernel;
use crate::qemu::Accelerator;
use crate::setup::{Need, ensure};

/// Measure the appliance in QEMU: start, size, idling, cost of a write, checkpoints, change queries, scale.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A million blocks, 10,000 checkpoints and 100,000 reference points instead of a fiftieth of that.
    #[arg(long)]
    full: bool,
    /// How instructions are executed.
    #[arg(long, value_enum, default_value = "tcg")]
    accel: Accelerator,
    /// Also write the figures to this file.
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Only measurements whose names contain one of these: start, size, idle, cost, points, scale.
    filters: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        ensure(&[Need::BareTarget, Need::Qemu])?;
        let kernel = kernel::build(false)?;
        let scale = if self.full { Scale::FULL } else { Scale::SMALL };
        let report = Bench::new(kernel.elf, self.accel, scale).run(&self.filters)?;
        report.print();
        if let Some(path) = self.json {
            fs::write(path, format!("{:#}\n", report.json()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
