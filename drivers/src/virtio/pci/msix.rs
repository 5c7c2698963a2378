//! Message-signalled interrupts (PCI 3.0, 6.8.2): one entry for configuration changes, one for all queues.
//!
//! An interrupt only ends a halt, and the executor then looks at every queue; more entries would tell it nothing.
//! Where a function has a single entry, both share it.

use super::ConfigurationPorts;
use super::registers::Registers;
use super::window;
use crate::interrupts;
use crate::virtio::SetupError;
use crate::virtio::capabilities::{MESSAGE_ENTRY_BYTES, MessageTable};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};

const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;

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

/// A function's table of messages.
pub(super) struct Messages {
    table: Registers,
    entries: u16,
    capability: u8,
}

impl Messages {
    /// Finds and maps the table.
    pub(super) fn find(
        root: &mut PciRoot<ConfigurationPorts>,
        function: DeviceFunction,
    ) -> Result<Self, SetupError> {
        let found = MessageTable::find(ConfigurationPorts, function).ok_or(SetupError::NoInterrupts)?;
        let table = window::map(root, function, found.place)?;
        Ok(Self { table, entries: found.entries, capability: found.capability })
    }

    /// Registers vectors, writes them to the table of a function that answers, and switches messages on.
    pub(super) fn enable(self, function: DeviceFunction) -> Result<Interrupts, SetupError> {
        let control = ConfigurationPorts.read_word(function, self.capability);
        ConfigurationPorts.write_word(function, self.capability, control | ENABLE | MASK_ALL);

        let flag: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let argument = core::ptr::from_ref(flag).expose_provenance();
        program(&self.table, 0, interrupts::register(note, argument))?;
        let queues = u16::from(self.entries > 1);
        if queues > 0 {
            program(&self.table, usize::from(queues), interrupts::register(end_halt, 0))?;
        }
        ConfigurationPorts.write_word(function, self.capability, (control | ENABLE) & !MASK_ALL);
        Ok(Interrupts { configuration: 0, queues, configuration_changed: flag })
    }
}

fn program(
    table: &Registers,
    entry: usize,
    vector: Result<interrupts::Vector, interrupts::OutOfVectors>,
) -> Result<(), SetupError> {
    let vector = vector.map_err(|_| SetupError::NoInterrupts)?;
    let (at, address) = (entry * MESSAGE_ENTRY_BYTES, vector.message_address());
    table.write::<u32>(at, address as u32);
    table.write::<u32>(at + 4, (address >> 32) as u32);
    table.write::<u32>(at + 8, vector.message_data());
    table.write::<u32>(at + 12, 0);
    Ok(())
}
