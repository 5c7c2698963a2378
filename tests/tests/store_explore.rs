//! Every sequence of up to two operations on tiny volumes, and the power lost at every moment of it, with every
//! assertion of the store and of arithmetic switched on.
//!
//! `cargo xtask sim` is the optimised form: up to three operations, more states, for hours, or one case again.

use datum_tests::explore::{Options, explore};

/// Unique crash states, or the run has not looked at enough.
const STATES_MIN: u64 = 10_000;

#[test]
fn short_histories_survive_a_power_loss_at_every_moment() {
    let report = explore(Options::quick(1));
    println!("{}", report.table());
    assert!(report.failures.is_empty(), "{}", report.failures[0].text());
    assert!(report.complete, "every sequence runs");
    assert!(report.counts.states >= STATES_MIN, "{} crash states", report.counts.states);
}

/// Which states are looked at depends on the seed alone, and not on which worker comes first.
#[test]
fn one_seed_is_one_exploration() {
    let options = Options { length: 1, ..Options::quick(3) };
    let first = explore(Options { threads: 1, ..options }).counts;
    let second = explore(Options { threads: 3, ..options }).counts;
    assert_eq!(first, second);
    assert!(first.nested_twice > 0, "{first:?}");
}
