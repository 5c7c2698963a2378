//! What must hold after one power loss: the pool opens, stands at an allowed state, tracks changes exactly, is
//! sound, and goes on working.

use super::history::{Allowed, Boundary, History, Recorder, now, requests};
use super::prelude::Prelude;
use super::sequence::VOLUME;
use crate::disk::DiskImage;
use crate::model::Candidate;
use crate::model::action::Action;
use crate::store::world::{Setup, Start, World};
use std::rc::Rc;

/// Entries a page: lists of a few entries in one piece.
const PAGE: usize = 64;

/// Operations, at least, by which a recovered pool proves that it goes on working.
pub(super) const PROOF_OPERATIONS: u64 = 5;

/// What came of a recovery.
pub struct Recovered {
    /// Moments at which the power could have failed again, if they were asked for.
    pub boundaries: Vec<Boundary>,
    /// Requests that reached the disks.
    pub requests: u64,
}

/// Recovers from `images`, and keeps the moments of that if asked to `record` them. Panics with what does not hold.
pub fn recover(
    prelude: &Prelude,
    history: &History,
    images: Vec<DiskImage>,
    seed: u64,
    allowed: &Rc<Allowed>,
    record: bool,
) -> Recovered {
    let start = Start {
        images,
        state: Default::default(),
        contents: history.contents.clone(),
        tokens: history.tokens.clone(),
        drawn: history.drawn,
    };
    // Who opens the pool next may take steps of another size: each case has its own.
    let mut world = World::resume(&Setup { seed, ..prelude.setup(seed) }, start);
    prelude.pace(&mut world);
    world.page = Some(PAGE);
    let recorder = record.then(|| Recorder::attach(&mut world));
    world.open_again();
    let mut boundaries = Vec::new();
    let end = recorder.map(|recorder| {
        let allowed = || allowed.clone();
        let moments = recorder.detach(&mut world);
        boundaries.extend(moments.into_iter().map(|moments| Boundary { moments, allowed: allowed() }));
        now(&world)
    });
    world.settle(allowed.candidates.clone());
    if let Some(moments) = end {
        // What was served once is the truth from then on.
        let served = Allowed::new(vec![Candidate::exactly(world.model.state.clone())]);
        boundaries.push(Boundary { moments, allowed: served });
    }
    world.verify_changes();
    world.check();
    prove_usable(&mut world);
    Recovered { boundaries, requests: requests(&world) }
}

/// Writes, takes a checkpoint, overwrites, converts it, and sees its space released; then deletes another.
fn prove_usable(world: &mut World) {
    let volume = match world.model.state.volumes.keys().next() {
        Some(name) => name.clone(),
        None => {
            let (name, timeline) = (VOLUME.to_string(), 0xf0f0);
            world.act(Action::CreateVolume { name: name.clone(), size: 2, timeline, time: 20 });
            name
        }
    };
    world.executor.idle();
    let held = world.pool().status().releases_pending;
    let mut write =
        || Action::Write { volume: volume.clone(), first: 0, contents: vec![world.contents.draw()] };
    let (before, after) = (write(), write());
    let (volumes, name) = (vec![volume.clone()], "proof".to_string());
    world.act(before);
    world.act(Action::CreateCheckpoint { volumes, name: name.clone(), time: 21 });
    world.act(after);
    world.act(Action::ConvertCheckpoint { volume: volume.clone(), refpoint: name.clone(), name });
    world.executor.idle();
    let left = world.pool().status().releases_pending;
    assert_eq!(left, held, "the release of what nothing holds comes to its end");
    let oldest = world.model.state.volumes[&volume].checkpoints().next().map(|(name, _)| name.clone());
    if let Some(name) = oldest {
        world.act(Action::DeleteCheckpoint { volume, name });
        world.executor.idle();
    }
    world.act(Action::Commit);
    world.executor.idle();
    world.verify();
    world.check();
}
