//! What may be acknowledged while a member's flush is still under way, and what a later life may build on.
//! The stories were found by arguing the crash points one by one; no random run had met them.

use datum_store::{BlockIndex, Config, ErrorKind, Image, NewPool, Pool, Progress, TimelineId};
use datum_tests::disk::held::{HeldDisk, finish, poll_for};
use datum_tests::executor::turn;
use datum_tests::store::perform::name;
use std::pin::pin;

const WRITTEN: u64 = 1500;

fn two_members() -> ([HeldDisk; 2], Pool<HeldDisk>) {
    let disks = [HeldDisk::new("a", 8192), HeldDisk::new("b", 8192)];
    let new = NewPool { name: name("tank"), id: 7, incarnation: 1, time: 0 };
    let pool = finish(Pool::create(disks.to_vec(), new, Config::new(4096))).expect("create");
    finish(pool.create_volume(&name("v"), 4096 * 4096, TimelineId(1), 0)).expect("a volume");
    finish(pool.commit()).expect("commit");
    (disks, pool)
}

fn open(pool: &Pool<HeldDisk>) -> Image<HeldDisk> {
    finish(pool.open_image(&name("v"), None)).expect("open")
}

fn byte(at: u64) -> u8 {
    at as u8 | 1
}

/// Enough to have both members hold data.
fn fill(image: &Image<HeldDisk>) {
    for at in 0..WRITTEN {
        finish(image.write(BlockIndex(at), vec![Box::new([byte(at); 4096])])).expect("write");
    }
}

fn lost(pool: &Pool<HeldDisk>) -> usize {
    let image = open(pool);
    let there = |at: &u64| {
        let read = finish(image.read(BlockIndex(*at), 1));
        read.is_ok_and(|blocks| blocks[0].as_ref().is_some_and(|block| block[0] == byte(*at)))
    };
    (0..WRITTEN).filter(|at| !there(at)).count()
}

fn after_power_loss(disks: &[HeldDisk]) -> Pool<HeldDisk> {
    let disks = disks.iter().map(HeldDisk::after_power_loss).collect();
    finish(Pool::open(disks, 9, Config::new(4096))).expect("open after the power loss")
}

/// A commit was flushing the member that held the client's data and had noted it as flushed already; the
/// client's own flush left it out and was acknowledged. All 1,500 blocks were lost.
#[test]
fn a_flush_does_not_count_on_another_that_is_under_way() {
    let (disks, pool) = two_members();
    fill(&open(&pool));
    disks[1].hold_flushes();
    let mut commit = pin!(pool.commit());
    assert!(poll_for(commit.as_mut(), 100_000).is_none(), "the commit waits for the second member");
    let acknowledged = poll_for(pin!(pool.flush()), 100_000);
    let lost = lost(&after_power_loss(&disks));
    assert!(acknowledged.is_none() || lost == 0, "acknowledged, and {lost} blocks lost");
}

/// The machine was reset while records and data lay in the disks' caches. The next opening read them there,
/// committed on top, and flushed only the member that its own commit had written to.
#[test]
fn what_an_earlier_life_left_in_caches_is_flushed_before_it_is_built_upon() {
    let (disks, pool) = two_members();
    fill(&open(&pool));
    disks[1].hold_flushes();
    assert!(poll_for(pin!(pool.flush()), 100_000).is_none());
    drop(pool);
    let opened = poll_for(pin!(Pool::open(disks.to_vec(), 2, Config::new(4096))), 1_000_000);
    assert!(opened.is_none(), "the pool opened though a member does not flush");
    let pool = after_power_loss(&disks);
    let image = open(&pool);
    let unreadable = (0..WRITTEN).filter(|&at| finish(image.read(BlockIndex(at), 1)).is_err()).count();
    assert_eq!(unreadable, 0);
}

/// A revert had found its checkpoint by name and waited for a request on the volume to end. Meanwhile the
/// checkpoint was deleted and its release began; the revert went on building on blocks that were freed.
#[test]
fn a_revert_looks_again_whether_its_checkpoint_is_there() {
    let (_disks, pool) = two_members();
    let image = open(&pool);
    fill(&image);
    let (volume, checkpoint) = (name("v"), name("c"));
    finish(pool.create_checkpoint(std::slice::from_ref(&volume), &checkpoint, 0)).expect("a checkpoint");
    fill(&image);
    let mut request = pin!(image.write(BlockIndex(3000), vec![Box::new([3; 4096])]));
    assert!(poll_for(request.as_mut(), 1).is_none());
    let progress = Progress::new();
    let mut revert = pin!(pool.revert_volume(&volume, &checkpoint, &progress));
    assert!(poll_for(revert.as_mut(), 50).is_none(), "the revert waits for the request");
    finish(pool.delete_checkpoint(&volume, &checkpoint)).expect("deleted");
    let some_background = |polls| poll_for(pin!(pool.background(turn)), polls);
    some_background(3);
    poll_for(request.as_mut(), 1000).expect("the request ends").expect("well");
    some_background(3);
    let reverted = poll_for(revert.as_mut(), 1_000_000).expect("the revert ends");
    assert_eq!(reverted.map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    some_background(10_000);
    let report = finish(pool.scrub(&Progress::new())).expect("a scrub");
    assert_eq!(report.errors, 0, "{:?}", report.findings);
}

/// One check at a time is under way, and a second one that was cancelled waited for the first one's end.
#[test]
fn a_check_that_waits_for_another_is_cancelled_at_once() {
    let (disks, pool) = two_members();
    fill(&open(&pool));
    disks[1].hold_flushes();
    let (first, second) = (Progress::new(), Progress::new());
    let (mut checked, mut waits) = (pin!(pool.check(&first)), pin!(pool.check(&second)));
    assert!(poll_for(checked.as_mut(), 100_000).is_none(), "its commit waits for the second member");
    assert!(poll_for(waits.as_mut(), 100_000).is_none(), "there is one check at a time");
    second.cancel();
    let ended = poll_for(waits, 1).expect("it does not wait for the first");
    assert_eq!(ended.expect_err("it was cancelled").kind(), ErrorKind::Cancelled);
}
