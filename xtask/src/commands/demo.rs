//! `cargo xtask demo`: the main job on real data, in [`crate::demo`].

use std::process::ExitCode;

use anyhow::Result;

use crate::demo::Demo;
use crate::kernel;
use crate::setup::{Need, ensure};

/// Back up real files, lose power in the middle of writes, back up only what changed, restore, and compare.
#[derive(clap::Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        ensure(&[Need::BareTarget, Need::Qemu, Need::Clients])?;
        Demo::new(&kernel::build(false)?.elf)?.run()?;
        Ok(ExitCode::SUCCESS)
    }
}
