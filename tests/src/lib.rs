//! What the host-side tests of Datum are built from: a simulated disk, a deterministic executor, a plain
//! reference model, and the world that drives the store and the model side by side.
//!
//! Nothing here is part of the product. `docs/TESTING.md` tells which test proves what.

#![forbid(unsafe_code)]
pub mod action;
pub mod blockmap;
pub mod compare;
pub mod content;
pub mod disk;
pub mod executor;
pub mod explore;
pub mod fault;
pub mod forge;
pub mod held;
pub mod history;
pub mod layout;
pub mod matrix;
pub mod memory;
pub mod mix;
pub mod model;
pub mod observe;
pub mod operation;
pub mod orders;
pub mod perform;
#[cfg(feature = "qemu")]
pub mod qemu;
pub mod rng;
pub mod scarcity;
pub mod service;
pub mod simulation;
pub mod story;
pub mod world;
