#![no_std]
#![forbid(unsafe_code)]
//! What the appliance does: exports, sessions, commands and jobs, over the store and the protocols.

extern crate alloc;

pub mod environment;
pub mod port;
