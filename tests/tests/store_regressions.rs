//! Bugs that reading the engine found before any test did, each with its story, so that they stay found.

use datum_store::{ErrorKind, Progress, Result};
use datum_tests::disk::PowerLoss;
use datum_tests::executor::{BoxFuture, turn};
use datum_tests::model::action::Action;
use datum_tests::store::perform::name;
use datum_tests::store::story::{Story, told};
use futures_util::future::join;

/// Two reverts waited for their turn in one step and both took it; the second made the first look broken
/// off, and the release of what it had built went on eating the live volume.
#[test]
fn reverts_of_two_volumes_at_once_take_turns() {
    told(20, |seed| {
        let mut story = Story::new(seed, 600);
        story.create("u", 600);
        for volume in ["v", "u"] {
            for block in [0, 130, 599] {
                let write = story.write(volume, block);
                story.world.act(write);
            }
        }
        story.checkpoint("c");
        let other = Action::CreateCheckpoint { volumes: vec!["u".into()], name: "c".into(), time: 9 };
        story.world.act(other);
        for volume in ["v", "u"] {
            let write = story.write(volume, 130);
            story.world.act(write);
        }
        story.commit();
        story.world.call(async |pool| pool.drop_cache());
        let both = ["v", "u"].map(|v| Action::RevertVolume { volume: v.into(), checkpoint: "c".into() });
        story.world.act_together(both.to_vec(), true);
        story.end();
    });
}

/// A reference point made while a revert was stamping blocks took the change id of those stamped already:
/// they were missing from what changed since it. Now such commands are told to come back.
#[test]
fn nothing_advances_a_volumes_clock_while_it_is_being_reverted() {
    told(20, |seed| {
        let mut story = Story::new(seed, 128 * 20);
        story.fill(0, 128 * 12);
        story.checkpoint("c");
        story.fill(0, 128 * 12);
        let pool = story.world.pool();
        let progress = Progress::new();
        let revert = async { pool.revert_volume(&name("v"), &name("c"), &progress).await.map(|_| true) };
        let point = async {
            // Let the revert get somewhere first.
            while progress.fraction() == 0.0 {
                turn().await;
            }
            pool.create_refpoint(&name("v"), &name("r"), 1).await.map(|_| false)
        };
        let work: Vec<BoxFuture<'_, Result<bool>>> = vec![Box::pin(revert), Box::pin(point)];
        let outcomes = story.world.executor.run_all(work);
        assert_eq!(outcomes[0], Ok(true));
        assert_eq!(outcomes[1].as_ref().map_err(|error| error.kind()), Err(ErrorKind::InUse));
    });
}

/// A release that had paused lost its place at a restart: what the volume then overwrote before the cursor
/// was kept for a version that had already been there, and leaked.
#[test]
fn a_release_goes_on_where_it_was_after_a_restart() {
    told(40, |seed| {
        let mut story = Story::new(seed, 600);
        story.fill(0, 600);
        story.checkpoint("c");
        story.fill(0, 10);
        story.delete("c");
        story.step(seed * 7);
        story.commit();
        story.crash(PowerLoss::Any);
        story.fill(0, 300);
        story.end();
    });
}

/// A checkpoint of two volumes was made; while it became durable one of them was deleted. The command said that
/// there is no such volume, though the other one had its checkpoint: the answer was made up too late.
#[test]
fn a_command_that_was_done_is_not_answered_with_an_error() {
    told(20, |seed| {
        let mut story = Story::new(seed, 4);
        story.create("u", 4);
        let both =
            Action::CreateCheckpoint { volumes: vec!["v".into(), "u".into()], name: "c".into(), time: 9 };
        let renamed = Action::RenameVolume { name: "v".into(), new_name: "w".into() };
        let resized = Action::ResizeVolume { name: "v".into(), size: 9 };
        story.world.act_at_once(&[both, Action::DeleteVolume { name: "u".into() }]);
        story.world.act_at_once(&[resized, renamed]);
        story.end();
    });
}

/// What a checkpoint has for itself was counted against the next one while that was being released: nodes that had gone with
/// it, and never were on the disk, were asked of the disk, and the command told of a wrong block.
#[test]
fn what_is_unique_is_told_beside_releases() {
    told(20, |seed| {
        let mut story = Story::new(seed, 600);
        for point in ["a", "b", "c"] {
            story.fill(0, 600);
            story.checkpoint(point);
        }
        story.fill(0, 600);
        let unique = |story: &mut Story, point: &str| {
            story.world.call(async |pool| pool.unique_bytes(&name("v"), &name(point)).await)
        };
        let alone = unique(&mut story, "a");
        story.delete("b");
        while story.world.pool().status().releases_pending > 0 {
            assert_eq!(unique(&mut story, "a"), alone);
            story.step(1);
        }
        // The checkpoint itself goes, between two steps of the count.
        let (told, deleted) = story.world.call(async |pool| {
            let delete = async {
                for _ in 0..seed {
                    turn().await;
                }
                pool.delete_checkpoint(&name("v"), &name("a")).await.map(drop)
            };
            join(pool.unique_bytes(&name("v"), &name("a")), delete).await
        });
        assert_eq!(deleted, Ok(()));
        let gone = told.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        assert!(told == alone || gone, "{told:?}");
    });
}
