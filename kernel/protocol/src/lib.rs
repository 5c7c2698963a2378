#![no_std]
#![forbid(unsafe_code)]
//! The appliance's languages, as codecs that do no I/O.
//!
//! [`nbd`] speaks to block clients, [`control`] to programs (JSON-RPC) and [`console`] to people. All three
//! are state machines: bytes go in, typed events and bytes to send come out. They own no port and no buffer
//! larger than [`limits`] names, accept any input without a panic, and know neither the store nor the service
//! that answers.

extern crate alloc;

pub mod console;
pub mod control;
pub mod limits;
pub mod name;
pub mod nbd;
pub mod size;
