//! What a PCI function's capability list says: where the virtio register windows are (virtio 1.2, 4.1.4), and the
//! table of message-signalled interrupts (PCI 3.0, 6.8.2).
//!
//! The list is the device's word and may be anything: a circle, structures that reach past the configuration space,
//! base address registers that do not exist. Such entries are passed over; what is found is only where to look, and
//! whoever maps it checks it against the window's size.

use virtio_drivers::transport::pci::bus::{
    CapabilityInfo, ConfigurationAccess, DeviceFunction, PCI_CAP_ID_VNDR, PciRoot,
};

const PCI_CAP_ID_MSIX: u8 = 0x11;
/// Capabilities looked at: a list that is longer runs in a circle.
const CAPABILITIES_MAX: usize = 48;
const CONFIGURATION_BYTES: u16 = 256;
const BARS: u8 = 6;

const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;
const WINDOW_CAPABILITY_BYTES: u8 = 16;
/// A notification window's multiplier follows.
const NOTIFY_CAPABILITY_BYTES: u8 = 20;
const MSIX_CAPABILITY_BYTES: u8 = 12;
/// What is used of a window at most: a doorbell of its own, on a page of its own, for each of 1,024 queues.
const WINDOW_BYTES_MAX: u32 = 4 << 20;

/// Bytes of an entry of the interrupt table.
pub const MESSAGE_ENTRY_BYTES: usize = 16;

/// A part of the window behind one base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The register's number, at most 5.
    pub bar: u8,
    /// First byte, from the window's start.
    pub offset: u32,
    /// Its size.
    pub bytes: u32,
}

/// Where the virtio register windows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Common configuration.
    pub common: Option<Place>,
    /// Notifications, and the bytes from one queue's doorbell to the next.
    pub notify: Option<(Place, u32)>,
    /// The configuration of this kind of device.
    pub device: Option<Place>,
}

impl Windows {
    /// Reads them from the list.
    pub fn find<C: ConfigurationAccess + Copy>(access: C, function: DeviceFunction) -> Self {
        let mut windows = Self::default();
        for capability in list(access, function, PCI_CAP_ID_VNDR) {
            let word = |offset| access.read_word(function, capability.offset + offset);
            if !fits(&capability, WINDOW_CAPABILITY_BYTES) {
                continue;
            }
            let place = Place { bar: word(4) as u8, offset: word(8), bytes: word(12).min(WINDOW_BYTES_MAX) };
            if place.bar >= BARS {
                continue;
            }
            // The first of each kind is the one to use.
            match (capability.private_header >> 8) as u8 {
                COMMON if windows.common.is_none() => windows.common = Some(place),
                NOTIFY if windows.notify.is_none() && fits(&capability, NOTIFY_CAPABILITY_BYTES) => {
                    windows.notify = Some((place, word(16)));
                }
                DEVICE if windows.device.is_none() => windows.device = Some(place),
                _ => {}
            }
        }
        windows
    }
}

/// A function's interrupt table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageTable {
    /// Where in configuration space its capability, and so its control register, lies.
    pub capability: u8,
    /// Entries, at least one.
    pub entries: u16,
    /// Where it is.
    pub place: Place,
}

impl MessageTable {
    /// Reads it from the list.
    pub fn find<C: ConfigurationAccess + Copy>(access: C, function: DeviceFunction) -> Option<Self> {
        let capability = list(access, function, PCI_CAP_ID_MSIX).next()?;
        if !fits(&capability, MSIX_CAPABILITY_BYTES) {
            return None;
        }
        let entries = (capability.private_header & 0x7FF) + 1;
        let table = access.read_word(function, capability.offset + 4);
        let bytes = u32::from(entries) * MESSAGE_ENTRY_BYTES as u32;
        let place = Place { bar: table as u8 & 7, offset: table & !7, bytes };
        (place.bar < BARS).then_some(Self { capability: capability.offset, entries, place })
    }
}

fn list<C: ConfigurationAccess>(
    access: C,
    function: DeviceFunction,
    id: u8,
) -> impl Iterator<Item = CapabilityInfo> {
    let root = PciRoot::new(access);
    let all: alloc::vec::Vec<_> = root.capabilities(function).take(CAPABILITIES_MAX).collect();
    all.into_iter().filter(move |capability| capability.id == id)
}

/// Whether a capability of so many bytes ends inside the configuration space.
fn fits(capability: &CapabilityInfo, bytes: u8) -> bool {
    u16::from(capability.offset) + u16::from(bytes) <= CONFIGURATION_BYTES
}
