//! What keeps the space of a deleted or converted checkpoint is named, all of it and nothing else, also after a
//! reopening, and by one rule for whoever asks.

use datum_store::{HeldVersion, Holders};
use datum_tests::disk::PowerLoss;
use datum_tests::model::action::Action;
use datum_tests::store::perform::name;
use datum_tests::store::story::{Story, told};

/// What `checkpoint.list` says.
fn listed(story: &mut Story, checkpoint: &str) -> Vec<String> {
    let pool = story.world.pool();
    let shown = story.world.executor.run(pool.checkpoint(&name("v"), &name(checkpoint)));
    shown.expect("a checkpoint that is there shows").held_by
}

/// What `pool.status` lists: the names of what waits, each with its holders.
fn held(story: &mut Story) -> Vec<(String, Vec<String>)> {
    story.world.executor.idle();
    let pool = story.world.pool();
    let (items, more) = story.world.executor.run(pool.held()).expect("what is held can be told");
    assert_eq!(more + items.len() as u64, pool.status().releases_pending, "{items:?}");
    let told = |item: HeldVersion| (item.name.map_or("-".into(), |name| name.to_string()), item.held_by);
    items.into_iter().map(told).collect()
}

fn a(holders: &[&str]) -> Vec<(String, Vec<String>)> {
    vec![("a".into(), holders.iter().map(|&holder| holder.into()).collect())]
}

/// A checkpoint taken later keeps what the volume was reverted to: nobody said so, neither before a conversion, nor in
/// its job, nor after a restart.
#[test]
fn a_checkpoint_that_a_revert_left_aside_is_named() {
    told(3, |seed| {
        let mut story = Story::new(seed, 100);
        story.w(0);
        story.checkpoint("a");
        story.w(1);
        story.checkpoint("b");
        story.w(2);
        story.revert("a");
        story.w(3);
        assert_eq!(held(&mut story), []);
        assert_eq!(listed(&mut story, "a"), ["checkpoint v@b"]);
        assert_eq!(listed(&mut story, "b"), [""; 0]);
        story.convert("a");
        assert_eq!(held(&mut story), a(&["checkpoint v@b"]));
        story.crash(PowerLoss::Any);
        assert_eq!(held(&mut story), a(&["checkpoint v@b"]));
        story.delete("b");
        assert_eq!(held(&mut story), []);
        story.end();
    });
}

/// Deleting what lies next would only move what lies behind it: all of it is named, a clone's own checkpoints as the
/// clone.
#[test]
fn everything_shown_on_the_other_branches_is_named() {
    let mut story = Story::new(1, 100);
    for point in ["a", "b", "c"] {
        story.w(0);
        story.checkpoint(point);
    }
    story.clone("c", "w");
    story.world.act(Action::CreateCheckpoint { volumes: vec!["w".into()], name: "x".into(), time: 7 });
    story.revert("a");
    // The live contents are not a child of a any more, but lie below d.
    story.w(1);
    story.checkpoint("d");
    story.w(2);
    story.delete("a");
    assert_eq!(held(&mut story), a(&["checkpoint v@b", "checkpoint v@c", "volume w"]));
    story.delete("b");
    assert_eq!(held(&mut story), a(&["checkpoint v@c", "volume w"]));
    story.delete("c");
    assert_eq!(held(&mut story), a(&["volume w"]));
    story.world.act(Action::DeleteVolume { name: "w".into() });
    assert_eq!(held(&mut story), []);
    story.end();
}

/// Releases go one after the other.
#[test]
fn what_waits_for_its_turn_says_so() {
    let mut story = Story::new(1, 1000);
    for point in ["a", "b"] {
        story.fill(0, 1000);
        story.checkpoint(point);
    }
    story.fill(0, 1000);
    story.delete("a");
    story.delete("b");
    let mut told = Vec::new();
    for _ in 0..1000 {
        story.step(1);
        let pool = story.world.pool();
        let (items, _) = story.world.executor.run(pool.held()).expect("what is held can be told");
        told.extend(items.into_iter().flat_map(|item| item.held_by));
    }
    told.dedup();
    assert_eq!(told, ["another release under way"]);
    story.end();
}

/// A reader of what is shown no more, beside a clone.
#[test]
fn what_ends_by_itself_is_told_apart_from_what_stays() {
    let mut story = Story::new(1, 100);
    story.fill(0, 100);
    story.checkpoint("a");
    story.clone("a", "w");
    story.fill(0, 100);
    let pool = story.world.pool();
    let reader = story.world.executor.run(pool.open_image(&name("v"), Some(&name("a"))));
    let release = story.world.call(async |pool| pool.delete_checkpoint(&name("v"), &name("a")).await);
    let release = release.expect("a checkpoint with a clone can be deleted");
    story.world.model.state.volume("v").points.remove("a");
    let state = story.world.model.state.clone();
    story.world.model.settle(state);
    let ask = |story: &mut Story| story.world.executor.run(release.holders(&pool)).expect("known");
    let both = ["1 open reader(s)", "volume w"].map(String::from).to_vec();
    assert_eq!(ask(&mut story), Holders { by: both, versions: true, readers: true });
    story.world.act(Action::DeleteVolume { name: "w".into() });
    story.world.executor.idle();
    let one = vec!["1 open reader(s)".into()];
    assert_eq!(ask(&mut story), Holders { by: one, versions: false, readers: true });
    drop(reader);
    story.world.executor.idle();
    assert_eq!(ask(&mut story), Holders::default());
    assert_eq!(held(&mut story), []);
    drop(pool);
    story.end();
}

#[test]
fn many_holders_are_named_in_part() {
    let mut story = Story::new(1, 100);
    story.w(0);
    story.checkpoint("a");
    for clone in 0..20 {
        story.clone("a", &format!("w{clone}"));
    }
    let listed = listed(&mut story, "a");
    assert_eq!((listed.len(), listed[0].as_str(), listed[16].as_str()), (17, "volume w0", "and more"));
    story.end();
}
