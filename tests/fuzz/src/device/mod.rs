//! The virtio drivers and the reading of PCI capabilities against a device that does whatever the input says.
//!
//! What must hold: no panic and no hang; memory within a bound; no descriptor outside memory that was handed out;
//! nothing that the device holds is freed, and so neither given back to the driver's user; once the driver has
//! stopped the device, every request ends; and where the device broke no rule, every request ends as well.

mod block;
mod console;
mod hostile;
mod pci;

// The device's side of a queue, written from the specification. It touches memory that the driver lends to it.
#[allow(unsafe_code)]
#[path = "../../../../drivers/tests/fake/mod.rs"]
mod fake;

use crate::input::Input;
use crate::memory::Run;

/// What a driver may use in all, its users' buffers included.
const MEMORY_MAX: usize = 32 << 20;
/// What the device or the driver's user does in one run, at most.
const STEPS_MAX: u32 = 600;
/// Turns after which a request that an honest device has answered must be over.
const TURNS_MAX: u32 = 2000;

/// A device of a kind that the input chooses.
pub(crate) fn device(bytes: &[u8]) {
    let mut input = Input(bytes);
    let run = Run::begin();
    match input.u8() % 8 {
        0..=2 => block::block(&run, &mut input),
        3..=6 => console::console(&run, &mut input),
        _ => pci::pci(&mut input),
    }
    assert!(run.peak() <= MEMORY_MAX, "a driver took {} bytes", run.peak());
    assert!(!run.freed_while_held(), "memory that the device holds was freed");
}
