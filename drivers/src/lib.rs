#![no_std]
//! The machine: memory, interrupts, clocks, the serial port, power, and the virtio devices.
//!
//! Beside `boot` this is the only crate with unsafe code; `docs/SOUNDNESS.md` argues each boundary. It knows
//! nothing of stores, volumes or protocols. It runs on one core; interrupts set flags and run no other code,
//! so everything here is called from ordinary code only. It also builds for the host, where its logic is tested;
//! functions that touch the machine say that they are for the bare machine only.

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod clock;
pub mod cmos;
pub mod entropy;
pub mod interrupts;
pub mod memory;
pub mod power;
pub mod uart;
pub mod virtio;
