//! Disks whose checksums are right and whose contents contradict each other: no panic, nothing acknowledged that
//! builds on them, a cause that says what contradicts what, and reads that go on.

use datum_store::{BlockIndex, Error, ErrorKind, Progress};
use datum_tests::disk::PowerLoss;
use datum_tests::disk::forge::{Forge, POINTER_CHANGE, POINTER_SIZE, record, superblock};
use datum_tests::disk::layout::{Kind, Tree, set_word, word};
use datum_tests::model::action::Action;
use datum_tests::store::perform::name;
use datum_tests::store::story::Story;

/// A pool closed in order: volume `v` with a checkpoint and changes since, and a volume `w`.
fn pool() -> Story {
    let mut story = Story::new(1, 400);
    story.create("w", 50);
    story.fill(0, 300);
    let write = story.write("w", 7);
    story.world.act(write);
    story.checkpoint("c");
    story.fill(0, 140);
    story.world.quiesce();
    story
}

/// Ends the machine, lets somebody forge what lies on the disks, and opens the pool again.
fn forge(story: &mut Story, change: impl FnOnce(&mut Forge)) -> Result<(), Error> {
    story.world.call(async |pool| pool.close().await).expect("a sound pool closes");
    let mut forge = Forge::new(story.world.power_off(PowerLoss::Everything));
    change(&mut forge);
    story.world.forged = true;
    story.world.power_on(forge.finish());
    story.world.open()
}

fn why_read_only(story: &Story) -> String {
    story.world.pool().status().read_only.unwrap_or_default()
}

/// The pool has stopped and says why; what can be read is what was written.
fn stopped(story: &mut Story, why: &str) {
    let told = why_read_only(story);
    assert!(told.contains("contradict") && told.contains(why), "{told:?}");
    for action in [Action::Flush, Action::Commit, Action::Trim { volume: "w".into(), first: 0, count: 3 }] {
        let error = story.world.attempt_alone(&action).expect_err("the pool acknowledges nothing any more");
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{action:?}: {error}");
    }
    story.world.executor.idle();
    reads_are_true(story, "w");
}

/// Every block of a volume is an error or what was written there last.
fn reads_are_true(story: &mut Story, volume: &str) -> u64 {
    let known = story.world.model.state.volumes[volume].head.clone();
    let pool = story.world.pool();
    let contents = &story.world.contents;
    story.world.executor.run(async {
        let image = pool.open_image(&name(volume), None).await.expect("the volume opens");
        let mut errors = 0;
        for at in 0..known.size() {
            match image.read(BlockIndex(at), 1).await {
                Ok(blocks) => {
                    let shown = blocks[0].as_ref().map(|bytes| contents.identify(bytes));
                    assert_eq!(shown, known.get(at).content.map(Some), "block {at} of {volume}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    errors += 1;
                }
            }
        }
        errors
    })
}

fn findings(story: &mut Story) -> String {
    let report = story.world.call(async |pool| pool.check(&Progress::new()).await).expect("a check reports");
    report.findings.join("; ")
}

/// The forger's own work is checked: with nothing changed, nothing is.
#[test]
fn an_honest_forger_changes_nothing() {
    let mut story = pool();
    forge(&mut story, |_| {}).expect("the pool opens");
    story.world.forged = false;
    story.end();
}

/// A volume's change id was set back, as if two lives of it had been mixed: a write would have got an id older than
/// what it overwrites. It stopped the appliance ("a change id went back").
#[test]
fn a_volume_older_than_its_contents_is_refused_before_anything_changes() {
    let mut story = pool();
    story.refpoint("r");
    story.w(3);
    forge(&mut story, |forge| {
        for place in forge.records(record::VOLUME) {
            forge.set_field(place, record::VOLUME_CLOCK, 1);
        }
    })
    .expect("the pool opens");
    let write = story.write("v", 3);
    let error = story.world.attempt_alone(&write).expect_err("the write would go back in time");
    assert!(error.kind() == ErrorKind::Corrupt && error.message().contains("holds change"), "{error}");
    // Nobody else is concerned.
    let write = story.write("w", 9);
    story.world.act(write);
    story.flush();
    assert_eq!(reads_are_true(&mut story, "v"), 0);
    assert_eq!(why_read_only(&story), "");
}

/// The same below the root, where only the change itself meets it.
#[test]
fn a_block_newer_than_its_volume_stops_the_pool() {
    let mut story = pool();
    forge(&mut story, |forge| {
        for leaf in forge.leaves() {
            forge.alter(leaf, |node| set_word(node, 3 * POINTER_SIZE + POINTER_CHANGE, 1 << 40));
        }
    })
    .expect("the pool opens");
    let write = story.write("v", 3);
    let error = story.world.attempt_alone(&write).expect_err("the write would go back in time");
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    stopped(&mut story, "follows change 1099511627776");
}

/// Two places of a volume named one block: overwriting both frees it twice. It stopped the appliance ("is in the set
/// already"), and two places of one node did so too ("is changed without having been prepared").
#[test]
fn a_block_in_two_places_stops_the_pool_when_it_is_freed_twice() {
    for level_up in [false, true] {
        let mut story = pool();
        forge(&mut story, |forge| {
            let leaves = forge.leaves();
            let holders = match level_up {
                false => leaves,
                true => {
                    let nodes = forge.of_kind(Kind::Node(Tree::Volume)).into_iter();
                    let holds = |at: &u64| leaves.contains(&word(&forge.block(*at), 0));
                    nodes.filter(holds).collect()
                }
            };
            assert!(!holders.is_empty());
            for holder in holders {
                forge.alter(holder, |node| node.copy_within(..POINTER_SIZE, POINTER_SIZE));
            }
        })
        .expect("the pool opens");
        let found = findings(&mut story);
        assert!(found.contains("of disk vd0 is used twice"), "{found}");
        let stretch = if level_up { 128 } else { 1 };
        let contents = (0..2).map(|_| story.world.contents.draw()).collect();
        let first = stretch - 1;
        let write = Action::Write { volume: "v".into(), first, contents };
        story.world.attempt_alone(&write).expect_err("one block is freed twice");
        stopped(&mut story, "");
    }
}

/// The free map called blocks free that a volume uses: they were given away, which overwrote data and stopped the
/// appliance once a node of memory took the place of one on disk. What was overwritten is an error now, and the
/// check tells of it before.
#[test]
fn blocks_that_the_free_map_calls_free_are_never_shown_as_something_else() {
    let mut story = pool();
    forge(&mut story, |forge| {
        for bitmap in forge.of_kind(Kind::Bitmap) {
            // All but superblocks, marks, log and what follows them closely.
            forge.alter(bitmap, |bits| bits[64..].fill(0));
        }
    })
    .expect("the pool opens");
    let found = findings(&mut story);
    assert!(found.contains("of disk vd0 is in use and the free map calls it free"), "{found}");
    for round in 0..40 {
        let contents = (0..8).map(|_| story.world.contents.draw()).collect();
        let write = Action::Write { volume: "w".into(), first: round % 5 * 8, contents };
        let written =
            story.world.attempt_alone(&write).and_then(|_| story.world.attempt_alone(&Action::Commit));
        if let Err(error) = written {
            assert!([ErrorKind::ReadOnly, ErrorKind::Corrupt].contains(&error.kind()), "{error}");
        }
    }
    reads_are_true(&mut story, "v");
}

/// A volume that counted fewer blocks than it held lost more of them than it had: the count wrapped round, or stayed at
/// zero without a word.
#[test]
fn a_volume_that_counts_too_few_blocks_stops_the_pool() {
    for count in [3, 300] {
        let mut story = pool();
        forge(&mut story, |forge| {
            for place in forge.records(record::VERSION) {
                forge.set_field(place, record::VERSION_ALLOCATED, 2);
            }
        })
        .expect("the pool opens");
        let trim = Action::Trim { volume: "v".into(), first: 0, count };
        story.world.attempt_alone(&trim).expect_err("the volume counts two blocks");
        stopped(&mut story, "a volume's data is counted as 2 and loses");
    }
}

/// Lists of records that led in a circle never ended, in one step of the engine: the appliance hung.
#[test]
fn a_list_in_a_circle_has_an_end() {
    let mut story = pool();
    for point in ["d", "e"] {
        story.w(1);
        story.checkpoint(point);
    }
    forge(&mut story, |forge| {
        let volumes = forge.records(record::VOLUME);
        for place in forge.records(record::VERSION) {
            let first = forge.field(volumes[0], record::VOLUME_CHECKPOINTS);
            let link = forge.field(place, record::VERSION_LINK);
            if link != 0 {
                forge.set_field(place, record::VERSION_LINK + 8, first);
            }
        }
    })
    .expect("the pool opens");
    let listed = story.world.call(async |pool| pool.checkpoints(&name("v"), None, 1000).await);
    let error = listed.expect_err("the list contradicts itself");
    assert!(error.kind() == ErrorKind::Corrupt && error.message().contains("in a list"), "{error}");
    assert_eq!(reads_are_true(&mut story, "v"), 0);
}

/// A superblock whose numbers cannot be true was believed: a log beyond the disk, fewer blocks than are in use. To fall
/// back to the commit before would be worse.
#[test]
fn a_superblock_that_cannot_be_true_is_refused() {
    for (field, value) in [
        (superblock::LOG_FIRST, u64::MAX - 2),
        (superblock::LOG_BLOCKS, 0),
        (superblock::WAITING, u64::MAX),
        (superblock::MEMBERS, 5),
    ] {
        let mut story = pool();
        let error = forge(&mut story, |forge| forge.set_superblock(field, value)).expect_err("it is refused");
        assert!(error.kind() == ErrorKind::Device && error.message().contains("contradict"), "{error}");
    }
}

/// Counts of the free map that say more than there is are refused with the superblock; those that say less let
/// clients write until a freeze meets what cannot be.
#[test]
fn a_chunk_that_counts_too_few_blocks_stops_the_pool() {
    let mut story = pool();
    story.delete("c");
    forge(&mut story, |forge| {
        for bitmap in forge.of_kind(Kind::Node(Tree::Map)) {
            let count = |node: &[u8]| word(node, POINTER_CHANGE);
            if forge.kinds().get(&word(&forge.block(bitmap), 0)) == Some(&Kind::Bitmap) {
                assert!(count(&forge.block(bitmap)) > 0);
                forge.alter(bitmap, |node| set_word(node, POINTER_CHANGE, 1));
            }
        }
    })
    .expect("the pool opens");
    let found = findings(&mut story);
    assert!(found.contains("disagree"), "{found}");
    for round in 0..20 {
        story.world.executor.idle();
        let write = story.write("v", round);
        if story.world.attempt_alone(&write).and_then(|_| story.world.attempt_alone(&Action::Commit)).is_err()
        {
            break;
        }
    }
    let told = why_read_only(&story);
    assert!(told.is_empty() || told.contains("contradict"), "{told}");
    reads_are_true(&mut story, "v");
}
