#![no_std]
#![forbid(unsafe_code)]
//! The engine: block trees, change ids, checkpoints and reference points on block devices.
//!
//! From the outside in: [`Pool`] and [`Image`] are the interface. Behind them a *shell* talks to the devices
//! and an *engine* holds all state and changes it in synchronous steps. The engine stands on a *forest* of
//! block trees, which stands on a cache and on the space that blocks come from; `format` alone knows bytes.
//! The store knows no device, no clock and no randomness but what is passed in.

extern crate alloc;

pub mod device;
pub mod limits;

mod cache;
mod catalog;
mod check;
mod commit;
mod contradiction;
mod counters;
mod create;
mod damage;
mod engine;
mod error;
mod forest;
mod format;
mod freeze;
mod gate;
mod gather;
mod holders;
mod image;
mod journal;
mod load;
mod maintenance;
mod map;
mod names;
mod open;
mod operations;
mod owner;
mod pool;
mod probe;
mod release;
mod replay;
mod revert;
mod runs;
mod scan;
mod shell;
mod space;
mod spare;
mod sync;
mod token;
mod transaction;
mod trim;
mod types;

pub use device::{BLOCK_SIZE, Block, BlockDevice, DeviceError, Geometry, Transfer};
pub use error::{Error, ErrorKind, Result};
pub use image::Image;
pub use owner::Challenge;
pub use pool::{Config, NewPool, Pool, Progress, Release, Since};
pub use probe::{Probe, probe};
pub use sync::yield_now;
pub use token::Token;
pub use types::*;
