//! Property tests: random operations, crashes and reopenings, against the reference model.
//!
//! Each seed is one run. `DATUM_SEEDS=1000 cargo test -p datum-tests --test store_random` looks further.

use datum_tests::operation::{Shape, generate};
use datum_tests::rng::Rng;
use datum_tests::simulation::Plan;

fn plan(test: &'static str, shape: Shape) -> Plan {
    Plan {
        test: ("store_random", test),
        members: vec![16384],
        cache_blocks: 256,
        shape,
        length: 60,
        may_fill: false,
    }
}

#[test]
fn tiny_volumes() {
    plan("tiny_volumes", Shape::tiny()).explore(60);
}

#[test]
fn tall_volumes() {
    plan("tall_volumes", Shape::tall()).explore(40);
}

#[test]
fn several_members() {
    let members = vec![4096, 16384, 4097];
    Plan { members, ..plan("several_members", Shape::tall()) }.explore(60);
}

#[test]
fn a_roomy_cache() {
    Plan { cache_blocks: 8192, ..plan("a_roomy_cache", Shape::tall()) }.explore(15);
}

#[test]
fn long_histories() {
    Plan { length: 400, ..plan("long_histories", Shape::tiny()) }.explore(6);
}

#[test]
fn a_pool_that_fills_up() {
    let shape = Shape { write_max: 256, ..Shape::tall() };
    let plan =
        Plan { members: vec![8192], may_fill: true, length: 120, ..plan("a_pool_that_fills_up", shape) };
    plan.explore(12);
}

/// Replaying a seed is worth nothing unless the store itself is deterministic.
#[test]
fn one_seed_is_one_run() {
    let plan = plan("one_seed_is_one_run", Shape::tall());
    let operations = generate(&mut Rng::new(11), 60);
    assert_eq!(plan.run(11, &operations, false), plan.run(11, &operations, false));
}
