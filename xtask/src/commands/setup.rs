//! `cargo xtask setup`: everything that any command needs, ahead of time.

use std::process::ExitCode;

use anyhow::Result;

use crate::setup::{Need, ensure};
use crate::shell;

/// Install everything that any command needs (each command does its own part by itself).
#[derive(clap::Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        ensure(&[Need::BareTarget, Need::Lints, Need::Qemu, Need::Clients, Need::Versions])?;
        shell::say("everything is in place");
        Ok(ExitCode::SUCCESS)
    }
}
