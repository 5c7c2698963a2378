//! Register windows: finding where a function's base address registers put them, and mapping them.
//!
//! A firmware that places no windows (qboot) is stood in for, on the root bus: each window without an address
//! gets one in a part of the PCI hole that `q35` and `pc` leave free.

use super::ConfigurationPorts;
use super::registers::Registers;
use crate::memory::map_mmio;
use crate::virtio::SetupError;
use crate::virtio::capabilities::Place;
use core::sync::atomic::{AtomicU32, Ordering};
use virtio_drivers::transport::pci::bus::{BarInfo, Command, DeviceFunction, MemoryBarType, PciRoot};

/// Where windows without an address go: below the I/O APIC, above anything that QEMU places by itself.
const FREE_START: u32 = 0xF000_0000;
const FREE_END: u32 = 0xFE00_0000;
/// The next free address.
static NEXT: AtomicU32 = AtomicU32::new(FREE_START);

/// Keeps a function from answering at its windows until all are found. Their sizes can be asked for only then, and each
/// time that a function begins or ends to answer QEMU lays out the machine's memory anew.
pub(super) fn disable(root: &mut PciRoot<ConfigurationPorts>, function: DeviceFunction) {
    let (_, command) = root.get_status_command(function);
    root.set_command(function, command - (Command::MEMORY_SPACE | Command::IO_SPACE));
}

/// Lets a function answer at its windows and reach memory; its legacy interrupt line stays off.
pub(super) fn enable(root: &mut PciRoot<ConfigurationPorts>, function: DeviceFunction) {
    let (_, command) = root.get_status_command(function);
    root.set_command(
        function,
        command | Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE,
    );
}

/// Maps the registers at `place`, which answer once the function is enabled.
pub(super) fn map(
    root: &mut PciRoot<ConfigurationPorts>,
    function: DeviceFunction,
    place: Place,
) -> Result<Registers, SetupError> {
    let window = match root.bar_info(function, place.bar) {
        Ok(Some(BarInfo::Memory { address, size, address_type, .. })) => (address, size, address_type),
        _ => return Err(SetupError::NoRegisters),
    };
    let (address, size, address_type) = window;
    if u64::from(place.offset) + u64::from(place.bytes) > size || place.bytes == 0 {
        return Err(SetupError::NoRegisters);
    }
    let address = if address == 0 { assign(root, function, place.bar, size, address_type)? } else { address };
    let bytes = place.bytes as usize;
    let start = address.checked_add(u64::from(place.offset)).ok_or(SetupError::NoAddress)?;
    // SAFETY: the function's own base address register says that its registers are here.
    let mapped = unsafe { map_mmio(start, bytes) }.map_err(|_| SetupError::NoAddress)?;
    // SAFETY: just mapped, for good; nothing of Rust's lies in a device's window.
    Ok(unsafe { Registers::new(mapped, bytes) })
}

fn assign(
    root: &mut PciRoot<ConfigurationPorts>,
    function: DeviceFunction,
    bar: u8,
    size: u64,
    address_type: MemoryBarType,
) -> Result<u64, SetupError> {
    // Behind a bridge the bridge's own windows would have to be placed too.
    let size = u32::try_from(size).ok().filter(|_| function.bus == 0).ok_or(SetupError::NoAddress)?;
    let start = NEXT.load(Ordering::Relaxed).checked_next_multiple_of(size).ok_or(SetupError::NoAddress)?;
    let end = start.checked_add(size).filter(|&end| end <= FREE_END).ok_or(SetupError::NoAddress)?;
    NEXT.store(end, Ordering::Relaxed);
    match address_type {
        MemoryBarType::Width64 => root.set_bar_64(function, bar, u64::from(start)),
        MemoryBarType::Width32 | MemoryBarType::Below1MiB => root.set_bar_32(function, bar, start),
    }
    Ok(u64::from(start))
}
