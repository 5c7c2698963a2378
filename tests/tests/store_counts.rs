//! Costs that are promised, counted: device requests of an acknowledged write, node reads of a change query, space and
//! memory with many points. Counts, never times.

use datum_store::{BlockIndex, Config, NewPool, Pool, TimelineId, View};
use datum_tests::disk::PowerLoss;
use datum_tests::disk::held::{HeldDisk, finish, poll_for};
use datum_tests::executor::turn;
use datum_tests::model::action::Action;
use datum_tests::model::observe;
use datum_tests::store::perform::name;
use datum_tests::store::story::Story;
use datum_tests::store::world::Setup;
use std::pin::pin;

#[test]
fn an_acknowledged_write_costs_two_writes_and_one_flush() {
    let mut story = Story::with(&Setup { cache_blocks: 4096, ..Setup::small(1) }, 1 << 20);
    story.fill(0, 1000);
    story.commit();
    story.world.executor.idle();
    for block in [5, 700, 200] {
        let write = story.write("v", block);
        let Action::Write { contents, .. } = &write else { unreachable!() };
        let bytes = story.world.contents.bytes(contents[0]);
        let image = story.world.image("v");
        let before = story.world.pool().counters();
        story.world.executor.run(image.write(datum_store::BlockIndex(block), vec![bytes])).expect("written");
        story.world.executor.run(image.flush()).expect("flushed");
        let after = story.world.pool().counters();
        assert_eq!(after.device_writes - before.device_writes, 2, "device writes");
        assert_eq!(after.device_flushes - before.device_flushes, 1, "device flushes");
        assert_eq!(after.log_records - before.log_records, 1, "log records");
    }
}

/// A commit's nodes lie together, and what it writes are a few requests, also when there were far more of them than a
/// window of free blocks holds. Between data, they would cost a request each, and cut what data could write together.
#[test]
fn nodes_do_not_lie_among_data() {
    const LEAVES: u64 = 256;
    let setup = Setup { members: vec![64 << 10], cache_blocks: 4096, ..Setup::small(10) };
    let mut story = Story::with(&setup, LEAVES * 128);
    let (mut nodes, mut requests) = (0, 0);
    for round in 0..16 {
        for leaf in 0..LEAVES {
            story.w(leaf * 128 + round);
        }
        let before = story.world.pool().counters();
        story.commit();
        let after = story.world.pool().counters();
        nodes += after.node_writes - before.node_writes;
        requests += after.device_writes - before.device_writes;
    }
    assert!(nodes > 16 * LEAVES, "only {nodes} nodes");
    assert!(requests * 16 < nodes, "{requests} requests for {nodes} nodes");
}

/// A flush touches only members that were written since the last one.
#[test]
fn a_flush_with_nothing_to_do_costs_nothing() {
    let mut story = Story::new(2, 100);
    story.w(1);
    story.flush();
    let before = story.world.pool().counters();
    for _ in 0..10 {
        story.flush();
    }
    let after = story.world.pool().counters();
    assert_eq!(after.device_writes, before.device_writes, "nothing is written");
}

/// Flushes that arrive while one is under way share the next record.
#[test]
fn concurrent_flushes_share_records() {
    let mut story = Story::new(3, 1000);
    story.fill(0, 1000);
    story.commit();
    let before = story.world.pool().counters();
    let image = story.world.image("v");
    let mut work: Vec<datum_tests::executor::BoxFuture<'_, datum_store::Result<()>>> = Vec::new();
    for block in 0..64 {
        let content = story.world.contents.draw();
        let bytes = story.world.contents.bytes(content);
        let image = image.clone();
        work.push(Box::pin(async move {
            image.write(datum_store::BlockIndex(block), vec![bytes]).await?;
            image.flush().await
        }));
    }
    for result in story.world.executor.run_all(work) {
        result.expect("written and flushed");
    }
    let after = story.world.pool().counters();
    let records = after.log_records - before.log_records;
    assert!(records <= 64, "{records} records for 64 flushes");
}

/// Node reads of a change query, with nothing in memory.
fn cold_node_reads(size: u64, written: u64, changed: u64) -> (u64, usize) {
    let mut story = Story::with(&Setup { members: vec![200_000], ..Setup::small(4) }, size);
    let spread = |i: u64| (i * 7919) % written;
    for first in (0..written).step_by(256) {
        let contents = (first..(first + 256).min(written)).map(|_| story.world.contents.draw()).collect();
        let image = story.world.image("v");
        let contents: Vec<u64> = contents;
        let blocks = contents.iter().map(|c| story.world.contents.bytes(*c)).collect();
        story.world.executor.run(image.write(datum_store::BlockIndex(first), blocks)).expect("written");
    }
    story.world.call(async |pool| pool.create_refpoint(&name("v"), &name("r"), 1).await).expect("a refpoint");
    for i in 0..changed {
        let content = story.world.contents.draw();
        let bytes = story.world.contents.bytes(content);
        let image = story.world.image("v");
        story
            .world
            .executor
            .run(image.write(datum_store::BlockIndex(spread(i)), vec![bytes]))
            .expect("written");
    }
    story.world.call(async |pool| pool.close().await).expect("closed");
    let images = story.world.power_off(PowerLoss::Nothing);
    story.world.power_on(images);
    story.world.open().expect("opens");
    let before = story.world.pool().counters().node_reads;
    let extents = story.world.call(async |pool| {
        let image = pool.open_image(&name("v"), None).await.expect("opens");
        let since = datum_store::Since::Point(name("r"));
        let change = pool.resolve_since(&name("v"), None, &since).await.expect("resolves");
        observe::all_extents(&image, View::Changes(change), 1000).await
    });
    let changed_blocks: u64 = extents.iter().filter(|e| e.changed).map(|e| e.blocks).sum();
    assert_eq!(changed_blocks, changed);
    (story.world.pool().counters().node_reads - before, extents.len())
}

/// "What changed since?" reads nodes by the number of changes, not by the size of the volume or of its contents.
#[test]
fn a_change_query_costs_by_its_changes() {
    let (few, _) = cold_node_reads(1 << 20, 50_000, 5);
    let (few_in_large, _) = cold_node_reads(1 << 34, 50_000, 5);
    let (many, _) = cold_node_reads(1 << 20, 50_000, 200);
    let (none, _) = cold_node_reads(1 << 34, 50_000, 0);
    assert!(none <= 20, "{none} node reads to find no change");
    assert!(few <= 5 * 5 + 20, "{few} node reads to find 5 changes among 50,000 blocks");
    assert!(few_in_large <= 5 * 7 + 20, "{few_in_large} node reads in a volume of 64 TiB");
    assert!(many > few && many <= 200 * 3 + 40, "{many} node reads to find 200 changes");
}

/// The log is read in pieces, and a record's nodes with those of others: what an opening reads follows the nodes that are to
/// be changed, not the number of records.
#[test]
fn an_opening_reads_no_record_by_itself() {
    const RECORDS: u64 = 300;
    let mut story = Story::with(&Setup { members: vec![65_536], cache_blocks: 4096, seed: 7 }, 1 << 20);
    story.fill(0, 1000);
    story.commit();
    for record in 0..RECORDS {
        story.w(record * 3);
        story.flush();
    }
    let images = story.world.power_off(PowerLoss::Nothing);
    story.world.power_on(images);
    story.world.open_again();
    let opened = story.world.pool().counters();
    assert_eq!(opened.replayed_records, RECORDS, "records replayed");
    assert!(opened.open_reads < 45, "{} device reads to open", opened.open_reads);
    story.world.verify();
}

/// Whenever the power goes, what is to be replayed is bounded: by the nodes where writes lie apart, by records where they
/// do not, on a pool whose nodes all fit in memory and whose log is far from full.
#[test]
fn an_opening_has_a_bounded_amount_to_replay() {
    let setup = Setup { members: vec![1 << 20], cache_blocks: 1 << 16, seed: 11 };
    let size = 1 << 31;
    let mut story = Story::with(&setup, size);
    let mut most = (0, 0);
    for (apart, flushed) in [(size / 10_007, 3_000), (size / 10_007, 1_000), (1, 1_300)] {
        for write in 0..flushed {
            story.w((write * 7919) % 10_007 * apart);
            story.flush();
        }
        let images = story.world.power_off(PowerLoss::Nothing);
        story.world.power_on(images);
        story.world.open_again();
        let opened = story.world.pool().counters();
        most = (most.0.max(opened.open_reads), most.1.max(opened.replayed_records));
    }
    assert!(most.0 <= 300 && most.1 <= 1_100, "{} device reads, {} records", most.0, most.1);
}

/// Checkpoint creation costs the same whatever the volume's size and contents.
#[test]
fn a_checkpoint_costs_the_same_on_any_volume() {
    let cost = |size: u64, blocks: u64| {
        let mut story = Story::with(&Setup { members: vec![100_000], ..Setup::small(5) }, size);
        story.fill(0, blocks);
        story.commit();
        story.world.executor.idle();
        let before = story.world.pool().counters();
        story
            .world
            .call(async |pool| pool.create_checkpoint(&[name("v")], &name("c"), 1).await)
            .expect("made");
        let after = story.world.pool().counters();
        (after.device_writes - before.device_writes, after.device_flushes - before.device_flushes)
    };
    let small = cost(1, 1);
    assert_eq!(cost(1 << 32, 20_000), small);
    assert!(small.0 <= 2 && small.1 <= 2, "{small:?} device writes and flushes");
}

/// A revert reads the nodes above what differs, in the smallest memory too: what it has built must not drive out what
/// it needs, or it reads the same nodes for ever.
#[test]
fn a_revert_costs_by_what_differs() {
    let mut story = Story::with(&Setup { members: vec![65_536], ..Setup::small(4) }, 1 << 29);
    let places: Vec<u64> = (0..1500).map(|i| i * 179_000).collect();
    for &block in &places {
        story.w(block);
    }
    story.checkpoint("c");
    for &block in &places {
        story.w(block);
    }
    story.commit();
    let before = story.world.pool().counters();
    story.revert("c");
    let after = story.world.pool().counters();
    let reads = (after.node_reads - before.node_reads) / places.len() as u64;
    let writes = (after.node_writes - before.node_writes) / places.len() as u64;
    // Three nodes above each block in each of the two trees; three new ones.
    assert!(reads <= 12, "{reads} node reads for each differing block");
    assert!(writes <= 8, "{writes} node writes for each differing block");
    story.end();
}

/// How many points the scale test makes: a tenth by default, the promised numbers with `DATUM_SCALE=full`.
fn scale(full: u64) -> u64 {
    if std::env::var("DATUM_SCALE").is_ok_and(|scale| scale == "full") { full } else { full / 20 }
}

#[test]
fn ten_thousand_checkpoints_and_a_hundred_thousand_reference_points() {
    let (checkpoints, refpoints) = (scale(10_000), scale(100_000));
    let mut story = Story::with(&Setup { members: vec![262_144], ..Setup::small(6) }, 1 << 20);
    let image = story.world.image("v");
    for i in 0..checkpoints {
        let content = story.world.contents.draw();
        let bytes = story.world.contents.bytes(content);
        story
            .world
            .executor
            .run(image.write(datum_store::BlockIndex(i % 1000), vec![bytes]))
            .expect("written");
        let point = name(&format!("c{i:06}"));
        story.world.call(async |pool| pool.create_checkpoint(&[name("v")], &point, i).await).expect("made");
    }
    for i in 0..refpoints {
        let point = name(&format!("r{i:06}"));
        story.world.call(async |pool| pool.create_refpoint(&name("v"), &point, i).await).expect("made");
    }
    drop(image);
    story.world.drop_images();
    story.world.call(async |pool| pool.commit().await).expect("committed");
    let images = story.world.power_off(PowerLoss::Nothing);
    story.world.power_on(images);
    story.world.open().expect("opens");
    let opened = story.world.pool().counters();
    println!("{checkpoints} checkpoints, {refpoints} refpoints: {} reads to open", opened.open_reads);
    assert!(opened.open_reads < 5_000, "{} reads to open", opened.open_reads);
    story.world.check();
    let pool = story.world.pool();
    let (shown_checkpoints, shown_refpoints) = story.world.executor.run(async {
        (
            observe::all_checkpoints(&pool, &name("v"), 500).await.len() as u64,
            observe::all_refpoints(&pool, &name("v"), 500).await.len() as u64,
        )
    });
    assert_eq!((shown_checkpoints, shown_refpoints), (checkpoints, refpoints));
    for point in [0, checkpoints / 2, checkpoints - 1] {
        let since = datum_store::Since::Point(name(&format!("c{point:06}")));
        let changed: u64 = story.world.executor.run(async {
            let image = pool.open_image(&name("v"), None).await.expect("opens");
            let change = pool.resolve_since(&name("v"), None, &since).await.expect("resolves");
            let extents = observe::all_extents(&image, View::Changes(change), 100).await;
            extents.iter().filter(|extent| extent.changed).map(|extent| extent.blocks).sum()
        });
        assert_eq!(changed, (checkpoints - 1 - point).min(1000), "changes since checkpoint {point}");
    }
}

/// A busy client leaves a moment between a reply and its next request. A release took it for rest, and a step in each.
#[test]
fn a_release_gives_way_in_the_gaps_between_requests() {
    let new = NewPool { name: name("tank"), id: 7, incarnation: 1, time: 0 };
    let pool =
        finish(Pool::create(vec![HeldDisk::new("a", 65_536)], new, Config::new(4096))).expect("create");
    let volume = name("v");
    finish(pool.create_volume(&volume, 1 << 24, TimelineId(1), 0)).expect("a volume");
    let image = finish(pool.open_image(&volume, None)).expect("open");
    let fill = || {
        (0..4096)
            .for_each(|at| finish(image.write(BlockIndex(at), vec![Box::new([1; 4096])])).expect("written"))
    };
    fill();
    finish(pool.create_checkpoint(std::slice::from_ref(&volume), &name("c"), 0)).expect("a checkpoint");
    fill();
    finish(pool.commit()).expect("a commit");
    finish(pool.delete_checkpoint(&volume, &name("c"))).expect("deleted");
    let released = || pool.status().freeing_bytes / 4096;
    let before = released();
    let mut beside = pin!(pool.background(std::future::pending));
    for at in 0..1280 {
        finish(image.read(BlockIndex(at), 1)).expect("read");
        assert!(poll_for(beside.as_mut(), 10).is_none());
    }
    // A step looks at 32 pointers of the checkpoint and of what came after it.
    let expected = 1..=1280 / 128 * 32 + 64;
    assert!(expected.contains(&(released() - before)), "{} blocks beside 1,280 reads", released() - before);
    let mut alone = pin!(pool.background(turn));
    assert!(poll_for(alone.as_mut(), 20_000).is_none());
    assert_eq!(pool.status().releases_pending, 0);
}

/// Who looks once at everything there is takes little from those who need the same few nodes all the time. These use each
/// of theirs once for every 256 that the scan brings, in memory for two and a half times as many as they have.
#[test]
fn a_scan_leaves_in_memory_most_of_what_others_use() {
    const HOT: u64 = 400;
    const LEAVES: u64 = 8_000;
    let setup = Setup { members: vec![200_000], cache_blocks: 1_024, ..Setup::small(8) };
    let mut story = Story::with(&setup, LEAVES * 128);
    story.create("hot", HOT * 128);
    for (volume, leaves) in [("v", LEAVES), ("hot", HOT)] {
        for leaf in 0..leaves {
            let image = story.world.image(volume);
            let bytes = story.world.contents.bytes(1);
            story.world.executor.run(image.write(BlockIndex(leaf * 128), vec![bytes])).expect("written");
        }
    }
    story.commit();
    let (scanned, hot) = (story.world.image("v"), story.world.image("hot"));
    let reads = |story: &mut Story, from: u64, count: u64| {
        let before = story.world.pool().counters().node_reads;
        for i in from..from + count {
            let block = BlockIndex(i * 7919 % HOT * 128);
            story.world.executor.run(hot.read(block, 1)).expect("read");
        }
        story.world.pool().counters().node_reads - before
    };
    reads(&mut story, 0, 10 * HOT);
    assert_eq!(reads(&mut story, 0, HOT), 0, "it all has room");
    let mut missed = 0;
    let (mut at, mut round, before) = (BlockIndex(0), 0, story.world.pool().counters().node_reads);
    loop {
        let page = scanned.extents(at, BlockIndex(LEAVES * 128), View::Allocation, 64);
        let page = story.world.executor.run(page).expect("a page");
        missed += reads(&mut story, round * 50, 50);
        round += 1;
        let Some(next) = page.next else { break };
        at = next;
    }
    let all = story.world.pool().counters().node_reads - before;
    assert!(all - missed > LEAVES, "the scan read all leaves");
    assert!(missed * 20 <= round * 50, "{missed} of {} uses found their node gone", round * 50);
}
