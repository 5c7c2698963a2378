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

/// Every target with its name, which is also its corpus's.
pub const TARGETS: [(&str, Target); 7] = [
    ("image", |bytes| bounded(pool::damaged, bytes)),
    ("verified", |bytes| bounded(pool::verified, bytes)),
    ("nbd", |bytes| bounded(service::nbd, bytes)),
    ("control", |bytes| bounded(service::control, bytes)),
    ("console", |bytes| bounded(service::console, bytes)),
    ("token", |bytes| bounded(token::token, bytes)),
    // Its bound is that of a driver.
    ("device", device::device),
];

/// What a target may have in use at once, the disk in memory and the clients included.
const MEMORY_MAX: usize = 16 << 20;

fn bounded(target: Target, bytes: &[u8]) {
    let peak = memory::peak_of(|| target(bytes));
    assert!(peak <= MEMORY_MAX, "{peak} bytes were in use at once");
}

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
