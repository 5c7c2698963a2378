//! `cargo xtask sim`: looks further than the tests do.
//!
//! It builds the crash simulator (the program `sim` of `datum-tests`), optimised, and runs it; with `--defects` it
//! puts faults into the store instead.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::defects;
use crate::shell::{self, cargo};

/// Lose power, simulated, at every moment of every short history; or put known defects into the store.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Look at all states of all short histories, then at longer random ones, for so many hours.
    #[arg(long)]
    hours: Option<f64>,
    /// Seeds every choice.
    #[arg(long)]
    seed: Option<u64>,
    /// Workers; 2 unless said otherwise.
    #[arg(long)]
    threads: Option<usize>,
    /// Run the one case that a failure has named, under the seed that it has named.
    #[arg(long, value_name = "PLACE", conflicts_with = "hours")]
    replay: Option<String>,
    /// Put known defects into a copy of the store, one at a time, and see that its tests notice each: those of
    /// tests/defects/ by name; all if none is named.
    #[arg(long, value_name = "NAME", num_args = 0.., conflicts_with_all = ["hours", "seed", "threads", "replay"])]
    defects: Option<Vec<String>>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        if let Some(names) = &self.defects {
            let noticed = defects::try_out(names)?;
            return Ok(if noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let mut command = simulator();
        let options = [
            ("--hours", self.hours.map(|hours| hours.to_string())),
            ("--seed", self.seed.map(|seed| seed.to_string())),
            ("--threads", self.threads.map(|threads| threads.to_string())),
            ("--replay", self.replay),
        ];
        for (option, value) in options {
            command.args(value.map(|value| format!("{option}={value}")));
        }
        shell::run(&mut command)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The crash simulator with its short form of a few minutes; options follow.
pub(super) fn simulator() -> Command {
    let mut command = cargo();
    command.args(["run", "--locked", "--profile", "sim", "--package", "datum-tests", "--bin", "sim", "--"]);
    command
}
