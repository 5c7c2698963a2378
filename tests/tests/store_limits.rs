//! Counters near their ends, rings that go round, and the largest and most of everything: refused in good time and in
//! words, never wrapped round. A forger makes pools old that no test could wait for.

use datum_store::limits::{
    CHECKPOINT_VOLUMES_MAX, CLONE_DEPTH_MAX, EXTENTS_MAX, LIST_MAX, MEMBERS_MAX, REQUEST_BLOCKS_MAX,
    VOLUME_SIZE_MAX,
};
use datum_store::{BlockIndex, Error, ErrorKind, Name, View};
use datum_tests::disk::PowerLoss;
use datum_tests::disk::forge::{Forge, record, superblock};
use datum_tests::model::action::Action;
use datum_tests::store::perform::name;
use datum_tests::store::story::{Story, told};
use datum_tests::store::world::Setup;

/// Where object ids end: records lie below the name buckets, 16 to a block.
const OBJECTS_END: u64 = 1 << 38;

/// A pool with a bit of everything, closed in order, made old by a forger, and opened again.
fn aged(seed: u64, age: impl FnOnce(&mut Forge)) -> Story {
    let mut story = Story::new(seed, 300);
    story.fill(0, 200);
    story.checkpoint("first");
    story.fill(50, 100);
    story.refpoint("mark");
    story.world.keep_token("v", "mark");
    story.checkpoint("second");
    story.fill(0, 20);
    story.world.reopen();
    story.world.call(async |pool| pool.close().await).expect("the pool closes");
    let mut forge = Forge::new(story.world.power_off(PowerLoss::Everything));
    age(&mut forge);
    story.world.power_on(forge.finish());
    story.world.open().expect("an old pool opens");
    story
}

fn clocks(forge: &mut Forge, clock: u64) {
    for place in forge.records(record::VOLUME) {
        forge.set_field(place, record::VOLUME_CLOCK, clock);
    }
}

fn checkpoint(n: u64) -> Action {
    Action::CreateCheckpoint { volumes: vec!["v".into()], name: format!("c{n}"), time: n }
}

fn refpoint(n: u64) -> Action {
    Action::CreateRefpoint { volume: "v".into(), name: format!("r{n}"), time: n }
}

fn convert(point: &str) -> Action {
    let (volume, name) = ("v".to_string(), point.to_string());
    Action::ConvertCheckpoint { volume, name, refpoint: format!("was-{point}") }
}

fn delete(point: &str) -> Action {
    Action::DeleteCheckpoint { volume: "v".into(), name: point.into() }
}

fn volume(n: u64) -> Action {
    Action::CreateVolume { name: format!("n{n}"), size: 10, timeline: 1000 + u128::from(n), time: n }
}

fn clone(of: &str, to: &str) -> Action {
    let (volume, checkpoint, name) = ("v".into(), of.into(), to.into());
    Action::CloneVolume { volume, checkpoint, name, timeline: 77, time: 1 }
}

/// Does `action` again and again until it is refused; returns how often it was done.
fn until_refused(story: &mut Story, action: impl Fn(u64) -> Action) -> (u64, Error) {
    for n in 0..200 {
        if let Err(error) = story.world.attempt(action(n)) {
            return (n, error);
        }
        story.w(n % 100);
    }
    panic!("the end never comes");
}

fn refused(story: &mut Story, action: Action) {
    let error = story.world.attempt(action.clone()).expect_err("the counter is at its end");
    assert_eq!(error.kind(), ErrorKind::Limit, "{action:?}: {error}");
}

/// Everything that counters count, past the places at which a sign or a half could matter.
#[test]
fn counters_pass_the_middle_of_their_range() {
    told(3, |seed| {
        let mut story = aged(seed, |forge| {
            clocks(forge, (1 << 63) - 4);
            forge.set_superblock(superblock::EPOCH, (1 << 63) - 7);
            forge.set_superblock(superblock::SEQUENCE, (1 << 63) - 9);
            forge.set_superblock(superblock::GENERATION, (1 << 63) - 1);
            forge.set_superblock(superblock::NEXT_OBJECT, (1 << 37) - 11);
            let commit = forge.superblock(superblock::COMMIT);
            forge.set_superblock(superblock::COMMIT, (1 << 63) - 6 + commit % 2);
        });
        for n in 0..12 {
            story.fill(n * 7, 9);
            story.world.act(if n % 2 == 0 { checkpoint(n) } else { refpoint(n) });
            story.trim(n * 11, 5);
            story.flush();
            if n % 3 == 0 {
                story.commit();
            }
            if n % 4 == 1 {
                let policy = *story.world.rng.pick(&PowerLoss::ALL);
                story.crash(policy);
            }
            story.world.verify();
        }
        story.convert("first");
        story.delete("second");
        story.revert("c0");
        story.world.act(clone("c2", "other"));
        story.end();
    });
}

/// With its change ids used up a volume is written to and read as ever; points of it are refused, and those there are
/// answer exactly.
#[test]
fn change_ids_end() {
    for action in [checkpoint as fn(u64) -> Action, refpoint] {
        let mut story = aged(1, |forge| clocks(forge, u64::MAX - 8));
        let (made, error) = until_refused(&mut story, action);
        assert_eq!((made, error.kind()), (7, ErrorKind::Limit), "{error}");
        refused(&mut story, checkpoint(900));
        refused(&mut story, refpoint(900));
        story.fill(0, 30);
        story.trim(10, 20);
        story.flush();
        story.world.act(convert("first"));
        story.commit();
        story.revert("second");
        story.world.verify();
        story.crash(PowerLoss::Everything);
        refused(&mut story, refpoint(901));
        // Another volume has change ids of its own.
        story.world.act(clone("second", "other"));
        story.world.act(Action::CreateRefpoint { volume: "other".into(), name: "r".into(), time: 1 });
        story.end();
    }
}

/// The last epochs are for giving space back: first checkpoints are refused, then everything new.
#[test]
fn epochs_end() {
    let mut story = aged(1, |forge| forge.set_superblock(superblock::EPOCH, u64::MAX - (1 << 40) - 9));
    let (made, error) = until_refused(&mut story, checkpoint);
    assert!(made > 3 && error.kind() == ErrorKind::Limit, "{made}: {error}");
    story.fill(0, 50);
    story.world.act(refpoint(1));
    story.world.act(clone("c1", "other"));
    story.revert("first");
    story.end();

    let mut story = aged(2, |forge| forge.set_superblock(superblock::EPOCH, u64::MAX - (1 << 20) - 9));
    let mut written = 0;
    let error = loop {
        let write = story.write("v", written % 100);
        if let Err(error) = story.world.attempt(write) {
            break error;
        }
        written += 1;
        story.commit();
    };
    assert!((4..20).contains(&written) && error.kind() == ErrorKind::Limit, "{written}: {error}");
    for action in [checkpoint(1), refpoint(1), volume(1), clone("first", "other")] {
        refused(&mut story, action);
    }
    refused(&mut story, Action::RevertVolume { volume: "v".into(), checkpoint: "first".into() });
    story.world.act(convert("first"));
    story.world.act(delete("second"));
    story.trim(0, 100);
    story.crash(PowerLoss::Nothing);
    story.end();
}

/// At the last epoch of all nothing can be committed: the pool is read-only and shows what it holds, now and whenever
/// it is opened.
#[test]
fn the_last_epoch() {
    let mut story = aged(1, |forge| forge.set_superblock(superblock::EPOCH, u64::MAX - 12));
    story.world.act(delete("first"));
    while story.world.attempt(Action::Commit).is_ok() {
        story.world.executor.idle();
    }
    for _ in 0..3 {
        let why = story.world.pool().status().read_only.expect("nothing can be written any more");
        assert!(why.contains("all epochs of the pool are used up"), "{why}");
        story.world.verify();
        story.world.check();
        let images = story.world.power_off(PowerLoss::Everything);
        story.world.power_on(images);
        story.world.open().expect("it opens to be read");
    }
}

/// The same for numbers that only grow with what is made durable.
#[test]
fn numbers_of_commits_records_and_openings_end() {
    let ends: [(usize, u64, &str); 3] = [
        (superblock::COMMIT, 7, "numbers of commits"),
        (superblock::SEQUENCE, 6, "numbers of log records"),
        (superblock::GENERATION, 3, "numbers of openings"),
    ];
    for (field, left, what) in ends {
        let mut story = aged(1, |forge| {
            let old = forge.superblock(field);
            // A commit's number says which slot it is in.
            forge.set_superblock(field, u64::MAX - left - u64::from(left % 2 == old % 2));
        });
        for n in 0..40 {
            let write = story.write("v", n);
            let durable = if what.contains("commits") { Action::Commit } else { Action::Flush };
            let done = story.world.attempt(write).and_then(|_| story.world.attempt(durable));
            if done.is_err() {
                break;
            }
            if what.contains("openings") {
                let images = story.world.power_off(PowerLoss::Nothing);
                story.world.model.state.restart();
                story.world.model.settle(story.world.model.state.clone());
                story.world.power_on(images);
                story.world.open().expect("it opens");
            }
        }
        let why = story.world.pool().status().read_only.expect("the number is at its end");
        assert!(why.contains(what), "{why}");
        // What was not acknowledged may be there or not.
        story.world.check();
    }
}

/// Object ids end where the names begin. What makes volumes and points is refused first, so that there are ids left for
/// what gives space back.
#[test]
fn object_ids_end() {
    let margin = 1 << 20;
    let mut story = aged(1, |forge| forge.set_superblock(superblock::NEXT_OBJECT, OBJECTS_END - margin - 40));
    let (made, error) = until_refused(&mut story, checkpoint);
    assert!(made > 10 && error.kind() == ErrorKind::Limit, "{made}: {error}");
    for action in [refpoint(1), volume(1), clone("first", "other")] {
        refused(&mut story, action);
    }
    refused(&mut story, Action::RevertVolume { volume: "v".into(), checkpoint: "first".into() });
    story.world.act(convert("first"));
    story.world.act(delete("second"));
    story.crash(PowerLoss::Everything);
    story.end();

    let mut story = Story::new(2, 40_000);
    (0..8).for_each(|n| story.w(n * 5000));
    for n in 0..5 {
        story.w(n);
        story.checkpoint(&format!("p{n}"));
    }
    story.world.call(async |pool| pool.close().await).expect("the pool closes");
    let mut forge = Forge::new(story.world.power_off(PowerLoss::Everything));
    forge.set_superblock(superblock::NEXT_OBJECT, OBJECTS_END - 3);
    story.world.power_on(forge.finish());
    story.world.open().expect("it opens");
    let (made, error) = until_refused(&mut story, |n| convert(&format!("p{n}")));
    assert_eq!((made, error.kind()), (3, ErrorKind::Limit), "{error}");
    // A trim of long ranges takes an id.
    refused(&mut story, Action::Trim { volume: "v".into(), first: 0, count: 30_000 });
    story.world.act(delete("p3"));
    story.w(9);
    story.crash(PowerLoss::Everything);
    story.world.verify();
    story.end();
}

/// Trims that leave nothing behind draw no object id: a client that trims for years uses none up.
#[test]
fn short_trims_draw_no_object_ids() {
    let mut story = aged(1, |forge| forge.set_superblock(superblock::NEXT_OBJECT, OBJECTS_END - 2));
    for n in 0..20 {
        story.w(n);
        story.trim(n, 3);
        story.flush();
        if n % 6 == 0 {
            story.crash(PowerLoss::Nothing);
        }
    }
    story.end();
}

/// The log's ring and the superblock's slots go round many times.
#[test]
fn rings_go_round() {
    let mut story = Story::with(&Setup { members: vec![4096], ..Setup::small(3) }, 100);
    for n in 0..1500 {
        story.w(n % 100);
        story.flush();
        if n % 97 == 0 {
            let policy = *story.world.rng.pick(&PowerLoss::ALL);
            story.crash(policy);
        }
    }
    assert!(story.world.pool().status().commit > 10, "256 blocks of log are committed a few times");
    for n in 0..100 {
        story.w(n);
        story.commit();
        if n % 13 == 0 {
            let policy = *story.world.rng.pick(&PowerLoss::ALL);
            story.crash(policy);
        }
    }
    story.end();
}

/// The longest names there are, of everything that has one, and many of them.
#[test]
fn names_of_the_longest_kind() {
    let long = |prefix: &str, n: u64| format!("{prefix}{n:0>width$}", width = 64 - prefix.len());
    assert!(Name::new(&format!("{}x", long("v", 1))).is_none(), "65 letters are too many");
    let mut story = Story::new(4, 20);
    for n in 0..300 {
        let name = long("v", n);
        story.world.act(Action::CreateVolume { name, size: 1, timeline: 5000 + u128::from(n), time: n });
    }
    for n in 0..40 {
        let (volumes, name) = (vec![long("v", n)], long("c", n));
        story.world.act(Action::CreateCheckpoint { volumes, name, time: n });
        let (volume, name) = (long("v", n), long("r", n));
        story.world.act(Action::CreateRefpoint { volume, name, time: n });
        let (volume, checkpoint, name) = (long("v", n), long("c", n), long("w", n));
        let timeline = 9000 + u128::from(n);
        story.world.act(Action::CloneVolume { volume, checkpoint, name, timeline, time: n });
        story.world.act(Action::RenameVolume { name: long("w", n), new_name: long("x", n) });
    }
    story.crash(PowerLoss::Nothing);
    story.world.verify();
    story.end();
}

/// Every bound that a client can meet: the largest is taken, one more is refused.
#[test]
fn the_most_and_one_more() {
    let mut story = Story::new(5, REQUEST_BLOCKS_MAX);
    story.fill(0, REQUEST_BLOCKS_MAX);
    let image = story.world.image("v");
    let over = story.world.executor.run(image.read(BlockIndex(0), REQUEST_BLOCKS_MAX + 1));
    assert_eq!(over.err().map(|error| error.kind()), Some(ErrorKind::Invalid));
    let all = image.extents(BlockIndex(0), BlockIndex(REQUEST_BLOCKS_MAX), View::ChangeIds, EXTENTS_MAX + 1);
    assert!(story.world.executor.run(all).is_ok_and(|page| page.next.is_none()));
    drop(image);

    story.create("largest", VOLUME_SIZE_MAX / 4096);
    let write = story.write("largest", VOLUME_SIZE_MAX / 4096 - 1);
    story.world.act(write);
    let size = VOLUME_SIZE_MAX / 4096 + 1;
    refused(&mut story, Action::ResizeVolume { name: "largest".into(), size });
    refused(&mut story, Action::CreateVolume { name: "larger".into(), size, timeline: 1, time: 1 });

    (0..CHECKPOINT_VOLUMES_MAX as u64).for_each(|n| story.world.act(volume(n)));
    let mut volumes: Vec<String> = (0..CHECKPOINT_VOLUMES_MAX).map(|n| format!("n{n}")).collect();
    let of = |volumes: &[String], n: u64| Action::CreateCheckpoint {
        volumes: volumes.to_vec(),
        name: format!("all{n}"),
        time: 1,
    };
    story.world.act(of(&volumes, 0));
    volumes.push("v".into());
    refused(&mut story, of(&volumes, 1));

    story.checkpoint("depth");
    let mut last = "v".to_string();
    for depth in 0..=CLONE_DEPTH_MAX {
        let (name, timeline) = (format!("d{depth}"), 40_000 + depth as u128);
        let (volume, checkpoint) = (last.clone(), "depth".to_string());
        let clone = Action::CloneVolume { volume, checkpoint, name: name.clone(), timeline, time: 1 };
        if depth == CLONE_DEPTH_MAX {
            refused(&mut story, clone);
            break;
        }
        story.world.act(clone);
        story.world.act(Action::CreateCheckpoint {
            volumes: vec![name.clone()],
            name: "depth".into(),
            time: 1,
        });
        last = name;
    }
    let listed = story.world.call(async |pool| pool.volumes(None, LIST_MAX + 1).await);
    assert_eq!(listed.map(|list| list.len()), Ok(story.world.model.state.volumes.len()));
    story.crash(PowerLoss::Everything);
    story.end();

    let members = vec![4096; MEMBERS_MAX];
    let mut story = Story::with(&Setup { members, ..Setup::small(6) }, 100);
    story.fill(0, 100);
    assert!(story.world.call(async |pool| pool.token(&name("v"), &name("none")).await).is_err());
    story.end();
}
