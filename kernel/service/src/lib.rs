#![no_std]
#![forbid(unsafe_code)]
//! What the appliance does: exports, sessions, commands and jobs, over the store and the protocols.
//!
//! [`Appliance`] is the whole of it. It knows no device, no port and no clock but what it is given
//! ([`port`], [`environment`], the store's block device), and runs unchanged in the kernel, in the hosted binary
//! and in the simulator. One core, one thread, cooperative: what a session has begun runs as a task of the
//! appliance and ends by itself, also when the client has left.

extern crate alloc;

mod answer;
mod appliance;
mod buffers;
mod commands;
mod console;
mod control;
mod disks;
pub mod environment;
mod events;
mod exports;
mod health;
mod jobs;
pub mod limits;
mod memory;
mod nbd;
pub mod port;
mod sessions;
mod signal;
mod tasks;
mod time;

pub use appliance::{Appliance, PoolOption, Setup, Takeover};
pub use disks::{Disk, FoundDisk, FoundDisks};
