//! Power losses that do not happen: what one would leave is looked at by another machine, and this one goes on.
//!
//! A window that is short and rarely there is hardly ever met by the end of a life. A run can be looked at many times.

use super::{Setup, Start, World};
use crate::disk::{DiskImage, PowerLoss, SimulatedDisk};
use crate::model::{Candidate, State};
use crate::rng::Rng;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Entries a page of what is read back: fewer would take longer.
const PAGE: usize = 256;

/// What a power loss would have left, and how much had been told by then.
pub(super) type Glance = (Vec<DiskImage>, usize);

impl World {
    /// Takes up to `most` glances at what follows, until the executor is watched no more; each moment at which a power loss
    /// would leave another state than just before is as likely as any other.
    pub(super) fn glance(
        &mut self,
        most: usize,
        told: impl Fn() -> usize + 'static,
    ) -> Rc<RefCell<Vec<Glance>>> {
        let disks = self.simulated_disks();
        let rng = RefCell::new(Rng::new(self.rng.draw()));
        let (seen, moments) = (Cell::new(0), Cell::new(0));
        let glances = Rc::new(RefCell::new(Vec::new()));
        let taken = glances.clone();
        self.executor.watch(Some(Rc::new(move || {
            let changes = disks.iter().map(SimulatedDisk::changes).sum();
            if seen.replace(changes) == changes {
                return;
            }
            let (mut rng, mut taken) = (rng.borrow_mut(), taken.borrow_mut());
            moments.set(moments.get() + 1);
            let place = if taken.len() < most { taken.len() } else { rng.below(moments.get()) as usize };
            if place < most {
                let glance = (power_loss(&disks, &mut rng), told());
                match taken.get_mut(place) {
                    Some(other) => *other = glance,
                    None => taken.push(glance),
                }
            }
        })));
        glances
    }

    /// Demands that a power loss now would leave the pool at one of the states it may stand at.
    pub fn demand_survival(&mut self) {
        let images = power_loss(&self.simulated_disks(), &mut self.rng);
        let candidates = self.model.candidates(&[], self.incarnation);
        self.demand_recovery(images, candidates);
    }

    /// Demands that another machine find the pool on these disks at one of `candidates`, and sound.
    pub(super) fn demand_recovery(&mut self, images: Vec<DiskImage>, candidates: Vec<Candidate>) {
        let start = Start {
            images,
            state: State::default(),
            contents: self.contents.clone(),
            tokens: self.tokens.clone(),
            drawn: self.drawn,
        };
        let cache_blocks = self.config.cache_blocks;
        let mut other =
            Self::resume(&Setup { members: Vec::new(), cache_blocks, seed: self.rng.draw() }, start);
        other.page = Some(PAGE);
        other.find_itself(candidates);
    }
}

fn power_loss(disks: &[SimulatedDisk], rng: &mut Rng) -> Vec<DiskImage> {
    let policy = *rng.pick(&PowerLoss::ALL);
    disks.iter().map(|disk| disk.power_loss(policy, rng)).collect()
}
