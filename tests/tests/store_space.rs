//! Space: a full pool refuses writes whole, still deletes, converts and reads, and gets everything back.

use datum_store::{BlockIndex, Error, ErrorKind, Progress};
use datum_tests::disk::PowerLoss;
use datum_tests::disk::held::poll_for;
use datum_tests::executor::{BoxFuture, turn};
use datum_tests::model::action::Action;
use datum_tests::model::operation::VOLUME_BLOCKS_MAX;
use datum_tests::store::perform::name;
use datum_tests::store::story::{Story, told};
use datum_tests::store::world::Setup;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

fn tight(seed: u64) -> Story {
    Story::with(&Setup { members: vec![8192], ..Setup::small(seed) }, 1 << 24)
}

/// Writes `length` blocks at a time from `at` on until the pool is full; returns the first block not written.
fn fill_up(story: &mut Story, mut at: u64, length: u64) -> u64 {
    loop {
        let contents = (0..length).map(|_| story.world.contents.draw()).collect();
        match story.world.attempt(Action::Write { volume: "v".into(), first: at, contents }) {
            Ok(_) => at += length,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error} {:?}", error.observations());
                return at;
            }
        }
        assert!(at < 100_000, "a pool of 8,192 blocks never fills");
    }
}

#[test]
fn a_refused_write_leaves_nothing_behind() {
    told(3, |seed| {
        let mut story = tight(seed);
        let end = fill_up(&mut story, 0, 64);
        story.world.verify();
        let end = fill_up(&mut story, end, 1);
        story.world.verify();
        story.world.check();
        assert!(end > 3000, "{end} of 8192 blocks took data");
        story.flush();
        story.crash(PowerLoss::Nothing);
        story.end();
    });
}

#[test]
fn a_full_pool_deletes_converts_reads_and_then_writes_again() {
    told(4, |seed| {
        let mut story = tight(seed);
        story.fill(0, 500);
        story.checkpoint("c");
        story.fill(0, 400);
        story.checkpoint("d");
        let end = fill_up(&mut story, 1000, 1);
        story.world.verify();
        match seed {
            0 => story.convert("c"),
            1 => story.delete("c"),
            2 => story.trim(1000, end - 1000),
            _ => {
                story.refpoint("r");
                story.convert("c");
                story.trim(0, 10);
            }
        }
        story.fill(5000, 200);
        story.world.verify();
        story.crash(PowerLoss::Any);
        story.end();
    });
}

/// Overwriting on a full pool needs a block before it frees one: the reserve must not let it eat itself up, crash
/// after crash.
#[test]
fn a_full_pool_survives_overwrites_and_restarts() {
    told(3, |seed| {
        let mut story = tight(seed);
        fill_up(&mut story, 0, 1);
        for round in 0..30 {
            let write = story.write("v", round * 7);
            if let Err(error) = story.world.attempt(write) {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            }
            if round % 5 == 0 {
                story.crash(PowerLoss::Any);
            }
        }
        story.world.act(Action::DeleteVolume { name: "v".into() });
        story.create("v", 5000);
        story.fill(0, 1000);
        story.end();
    });
}

#[test]
fn administrative_commands_go_on_until_they_too_say_no_space() {
    let mut story = tight(1);
    fill_up(&mut story, 0, 1);
    let mut made = 0;
    for i in 0..1000 {
        let point = Action::CreateRefpoint { volume: "v".into(), name: format!("r{i}"), time: 0 };
        match story.world.attempt(point) {
            Ok(_) => made += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                break;
            }
        }
    }
    for i in 0..made {
        story.world.act(Action::DeleteRefpoint { volume: "v".into(), name: format!("r{i}") });
    }
    story.world.act(Action::DeleteVolume { name: "v".into() });
    story.create("v", 5000);
    story.fill(0, 1000);
    story.end();
}

/// What is shown as unique comes back when the checkpoint goes.
#[test]
fn unique_bytes_are_what_deletion_returns() {
    told(3, |seed| {
        let mut story = Story::new(seed, 10_000);
        story.fill(0, 2000);
        story.checkpoint("a");
        story.fill(500, 1000);
        story.checkpoint("b");
        story.fill(0, 700);
        story.world.quiesce();
        for (point, data) in [("a", 1000 - 200), ("b", 200)] {
            let unique = story.world.call(async |pool| pool.unique_bytes(&name("v"), &name(point)).await);
            let unique = unique.expect("unique bytes are told");
            let before = story.world.pool().status().allocated_bytes;
            story.delete(point);
            story.world.quiesce();
            let returned = before.saturating_sub(story.world.pool().status().allocated_bytes);
            let _ = data;
            assert!(returned.abs_diff(unique) <= 64 * 4096, "{point}: {unique} shown, {returned} returned");
            assert!(unique > 100 * 4096, "{point}: {unique}");
        }
        story.end();
    });
}

/// Sizes of everything: a volume of one block and of 64 TiB cost the same as long as they are empty.
#[test]
fn volumes_of_every_size_are_thin() {
    let mut story = Story::new(1, 1);
    let before = story.world.pool().status().allocated_bytes;
    for (i, size) in [1, 2, 128, 129, 1 << 20, VOLUME_BLOCKS_MAX].into_iter().enumerate() {
        story.create(&format!("thin{i}"), size);
    }
    story.commit();
    let after = story.world.pool().status().allocated_bytes;
    assert!(after - before <= 16 * 4096, "{} bytes for six empty volumes", after - before);
    let action = Action::CreateCheckpoint { volumes: vec!["thin5".into()], name: "c".into(), time: 1 };
    story.world.act(action);
    story.world.act(Action::Trim { volume: "thin5".into(), first: 1, count: VOLUME_BLOCKS_MAX - 2 });
    story.world.verify();
    story.end();
}

/// What holds a deleted checkpoint's space is told, and ends when it does.
#[test]
fn a_release_says_what_holds_it() {
    let mut story = Story::new(2, 1000);
    story.fill(0, 500);
    story.checkpoint("c");
    story.clone("c", "w1");
    story.clone("c", "w2");
    story.fill(0, 500);
    let release = story.world.call(async |pool| pool.delete_checkpoint(&name("v"), &name("c")).await);
    let release = release.expect("a checkpoint with clones can be deleted");
    story.world.model.state.volume("v").points.remove("c");
    let state = story.world.model.state.clone();
    story.world.model.settle(state);
    story.world.executor.idle();
    let pool = story.world.pool();
    let held = story.world.executor.run(release.holders(&pool)).expect("the release is known");
    assert_eq!(held.by, ["volume w1", "volume w2"]);
    assert!(story.world.executor.run(release.progress(&pool)).expect("known") < 1.0);
    story.world.verify();
    for name in ["w1", "w2"] {
        story.world.act(Action::DeleteVolume { name: name.into() });
    }
    story.world.quiesce();
    assert!((story.world.executor.run(release.progress(&pool)).expect("known") - 1.0).abs() < f32::EPSILON);
    drop((pool, release));
    story.end();
}

/// A scrub keeps what it reads from being reused. Clients that need the space get it all the same: the scrub lets go
/// and begins again, and gives up in the end, but no write fails for its sake.
#[test]
fn a_scrub_does_not_fill_the_pool() {
    told(4, |seed| {
        let mut story = tight(seed);
        story.fill(0, 5000);
        story.commit();
        let report = Rc::new(RefCell::new(None));
        let (pool, slot) = (story.world.pool(), report.clone());
        story.world.executor.spawn(async move {
            *slot.borrow_mut() = Some(pool.scrub(&Progress::new()).await);
        });
        story.step(100);
        let mut held = 0;
        for _ in 0..4 {
            story.fill(0, 5000);
            held = held.max(story.world.pool().status().freeing_bytes);
        }
        story.world.executor.idle();
        assert!(held > 1000 * 4096, "the scrub kept only {held} bytes: it was not in the way");
        match report.take().expect("a scrub ends") {
            Ok(report) => assert_eq!(report.findings, [""; 0]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Limit, "{error}"),
        }
        story.end();
    });
}

/// What clients free beside a scrub waits on disk, not in memory, and comes back when it has ended; also what was
/// freed before a power loss.
#[test]
fn what_is_freed_beside_a_scrub_comes_back() {
    told(3, |seed| {
        let mut story = Story::with(&Setup { members: vec![65_536], ..Setup::small(seed) }, 1 << 24);
        story.fill(0, 8000);
        story.commit();
        let (pool, progress) = (story.world.pool(), Progress::new());
        let watched = progress.clone();
        story.world.executor.spawn(async move {
            let _cut_off_or_done = pool.scrub(&progress).await;
        });
        story.step(100);
        for round in 0..3 {
            story.fill(0, 8000);
            if watched.fraction() < 1.0 {
                story.commit();
            }
            if round == seed {
                story.crash(PowerLoss::Any);
            }
        }
        story.end();
    });
}

/// Overwriting takes new blocks before it gives the old ones back, and those pass through two commits. Writers that wait
/// for them together must not take it for a full pool when another of them was quicker: a write that fits failed. And a
/// look for free space, in the map of the durable commit, met nodes that the next one had freed and discarded: a wrong block.
#[test]
fn writers_that_wait_together_for_freed_space_all_get_some() {
    // Kept twice, all but the reserve.
    const BLOCKS: u64 = 3584;
    told(20, |seed| {
        let mut story = tight(seed);
        story.fill(0, BLOCKS);
        story.checkpoint("c");
        let image = story.world.image("v");
        let writers = (0..24).map(|writer| {
            let image = image.clone();
            async move {
                for round in 0..40 {
                    let first = (writer * 7 + round * 5) % (BLOCKS / 64) * 64;
                    let blocks = (0..64).map(|_| Box::new([writer as u8; 4096])).collect();
                    image.write(BlockIndex(first), blocks).await?;
                }
                Ok(())
            }
        });
        let writers = writers.map(|writer| Box::pin(writer) as BoxFuture<'_, Result<(), Error>>);
        for outcome in story.world.executor.run_all(writers.collect()) {
            if let Err(error) = outcome {
                panic!("seed {seed}: {error} {:?}", error.observations())
            }
        }
        story.world.check();
    });
}

/// Carries out actions one after the other, until there is no space for one. Returns how many there was space for.
fn until_refused(story: &mut Story, actions: impl Iterator<Item = Action>) -> u64 {
    let mut done = 0;
    for action in actions {
        match story.world.attempt_alone(&action) {
            Ok(_) => done += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error} {:?}", error.observations());
                break;
            }
        }
    }
    done
}

/// Trims below a checkpoint give nothing back and take nodes, and so do points: together they used up what commands may use of
/// the reserve, and a conversion was refused like them. And where a release came to its end with so little left, it waited for
/// space by going on with releases, its own first, until the stack was used up.
#[test]
fn on_a_pool_filled_by_all_means_everything_can_be_deleted_and_converted() {
    told(4, |seed| {
        let mut story = Story::with(&Setup { members: vec![4096], ..Setup::small(seed) }, 1 << 24);
        let leaves = (100..500).map(|leaf| leaf * 128);
        leaves.clone().for_each(|first| story.fill(first, 1));
        story.checkpoint("c");
        fill_up(&mut story, 0, 64);
        let trims = leaves.map(|first| Action::Trim { volume: "v".into(), first, count: 1 });
        assert!(until_refused(&mut story, trims) < 400, "there was space for every trim");
        let (volume, point) = (|| "v".to_owned(), |number: u64| format!("p{number}"));
        let points = (0..).map(|number| match number % 2 {
            0 => Action::CreateRefpoint { volume: volume(), name: point(number), time: 0 },
            _ => Action::CreateCheckpoint { volumes: vec![volume()], name: point(number), time: 0 },
        });
        let points = until_refused(&mut story, points);
        let mut removals: Vec<Action> = (0..points)
            .map(|number| match number % 2 {
                0 => Action::DeleteRefpoint { volume: volume(), name: point(number) },
                _ => Action::DeleteCheckpoint { volume: volume(), name: point(number) },
            })
            .chain([Action::ConvertCheckpoint { volume: volume(), name: "c".into(), refpoint: "c".into() }])
            .collect();
        story.world.rng.shuffle(&mut removals);
        for removal in removals {
            story.world.attempt_alone(&removal).unwrap_or_else(|error| panic!("{removal:?}: {error}"));
        }
        story.fill(0, 200);
        story.end();
    });
}

/// While somebody reads, nothing that is freed comes back. Who waited for space went on committing, each commit moved some
/// blocks of metadata and returned none, and the last of them found nothing left to write with: the pool went read-only.
#[test]
fn commits_beside_a_long_read_leave_space_for_those_after_it() {
    told(3, |seed| {
        let mut story = Story::with(&Setup { members: vec![4096], ..Setup::small(seed) }, 1 << 24);
        for checkpoint in 0..64 {
            story.fill(checkpoint * 128, 4);
            story.checkpoint(&format!("c{checkpoint}"));
        }
        fill_up(&mut story, 0, 16);
        story.commit();
        let image = story.world.image("v");
        let mut read = Box::pin(async { image.read(BlockIndex(0), 1).await.map(|_| ()) });
        assert!(poll_for(read.as_mut(), 1).is_none(), "it waits for the disk");
        let outcomes = Rc::new(RefCell::new(Vec::new()));
        for client in 0..16 {
            let (pool, image, outcomes) = (story.world.pool(), story.world.image("v"), outcomes.clone());
            story.world.executor.spawn(async move {
                for round in 0..4 {
                    let checkpoint = client * 4 + round;
                    let named = name(&format!("c{checkpoint}"));
                    let deleted = pool.delete_checkpoint(&name("v"), &named).await.map(|_| ());
                    outcomes.borrow_mut().push(deleted);
                    let block = BlockIndex(checkpoint * 128);
                    let written = image.write(block, vec![Box::new([client as u8; 4096])]).await;
                    outcomes.borrow_mut().push(written);
                }
            });
        }
        let pool = story.world.pool();
        story.world.executor.spawn(async move {
            for _ in 0..100 {
                pool.commit().await.expect("a commit");
                turn().await;
            }
        });
        story.world.executor.idle();
        assert_eq!(story.world.pool().status().read_only, None);
        story.world.executor.run_all(vec![read as BoxFuture<'_, Result<(), Error>>]);
        story.world.executor.idle();
        let refused =
            |outcome: &&Result<(), Error>| outcome.as_ref().is_err_and(|e| e.kind() != ErrorKind::NoSpace);
        assert_eq!(outcomes.borrow().iter().find(refused), None);
        assert_eq!(outcomes.borrow().len(), 16 * 4 * 2);
        story.world.check();
    });
}

/// Readers who came during one commit after the other kept all that was freed. Who waited for space waited for four of them to
/// go, found that it had brought nothing yet, and took the pool for full.
#[test]
fn a_writer_waits_for_every_reader_that_keeps_freed_space() {
    told(3, |seed| {
        let mut story = Story::with(&Setup { members: vec![4096], ..Setup::small(seed) }, 1 << 24);
        story.fill(0, 512);
        story.commit();
        let image = story.world.image("v");
        let mut reads = Vec::new();
        for reader in 0..8 {
            story.fill(reader * 32, 32);
            let disk = story.world.disks[0].inner().clone();
            let flushes = disk.flushes();
            story.world.commit_beside();
            while disk.flushes() == flushes {
                story.step(1);
            }
            let mut read = Box::pin(async { image.read(BlockIndex(500), 1).await.map(|_| ()) });
            assert!(poll_for(read.as_mut(), 1).is_none(), "it waits for the disk");
            reads.push(read);
            story.world.executor.idle();
        }
        let outcomes = Rc::new(RefCell::new(Vec::new()));
        let (writer, slot) = (image.clone(), outcomes.clone());
        story.world.executor.spawn(async move {
            for round in 0..40 {
                let blocks = (0..128).map(|_| Box::new([round as u8; 4096])).collect();
                let written = writer.write(BlockIndex(round % 4 * 128), blocks).await;
                slot.borrow_mut().push(written);
            }
        });
        story.world.executor.idle();
        assert!(outcomes.borrow().len() < 40, "the readers keep nothing that anybody needs");
        for read in reads {
            story.world.executor.run(read).expect("a read");
            story.world.executor.idle();
        }
        assert_eq!(*outcomes.borrow(), vec![Ok(()); 40]);
        story.world.check();
    });
}

/// With a reader there at every moment, and one across every commit, the last block of the queue of freed extents was never
/// swept before it was full: freed space did not come back, and what fitted was refused.
#[test]
fn with_a_reader_at_every_moment_freed_space_comes_back() {
    told(3, |seed| {
        let mut story = Story::with(&Setup { members: vec![4096], ..Setup::small(seed) }, 1 << 24);
        story.fill(0, 1024);
        let done = Rc::new(Cell::new(false));
        for reader in 0..8 {
            let (image, done) = (story.world.image("v"), done.clone());
            story.world.executor.spawn(async move {
                for round in 0.. {
                    if done.get() {
                        break;
                    }
                    image.read(BlockIndex((reader * 100 + round) % 1024), 1).await.expect("a read");
                }
            });
        }
        for round in 0..100 {
            story.fill(round % 8 * 128, 128);
        }
        done.set(true);
        story.end();
    });
}
