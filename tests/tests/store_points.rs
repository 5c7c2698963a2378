//! Reference points and tokens beyond what the random histories reach: alterations, foreign points, copies of a pool
//! that went their own ways, and the errors for everything a client may get wrong.

use datum_store::{BlockIndex, ErrorKind, Since, Token};
use datum_tests::disk::PowerLoss;
use datum_tests::model::action::Action;
use datum_tests::model::operation::VOLUME_BLOCKS_MAX;
use datum_tests::store::perform::name;
use datum_tests::store::story::Story;
use datum_tests::store::world::World;

fn token(world: &mut World, volume: &str, point: &str) -> Token {
    world.call(async |pool| pool.token(&name(volume), &name(point)).await).expect("a token")
}

fn since(world: &mut World, volume: &str, since: Since) -> Result<u64, ErrorKind> {
    world
        .call(async |pool| pool.resolve_since(&name(volume), None, &since).await)
        .map(|change| change.0)
        .map_err(|error| error.kind())
}

#[test]
fn every_altered_token_is_invalid() {
    let mut story = Story::new(1, 10);
    story.refpoint("r");
    let text = token(&mut story.world, "v", "r").encode();
    assert!(text.is_ascii() && !text.contains(char::is_whitespace));
    let invalid = |text: &str| {
        assert_eq!(Token::decode(text).map_err(|e| e.kind()), Err(ErrorKind::TokenInvalid), "{text}")
    };
    for at in 0..text.len() {
        for replacement in (0x20..0x7f).map(char::from) {
            let mut altered = text.clone();
            altered.replace_range(at..=at, replacement.encode_utf8(&mut [0; 4]));
            // A reader that takes capitals for small letters reads the same token.
            if !altered.eq_ignore_ascii_case(&text) {
                invalid(&altered);
            }
        }
        invalid(&text[..at]);
        let mut shorter = text.clone();
        shorter.remove(at);
        if shorter != text {
            invalid(&shorter);
        }
    }
    for other in ["", "datum", "datum:", "datum:1:", "datum:2:00", "ä", "datum:1:ä"] {
        invalid(other);
    }
    invalid(&format!("{text}0"));
    invalid(&format!(" {text}"));
    invalid(&text.replacen("datum:1:", "datum:2:", 1));
}

#[test]
fn a_token_survives_renaming_deletion_of_its_point_and_restarts() {
    let mut story = Story::new(2, 500);
    story.fill(0, 100);
    story.refpoint("r");
    story.world.keep_token("v", "r");
    story.fill(50, 100);
    story.world.act(Action::DeleteRefpoint { volume: "v".into(), name: "r".into() });
    story.world.act(Action::RenameVolume { name: "v".into(), new_name: "w".into() });
    story.world.crash_now(PowerLoss::Any);
    story.world.verify();
    story.world.act(Action::RenameVolume { name: "w".into(), new_name: "v".into() });
    story.world.reopen();
    story.end();
}

/// A pool image is copied while the pool runs; original and copy go their own ways. Each knows the points from
/// before the copy and refuses the other's later ones, also where the change ids would fit.
#[test]
fn copies_of_a_pool_refuse_each_others_points() {
    for reopen_original in [false, true] {
        let mut story = Story::new(3, 100);
        story.fill(0, 10);
        story.refpoint("before");
        story.w(1);
        let before = token(&mut story.world, "v", "before");
        story.commit();

        let mut rng = story.world.rng.clone();
        let images: Vec<_> =
            story.world.disks.iter().map(|d| d.inner().power_loss(PowerLoss::Nothing, &mut rng)).collect();
        let mut copy = Story::new(4, 1).world;
        copy.power_off(PowerLoss::Nothing);
        copy.power_on(images);
        copy.open().expect("the copy opens");

        if reopen_original {
            story.world.reopen();
        }
        story.w(2);
        story.refpoint("mine");
        let mine = token(&mut story.world, "v", "mine");
        copy.call(async |pool| pool.create_refpoint(&name("v"), &name("theirs"), 9).await)
            .expect("a refpoint");
        let theirs = token(&mut copy, "v", "theirs");

        for world in [&mut story.world, &mut copy] {
            assert!(since(world, "v", Since::Token(before)).is_ok(), "both know what came before the copy");
        }
        assert!(since(&mut story.world, "v", Since::Token(mine)).is_ok());
        assert!(since(&mut copy, "v", Since::Token(theirs)).is_ok());
        assert_eq!(since(&mut copy, "v", Since::Token(mine)), Err(ErrorKind::RefpointForeign));
        assert_eq!(since(&mut story.world, "v", Since::Token(theirs)), Err(ErrorKind::RefpointForeign));

        // Nor do later points and restarts make them acceptable.
        for round in 0..3 {
            copy.call(async |pool| pool.create_refpoint(&name("v"), &name(&format!("t{round}")), 9).await)
                .expect("a refpoint");
            assert_eq!(since(&mut copy, "v", Since::Token(mine)), Err(ErrorKind::RefpointForeign));
            story.refpoint(&format!("m{round}"));
            story.world.reopen();
            assert_eq!(since(&mut story.world, "v", Since::Token(theirs)), Err(ErrorKind::RefpointForeign));
        }
        story.world.verify();
    }
}

/// A pool rolled back to an older image refuses the points it has forgotten.
#[test]
fn a_rolled_back_pool_refuses_the_points_it_forgot() {
    let mut story = Story::new(5, 100);
    story.fill(0, 10);
    story.refpoint("old");
    story.world.reopen();
    let mut rng = story.world.rng.clone();
    let images: Vec<_> =
        story.world.disks.iter().map(|d| d.inner().power_loss(PowerLoss::Everything, &mut rng)).collect();
    story.refpoint("forgotten");
    let forgotten = token(&mut story.world, "v", "forgotten");
    story.world.power_off(PowerLoss::Nothing);
    story.world.power_on(images);
    story.world.open().expect("the old image opens");
    let early = since(&mut story.world, "v", Since::Token(forgotten));
    assert!(matches!(early, Err(ErrorKind::RefpointForeign | ErrorKind::RefpointNewer)), "{early:?}");
    for i in 0..5 {
        let point = format!("p{i}");
        story
            .world
            .call(async |pool| pool.create_refpoint(&name("v"), &name(&point), 9).await)
            .expect("a refpoint");
        let late = since(&mut story.world, "v", Since::Token(forgotten));
        assert_eq!(late, Err(ErrorKind::RefpointForeign), "after {i} points of its own");
    }
}

#[test]
fn points_of_other_volumes_are_foreign_and_clones_know_their_ancestors() {
    let mut story = Story::new(6, 1000);
    story.create("other", 1000);
    story.fill(0, 50);
    story.refpoint("a");
    story.fill(20, 50);
    story.checkpoint("c");
    story.fill(0, 5);
    story.refpoint("after");
    for point in ["a", "after"] {
        story.world.keep_token("v", point);
    }
    story.clone("c", "w");
    let write = story.write("w", 7);
    story.world.act(write);
    let again = Action::CreateCheckpoint { volumes: vec!["w".into(), "v".into()], name: "d".into(), time: 1 };
    story.world.act(again);
    let timeline = story.world.rng.wide();
    story.world.act(Action::CloneVolume {
        volume: "w".into(),
        checkpoint: "d".into(),
        name: "x".into(),
        timeline,
        time: 1,
    });
    story.world.verify();
    let foreign = story.world.tokens[0].0;
    assert_eq!(since(&mut story.world, "other", Since::Token(foreign)), Err(ErrorKind::RefpointForeign));
    story.world.act(Action::DeleteVolume { name: "v".into() });
    story.world.verify();
    story.end();
}

#[test]
fn what_a_client_gets_wrong_is_named() {
    let mut story = Story::new(7, 10);
    story.checkpoint("c");
    story.refpoint("r");
    story.clone("c", "w");
    let world = &mut story.world;
    let kind =
        |world: &mut World, action: Action| world.attempt(action).map(|_| ()).map_err(|error| error.kind());
    let point = |volume: &str, name: &str| Action::CreateRefpoint {
        volume: volume.into(),
        name: name.into(),
        time: 0,
    };
    let checkpoint = |volumes: &[&str], name: &str| Action::CreateCheckpoint {
        volumes: volumes.iter().map(|v| v.to_string()).collect(),
        name: name.into(),
        time: 0,
    };
    let create = |name: &str, size| Action::CreateVolume { name: name.into(), size, timeline: 99, time: 0 };
    let convert = |name: &str, refpoint: &str| Action::ConvertCheckpoint {
        volume: "v".into(),
        name: name.into(),
        refpoint: refpoint.into(),
    };
    let cases = [
        (create("v", 10), ErrorKind::Exists),
        (create("z", 0), ErrorKind::Invalid),
        (create("z", VOLUME_BLOCKS_MAX + 1), ErrorKind::Limit),
        (Action::DeleteVolume { name: "z".into() }, ErrorKind::NotFound),
        (Action::RenameVolume { name: "z".into(), new_name: "y".into() }, ErrorKind::NotFound),
        (Action::RenameVolume { name: "v".into(), new_name: "w".into() }, ErrorKind::Exists),
        (Action::ResizeVolume { name: "z".into(), size: 4 }, ErrorKind::NotFound),
        (Action::ResizeVolume { name: "v".into(), size: 0 }, ErrorKind::Invalid),
        (Action::ResizeVolume { name: "v".into(), size: VOLUME_BLOCKS_MAX + 1 }, ErrorKind::Limit),
        (point("z", "p"), ErrorKind::NotFound),
        (point("v", "r"), ErrorKind::Exists),
        (point("v", "c"), ErrorKind::Exists),
        (checkpoint(&["v", "z"], "p"), ErrorKind::NotFound),
        (checkpoint(&["w", "v"], "r"), ErrorKind::Exists),
        (checkpoint(&["v"], "c"), ErrorKind::Exists),
        (checkpoint(&[], "p"), ErrorKind::Invalid),
        (checkpoint(&["v", "v"], "p"), ErrorKind::Invalid),
        (convert("r", "s"), ErrorKind::NotFound),
        (convert("z", "s"), ErrorKind::NotFound),
        (convert("c", "r"), ErrorKind::Exists),
        (Action::DeleteCheckpoint { volume: "v".into(), name: "r".into() }, ErrorKind::NotFound),
        (Action::DeleteRefpoint { volume: "v".into(), name: "c".into() }, ErrorKind::NotFound),
        (Action::RevertVolume { volume: "v".into(), checkpoint: "r".into() }, ErrorKind::NotFound),
        (Action::RevertVolume { volume: "w".into(), checkpoint: "c".into() }, ErrorKind::NotFound),
    ];
    let mut wrong = Vec::new();
    for (action, expected) in cases {
        let got = kind(world, action.clone());
        // Too large may be called a limit or senseless.
        let close = expected == ErrorKind::Limit && got == Err(ErrorKind::Invalid);
        if got != Err(expected) && !close {
            wrong.push(format!("{action:?}: {got:?} instead of {expected:?}"));
        }
    }
    let odd =
        world.call(async |pool| pool.create_volume(&name("z"), 4097, datum_store::TimelineId(5), 0).await);
    if odd.as_ref().map_err(|error| error.kind()).err() != Some(ErrorKind::Invalid) {
        wrong.push(format!("a size of 4097: {odd:?}"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    world.verify();
    world.check();
}

#[test]
fn data_requests_out_of_range_or_on_a_checkpoint_are_refused() {
    let mut story = Story::new(8, 10);
    story.w(1);
    story.checkpoint("c");
    let image = story.world.image("v");
    let block = || Box::new([1; 4096]);
    let pool = story.world.pool();
    story.world.executor.run(async {
        let invalid = |result: datum_store::Result<()>, what: &str| {
            assert_eq!(result.map_err(|e| e.kind()), Err(ErrorKind::Invalid), "{what}");
        };
        invalid(image.write(BlockIndex(10), vec![block()]).await, "a write past the end");
        invalid(image.write(BlockIndex(9), vec![block(), block()]).await, "a write across the end");
        invalid(image.write(BlockIndex(u64::MAX), vec![block()]).await, "a write at the end of numbers");
        invalid(image.trim(BlockIndex(5), 6).await, "a trim across the end");
        invalid(image.trim(BlockIndex(1), u64::MAX).await, "a trim that overflows");
        invalid(image.read(BlockIndex(9), 2).await.map(drop), "a read across the end");
        invalid(image.write_partial(BlockIndex(10), 0, &[1]).await, "a partial write past the end");
        invalid(
            image.write_partial(BlockIndex(1), 4090, &[1; 7]).await,
            "a partial write across a block's end",
        );
        let checkpoint = pool.open_image(&name("v"), Some(&name("c"))).await.expect("opens");
        for refused in
            [checkpoint.write(BlockIndex(0), vec![block()]).await, checkpoint.trim(BlockIndex(0), 1).await]
        {
            assert_eq!(refused.map_err(|e| e.kind()), Err(ErrorKind::ReadOnly));
        }
    });
    story.world.verify();
    story.end();
}

#[test]
fn a_checkpoint_of_several_volumes_is_one_instant_or_nothing() {
    let mut story = Story::new(9, 10);
    story.create("w", 20);
    story.world.act(Action::CreateRefpoint { volume: "w".into(), name: "taken".into(), time: 0 });
    let both = |name: &str| Action::CreateCheckpoint {
        volumes: vec!["v".into(), "w".into()],
        name: name.into(),
        time: 0,
    };
    assert!(story.world.attempt(both("taken")).is_err());
    story.world.verify();
    story.world.act(both("c"));
    story.world.crash_now(PowerLoss::Nothing);
    story.end();
}
