//! Replays that are larger than memory: the log of a life with much memory, opened with little, has to be committed
//! half-way, and the power may go in the middle of that too.

use datum_store::{Probe, probe};
use datum_tests::disk::PowerLoss;
use datum_tests::store::story::Story;
use datum_tests::store::world::{Setup, Start, World};

/// Blocks of the volume: each write below changes a leaf of its own.
const BLOCKS: u64 = 1 << 24;
const WRITES: u64 = 300;

/// A pool whose log holds more changes of nodes than little memory takes, without power.
fn long_log(setup: &Setup) -> Start {
    let mut story = Story::with(setup, BLOCKS);
    story.commit();
    for at in 0..WRITES {
        story.w(at * (BLOCKS / WRITES));
        if at % 60 == 59 {
            story.checkpoint(&format!("c{at}"));
        }
    }
    story.flush();
    story.world.stop()
}

/// The newest commit on the disks, as the pool on them says after a power loss.
fn newest_commit(world: &mut World) -> u64 {
    let disk = world.disks[0].clone();
    match world.executor.run(probe(&disk)) {
        Ok(Probe::Member { commit, .. }) => commit,
        other => panic!("{other:?}"),
    }
}

fn commits_of_an_opening(setup: &Setup, start: &Start) -> u64 {
    let mut world = World::resume(setup, start.clone());
    let before = newest_commit(&mut world);
    world.open_again();
    world.verify();
    world.check();
    newest_commit(&mut world) - before
}

#[test]
fn a_replay_that_outgrows_memory_commits_half_way() {
    for seed in 0..6 {
        let much = Setup { members: vec![32768], cache_blocks: 8192, seed };
        let little = Setup { cache_blocks: 256, ..much.clone() };
        let start = long_log(&much);
        let (whole, halved) = (commits_of_an_opening(&much, &start), commits_of_an_opening(&little, &start));
        assert!(
            halved > whole,
            "seed {seed}: {halved} commits of an opening in little memory, {whole} in much"
        );
    }
}

/// Everything was acknowledged as durable, so each opening must end at the same state, however many before it did not
/// come to their end.
#[test]
fn a_power_loss_in_a_replay_that_commits_half_way_loses_nothing() {
    for seed in 0..4 {
        let much = Setup { members: vec![32768], cache_blocks: 8192, seed };
        let little = Setup { cache_blocks: 256, ..much.clone() };
        let mut world = World::resume(&little, long_log(&much));
        let mut cut = 0;
        for steps in (20..).step_by(23) {
            if world.open_for(steps).is_some() {
                break;
            }
            cut += 1;
            let images = world.power_off(PowerLoss::ALL[cut % PowerLoss::ALL.len()]);
            world.power_on(images);
        }
        assert!(cut > 5, "the openings were cut off at {cut} places only");
        world.verify();
        world.verify_changes();
        world.check();
    }
}
