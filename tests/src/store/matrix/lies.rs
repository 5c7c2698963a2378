//! What must hold where a disk lied: never a wrong byte, and never silence.

use super::{Cell, Class};
use crate::disk::PowerLoss;
use crate::model::{Candidate, State};
use crate::store::perform::name;
use crate::store::world::World;
use datum_store::{BlockIndex, ErrorKind, Progress};

/// Blocks in a read.
const STRETCH: u64 = 20;

impl Cell {
    /// The members are what the lie has left, one of them perhaps as it was before the operation.
    pub(super) fn judge_lie(&mut self, member: usize, under_way: Vec<Candidate>) {
        // What the last log records said may be lost without a trace if the records themselves are: every state of
        // history since then is right, acknowledged or not what came after it.
        let mut candidates = std::mem::take(&mut self.passed);
        candidates.extend(under_way);
        let states: Vec<State> = candidates.iter().map(|candidate| candidate.state.clone()).collect();
        if self.class != Class::Stale && self.world.is_open() {
            self.world.call(async |pool| {
                drop(pool.commit().await);
                pool.drop_cache();
            });
            look(&mut self.world, &states);
        }
        let mut images = self.world.power_off(PowerLoss::Everything);
        if self.class == Class::Stale {
            images[member] = self.images[member].clone();
        }
        self.world.power_on(images.clone());
        match self.world.open() {
            Err(error) => {
                let kind = error.kind();
                assert!([ErrorKind::Corrupt, ErrorKind::Device].contains(&kind), "{kind:?}: {error}");
                return;
            }
            Ok(()) if self.world.pool().status().read_only.is_some() => {
                look(&mut self.world, &states);
                return;
            }
            Ok(()) => {}
        }
        let unreadable = look(&mut self.world, &states);
        let scrub = self.world.call(async |pool| pool.scrub(&Progress::new()).await);
        let found = scrub.map_or(true, |report| report.errors > 0);
        assert!(
            found || unreadable == 0,
            "{unreadable} stretches cannot be read and the scrub finds nothing"
        );
        if !found {
            let images = self.world.power_off(PowerLoss::Everything);
            self.world.recover(images, candidates);
            self.world.verify_changes();
        }
    }
}

/// Reads the volume and its checkpoints: each block is as in one of the states, or an error. Returns how many
/// stretches were errors.
fn look(world: &mut World, states: &[State]) -> u64 {
    let pool = world.pool();
    let contents = &world.contents;
    world.executor.run(async {
        let mut errors = 0;
        for point in [None, Some("a"), Some("b"), Some("c")] {
            let image = match pool.open_image(&name("v"), point.map(name).as_ref()).await {
                Ok(image) => image,
                Err(error) => {
                    errors += u64::from(error.kind() != ErrorKind::NotFound);
                    continue;
                }
            };
            let known = |state: &State, at: u64| {
                let volume = state.volumes.get("v")?;
                let map = match point {
                    None => &volume.head,
                    Some(point) => volume.points.get(point)?.image.as_ref()?,
                };
                (at < map.size()).then(|| map.get(at).content)
            };
            let blocks = image.size() / 4096;
            for first in (0..blocks).step_by(STRETCH as usize) {
                let count = STRETCH.min(blocks - first);
                let Ok(read) = image.read(BlockIndex(first), count).await else {
                    errors += 1;
                    continue;
                };
                for (at, block) in (first..).zip(read) {
                    let shown =
                        block.map(|bytes| contents.identify(&bytes).expect("bytes that somebody wrote"));
                    let right = states.iter().any(|state| known(state, at) == Some(shown));
                    assert!(right, "block {at} of {point:?} holds {shown:?}, which it never held");
                }
            }
        }
        errors
    })
}
