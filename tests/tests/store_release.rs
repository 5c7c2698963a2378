//! A release of a million blocks, and the power lost at every commit of it (a twentieth unless
//! `DATUM_SCALE=full`): what stays beside it is compared block by block.

use datum_store::device::Block;
use datum_store::{BlockIndex, Image, TimelineId};
use datum_tests::disk::PowerLoss;
use datum_tests::rng::Rng;
use datum_tests::store::perform::{Disk, name};
use datum_tests::store::world::{Setup, World};

/// Blocks that one read takes.
const STRETCH: u64 = 256;

/// The form of the test.
struct Scale {
    /// Blocks to be released.
    blocks: u64,
    /// Stretches of what stays that are compared after each power loss.
    compared: u64,
}

impl Scale {
    /// All that stays is compared each time, but with `DATUM_SCALE=full`.
    fn chosen() -> Self {
        match std::env::var("DATUM_SCALE").is_ok_and(|scale| scale == "full") {
            true => Self { blocks: 1_000_000, compared: 16 },
            false => Self { blocks: 50_000, compared: u64::MAX },
        }
    }
}

/// Contents that name volume and index in each word.
fn block(volume: &str, index: u64) -> Block {
    let mut block = Box::new([0; 4096]);
    let word = (index << 1 | u64::from(volume == "large")) + 1;
    block.as_chunks_mut::<8>().0.fill(word.to_le_bytes());
    block
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
            large.write(BlockIndex(at), (at..at + count).map(|at| block("large", at)).collect()).await?;
            small.write(BlockIndex(between), vec![block("small", between)]).await
        });
        written.expect("written");
        (at, between) = (at + count, between + 1);
    }
    between
}

/// Compares so many stretches of the smaller volume, which holds so many blocks, or all; and of the larger, which has been
/// trimmed, one.
fn compare(world: &mut World, kept: u64, stretches: u64, rng: &mut Rng) {
    let all = kept.div_ceil(STRETCH);
    let chosen: Vec<u64> =
        if stretches < all { (0..stretches).map(|_| rng.below(all)).collect() } else { (0..all).collect() };
    let pool = world.pool();
    world.executor.run(async {
        let (large, small) = (name("large"), name("small"));
        let [large, small] = [pool.open_image(&large, None).await, pool.open_image(&small, None).await];
        let (large, small) = (large.expect("opened"), small.expect("opened"));
        for first in chosen.into_iter().map(|stretch| stretch * STRETCH) {
            let shown = small.read(BlockIndex(first), STRETCH.min(kept - first)).await.expect("read");
            for (at, shown) in (first..).zip(shown) {
                assert!(shown == Some(block("small", at)), "block {at} holds something else");
            }
        }
        let first = rng.below(large.size() / 4096 - STRETCH);
        let shown = large.read(BlockIndex(first), STRETCH).await.expect("read");
        assert!(shown.iter().all(Option::is_none), "what was trimmed shows again behind block {first}");
    });
}

/// Beside the release, the pool takes writes to a volume of one block, and a checkpoint of it, and converts that.
fn use_on(world: &mut World, moment: u64) {
    let pool = world.pool();
    world.executor.run(async {
        let (volume, point) = (name("busy"), name(&format!("r{moment}")));
        let busy = pool.open_image(&volume, None).await.expect("opened");
        let write =
            async |index| busy.write(BlockIndex(0), vec![block("busy", index)]).await.expect("written");
        write(2 * moment).await;
        pool.create_checkpoint(std::slice::from_ref(&volume), &point, 3).await.expect("taken");
        write(2 * moment + 1).await;
        pool.convert_checkpoint(&volume, &point, &point).await.expect("converted");
        let shown = busy.read(BlockIndex(0), 1).await.expect("read");
        assert!(shown == [Some(block("busy", 2 * moment + 1))], "the block holds something else");
    });
}

/// Opens the pool on what a power loss under `policy` leaves.
fn cut(world: &mut World, policy: PowerLoss) {
    let images = world.power_off(policy);
    world.power_on(images);
    world.open_again();
}

#[test]
fn a_release_of_a_million_blocks_survives_a_power_loss_at_every_commit() {
    let Scale { blocks, compared } = Scale::chosen();
    let setup = Setup { members: vec![blocks * 3 / 2 + 65_536], cache_blocks: 1024, seed: 4 };
    let mut world = World::new(&setup);
    let empty = world.pool().status().allocated_bytes / 4096;
    let kept = fill(&mut world, blocks);
    create(&mut world, "busy", 1);
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
    // Those of the busy volume wait until it has come to its end.
    while world.pool().status().releases_pending > losses {
        world.executor.step(steps);
        world.call(async |pool| pool.commit().await).expect("committed");
        world.executor.step(steps);
        let (pool, moment) = (world.pool(), rng.below(120));
        // Somewhere in the next commit, or after it.
        let _cut_short = world.executor.run_for(async move { pool.commit().await }, moment);
        cut(&mut world, *rng.pick(&PowerLoss::ALL));
        losses += 1;
        // The release waits while it is looked at: else it would come to its end meanwhile.
        world.executor.set_background_share(0);
        compare(&mut world, kept, compared, &mut rng);
        use_on(&mut world, losses);
        world.check();
        world.executor.set_background_share(100);
    }
    world.executor.idle();
    assert_eq!(world.pool().status().releases_pending, 0);
    compare(&mut world, kept, u64::MAX, &mut rng);
    let used = || world.pool().status().allocated_bytes / 4096;
    println!(
        "{blocks} blocks released over {losses} power losses; {kept} blocks stay, with {} in use",
        used()
    );
    assert!(losses >= 20, "the release has met {losses} power losses");
    // The smaller volume with its nodes, and those of the object table and the free map.
    let most = empty + kept + kept / 64 + 200;
    assert!(used() <= most, "{} blocks stay in use, {most} are needed", used());
    world.scrub();
}
