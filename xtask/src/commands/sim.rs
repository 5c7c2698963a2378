//! `cargo xtask sim`: looks further than the tests do.
//!
//! It builds the crash simulator (the program `sim` of `datum-tests`), optimised, and runs it: the store alone at every
//! moment of every short history, then the service with clients at random. With `--defects` it puts faults into both
//! instead.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::defects;
use crate::shell::{self, cargo};

/// Lose power, simulated, at every moment of every short history, then under service and clients; or put known
/// defects into them.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Look for so many hours: half of them at all states of all short histories, then at longer random ones; half at
    /// service and clients.
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
    /// Only the service with its clients. `--replay` then takes `seed` or `seed:steps`.
    #[arg(long)]
    service: bool,
    /// So many runs of service and clients.
    #[arg(long, value_name = "COUNT")]
    runs: Option<u64>,
    /// What disks may do under service and clients: some of eio, forget, slow, hang, vanish, lost, rot, misdirect, stale,
    /// gone and full, with commas between them, or none; all unless said otherwise.
    #[arg(long, value_name = "CLASSES")]
    faults: Option<String>,
    /// Put known defects into a copy of the store, one at a time, and see that its tests notice each: those of
    /// tests/defects/ by name; all if none is named.
    #[arg(long, value_name = "NAME", num_args = 0.., conflicts_with_all = ["hours", "seed", "threads", "replay", "service", "runs", "faults"])]
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
            ("--runs", self.runs.map(|runs| runs.to_string())),
            ("--faults", self.faults),
            ("--replay", self.replay),
        ];
        command.args(self.service.then_some("--service"));
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
