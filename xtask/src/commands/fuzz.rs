//! `cargo xtask fuzz`: hostile bytes for everything that takes bytes from outside.

use std::process::ExitCode;

use anyhow::Result;

use crate::fuzz;

/// Feed hostile bytes to disks, ports and tokens, guided by coverage.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How long each target runs; two run at a time.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets, of those in tests/fuzz/src/lib.rs.
    targets: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        let good = fuzz::run(&self.targets, self.seconds)?;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
