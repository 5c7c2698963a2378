//! The crash simulator as a program: `cargo xtask sim` builds and runs it.

#![forbid(unsafe_code)]

use clap::Parser;
use datum_tests::explore::{Options, SHORT_STATES_MIN, explore, replay};
use std::process::ExitCode;
use std::time::Duration;

/// Loses power at every moment of every short history, and looks what comes back.
#[derive(Parser)]
struct Arguments {
    /// Seeds every choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Look at everything, then at longer random histories, for so long.
    #[arg(long)]
    hours: Option<f64>,
    /// Workers.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Run the one case that a failure has named.
    #[arg(long, value_name = "PLACE")]
    replay: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(place) = arguments.replay {
        return match replay(&place, arguments.seed) {
            Ok(()) => {
                println!("everything holds");
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("error: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let options = match arguments.hours {
        Some(hours) => Options::long(arguments.seed, Duration::from_secs_f64(hours * 3600.0)),
        None => Options::short(arguments.seed),
    };
    let report = explore(Options { threads: arguments.threads, ..options });
    print!("{}", report.table());
    let enough = report.complete && report.counts.states >= SHORT_STATES_MIN;
    if !enough && arguments.hours.is_none() {
        println!("not every sequence has run, or they left fewer than {SHORT_STATES_MIN} states");
        return ExitCode::FAILURE;
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
