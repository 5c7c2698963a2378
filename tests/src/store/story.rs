//! Short words for telling a sequence: `w`, `trim`, `checkpoint`, `crash`. Volume `v`, one world, no randomness but
//! the executor's.

use crate::disk::PowerLoss;
use crate::model::action::Action;
use crate::store::world::{Setup, World};

/// A world with one volume, `v`.
pub struct Story {
    /// Everything else.
    pub world: World,
    /// Bytes in use before there was anything.
    empty: u64,
}

impl Story {
    /// A volume `v` of `size` blocks.
    pub fn new(seed: u64, size: u64) -> Self {
        Self::with(&Setup::small(seed), size)
    }

    /// The same in a world of one's own.
    pub fn with(setup: &Setup, size: u64) -> Self {
        let mut world = World::new(setup);
        world.quiesce();
        let empty = world.pool().status().allocated_bytes;
        let mut story = Self { world, empty };
        story.create("v", size);
        story
    }

    /// Another volume.
    pub fn create(&mut self, name: &str, size: u64) {
        let timeline = self.world.rng.wide();
        self.world.act(Action::CreateVolume { name: name.into(), size, timeline, time: 2 });
    }

    /// Writes one block of `v`.
    pub fn w(&mut self, block: u64) {
        let action = self.write("v", block);
        self.world.act(action);
    }

    /// A write of fresh contents to one block.
    pub fn write(&mut self, volume: &str, block: u64) -> Action {
        Action::Write { volume: volume.into(), first: block, contents: vec![self.world.contents.draw()] }
    }

    /// Writes `count` blocks of `v`, each alone.
    pub fn fill(&mut self, first: u64, count: u64) {
        for at in (first..first + count).step_by(256) {
            let contents = (at..(at + 256).min(first + count)).map(|_| self.world.contents.draw()).collect();
            self.world.act(Action::Write { volume: "v".into(), first: at, contents });
        }
    }

    /// Trims blocks of `v`.
    pub fn trim(&mut self, first: u64, count: u64) {
        self.world.act(Action::Trim { volume: "v".into(), first, count });
    }

    /// Checkpoints `v`.
    pub fn checkpoint(&mut self, name: &str) {
        self.world.act(Action::CreateCheckpoint { volumes: vec!["v".into()], name: name.into(), time: 3 });
    }

    /// Deletes a checkpoint of `v`.
    pub fn delete(&mut self, name: &str) {
        self.world.act(Action::DeleteCheckpoint { volume: "v".into(), name: name.into() });
    }

    /// Converts a checkpoint of `v` to a reference point of the same name.
    pub fn convert(&mut self, name: &str) {
        let (volume, name) = ("v".to_string(), name.to_string());
        self.world.act(Action::ConvertCheckpoint { volume, refpoint: name.clone(), name });
    }

    /// Makes a reference point on `v`.
    pub fn refpoint(&mut self, name: &str) {
        self.world.act(Action::CreateRefpoint { volume: "v".into(), name: name.into(), time: 4 });
    }

    /// Reverts `v`.
    pub fn revert(&mut self, checkpoint: &str) {
        self.world.act(Action::RevertVolume { volume: "v".into(), checkpoint: checkpoint.into() });
    }

    /// Clones a checkpoint of `v`.
    pub fn clone(&mut self, checkpoint: &str, name: &str) {
        let timeline = self.world.rng.wide();
        let (volume, checkpoint, name) = ("v".into(), checkpoint.into(), name.into());
        self.world.act(Action::CloneVolume { volume, checkpoint, name, timeline, time: 5 });
    }

    /// Resizes `v`.
    pub fn resize(&mut self, size: u64) {
        self.world.act(Action::ResizeVolume { name: "v".into(), size });
    }

    /// Acknowledged durability.
    pub fn flush(&mut self) {
        self.world.act(Action::Flush);
    }

    /// A durable commit.
    pub fn commit(&mut self) {
        self.world.act(Action::Commit);
    }

    /// Lets background work take a few steps.
    pub fn step(&mut self, steps: u64) {
        self.world.executor.step(steps);
    }

    /// Cuts the power with nothing under way.
    pub fn crash(&mut self, policy: PowerLoss) {
        self.world.crash_now(policy);
    }

    /// Compares everything, now and once background work is at rest; then deletes everything and wants its
    /// space back.
    pub fn end(mut self) {
        self.world.verify();
        self.world.check();
        self.world.quiesce();
        self.world.verify();
        self.world.check();
        self.world.scrub();
        self.world.drop_images();
        let volumes: Vec<String> = self.world.model.state.volumes.keys().cloned().collect();
        for name in volumes {
            self.world.act(Action::DeleteVolume { name });
        }
        self.world.quiesce();
        self.world.check();
        let left = self.world.pool().status().allocated_bytes;
        let slack = 16 * 4096;
        assert!(
            left <= self.empty + slack,
            "{left} bytes stay in use with nothing left, {} in a new pool",
            self.empty
        );
    }
}

/// Runs a story under several seeds, since what happens between its steps is up to the executor.
pub fn told(seeds: u64, tell: impl Fn(u64)) {
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tell(seed)));
        if let Err(cause) = result {
            eprintln!("the story fails under seed {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}
