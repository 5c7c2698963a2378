//! The store and the model, driven side by side.
//!
//! [`world`] holds both over simulated disks and compares them after every step; [`perform`] carries one action out on the
//! store. On these stand sequences told in words ([`story`]), random ones ([`simulation`]), every fault during every
//! operation ([`matrix`]), and memory that gives out ([`scarcity`]).

pub mod matrix;
pub mod perform;
pub mod scarcity;
pub mod simulation;
pub mod story;
pub mod world;
