//! Places to start from: a world stopped in one run and taken up in many others.

use super::{Setup, World};
use crate::disk::{DiskImage, PowerLoss};
use crate::model::State;
use crate::model::compare::KeptToken;
use crate::model::content::Contents;

/// What is on disks without power, and all that is known of it.
#[derive(Clone)]
pub struct Start {
    /// The members.
    pub images: Vec<DiskImage>,
    /// What the pool holds.
    pub state: State,
    /// All contents ever written.
    pub contents: Contents,
    /// Tokens that a client keeps.
    pub tokens: Vec<KeptToken>,
    /// How many names were drawn.
    pub drawn: u64,
}

impl World {
    /// Takes the power away. What is not durable is lost, on the disks and in the model: nothing must be.
    pub fn stop(mut self) -> Start {
        let images = self.power_off(PowerLoss::Nothing);
        let (state, drawn) = (self.model.state.clone(), self.drawn);
        Start { images, state, contents: self.contents, tokens: self.tokens, drawn }
    }

    /// The world at a start, with power and without an open pool. The setup's members are the start's.
    pub fn resume(setup: &Setup, start: Start) -> Self {
        let mut world = Self::unborn(&Setup { members: Vec::new(), ..setup.clone() });
        world.power_on(start.images);
        world.model.settle(start.state);
        (world.contents, world.tokens, world.drawn) = (start.contents, start.tokens, start.drawn);
        world
    }
}
