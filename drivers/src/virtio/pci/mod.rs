//! virtio devices on the PCI bus: finding them, and the registers behind them. Only on the bare machine.
//!
//! Discovery walks bus 0 and every bus behind a bridge, through the configuration ports that each PC has. It
//! uses virtio-drivers' reading of configuration space; the transport is our own, for message-signalled interrupts
//! and for a notification that is one write.
//!
//! [`window`] maps (and where the firmware did not, places) register windows, [`msix`] programs interrupts,
//! [`registers`] is the only code that touches a window, [`transport`] the virtio layout of it all.

mod msix;
mod registers;
mod transport;
mod window;

use super::SetupError;
use super::transport::DeviceType;
use alloc::vec::Vec;
pub use transport::PciTransport;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunctionInfo, HeaderType};
use virtio_drivers::transport::pci::virtio_device_type;
use x86_64::instructions::port::Port;

pub use virtio_drivers::transport::pci::bus::DeviceFunction;

const ADDRESS_PORT: u16 = 0xCF8;
const DATA_PORT: u16 = 0xCFC;
const ENABLE: u32 = 1 << 31;
const DEVICES_PER_BUS: u8 = 32;
const FUNCTIONS_PER_DEVICE: u8 = 8;
/// Vendor and device; all ones where there is no function.
const IDENTIFIERS: u8 = 0;
const NOTHING: u32 = u32::MAX;
/// The header's layout in bits 16 to 22, and in bit 23 whether the device has several functions.
const HEADER_TYPE: u8 = 0x0C;
const SEVERAL_FUNCTIONS: u32 = 1 << 23;
/// Register that names the bus behind a bridge, in its second byte.
const BRIDGE_BUSES: u8 = 0x18;

/// A virtio device on the bus that nobody has opened yet.
#[derive(Debug)]
pub struct VirtioFunction {
    address: DeviceFunction,
    device_type: DeviceType,
}

impl VirtioFunction {
    /// Bus, device and function; displayed as `00:03.0`.
    pub fn address(&self) -> DeviceFunction {
        self.address
    }

    /// What kind of device it is.
    pub fn device_type(&self) -> DeviceType {
        self.device_type
    }

    /// Maps its registers and sets up its interrupts.
    pub fn open(self) -> Result<PciTransport, SetupError> {
        PciTransport::open(self.address, self.device_type)
    }
}

/// All virtio devices, in the order of their addresses, so that names given by position stay.
pub fn discover() -> Vec<VirtioFunction> {
    let mut buses = alloc::vec![0u8];
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        for device in 0..DEVICES_PER_BUS {
            for address in functions(bus, device) {
                examine(address, &mut buses, &mut found);
            }
        }
    }
    found.sort_by_key(|function| function.address);
    found
}

/// The functions of one device. Every read costs an exit to the host, so only a device that says it has several
/// is asked for more than its first.
fn functions(bus: u8, device: u8) -> impl Iterator<Item = DeviceFunction> {
    let at = move |function| DeviceFunction { bus, device, function };
    let exists = |address: &DeviceFunction| ConfigurationPorts.read_word(*address, IDENTIFIERS) != NOTHING;
    let first = at(0);
    let several = exists(&first) && ConfigurationPorts.read_word(first, HEADER_TYPE) & SEVERAL_FUNCTIONS != 0;
    let count = if several { FUNCTIONS_PER_DEVICE } else { 1 };
    (0..count).map(at).filter(exists)
}

fn examine(address: DeviceFunction, buses: &mut Vec<u8>, found: &mut Vec<VirtioFunction>) {
    let header = HeaderType::from((ConfigurationPorts.read_word(address, HEADER_TYPE) >> 16) as u8 & 0x7F);
    if header == HeaderType::PciPciBridge {
        let behind = (ConfigurationPorts.read_word(address, BRIDGE_BUSES) >> 8) as u8;
        // 0 is a bridge that the firmware left alone; a bus is never walked twice.
        if !buses.contains(&behind) {
            buses.push(behind);
        }
        return;
    }
    let identifiers = ConfigurationPorts.read_word(address, IDENTIFIERS);
    let info = DeviceFunctionInfo {
        vendor_id: identifiers as u16,
        device_id: (identifiers >> 16) as u16,
        class: 0,
        subclass: 0,
        prog_if: 0,
        revision: 0,
        header_type: header,
    };
    if let Some(device_type) = virtio_device_type(&info) {
        found.push(VirtioFunction { address, device_type });
    }
}

/// Configuration space through the two ports of PCI's first mechanism.
#[derive(Clone, Copy, Debug)]
struct ConfigurationPorts;

impl ConfigurationPorts {
    fn select(function: DeviceFunction, register: u8) {
        let place = u32::from(function.bus) << 16
            | u32::from(function.device) << 11
            | u32::from(function.function) << 8;
        // SAFETY: selecting a configuration register has no effect of its own.
        unsafe { Port::<u32>::new(ADDRESS_PORT).write(ENABLE | place | u32::from(register & 0xFC)) };
    }
}

impl ConfigurationAccess for ConfigurationPorts {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        // SAFETY: reading configuration registers is free of effects in every function this crate looks at.
        unsafe { Port::<u32>::new(DATA_PORT).read() }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        Self::select(function, register);
        // SAFETY: callers write commands, window addresses and interrupt control of virtio functions only. A
        // window is placed where nothing else lies, so none comes to cover memory.
        unsafe { Port::<u32>::new(DATA_PORT).write(data) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}
