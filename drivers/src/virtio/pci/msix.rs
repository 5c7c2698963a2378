//! Message-signalled interrupts (PCI 3.0, 6.8.2): one entry for configuration changes, one for all queues.
//!
//! An interrupt only ends a halt, and the executor then looks at every queue; more entries would tell it nothing.
//! Where a function has a single entry, both share it.

use super::ConfigurationPorts;
use super::registers::Registers;
use super::window::{self, Place};
use crate::interrupts;
use crate::virtio::SetupError;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};

const CAPABILITY: u8 = 0x11;
const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;
const ENTRY_BYTES: usize = 16;
/// Capabilities looked at: a list that is longer runs in a circle.
const CAPABILITIES_MAX: usize = 48;

/// A function's interrupts, enabled.
#[derive(Debug)]
pub(super) struct Interrupts {
    /// Entry for configuration changes.
    pub(super) configuration: u16,
    /// Entry for queues.
    pub(super) queues: u16,
    /// Set when the configuration's interrupt came.
    pub(super) configuration_changed: &'static AtomicBool,
}

fn note(flag: usize) {
    let flag = core::ptr::with_exposed_provenance::<AtomicBool>(flag);
    // SAFETY: the only argument this handler is registered with is the address of a flag that is never freed.
    unsafe { &*flag }.store(true, Ordering::Relaxed);
}

/// Ends a halt, which has happened by the time it is called.
fn end_halt(_: usize) {}

impl Interrupts {
    /// Registers vectors, writes them to the function's table, and switches messages on.
    pub(super) fn enable(
        root: &mut PciRoot<ConfigurationPorts>,
        function: DeviceFunction,
    ) -> Result<Self, SetupError> {
        let capability =
            root.capabilities(function).take(CAPABILITIES_MAX).find(|capability| capability.id == CAPABILITY);
        let capability = capability.ok_or(SetupError::NoInterrupts)?;
        let entries = (capability.private_header & 0x7FF) + 1;
        let table = ConfigurationPorts.read_word(function, capability.offset + 4);
        let place = Place {
            bar: table as u8 & 7,
            offset: table & !7,
            bytes: u32::from(entries) * ENTRY_BYTES as u32,
        };
        let table = window::map(root, function, place)?;
        let control = ConfigurationPorts.read_word(function, capability.offset);
        ConfigurationPorts.write_word(function, capability.offset, control | ENABLE | MASK_ALL);

        let flag: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let argument = core::ptr::from_ref(flag).expose_provenance();
        program(&table, 0, interrupts::register(note, argument))?;
        let queues = u16::from(entries > 1);
        if queues > 0 {
            program(&table, usize::from(queues), interrupts::register(end_halt, 0))?;
        }
        ConfigurationPorts.write_word(function, capability.offset, (control | ENABLE) & !MASK_ALL);
        Ok(Self { configuration: 0, queues, configuration_changed: flag })
    }
}

fn program(
    table: &Registers,
    entry: usize,
    vector: Result<interrupts::Vector, interrupts::OutOfVectors>,
) -> Result<(), SetupError> {
    let vector = vector.map_err(|_| SetupError::NoInterrupts)?;
    let (at, address) = (entry * ENTRY_BYTES, vector.message_address());
    table.write::<u32>(at, address as u32);
    table.write::<u32>(at + 4, (address >> 32) as u32);
    table.write::<u32>(at + 8, vector.message_data());
    table.write::<u32>(at + 12, 0);
    Ok(())
}
