//! Disks that fail, lie and rot: no wrong byte is ever returned, nothing unacknowledged is claimed, and the pool stops
//! rather than guess.

use datum_store::device::BLOCK_SIZE;
use datum_store::{BlockIndex, Damage, ErrorKind, Progress};
use datum_tests::disk::fault::{Effect, Request, Rule};
use datum_tests::disk::{PowerLoss, SimulatedDisk};
use datum_tests::executor::turn;
use datum_tests::model::action::Action;
use datum_tests::model::observe;
use datum_tests::store::perform::name;
use datum_tests::store::story::{Story, told};
use datum_tests::store::world::Setup;
use futures_util::future::join;

/// Where on a disk a block of data lies.
fn find(disk: &SimulatedDisk, bytes: &[u8; BLOCK_SIZE]) -> u64 {
    let image = disk.visible();
    image.written().into_iter().find(|at| image.block(*at) == *bytes).expect("the data lies on the disk")
}

/// Whether a read of block `at` of `v` works.
fn read(story: &mut Story, at: u64) -> Result<(), ErrorKind> {
    let image = story.world.image("v");
    story.world.executor.run(image.read(BlockIndex(at), 1)).map(drop).map_err(|error| error.kind())
}

#[test]
fn a_rotten_data_block_is_an_error_and_its_neighbours_are_not() {
    told(3, |seed| {
        let mut story = Story::new(seed, 100);
        story.fill(0, 100);
        story.commit();
        let content = story.world.model.state.volumes["v"].head.get(33).content.expect("data");
        let bytes = story.world.contents.bytes(content);
        let disk = story.world.disks[0].inner().clone();
        let at = find(&disk, &bytes);
        disk.rot(at, |block| block[seed as usize * 1000 + 5] ^= 0x10);
        assert_eq!(read(&mut story, 33), Err(ErrorKind::Corrupt));
        assert_eq!(read(&mut story, 32), Ok(()));
        assert!(story.world.pool().counters().checksum_errors > 0);
        let damage = story.world.pool().status().damage;
        assert_eq!((damage.read_errors, damage.places.len()), (1, 1), "{damage:?}");
        let (place, whose) = (&damage.places[0], Some(name("v")));
        assert_eq!((place.block, &place.volume, place.offset), (at, &whose, Some(33 * 4096)));
        let scrub =
            story.world.call(async |pool| pool.scrub(&Progress::new()).await).expect("a scrub reports");
        assert!(scrub.errors > 0 && !scrub.findings.is_empty(), "{scrub:?}");
        story.w(33);
        assert_eq!(read(&mut story, 33), Ok(()));
        let scrub =
            story.world.call(async |pool| pool.scrub(&Progress::new()).await).expect("a scrub reports");
        assert_eq!(scrub.errors, 0, "{:?}", scrub.findings);
        assert_eq!(story.world.pool().status().damage, Damage::default());
    });
}

/// A disk that did not answer has proven nothing of what lies on it: a check called its superblocks damaged.
#[test]
fn a_superblock_that_cannot_be_read_is_not_called_damaged() {
    let mut story = Story::new(1, 100);
    story.fill(0, 10);
    story.commit();
    story.world.disks[0].add(Rule::always(Request::Read).within(0..1));
    let check = story.world.call(async |pool| pool.check(&Progress::new()).await).expect("a check reports");
    let found = check.findings.join("; ");
    assert!(found.contains("of disk vd0 cannot be read") && !found.contains("damaged"), "{found}");
}

/// A block that was lost, swapped with another, or left at an older state is as bad as a rotten one.
#[test]
fn misplaced_stale_and_zeroed_blocks_are_errors() {
    let mut story = Story::new(1, 100);
    story.fill(0, 100);
    story.commit();
    let disk = story.world.disks[0].inner().clone();
    let place = |story: &Story, block: u64| {
        let content = story.world.model.state.volumes["v"].head.get(block).content.expect("data");
        find(&disk, &story.world.contents.bytes(content))
    };
    let (a, b) = (place(&story, 10), place(&story, 11));
    let visible = disk.visible();
    disk.rot(a, |block| *block = visible.block(b));
    disk.rot(b, |block| *block = visible.block(a));
    let c = place(&story, 12);
    disk.rot(c, |block| block.fill(0));
    for block in 10..13 {
        assert_eq!(read(&mut story, block), Err(ErrorKind::Corrupt), "block {block}");
    }
}

/// Whatever single block of the disk rots, opening and reading give an error or the truth.
#[test]
fn no_rotten_block_anywhere_yields_a_wrong_byte() {
    let mut story = Story::new(2, 128 * 128 + 5);
    story.fill(0, 60);
    story.fill(128 * 128, 5);
    story.checkpoint("c");
    story.fill(30, 60);
    story.refpoint("r");
    story.commit();
    story.fill(0, 5);
    story.commit();
    let images = story.world.power_off(PowerLoss::Nothing);
    let known = story.world.model.state.volumes["v"].head.clone();
    let mut noticed = 0;
    for at in images[0].written() {
        let mut rotten = images.clone();
        rotten[0].alter(at, |block| block[at as usize % BLOCK_SIZE] ^= 1);
        story.world.power_off(PowerLoss::Nothing);
        story.world.power_on(rotten);
        if let Err(error) = story.world.open() {
            assert!([ErrorKind::Corrupt, ErrorKind::Device].contains(&error.kind()), "block {at}: {error}");
            noticed += 1;
            continue;
        }
        let pool = story.world.pool();
        let contents = &story.world.contents;
        story.world.executor.run(async {
            let image = match pool.open_image(&name("v"), None).await {
                Ok(image) => image,
                Err(error) => return assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            };
            for block in (0..95).chain(128 * 128..128 * 128 + 5) {
                match image.read(BlockIndex(block), 1).await {
                    Ok(bytes) => {
                        let shown = bytes[0].as_ref().map(|bytes| contents.identify(bytes));
                        assert_eq!(
                            shown,
                            known.get(block).content.map(Some),
                            "block {block} with block {at} rotten"
                        );
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
                }
            }
        });
        let scrub = story.world.call(async |pool| pool.scrub(&Progress::new()).await);
        noticed += usize::from(scrub.map_or(true, |report| report.errors > 0));
    }
    assert!(noticed > 50, "rot was noticed {noticed} times");
}

#[test]
fn a_failed_read_is_an_error_and_the_truth_afterwards() {
    let mut story = Story::new(4, 100);
    story.fill(0, 100);
    story.world.reopen();
    story.world.image("v");
    story.world.disks[0].add(Rule::always(Request::Read));
    assert_eq!(read(&mut story, 3), Err(ErrorKind::Io));
    story.world.disks[0].heal();
    assert_eq!(read(&mut story, 3), Ok(()));
    story.end();
}

/// Nothing live lies where a data write goes, so a failed one is tried again elsewhere.
#[test]
fn a_failed_data_write_is_tried_again_elsewhere() {
    for effect in [Effect::Fail, Effect::FailHalfway] {
        told(3, |seed| {
            let mut story = Story::new(seed, 100);
            story.fill(0, 10);
            story.flush();
            for _ in 0..5 {
                story.world.disks[0].add(Rule::once(Request::Write).with(effect));
                story.fill(3, 4);
            }
            story.flush();
            story.crash(PowerLoss::Nothing);
            story.end();
        });
    }
}

/// A disk that takes no write at all: an error within a bound, nothing half-applied, and reads go on.
#[test]
fn a_dead_disk_gives_errors_and_keeps_what_it_had() {
    let mut story = Story::new(5, 100);
    story.fill(0, 10);
    story.flush();
    story.world.disks[0].add(Rule::always(Request::Write));
    let write = story.write("v", 3);
    let error = story.world.attempt(write).expect_err("no disk took the write");
    assert!([ErrorKind::Io, ErrorKind::ReadOnly].contains(&error.kind()), "{error}");
    story.world.verify();
    story.world.disks[0].heal();
    story.crash(PowerLoss::Nothing);
    story.end();
}

/// A failed flush says nothing: the pool must stop acknowledging at once, show its last durable state, and be whole
/// after reopening. It must not try again and carry on.
#[test]
fn after_a_failed_flush_nothing_is_acknowledged() {
    told(5, |seed| {
        let mut story = Story::new(seed, 100);
        story.fill(0, 10);
        story.flush();
        story.w(3);
        story.world.disks[0].add(Rule::once(Request::Flush));
        assert!(story.world.attempt(Action::Flush).is_err(), "a flush that failed is not acknowledged");
        assert!(story.world.attempt(Action::Flush).is_err(), "nor is the next one");
        let write = story.write("v", 4);
        let error = story.world.attempt(write).expect_err("the pool takes no writes");
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        let point = Action::CreateRefpoint { volume: "v".into(), name: "r".into(), time: 0 };
        assert!(story.world.attempt(point).is_err());
        assert!(story.world.pool().status().read_only.is_some());
        story.world.executor.idle();
        story.crash(PowerLoss::Nothing);
        story.end();
    });
}

/// A commit's flush lost what it was for and was long about saying so. Meanwhile a client's flush was asked for and succeeded: it
/// found nothing left to write, and was acknowledged, though the data it vouched for was gone.
#[test]
fn a_flush_counts_only_when_those_before_it_have_ended_well() {
    told(10, |seed| {
        let mut story = Story::new(seed, 100);
        story.fill(0, 10);
        story.flush();
        story.w(3);
        let disk = story.world.disks[0].clone();
        disk.add(Rule::once(Request::Flush).with(Effect::Forget(400)));
        story.world.commit_beside();
        while disk.struck() == 0 {
            story.step(1);
        }
        assert!(story.world.attempt(Action::Flush).is_err(), "seed {seed}: what it is for is lost");
        story.world.executor.idle();
        story.crash(PowerLoss::Nothing);
        story.end();
    });
}

/// A client's flush had just turned the pool read-only when a commit's own request failed too. The commit said `io`, as if
/// nothing but that request were lost; so did the check and the revert that had asked for it.
#[test]
fn a_commit_that_fails_beside_a_flush_says_read_only() {
    told(20, |seed| {
        let mut story = Story::new(seed, 100);
        story.fill(0, 10);
        story.commit();
        story.fill(3, 20);
        story.world.disks[0].add(Rule::always(Request::Flush));
        let (flushed, committed) = story.world.call(async |pool| join(pool.flush(), pool.commit()).await);
        for outcome in [flushed, committed] {
            assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::ReadOnly), "seed {seed}");
        }
        story.world.executor.idle();
        story.crash(PowerLoss::Nothing);
        story.end();
    });
}

/// The same at each flush and each metadata write of a commit, wherever it strikes.
#[test]
fn a_fault_anywhere_in_a_commit_loses_nothing_acknowledged() {
    for on in [Request::Flush, Request::Write] {
        for after in 0..8 {
            told(1, |seed| {
                let mut story = Story::with(&Setup { members: vec![4096, 4096], ..Setup::small(seed) }, 1000);
                story.fill(0, 300);
                story.checkpoint("c");
                story.fill(100, 300);
                story.flush();
                for disk in &story.world.disks {
                    disk.add(Rule::once(on).after(after));
                }
                let committed = story.world.attempt(Action::Commit).is_ok();
                story.world.executor.idle();
                let read_only = story.world.pool().status().read_only.is_some();
                assert!(committed || read_only, "a commit that failed turns the pool read-only");
                story.world.disks.iter().for_each(|disk| disk.heal());
                let policy = *story.world.rng.pick(&PowerLoss::ALL);
                story.crash(policy);
                story.end();
            });
        }
    }
}

/// A pool that turned read-only still reads, lists and answers.
#[test]
fn a_read_only_pool_still_serves_reads() {
    let mut story = Story::new(6, 100);
    story.fill(0, 50);
    story.checkpoint("c");
    story.fill(25, 50);
    story.commit();
    story.world.disks[0].add(Rule::always(Request::Flush));
    assert!(story.world.attempt(Action::Flush).is_ok() || story.world.pool().status().read_only.is_some());
    let write = story.write("v", 1);
    drop(story.world.attempt(write));
    drop(story.world.attempt(Action::Flush));
    let pool = story.world.pool();
    let contents = &story.world.contents;
    let view = story.world.executor.run(observe::observe(&pool, contents, 10));
    assert_eq!(view["v"].checkpoints.len(), 1);
}

/// In a pool that had gone read-only a volume was suspended while a request was under way, and resumed before that had ended.
/// Whoever leaves a volume that is open tells nobody, and nothing else happens there: the suspension waited for ever.
#[test]
fn a_suspension_that_is_lifted_ends() {
    let mut story = Story::new(8, 100);
    story.fill(0, 50);
    story.commit();
    story.w(3);
    let disk = story.world.disks[0].clone();
    disk.add(Rule::once(Request::Flush));
    assert!(story.world.attempt(Action::Flush).is_err(), "the pool is read-only now");
    let (image, pool, v) = (story.world.image("v"), story.world.pool(), name("v"));
    story.world.executor.run(image.read(BlockIndex(40), 1)).expect("metadata is in memory");
    disk.add(Rule::once(Request::Read).with(Effect::Delay(400)));
    story.world.executor.spawn(async move {
        image.read(BlockIndex(40), 1).await.expect("it is slow");
    });
    while disk.struck() < 2 {
        story.step(1);
    }
    let (lifting, lifted) = (pool.clone(), v.clone());
    story.world.executor.spawn(async move {
        for _ in 0..20 {
            turn().await;
        }
        lifting.resume_volume(&lifted).await.expect("it is suspended");
    });
    story.world.executor.run(pool.suspend_volume(&v)).expect("it is there");
}

/// A disk that acknowledges writes and drops them, flushes or not, cannot be made durable by anyone; but what is
/// missing must be noticed.
#[test]
fn lost_writes_are_noticed() {
    let mut story = Story::new(1, 100);
    story.commit();
    story.world.disks[0].add(Rule::once(Request::Write).with(Effect::Lose));
    let write = story.write("v", 7);
    let image = story.world.image("v");
    let Action::Write { contents, .. } = &write else { unreachable!() };
    let bytes = story.world.contents.bytes(contents[0]);
    story.world.executor.run(image.write(BlockIndex(7), vec![bytes])).expect("the disk claims success");
    drop(image);
    story.world.call(async |pool| pool.commit().await).expect("the commit is fine");
    assert_eq!(read(&mut story, 7), Err(ErrorKind::Corrupt));
}

/// Damage to an acknowledged log record before the last is damage, not the log's end: what followed it was
/// acknowledged too.
#[test]
fn damage_within_the_log_is_not_taken_for_its_end() {
    let mut story = Story::new(9, 100);
    story.commit();
    let before = story.world.disks[0].inner().visible();
    for block in 0..6 {
        story.w(block);
        story.flush();
    }
    let images = story.world.power_off(PowerLoss::Nothing);
    let fresh: Vec<u64> = images[0]
        .written()
        .into_iter()
        .filter(|at| images[0].block(*at) != before.block(*at))
        .filter(|at| story.world.contents.identify(&images[0].block(*at)).is_none())
        .collect();
    assert!(fresh.len() >= 5, "six records were written: {fresh:?}");
    let mut silent = Vec::new();
    for at in &fresh {
        let mut rotten = images.clone();
        rotten[0].alter(*at, |block| block[40] ^= 1);
        story.world.power_off(PowerLoss::Nothing);
        story.world.power_on(rotten);
        if story.world.open().is_err() || story.world.pool().status().read_only.is_some() {
            continue;
        }
        let view = story.world.observe();
        let kept = (0..6).filter(|block| view["v"].head.get(*block).content.is_some()).count();
        if kept < 6 {
            silent.push((*at, kept));
        }
    }
    // The newest record cannot be told from one that was never acknowledged.
    assert!(silent.len() <= 1, "acknowledged writes vanished without a word: {silent:?} of {fresh:?}");
    assert!(silent.iter().all(|(_, kept)| *kept == 5), "{silent:?}");
}

/// A log that names a newer commit than any superblock proves that a superblock was lost: read-only, and it says so.
#[test]
fn a_lost_superblock_is_told() {
    let mut story = Story::new(10, 100);
    story.fill(0, 10);
    story.commit();
    let before = story.world.disks[0].inner().visible();
    story.fill(0, 20);
    story.commit();
    story.w(1);
    story.flush();
    let mut images = story.world.power_off(PowerLoss::Nothing);
    // Two slots lie at each end of a member: put them back to the commit before.
    let end = images[0].blocks();
    for at in [0, 1, end - 2, end - 1] {
        let old = before.block(at);
        images[0].alter(at, |block| *block = old);
    }
    story.world.power_on(images);
    if story.world.open().is_ok() {
        assert!(story.world.pool().status().read_only.is_some(), "the loss went unnoticed");
    }
}
