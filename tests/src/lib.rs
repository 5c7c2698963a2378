//! What the host-side tests of Datum are built from: simulated disks, a deterministic executor, a plain
//! reference model, and what drives the store and the service beside it.
//!
//! Each folder is one concern and opens with what it is for: [`model`] knows what must be, [`disk`] is what the store is put
//! on, [`store`] drives the store and the model side by side, [`explore`] takes the power away at every moment, [`service`]
//! runs the whole service with clients at random, and `qemu` boots the kernel. All stand on [`executor`] and [`rng`].
//!
//! Nothing here is part of the product. `docs/TESTING.md` tells which test proves what.

#![forbid(unsafe_code)]
pub mod disk;
pub mod executor;
pub mod explore;
pub mod model;
#[cfg(feature = "qemu")]
pub mod qemu;
pub mod rng;
pub mod service;
pub mod store;
