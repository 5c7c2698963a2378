//! `cargo xtask tidy`: the repository's rules.

use std::process::ExitCode;

use anyhow::Result;

use crate::tidy;

/// Check the repository's rules: headers, imports, unsafe, panics, dead files, dependencies.
#[derive(clap::Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        let report = tidy::check()?;
        report.print();
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
