//! Sequences that broke a plausible reading of the design, each as a short story.
//!
//! `w0` = write block 0, `cp c` = checkpoint c. Every story ends with a full comparison against the model, a
//! clean check, and all space returned; so "freed early" shows as corruption or as a block used twice, and "leak" as
//! space that stays. Stories run under several seeds, with background work stopped at many places.

use datum_tests::disk::PowerLoss;
use datum_tests::model::action::Action;
use datum_tests::model::operation::VOLUME_BLOCKS_MAX;
use datum_tests::store::perform::name;
use datum_tests::store::story::{Story, told};
use datum_tests::store::world::Setup;

/// Where background work is interrupted.
const PAUSES: [u64; 10] = [0, 1, 2, 4, 8, 16, 40, 100, 250, 1000];

/// `cp c; trim 0; revert c`: a hole in the head and a hole in the checkpoint are equal, so the head's pointer stays.
/// Taking the checkpoint's pointer would lose the change; reusing the old head's identical node frees it early.
#[test]
fn a_revert_keeps_the_change_of_an_equal_hole() {
    told(5, |seed| {
        let mut story = Story::new(seed, 300);
        story.fill(1, 200);
        story.checkpoint("c");
        story.trim(0, 1);
        story.revert("c");
        assert_eq!(story.world.model.state.volumes["v"].head.get(0).change, 2, "the trim still counts");
        story.world.verify();
        story.world.quiesce();
        story.fill(5, 3);
        story.end();
    });
}

/// `w0; cp c; revert c; revert c; delete c`: counting only visible children frees what an old head still reaches.
#[test]
fn hidden_heads_count_as_children() {
    for pause in PAUSES {
        told(2, |seed| {
            let mut story = Story::new(seed, 4);
            story.w(0);
            story.checkpoint("c");
            story.w(1);
            story.revert("c");
            story.w(2);
            story.revert("c");
            story.delete("c");
            story.step(pause);
            story.world.verify();
            story.w(0);
            story.end();
        });
    }
}

/// `w0; cp a; w0; cp b; w0; delete a; delete b`, both releases stepping: one would read nodes the other freed.
#[test]
fn one_release_at_a_time() {
    for pause in PAUSES {
        told(2, |seed| {
            let mut story = Story::new(seed, 400);
            story.fill(0, 300);
            story.checkpoint("a");
            story.fill(0, 150);
            story.checkpoint("b");
            story.fill(100, 150);
            story.delete("a");
            story.step(pause);
            story.delete("b");
            story.step(pause);
            story.commit();
            story.fill(0, 20);
            story.world.verify();
            story.end();
        });
    }
}

/// `w0; cp c; delete c; step; trim all`, the cursor inside a shared node: a leak.
#[test]
fn the_cursor_stops_only_at_compared_pointers() {
    for pause in PAUSES {
        told(2, |seed| {
            let mut story = Story::new(seed, 128 * 128 + 1);
            story.fill(0, 300);
            story.w(128 * 128);
            story.checkpoint("c");
            story.w(200);
            story.delete("c");
            story.step(pause);
            story.trim(0, 128 * 128 + 1);
            story.end();
        });
    }
}

/// `w0; cp c; delete c;` the release starts`; w0`. With P's bound everywhere the block is freed early; with S's bound
/// everywhere it leaks once the cursor has passed.
#[test]
fn the_bound_follows_the_cursor() {
    for pause in PAUSES {
        told(3, |seed| {
            let mut story = Story::new(seed, 600);
            story.fill(0, 600);
            story.checkpoint("p");
            story.fill(0, 600);
            story.checkpoint("c");
            story.fill(250, 50);
            story.delete("c");
            for block in [0, 127, 128, 260, 400, 599] {
                story.step(pause);
                story.w(block);
                story.trim(block ^ 1, 1);
            }
            story.commit();
            story.world.verify();
            story.end();
        });
    }
}

/// A checkpoint taken while a release runs becomes its child; writes and further releases go on.
#[test]
fn a_checkpoint_taken_during_a_release_becomes_its_child() {
    for pause in PAUSES {
        told(2, |seed| {
            let mut story = Story::new(seed, 400);
            story.fill(0, 400);
            story.checkpoint("a");
            story.fill(0, 200);
            story.convert("a");
            story.step(pause);
            story.checkpoint("b");
            story.fill(150, 200);
            story.step(pause);
            story.crash(PowerLoss::Nothing);
            story.step(pause);
            story.revert("b");
            story.end();
        });
    }
}

/// `cp; trim 0`: collapsing the parent to one hole would report block 1 too.
#[test]
fn a_hole_collapses_only_with_equal_change_ids() {
    told(2, |seed| {
        let mut story = Story::new(seed, 2);
        story.checkpoint("c");
        story.trim(0, 1);
        story.end();
        let mut story = Story::new(seed, 128 * 128 * 128);
        story.refpoint("r");
        story.trim(0, 128 * 128 * 128 - 1);
        story.world.verify();
        story.refpoint("s");
        story.trim(128, 128 * 128);
        story.end();
    });
}

/// `cp; trim [0,2); w0`: a hole that is split hands its change id to every entry, or block 1 is missed.
#[test]
fn a_split_hole_hands_its_change_down() {
    told(2, |seed| {
        let mut story = Story::new(seed, 2);
        story.checkpoint("c");
        story.trim(0, 2);
        story.w(0);
        story.end();
        let mut story = Story::new(seed, VOLUME_BLOCKS_MAX);
        story.checkpoint("c");
        story.trim(0, VOLUME_BLOCKS_MAX);
        story.refpoint("r");
        story.w(VOLUME_BLOCKS_MAX / 2 + 77);
        story.world.verify();
        story.crash(PowerLoss::Any);
        story.end();
    });
}

/// `cp c (size 4); shrink to 2; revert c`: growth is a trim, so blocks 2 and 3 changed.
#[test]
fn a_revert_across_sizes_counts_what_grows_back() {
    for (large, small) in [(4, 2), (129, 128), (128 * 128 + 1, 1), (1 << 28, 5), (300, 129)] {
        told(2, |seed| {
            let mut story = Story::new(seed, large);
            story.w(0);
            story.w(large - 1);
            story.checkpoint("c");
            story.resize(small);
            story.checkpoint("small");
            story.revert("c");
            story.world.verify();
            story.w(large - 1);
            story.revert("small");
            story.end();
        });
    }
}

/// `cp c; w0; revert c`, then since c: an address walk says nothing and the change walk says 0. The change walk is
/// right, and converting c must not change the answer.
#[test]
fn conversion_never_changes_an_answer() {
    told(3, |seed| {
        let mut story = Story::new(seed, 300);
        story.fill(0, 300);
        story.checkpoint("c");
        story.w(0);
        story.revert("c");
        story.world.verify();
        story.convert("c");
        story.world.verify();
        story.world.quiesce();
        story.world.verify();
        story.end();
    });
}

/// `w2; trim [0,4); cp c` with a background drop that uses the head's later bound: a leak.
#[test]
fn a_drop_job_keeps_the_bounds_of_its_moment() {
    for pause in PAUSES {
        told(2, |seed| {
            let mut story = Story::new(seed, 128 * 128 * 2);
            story.fill(2, 1000);
            story.fill(128 * 128 - 3, 300);
            story.trim(0, 128 * 128 * 2);
            story.step(pause);
            story.checkpoint("c");
            story.step(pause);
            story.fill(0, 10);
            story.delete("c");
            story.end();
        });
    }
}

/// `w1; FLUSH; w1` in place`; crash`: the acknowledged record would no longer verify.
#[test]
fn data_is_never_rewritten() {
    for policy in PowerLoss::ALL {
        told(3, |seed| {
            let mut story = Story::new(seed, 4);
            story.w(1);
            story.flush();
            story.w(1);
            story.crash(policy);
            story.end();
        });
    }
}

/// `w0 to A; FLUSH; w0 to B; w1 to A; crash`: a block freed since the commit is not reused before the next, or the
/// acknowledged write is gone.
#[test]
fn freed_blocks_are_reused_only_after_a_commit() {
    for policy in PowerLoss::ALL {
        told(3, |seed| {
            // A pool with little room, so that reuse would come soon.
            let setup = Setup { members: vec![8192], ..Setup::small(seed) };
            let mut story = Story::with(&setup, 64);
            story.w(0);
            story.flush();
            for _ in 0..60 {
                story.w(0);
                story.fill(1, 60);
            }
            story.crash(policy);
            story.end();
        });
    }
}

/// `w0; w1; FLUSH; crash`: replay takes every address that records name before it makes a node, or a node lands on
/// w1's data.
#[test]
fn replay_takes_all_addresses_first() {
    told(5, |seed| {
        let mut story = Story::new(seed, 1 << 28);
        for i in 0..60 {
            story.w(i * 128 * 128);
            story.flush();
        }
        story.crash(PowerLoss::Nothing);
        story.world.scrub();
        story.end();
    });
}

/// A commit starts`; w0; cp c; FLUSH; crash;` replay`; w0`: the record carries the epoch, or c gets too low a one and
/// its block is freed.
#[test]
fn records_carry_their_epoch() {
    for pause in PAUSES {
        told(3, |seed| {
            let mut story = Story::new(seed, 300);
            story.fill(0, 300);
            let commit = commit_beside(&mut story, pause);
            story.w(0);
            story.checkpoint("c");
            story.flush();
            drop(commit);
            story.crash(PowerLoss::Nothing);
            story.w(0);
            story.commit();
            story.world.verify();
            story.convert("c");
            story.end();
        });
    }
}

/// `w0;` a commit starts`; FLUSH;` it ends`; crash`: no record spans a commit, or w0 is replayed twice.
#[test]
fn no_record_spans_a_commit() {
    for pause in PAUSES {
        told(3, |seed| {
            let mut story = Story::new(seed, 300);
            story.fill(0, 20);
            story.checkpoint("c");
            story.w(0);
            let commit = commit_beside(&mut story, pause);
            story.w(1);
            story.flush();
            story.world.executor.idle();
            assert!(commit.get(), "the commit ends");
            story.crash(PowerLoss::Nothing);
            story.w(0);
            story.end();
        });
    }
}

/// Starts a commit and lets it take `steps` steps; the cell tells when it is done.
fn commit_beside(story: &mut Story, steps: u64) -> std::rc::Rc<std::cell::Cell<bool>> {
    let done = std::rc::Rc::new(std::cell::Cell::new(false));
    let (pool, flag) = (story.world.pool(), done.clone());
    story.world.executor.spawn(async move {
        pool.commit().await.expect("the commit succeeds");
        flag.set(true);
    });
    story.step(steps);
    done
}

/// The superblock reaches one of two members, crash, open at the newer, commit, crash again: any valid superblock on
/// any member counts, or two commits have nothing in common or get mixed.
#[test]
fn the_newest_superblock_on_any_member_wins() {
    for steps in (0..400).step_by(7) {
        told(1, |seed| {
            let setup = Setup { members: vec![4096, 4096], ..Setup::small(seed) };
            let mut story = Story::with(&setup, 64);
            story.fill(0, 64);
            story.flush();
            story.world.crash_during(vec![Action::Commit], steps, PowerLoss::Any, &[steps]);
            story.w(3);
            story.commit();
            story.crash(PowerLoss::Any);
            story.world.verify();
        });
    }
}

/// Record 7 names X and Y, X's data is lost, the log ends at 6; the client writes X again, the allocator picks the same
/// block, crash: record 7 would verify now and bring Y back, unless opening ends with a commit.
#[test]
fn a_record_that_failed_stays_failed() {
    for steps in (0..160).step_by(3) {
        told(1, |seed| {
            let mut story = Story::new(seed, 8);
            story.w(0);
            story.flush();
            let writes = vec![story.write("v", 1), story.write("v", 2)];
            for write in writes {
                story.world.act(write);
            }
            story.world.crash_during(vec![Action::Flush], steps, PowerLoss::DropOne, &[]);
            story.w(1);
            story.crash(PowerLoss::Everything);
            story.flush();
            story.crash(PowerLoss::Nothing);
            story.world.verify();
        });
    }
}

/// Look up A; overwrite; commit; A is reused; the old read completes: reuse waits for reads, or a healthy pool
/// reports a checksum error.
#[test]
fn reuse_waits_for_reads() {
    told(20, |seed| {
        let setup = Setup { members: vec![8192], ..Setup::small(seed) };
        let mut story = Story::with(&setup, 64);
        story.fill(0, 64);
        story.flush();
        let pool = story.world.pool();
        story.world.executor.spawn(async move {
            for round in 0..200 {
                let image = pool.open_image(&name("v"), None).await.expect("the volume opens");
                image
                    .read(datum_store::BlockIndex(round % 8), 56)
                    .await
                    .expect("no read of a healthy pool fails");
            }
        });
        for _ in 0..12 {
            story.fill(0, 64);
            story.commit();
            story.step(50);
        }
        assert_eq!(story.world.pool().counters().checksum_errors, 0);
        story.end();
    });
}

/// Full pool: `trim; write`. The space comes back with a commit, so the write must cause one before it says ENOSPC.
#[test]
fn a_full_pool_commits_before_it_refuses() {
    told(5, |seed| {
        let setup = Setup { members: vec![8192], ..Setup::small(seed) };
        let mut story = Story::with(&setup, 1 << 20);
        let mut next = 0;
        loop {
            let write = story.write("v", next);
            match story.world.attempt(write) {
                Ok(_) => next += 1,
                Err(error) => {
                    assert_eq!(error.kind(), datum_store::ErrorKind::NoSpace, "{error}");
                    break;
                }
            }
            assert!(next < 8192, "a pool of 8,192 blocks took {next} blocks of data");
        }
        assert!(next > 3000, "only {next} of 8192 blocks took data");
        story.trim(0, next / 2);
        story.fill(0, next / 4);
        story.end();
    });
}
