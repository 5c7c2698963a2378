#![no_std]
#![forbid(unsafe_code)]
//! The engine: block trees, change ids, checkpoints and reference points on block devices.

extern crate alloc;

pub mod device;
mod error;
mod types;
mod api;

pub use api::*;
pub use error::{Error, ErrorKind, Result};
pub use types::*;
