//! Pools of 1 to 16 members, and every wrong set of disks: refused by kind, and left untouched.

use datum_store::{BlockDevice, Config, ErrorKind, NewPool, Pool, Probe, probe};
use datum_tests::disk::fault::{Request, Rule};
use datum_tests::disk::{DiskImage, PowerLoss};
use datum_tests::executor::Executor;
use datum_tests::model::action::Action;
use datum_tests::store::perform::{Disk, name};
use datum_tests::store::story::Story;
use datum_tests::store::world::{Setup, World};

const CONFIG: Config = Config { cache_blocks: 256, step_pointers: 64, sweep_bitmaps: 16 };

fn setup(members: Vec<u64>) -> Setup {
    Setup { members, ..Setup::small(7) }
}

/// A pool of two members with data in it, powered off.
fn two_members(seed: u64) -> (World, Vec<DiskImage>) {
    let mut story = Story::with(&Setup { seed, ..setup(vec![8192, 9000]) }, 1000);
    story.fill(0, 300);
    story.checkpoint("c");
    story.world.reopen();
    let images = story.world.power_off(PowerLoss::Nothing);
    (story.world, images)
}

/// Tries to open these disks; wants an error, and not one byte written.
fn refused(world: &mut World, images: Vec<DiskImage>) -> ErrorKind {
    world.power_off(PowerLoss::Nothing);
    world.power_on(images);
    let error = world.open().expect_err("these disks must be refused");
    assert!(!error.message().is_empty());
    world.executor.idle();
    assert!(world.disks.iter().all(|disk| disk.inner().unflushed() == 0), "a refused disk is left untouched");
    error.kind()
}

fn new_pool(seed: u64) -> NewPool {
    NewPool { name: name("other"), id: u128::from(seed), incarnation: seed, time: 1 }
}

fn probed(world: &mut World, disk: usize) -> Probe {
    let disk = world.disks[disk].clone();
    world.executor.run(probe(&disk)).expect("a healthy disk can be probed")
}

#[test]
fn one_to_sixteen_members_work_in_any_order() {
    for members in [1, 2, 3, 7, 16] {
        let mut story = Story::with(&setup((0..members).map(|i| 8192 + i * 300).collect()), 5000);
        story.fill(0, 2000);
        story.checkpoint("c");
        assert_eq!(story.world.pool().status().members.len() as u64, members);
        let mut images = story.world.power_off(PowerLoss::Any);
        images.reverse();
        story.world.power_on(images);
        story.world.open().expect("the order of the disks is of no consequence");
        story.world.verify();
        story.world.check();
        story.end();
    }
}

#[test]
fn seventeen_members_or_none_are_refused() {
    for members in [0, 17] {
        let mut world = World::unborn(&setup(vec![4096; members]));
        let disks = world.disks.clone();
        assert!(world.executor.run(Pool::create(disks, new_pool(1), CONFIG)).is_err());
        let disks = world.disks.clone();
        assert!(world.executor.run(Pool::open(disks, 1, CONFIG)).is_err());
    }
}

#[test]
fn a_missing_or_duplicated_member_is_refused() {
    let (mut world, images) = two_members(1);
    assert_eq!(refused(&mut world, vec![images[0].clone()]), ErrorKind::Device);
    assert_eq!(refused(&mut world, vec![images[1].clone()]), ErrorKind::Device);
    assert_eq!(refused(&mut world, vec![images[0].clone(), images[0].clone()]), ErrorKind::Device);
    let three = vec![images[0].clone(), images[1].clone(), images[1].clone()];
    assert_eq!(refused(&mut world, three), ErrorKind::Device);
}

#[test]
fn a_blank_or_foreign_disk_among_the_members_is_refused() {
    let (mut world, images) = two_members(1);
    let (_, other) = two_members(2);
    assert_eq!(refused(&mut world, vec![images[0].clone(), other[1].clone()]), ErrorKind::Device);
    assert_eq!(refused(&mut world, vec![images[0].clone(), DiskImage::blank(8192)]), ErrorKind::Device);
    let mut three = images.clone();
    three.push(DiskImage::blank(4096));
    assert_eq!(refused(&mut world, three), ErrorKind::Device);
}

#[test]
fn a_shrunk_member_is_refused() {
    let (mut world, images) = two_members(1);
    let shrunk = vec![images[0].clone(), images[1].clone().resized(8500)];
    assert_eq!(refused(&mut world, shrunk), ErrorKind::Device);
}

/// A disk that refuses writes: the pool is refused, or opens for reading and says why.
#[test]
fn a_read_only_member_is_refused_or_read_only() {
    let (mut world, images) = two_members(1);
    world.power_on(vec![images[0].clone(), images[1].clone().read_only()]);
    match world.open() {
        Ok(()) => {
            assert!(world.pool().status().read_only.is_some());
            world.verify();
            let write = Action::Trim { volume: "v".into(), first: 0, count: 1 };
            assert_eq!(world.attempt(write).map(drop).map_err(|e| e.kind()), Err(ErrorKind::ReadOnly));
        }
        Err(error) => assert!([ErrorKind::Device, ErrorKind::ReadOnly].contains(&error.kind()), "{error}"),
    }
}

/// What lies on each member is known without looking for it: with nothing in memory, and where the pool takes no writes.
#[test]
fn the_status_tells_what_lies_on_each_member() {
    let (mut world, images) = two_members(5);
    world.power_on(images.clone());
    world.open_again();
    let allocated = |world: &World| -> Vec<u64> {
        world.pool().status().members.iter().map(|member| member.allocated_bytes).collect()
    };
    let opened = allocated(&world);
    assert!(opened.iter().sum::<u64>() > 300 * 4096, "{opened:?}");
    world.call(async |pool| pool.drop_cache());
    assert_eq!(allocated(&world), opened);
    let images = world.power_off(PowerLoss::Nothing);
    world.power_on(images.into_iter().map(DiskImage::read_only).collect());
    world.open().expect("it can be read");
    assert_eq!(allocated(&world), opened);
}

/// A grown member loses the copies at its end, not those at its start: it either opens whole or is refused, but
/// never opens with less than all.
#[test]
fn a_grown_member_opens_whole_or_not_at_all() {
    let (mut world, images) = two_members(1);
    world.power_on(vec![images[0].clone(), images[1].clone().resized(10_000)]);
    match world.open() {
        Ok(()) => world.verify(),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Device),
    }
}

/// A member put back to what it was two commits ago: the pool says which, serves what can be read, and writes nothing.
#[test]
fn a_member_of_an_older_day_is_told() {
    for old in 0..2 {
        let (mut world, earlier) = two_members(3);
        world.power_on(earlier.clone());
        world.open_again();
        world.call(async |pool| pool.commit().await).expect("committed");
        let images = world.power_off(PowerLoss::Nothing);
        let mut mixed = images.clone();
        mixed[old] = earlier[old].clone();
        world.power_on(mixed);
        world.open().expect("what can be read is served");
        let reason = world.pool().status().read_only.expect("a pool with a lost day takes no writes");
        assert!(reason.contains(&format!("disk vd{old} is of an older day")), "{reason}");
        world.executor.idle();
        assert!(world.disks.iter().all(|disk| disk.inner().unflushed() == 0), "nothing is written");
        world.power_off(PowerLoss::Nothing);
        world.power_on(images);
        world.open_again();
        world.verify();
        assert_eq!(world.pool().status().read_only, None);
    }
}

/// A disk that takes no superblock, however often the pool is opened meanwhile, is not one of an older day.
#[test]
fn a_member_that_missed_the_newest_commit_gets_it_before_the_next() {
    for bad in 0..2 {
        let (mut world, mut images) = two_members(4);
        for _ in 0..4 {
            world.power_on(images);
            let blocks = world.disks[bad].geometry().blocks;
            for superblocks in [0..2, (blocks - 2)..blocks] {
                world.disks[bad].add(Rule::always(Request::Write).within(superblocks));
            }
            world.open().expect("it can be read");
            assert!(world.pool().status().read_only.is_some(), "no commit can be written");
            world.verify();
            images = world.power_off(PowerLoss::Everything);
        }
        world.power_on(images);
        world.open_again();
        assert_eq!(world.pool().status().read_only, None);
        world.verify();
        world.check();
    }
}

/// A disk that takes no writes any more, from the first of an opening on: what was acknowledged lies in the log, and is shown.
#[test]
fn an_opening_that_cannot_write_shows_what_was_acknowledged() {
    for bad in 0..2 {
        for request in [Request::Write, Request::Flush] {
            let mut story = Story::with(&setup(vec![8192, 9000]), 1000);
            story.fill(0, 300);
            story.world.reopen();
            story.fill(100, 50);
            story.flush();
            let images = story.world.power_off(PowerLoss::Nothing);
            story.world.power_on(images);
            story.world.disks[bad].add(Rule::always(request));
            story.world.open().expect("it can be read");
            assert!(story.world.pool().status().read_only.is_some(), "nothing can be written");
            story.world.verify();
        }
    }
}

#[test]
fn probe_tells_what_lies_on_a_disk() {
    let (mut world, mut images) = two_members(1);
    images.push(DiskImage::blank(4096));
    images.push(DiskImage::blank(4));
    let mut foreign = DiskImage::blank(4096);
    foreign.alter(0, |block| block[510..512].copy_from_slice(&[0x55, 0xaa]));
    images.push(foreign);
    let mut foreign_at_the_end = DiskImage::blank(4096);
    foreign_at_the_end.alter(4095, |block| block[4000] = 1);
    images.push(foreign_at_the_end);
    world.power_on(images);
    for index in 0..2 {
        match probed(&mut world, index) {
            Probe::Member { index: found, members, name: pool, .. } => {
                assert_eq!((found as usize, members, pool), (index, 2, name("tank")));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(probed(&mut world, 2), Probe::Blank);
    assert_eq!(probed(&mut world, 3), Probe::TooSmall);
    assert!(matches!(probed(&mut world, 4), Probe::Foreign(_)));
    assert!(matches!(probed(&mut world, 5), Probe::Foreign(_)));
}

#[test]
fn creation_refuses_disks_that_hold_something() {
    let (mut world, images) = two_members(1);
    let before = images.clone();
    world.power_on(images);
    let disks = world.disks.clone();
    assert!(world.executor.run(Pool::create(disks, new_pool(9), CONFIG)).is_err());
    world.executor.idle();
    let after = world.power_off(PowerLoss::Everything);
    let same =
        before.iter().zip(&after).all(|(a, b)| b.written().iter().all(|at| a.block(*at) == b.block(*at)));
    assert!(same, "refused disks are left untouched");
    let small = World::unborn(&setup(vec![4096, 4]));
    let mut executor = Executor::new(1);
    for disk in &small.disks {
        executor.attach(std::rc::Rc::new(disk.inner().clone()));
    }
    assert!(executor.run(Pool::create(small.disks.clone(), new_pool(9), CONFIG)).is_err());
}

#[test]
fn creation_refuses_disks_that_it_may_not_write() {
    let foreign = {
        let mut image = DiskImage::blank(8192);
        image.alter(0, |block| block[510..512].copy_from_slice(&[0x55, 0xaa]));
        image
    };
    for (bad, word) in [(DiskImage::blank(8192).read_only(), "read-only"), (foreign, "erase it first")] {
        let mut world = World::unborn(&setup(Vec::new()));
        world.power_on(vec![DiskImage::blank(8192), bad]);
        let disks = world.disks.clone();
        let error = world.executor.run(Pool::create(disks, new_pool(9), CONFIG)).err().expect("a refusal");
        assert!(error.message().contains("disk vd1") && error.message().contains(word), "{error}");
        world.executor.idle();
        assert!(
            world.disks.iter().all(|disk| disk.inner().unflushed() == 0),
            "refused disks are left untouched"
        );
    }
}

/// Every copy of its superblock is damaged: the disk is known for a member, and neither opened nor taken for blank.
#[test]
fn a_member_of_which_no_superblock_is_whole_is_refused() {
    let (mut world, mut images) = two_members(1);
    let blocks = 9000;
    for at in [0, 1, blocks - 2, blocks - 1] {
        images[1].alter(at, |block| block[200] ^= 1);
    }
    assert_eq!(refused(&mut world, images.clone()), ErrorKind::Device);
    world.power_on(images);
    assert!(matches!(probed(&mut world, 1), Probe::Foreign(what) if what.contains("damaged")));
}

/// Creation may end anywhere. What is left is blank, an unfinished creation that can be made again, or a whole pool;
/// never a pool that lacks something, and never a disk that nobody may use.
#[test]
fn an_interrupted_creation_can_be_repeated() {
    let (mut unfinished, mut whole) = (0, 0);
    for steps in 0..150 {
        for policy in PowerLoss::ALL {
            let mut world = World::unborn(&Setup { seed: steps, ..setup(vec![4096, 4096]) });
            let create = Pool::create(world.disks.clone(), new_pool(5), CONFIG);
            drop(world.executor.run_for(create, steps));
            let images = world.power_off(policy);
            world.power_on(images);
            let found = [probed(&mut world, 0), probed(&mut world, 1)];
            if found.iter().any(|probe| matches!(probe, Probe::Member { .. })) {
                world
                    .open()
                    .unwrap_or_else(|error| panic!("after {steps} steps, {policy:?}: {error}: {found:?}"));
                world.check();
                whole += 1;
                continue;
            }
            unfinished += usize::from(found.iter().any(|probe| matches!(probe, Probe::Unfinished { .. })));
            let usable = |probe: &Probe| matches!(probe, Probe::Blank | Probe::Unfinished { .. });
            if found.iter().all(usable) {
                let disks = world.disks.clone();
                let made = world.executor.run(Pool::create(disks, new_pool(6), CONFIG));
                made.unwrap_or_else(|error| panic!("after {steps} steps, {policy:?}: {error}: {found:?}"));
            } else {
                panic!("after {steps} steps, {policy:?}: {found:?}");
            }
        }
    }
    assert!(
        unfinished > 0 && whole > 0,
        "the steps reach every stage: {unfinished} unfinished, {whole} whole"
    );
}

#[test]
fn disks_without_discard_serve_as_well() {
    let mut world = World::unborn(&setup(vec![8192]));
    world.power_off(PowerLoss::Nothing);
    world.power_on(vec![DiskImage::blank(8192).without_discard()]);
    let disks: Vec<Disk> = world.disks.clone();
    let pool = world.executor.run(Pool::create(disks, new_pool(3), CONFIG)).expect("the pool is made");
    drop(pool);
    world.open().expect("it opens");
    world.model.settle(Default::default());
    world.act(Action::CreateVolume { name: "v".into(), size: 100, timeline: 4, time: 2 });
    let contents = (0..100).map(|_| world.contents.draw()).collect();
    world.act(Action::Write { volume: "v".into(), first: 0, contents });
    world.act(Action::Trim { volume: "v".into(), first: 0, count: 100 });
    world.quiesce();
    world.verify();
    world.check();
}
