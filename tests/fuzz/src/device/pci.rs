//! A function whose configuration space is the input.

use crate::input::Input;
use datum_drivers::virtio::capabilities::{MESSAGE_ENTRY_BYTES, MessageTable, Place, Windows};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

const SPACE_BYTES: usize = 256;
const FUNCTION: DeviceFunction = DeviceFunction { bus: 0, device: 3, function: 0 };

#[derive(Clone, Copy)]
struct Space<'a>(&'a [u8; SPACE_BYTES]);

#[allow(unsafe_code, reason = "the trait's own; a copy of what never changes does no harm")]
impl ConfigurationAccess for Space<'_> {
    fn read_word(&self, _function: DeviceFunction, register: u8) -> u32 {
        let at = usize::from(register);
        let bytes = self.0.get(at..at + 4).expect("a register inside the space");
        bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
    }

    fn write_word(&mut self, _function: DeviceFunction, _register: u8, _data: u32) {
        panic!("looking changes nothing");
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

pub(super) fn pci(input: &mut Input<'_>) {
    let mut space = [0; SPACE_BYTES];
    let bytes = input.bytes(SPACE_BYTES);
    space[..bytes.len()].copy_from_slice(bytes);
    // There is a list.
    space[6] |= 1 << 4;
    let windows = Windows::find(Space(&space), FUNCTION);
    let places = [windows.common, windows.notify.map(|(place, _)| place), windows.device];
    places.into_iter().flatten().for_each(is_possible);
    if let Some(table) = MessageTable::find(Space(&space), FUNCTION) {
        is_possible(table.place);
        assert_eq!(table.place.bytes as usize, usize::from(table.entries) * MESSAGE_ENTRY_BYTES);
    }
}

fn is_possible(place: Place) {
    assert!(place.bar < 6 && place.bytes <= 4 << 20, "{place:?}");
}
