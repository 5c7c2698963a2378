//! `cargo xtask build`: the kernel.

use std::process::ExitCode;

use anyhow::Result;

use crate::kernel;
use crate::setup::{Need, ensure};

/// Build the kernel into target/datum/datum.elf.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Unoptimised, with debug assertions.
    #[arg(long)]
    debug: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        ensure(&[Need::BareTarget])?;
        kernel::build(self.debug)?;
        Ok(ExitCode::SUCCESS)
    }
}
