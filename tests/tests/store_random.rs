//! Property tests: random operations, crashes and reopenings, against the reference model.
//!
//! Each seed is one run. `DATUM_SEEDS=1000 cargo test -p datum-tests --test store_random` looks further.

use datum_tests::model::mix::{BACKLOG, BRIM, CROWD, EVERYTHING, LOSSES, LOSSES_WITHOUT_SPACE};
use datum_tests::model::operation::{Shape, generate};
use datum_tests::rng::Rng;
use datum_tests::store::simulation::{NOW_AND_THEN_SLOW, Plan};

fn plan(test: &'static str, shape: Shape) -> Plan {
    Plan {
        test: ("store_random", test),
        members: vec![16384],
        cache_blocks: 256,
        shape,
        length: 60,
        may_fill: false,
        mix: EVERYTHING,
        background: NOW_AND_THEN_SLOW,
    }
}

#[test]
fn tiny_volumes() {
    plan("tiny_volumes", Shape::tiny()).explore(60);
}

#[test]
fn tall_volumes() {
    plan("tall_volumes", Shape::tall()).explore(80);
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

/// Many writers in flight on a pool that they fill up and empty again.
#[test]
fn a_crowd_on_little_space() {
    let plan = plan("a_crowd_on_little_space", Shape::crowded());
    Plan { members: vec![4096], may_fill: true, length: 40, mix: CROWD, ..plan }.explore(40);
}

#[test]
fn a_crowd_on_two_members() {
    let plan = plan("a_crowd_on_two_members", Shape::crowded());
    Plan { members: vec![4096, 4097], may_fill: true, length: 40, mix: CROWD, ..plan }.explore(5);
}

/// A pool that is filled to the brim again and again, and must still delete and convert.
#[test]
fn a_pool_filled_by_all_means() {
    let plan = plan("a_pool_filled_by_all_means", Shape::wide());
    Plan { members: vec![4096], may_fill: true, length: 16, mix: BRIM, ..plan }.explore(40);
}

/// Lives that end while requests, flushes and commits overlap on several disks.
#[test]
fn losses_on_several_members() {
    let plan = plan("losses_on_several_members", Shape::tall());
    Plan { members: vec![4096, 4097, 4098], length: 50, mix: LOSSES, ..plan }.explore(60);
}

/// Lives that end while commits return what was freed, and requests take it again.
#[test]
fn losses_without_space() {
    let plan = plan("losses_without_space", Shape::crowded());
    Plan { members: vec![4096], may_fill: true, length: 60, mix: LOSSES_WITHOUT_SPACE, ..plan }.explore(40);
}

/// Releases and drop jobs that pile up.
#[test]
fn a_backlog_of_releases() {
    let plan = plan("a_backlog_of_releases", Shape::wide());
    let plan = Plan { members: vec![4096], may_fill: true, length: 100, mix: BACKLOG, ..plan };
    Plan { background: &[20, 0, 0], ..plan }.explore(40);
}

/// Replaying a seed is worth nothing unless the store itself is deterministic.
#[test]
fn one_seed_is_one_run() {
    let plan = plan("one_seed_is_one_run", Shape::tall());
    let operations = generate(&mut Rng::new(11), 60, EVERYTHING);
    assert_eq!(plan.run(11, &operations, false), plan.run(11, &operations, false));
}
