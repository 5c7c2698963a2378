//! `cargo xtask sim`: looks further than the tests do.

use std::process::ExitCode;

use anyhow::Result;

use crate::defects;

/// Put known defects into a copy of the store, one at a time, and see that its tests notice each.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The defects of tests/defects/ by name; all if none is named.
    #[arg(long, value_name = "NAME", num_args = 0.., required = true)]
    defects: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        let noticed = defects::try_out(&self.defects)?;
        Ok(if noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
