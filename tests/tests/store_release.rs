//! A release of a million blocks, and the power lost at every commit of it (a twentieth unless
//! `DATUM_SCALE=full`).

use datum_store::device::Block;
use datum_store::{BlockIndex, Image, TimelineId};
use datum_tests::disk::PowerLoss;
use datum_tests::perform::{Disk, name};
use datum_tests::rng::Rng;
use datum_tests::world::{Setup, World};

/// A million with `DATUM_SCALE=full`, else a twentieth.
fn blocks() -> u64 {
    let full = std::env::var("DATUM_SCALE").is_ok_and(|scale| scale == "full");
    if full { 1_000_000 } else { 50_000 }
}

/// What every block holds: equal blocks share memory on the simulated disk.
fn block() -> Block {
    Box::new([0x5a; 4096])
}

fn create(world: &mut World, volume: &str, blocks: u64) -> Image<Disk> {
    let timeline = TimelineId(world.rng.wide());
    let pool = world.pool();
    world.executor.run(async {
        pool.create_volume(&name(volume), blocks * 4096, timeline, 1).await.expect("created");
        pool.open_image(&name(volume), None).await.expect("opened")
    })
}

/// Writes two volumes by turns, so that the blocks of the larger lie scattered. Returns blocks of the smaller.
fn fill(world: &mut World, blocks: u64) -> u64 {
    let (large, small) = (create(world, "large", blocks), create(world, "small", blocks));
    let mut rng = Rng::new(3);
    let (mut at, mut between) = (0, 0);
    while at < blocks {
        let count = rng.between(1, 8).min(blocks - at);
        let written = world.executor.run(async {
            large.write(BlockIndex(at), (0..count).map(|_| block()).collect()).await?;
            small.write(BlockIndex(between), vec![block()]).await
        });
        written.expect("written");
        (at, between) = (at + count, between + 1);
    }
    between
}

/// Opens the pool on what a power loss under `policy` leaves.
fn cut(world: &mut World, policy: PowerLoss) {
    let images = world.power_off(policy);
    world.power_on(images);
    world.open_again();
}

#[test]
fn a_release_of_a_million_blocks_survives_a_power_loss_at_every_commit() {
    let blocks = blocks();
    let setup = Setup { members: vec![blocks * 3 / 2 + 65_536], cache_blocks: 1024, seed: 4 };
    let mut world = World::new(&setup);
    let empty = world.pool().status().allocated_bytes / 4096;
    let kept = fill(&mut world, blocks);
    world
        .call(async |pool| {
            let large = pool.open_image(&name("large"), None).await?;
            pool.create_checkpoint(&[name("large")], &name("c"), 2).await?;
            large.trim(BlockIndex(0), blocks).await?;
            pool.delete_checkpoint(&name("large"), &name("c")).await?;
            pool.commit().await
        })
        .expect("a checkpoint that alone holds everything is deleted");

    let mut rng = Rng::new(5);
    let steps = (blocks / 25_000).max(4);
    let mut losses = 0;
    while world.pool().status().releases_pending > 0 {
        world.executor.step(steps);
        world.call(async |pool| pool.commit().await).expect("committed");
        world.executor.step(steps);
        let (pool, moment) = (world.pool(), rng.below(120));
        // Somewhere in the next commit, or after it.
        let _cut_short = world.executor.run_for(async move { pool.commit().await }, moment);
        cut(&mut world, *rng.pick(&PowerLoss::ALL));
        losses += 1;
        if losses % 16 == 0 {
            world.check();
        }
    }
    world.executor.idle();
    let used = || world.pool().status().allocated_bytes / 4096;
    println!("{blocks} blocks released over {losses} power losses; {} blocks stay in use", used());
    assert!(losses >= 20, "the release has met {losses} power losses");
    // The smaller volume with its nodes, and those of the object table and the free map.
    let most = empty + kept + kept / 64 + 200;
    assert!(used() <= most, "{} blocks stay in use, {most} are needed", used());
    world.scrub();
}
