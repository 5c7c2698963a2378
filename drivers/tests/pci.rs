//! What a PCI function's capability list may say, rightly and wrongly.

use datum_drivers::virtio::capabilities::{MessageTable, Place, Windows};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

const FUNCTION: DeviceFunction = DeviceFunction { bus: 0, device: 3, function: 0 };

/// Configuration space of the one function.
#[derive(Clone, Copy)]
struct Space<'a>(&'a [u8; 256]);

impl ConfigurationAccess for Space<'_> {
    fn read_word(&self, _function: DeviceFunction, register: u8) -> u32 {
        let at = usize::from(register & 0xFC);
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four"))
    }

    fn write_word(&mut self, _function: DeviceFunction, _register: u8, _data: u32) {
        panic!("looking changes nothing");
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// A space whose list begins at `first`.
fn space(first: u8) -> [u8; 256] {
    let mut bytes = [0; 256];
    bytes[6] = 1 << 4;
    bytes[0x34] = first;
    bytes
}

fn window(space: &mut [u8; 256], at: usize, next: u8, kind: u8, place: Place) {
    space[at..at + 5].copy_from_slice(&[0x09, next, 16, kind, place.bar]);
    space[at + 8..at + 12].copy_from_slice(&place.offset.to_le_bytes());
    space[at + 12..at + 16].copy_from_slice(&place.bytes.to_le_bytes());
}

const HERE: Place = Place { bar: 4, offset: 0x1000, bytes: 0x100 };

#[test]
fn the_first_window_of_each_kind_counts() {
    let mut bytes = space(0x40);
    window(&mut bytes, 0x40, 0x50, 1, HERE);
    window(&mut bytes, 0x50, 0x60, 4, Place { bytes: 64, ..HERE });
    window(&mut bytes, 0x60, 0x80, 2, Place { bytes: u32::MAX, ..HERE });
    bytes[0x70] = 4;
    window(&mut bytes, 0x80, 0, 1, Place { bar: 1, ..HERE });
    let found = Windows::find(Space(&bytes), FUNCTION);
    assert_eq!(found.common, Some(HERE));
    assert_eq!(found.device, Some(Place { bytes: 64, ..HERE }));
    assert_eq!(found.notify, Some((Place { bytes: 4 << 20, ..HERE }, 4)));
}

#[test]
fn a_list_that_runs_in_a_circle_ends() {
    let mut bytes = space(0x40);
    window(&mut bytes, 0x40, 0x50, 9, HERE);
    window(&mut bytes, 0x50, 0x40, 1, HERE);
    assert_eq!(Windows::find(Space(&bytes), FUNCTION).common, Some(HERE));
    assert_eq!(MessageTable::find(Space(&bytes), FUNCTION), None);
}

/// The list may point at the last word of the space, from which no capability can follow.
#[test]
fn capabilities_that_reach_past_the_end_are_passed_over() {
    for at in [0xF4u8, 0xF8, 0xFC] {
        let mut bytes = space(at);
        for (offset, byte) in [0x09, 0, 16, 1].into_iter().enumerate() {
            bytes[usize::from(at) + offset] = byte;
        }
        assert_eq!(Windows::find(Space(&bytes), FUNCTION), Windows::default());
        bytes[usize::from(at)] = 0x11;
        let found = MessageTable::find(Space(&bytes), FUNCTION);
        assert_eq!(found.is_some(), at == 0xF4, "only there is room for all of it");
    }
}

#[test]
fn windows_of_registers_that_do_not_exist_are_passed_over() {
    let mut bytes = space(0x40);
    window(&mut bytes, 0x40, 0x50, 1, Place { bar: 6, ..HERE });
    bytes[0x50..0x58].copy_from_slice(&[0x11, 0, 3, 0, 7, 0, 0, 0]);
    assert_eq!(Windows::find(Space(&bytes), FUNCTION), Windows::default());
    assert_eq!(MessageTable::find(Space(&bytes), FUNCTION), None);
    bytes[0x54] = 1;
    let found = MessageTable::find(Space(&bytes), FUNCTION).expect("a table");
    assert_eq!((found.capability, found.entries, found.place.bytes), (0x50, 4, 64));
}
