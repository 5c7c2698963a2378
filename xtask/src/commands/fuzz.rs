//! `cargo xtask fuzz`: hostile bytes for everything that takes bytes from outside.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::fuzz;

/// Feed hostile bytes to disks, ports and tokens, guided by coverage.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How long each target runs; two run at a time.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Reduce the corpora to inputs that each reach something no other reaches, with what earlier runs found.
    #[arg(long)]
    minimise: bool,
    /// Add this file to the corpus of the one target named; repeatable.
    #[arg(long, value_name = "PATH", conflicts_with = "minimise")]
    keep: Vec<PathBuf>,
    /// Only these targets, of those in tests/fuzz/src/lib.rs.
    targets: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.minimise {
            fuzz::minimise(&self.targets)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !self.keep.is_empty() {
            let [target] = &self.targets[..] else { bail!("--keep adds to one target: name it") };
            fuzz::keep(target, &self.keep)?;
            return Ok(ExitCode::SUCCESS);
        }
        let good = fuzz::run(&self.targets, self.seconds)?;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
