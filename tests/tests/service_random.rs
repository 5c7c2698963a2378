//! Property tests of the whole appliance: the real service and store, clients of NBD and control, disks that fail, and
//! power losses, on a simulated machine.
//!
//! Each seed is one run of several lives. `cargo xtask sim --service` looks further, and replays a failure.

use datum_tests::service::{Faults, Options, replay, run, trace};

/// Methods that the control port has.
const METHODS: usize = 36;

fn number(key: &str) -> Option<u64> {
    std::env::var(key).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn clients_of_an_appliance_that_loses_power() {
    if let Some(seed) = number("DATUM_SEED") {
        return replay(&seed.to_string(), Faults::ALL).unwrap_or_else(|what| panic!("{what}"));
    }
    let shrink = std::env::var_os("DATUM_NO_SHRINK").is_none();
    let seeds = number("DATUM_SEEDS").unwrap_or(100);
    let report = run(Options { seed: 0, seeds, time: None, threads: 1, shrink, faults: Faults::ALL });
    println!("{}", report.table());
    assert!(report.failures.is_empty(), "{}", report.failures[0].text());
    assert_eq!(report.methods(), METHODS, "every method of the control port is called");
}

/// Replaying a seed is worth nothing unless service and store are deterministic.
#[test]
fn one_seed_is_one_run() {
    let once = trace(3);
    assert_eq!(once, trace(3));
    assert_ne!(once, trace(4));
}
