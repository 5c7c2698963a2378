//! The crash simulator as a program: `cargo xtask sim` builds and runs it.

#![forbid(unsafe_code)]

use clap::Parser;
use datum_tests::explore::{Options, SHORT_STATES_MIN, explore, replay};
use datum_tests::service;
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
    /// Only service and clients.
    #[arg(long)]
    service: bool,
    /// Runs of service and clients.
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// What disks may do under service and clients: classes with commas between them, or `none`.
    #[arg(long, default_value_t = service::Faults::ALL)]
    faults: service::Faults,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(place) = &arguments.replay {
        let held = match arguments.service {
            true => service::replay(place, arguments.faults),
            false => replay(place, arguments.seed),
        };
        return match held {
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
    // Nights are shared out evenly.
    let parts = if arguments.service { 1.0 } else { 2.0 };
    let time = arguments.hours.map(|hours| Duration::from_secs_f64(hours * 3600.0 / parts));
    let store = arguments.service || the_store(&arguments, time);
    if the_service(&arguments, time) && store { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The store alone, exhaustively.
fn the_store(arguments: &Arguments, time: Option<Duration>) -> bool {
    let options = match time {
        Some(time) => Options::long(arguments.seed, time),
        None => Options::short(arguments.seed),
    };
    let report = explore(Options { threads: arguments.threads, ..options });
    print!("{}", report.table());
    let enough = report.complete && report.counts.states >= SHORT_STATES_MIN;
    if !enough && time.is_none() {
        println!("not every sequence has run, or they left fewer than {SHORT_STATES_MIN} states");
        return false;
    }
    report.failures.is_empty()
}

/// Store and service with clients, at random.
fn the_service(arguments: &Arguments, time: Option<Duration>) -> bool {
    let report = service::run(service::Options {
        seed: arguments.seed,
        seeds: arguments.runs,
        time,
        threads: arguments.threads,
        shrink: std::env::var_os("DATUM_NO_SHRINK").is_none(),
        faults: arguments.faults,
    });
    print!("{}", report.table());
    report.failures.is_empty()
}
