//! What hostile bytes are fed to, one function a target.
//!
//! A target takes any bytes and returns; a panic, a hang or unbounded memory is a defect. libFuzzer (`main.rs`)
//! and the replay of the corpora (`tests/replay.rs`) call the same functions. `docs/TESTING.md` tells what each
//! one holds.

#![deny(unsafe_code)]

mod device;
mod disk;
mod drive;
mod input;
// The allocator that watches what devices hold.
#[allow(unsafe_code)]
mod memory;
mod pool;
mod service;
mod token;

/// A function that takes hostile bytes.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also its corpus directory's.
pub const TARGETS: [(&str, Target); 7] = [
    ("image", pool::damaged),
    ("verified", pool::verified),
    ("nbd", service::nbd),
    ("control", service::control),
    ("console", service::console),
    ("token", token::token),
    ("device", device::device),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
