//! The two facts the appliance needs of ACPI: where the off switch is, and where the power-management timer is.
//!
//! Tables: ACPI specification 6.4, sections 5.2.5 to 5.2.9. They come from the firmware, so lengths are bounded
//! and sums are checked before anything in them is believed.

use crate::memory::map_firmware;
use core::sync::atomic::{AtomicU16, Ordering};

/// Longest table that is looked at.
const TABLE_BYTES_MAX: usize = 1 << 20;
/// Bytes of the header that every table starts with.
const HEADER_BYTES: usize = 36;
/// Most tables the root may list.
const TABLES_MAX: usize = 64;
/// The bit that starts the transition named by the sleep type.
const SLEEP_ENABLE: u16 = 1 << 13;

static TIMER_PORT: AtomicU16 = AtomicU16::new(0);

/// What the fixed description table says.
pub(super) struct Fixed {
    pub(super) control_port: u16,
    pub(super) sleep_value: u16,
    pub(super) timer_port: u16,
}

/// The port of the 3.579545 MHz timer, if the machine has one.
pub(crate) fn timer_port() -> Option<u16> {
    Some(TIMER_PORT.load(Ordering::Relaxed)).filter(|&port| port != 0)
}

pub(super) fn set_timer_port(port: u16) {
    TIMER_PORT.store(port, Ordering::Relaxed);
}

/// Follows the root pointer to the fixed table.
pub(super) fn read(root: u64) -> Option<Fixed> {
    let pointer = bytes(root, 20)?;
    if !pointer.starts_with(b"RSD PTR ") || !sums_to_zero(pointer) {
        return None;
    }
    let list = table(u32_at(pointer, 16)?.into(), b"RSDT")?;
    let entries = list.get(HEADER_BYTES..)?.chunks_exact(4).take(TABLES_MAX);
    let fixed = entries.filter_map(|entry| table(u32_at(entry, 0)?.into(), b"FACP")).next()?;
    let sleep_type = u32_at(fixed, 40).and_then(|at| table(at.into(), b"DSDT")).and_then(off_type);
    Some(Fixed {
        control_port: port_at(fixed, 64)?,
        sleep_value: SLEEP_ENABLE | u16::from(sleep_type.unwrap_or(0) & 7) << 10,
        timer_port: port_at(fixed, 76).unwrap_or(0),
    })
}

/// The sleep type of the off state: the first element of the package `_S5_`, found by its bytes. Running AML
/// for one constant is not worth an interpreter.
fn off_type(code: &[u8]) -> Option<u8> {
    let name = code.windows(4).position(|window| window == b"_S5_")?;
    // Package opcode, length (one byte: a handful of elements), count, then the element.
    match code.get(name + 4..)? {
        [0x12, _, _, 0x0A, value, ..] => Some(*value),
        [0x12, _, _, small @ (0 | 1), ..] => Some(*small),
        _ => None,
    }
}

fn table(address: u64, signature: &[u8; 4]) -> Option<&'static [u8]> {
    let header = bytes(address, HEADER_BYTES)?;
    let length = u32_at(header, 4)? as usize;
    if !header.starts_with(signature) || !(HEADER_BYTES..=TABLE_BYTES_MAX).contains(&length) {
        return None;
    }
    bytes(address, length).filter(|table| sums_to_zero(table))
}

fn bytes(address: u64, length: usize) -> Option<&'static [u8]> {
    // SAFETY: the firmware reports its tables here; they lie outside the heap, and nobody writes them any more.
    let start = unsafe { map_firmware(address, length).ok()? };
    // SAFETY: mapped just now, for good, and constant.
    Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), length) })
}

fn sums_to_zero(table: &[u8]) -> bool {
    table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

fn u32_at(table: &[u8], at: usize) -> Option<u32> {
    table.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn port_at(table: &[u8], at: usize) -> Option<u16> {
    u32_at(table, at)?.try_into().ok().filter(|&port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::off_type;

    #[test]
    fn finds_the_off_type_as_qemu_and_others_write_it() {
        assert_eq!(off_type(b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00"), Some(0));
        assert_eq!(off_type(b"\x08_S5_\x12\x07\x04\x0A\x05\x00\x00\x00"), Some(5));
        assert_eq!(off_type(b"\x08_S4_\x12"), None);
    }
}
