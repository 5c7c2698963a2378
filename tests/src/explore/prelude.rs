//! Where short histories begin: pools in which three operations reach something deep.
//!
//! Volumes have two to five blocks, some of them holes, so that every letter overwrites, fills or trims something
//! that a point still needs or no longer needs.

use crate::model::action::Action;
use crate::store::world::{Setup, Start, World};

/// A place to begin.
#[derive(Clone, Copy, Debug)]
pub struct Prelude {
    /// As written in a replay command.
    pub name: &'static str,
    /// Member disks in blocks.
    members: &'static [u64],
    /// Seeds with this remainder by 5 choose the pointers that a step of background work looks at.
    steps: u64,
    /// Background work runs only where a letter says so: releases stay where they are.
    background_last: bool,
    tell: fn(&mut World),
}

/// Smallest disk that a pool takes.
const DISK: u64 = 4096;

/// All of them.
pub const PRELUDES: [Prelude; 4] = [
    Prelude { name: "plain", members: &[DISK], steps: 1, background_last: false, tell: plain },
    Prelude { name: "points", members: &[DISK], steps: 0, background_last: false, tell: points },
    Prelude { name: "releasing", members: &[DISK], steps: 0, background_last: true, tell: releasing },
    Prelude { name: "pair", members: &[DISK, DISK], steps: 2, background_last: false, tell: pair },
];

/// A volume large enough for the largest requests, for those who want them; no part of the short histories.
pub const LARGE: Prelude =
    Prelude { name: "large", members: &[DISK], steps: 4, background_last: false, tell: large };

impl Prelude {
    /// The prelude of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRELUDES.iter().find(|prelude| prelude.name == name)
    }

    /// The setup of a world that goes on from here, under a seed.
    pub fn setup(&self, seed: u64) -> Setup {
        let seed = seed / 10 * 5 + self.steps;
        Setup { members: self.members.to_vec(), cache_blocks: 256, seed }
    }

    /// Gives background work in a world the turns that it has here.
    pub fn pace(&self, world: &mut World) {
        if self.background_last {
            world.executor.set_background_share(0);
        }
    }

    /// Tells it, up to a power loss with nothing unflushed.
    pub fn start(&self, seed: u64) -> Start {
        let mut world = World::new(&self.setup(seed));
        self.pace(&mut world);
        (self.tell)(&mut world);
        world.act(Action::Flush);
        world.stop()
    }
}

fn create(world: &mut World, name: &str, size: u64) {
    let timeline = world.rng.wide();
    world.act(Action::CreateVolume { name: name.into(), size, timeline, time: 2 });
}

fn write(world: &mut World, volume: &str, first: u64, blocks: u64) {
    let contents = (0..blocks).map(|_| world.contents.draw()).collect();
    world.act(Action::Write { volume: volume.into(), first, contents });
}

fn checkpoint(world: &mut World, volumes: &[&str], name: &str) {
    let volumes = volumes.iter().map(|volume| (*volume).to_string()).collect();
    world.act(Action::CreateCheckpoint { volumes, name: name.into(), time: 3 });
}

/// A volume of four blocks with a hole at its end, a checkpoint, and one block overwritten since.
fn plain(world: &mut World) {
    create(world, "v", 4);
    write(world, "v", 0, 1);
    write(world, "v", 2, 1);
    checkpoint(world, &["v"], "a");
    write(world, "v", 0, 1);
}

/// Two checkpoints, two reference points with a token kept of one, a clone that holds the newer checkpoint, and
/// what a converted checkpoint leaves to be released.
fn points(world: &mut World) {
    create(world, "v", 3);
    write(world, "v", 0, 2);
    checkpoint(world, &["v"], "a");
    world.act(Action::CreateRefpoint { volume: "v".into(), name: "r".into(), time: 4 });
    world.keep_token("v", "r");
    write(world, "v", 0, 1);
    checkpoint(world, &["v"], "b");
    write(world, "v", 1, 1);
    checkpoint(world, &["v"], "c");
    write(world, "v", 0, 1);
    let timeline = world.rng.wide();
    let (volume, checkpoint) = ("v".to_string(), "c".to_string());
    world.act(Action::CloneVolume { volume, checkpoint, name: "k".into(), timeline, time: 5 });
    world.act(Action::Commit);
    let (volume, name) = ("v".to_string(), "a".to_string());
    world.act(Action::ConvertCheckpoint { volume, refpoint: name.clone(), name });
}

/// A release that a commit has caught half-way. Behind its cursor lie a block that it has freed and one that the
/// volume shares, before it the same.
fn releasing(world: &mut World) {
    create(world, "v", 5);
    write(world, "v", 2, 1);
    checkpoint(world, &["v"], "a");
    for first in [0, 1, 3, 4] {
        write(world, "v", first, 1);
    }
    checkpoint(world, &["v"], "b");
    write(world, "v", 1, 1);
    write(world, "v", 3, 1);
    world.act(Action::DeleteCheckpoint { volume: "v".into(), name: "b".into() });
    let before = world.pool().counters().blocks_released;
    while world.pool().counters().blocks_released == before {
        world.executor.step(2);
    }
    world.act(Action::Commit);
    assert_eq!(world.pool().status().releases_pending, 1, "the release is still under way");
}

/// Every second block of a volume differs from its checkpoint, and a block is behind each hole.
fn large(world: &mut World) {
    create(world, "v", 600);
    write(world, "v", 0, 256);
    checkpoint(world, &["v"], "a");
    (0..256).step_by(2).for_each(|first| write(world, "v", first, 1));
    world.act(Action::Commit);
}

/// Two volumes on two members, with a checkpoint of both at one instant.
fn pair(world: &mut World) {
    create(world, "v", 4);
    create(world, "u", 2);
    write(world, "v", 0, 3);
    write(world, "u", 0, 1);
    checkpoint(world, &["v", "u"], "a");
    write(world, "v", 1, 1);
    write(world, "u", 1, 1);
    world.act(Action::Commit);
}
