//! The facts the appliance needs of ACPI: where the off switch, the power button and the power-management timer are.
//!
//! Tables: ACPI specification 6.4, sections 5.2.5 to 5.2.9. They come from the firmware, so lengths are bounded
//! and sums are checked before anything in them is believed.

use crate::memory::map_firmware;

/// Longest table that is looked at.
const TABLE_BYTES_MAX: usize = 1 << 20;
/// Bytes of the header that every table starts with.
const HEADER_BYTES: usize = 36;
/// Most tables the root may list.
const TABLES_MAX: usize = 64;
/// Interrupt lines of the ISA bus.
const ISA_LINES: u8 = 16;
/// The bit that starts the transition named by the sleep type.
const SLEEP_ENABLE: u16 = 1 << 13;

/// What the fixed description table says.
pub(super) struct Fixed {
    pub(super) control_port: u16,
    pub(super) sleep_value: u16,
    /// The port of the 3.579545 MHz timer.
    pub(super) timer_port: Option<u16>,
    /// Where the power button is told of, if it is.
    pub(super) events: Option<Events>,
}

/// The registers of fixed events.
#[derive(Clone, Copy)]
pub(super) struct Events {
    pub(super) status_port: u16,
    pub(super) enable_port: u16,
    /// The ISA line of the system control interrupt.
    pub(super) line: u8,
    /// Which port takes which value to hand events over from the firmware, where it has them.
    pub(super) hand_over: Option<(u16, u8)>,
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
        timer_port: port_at(fixed, 76),
        events: events(fixed),
    })
}

/// The status register, and behind it, half of the block away, the enable register.
fn events(fixed: &[u8]) -> Option<Events> {
    let status_port = port_at(fixed, 56)?;
    let half = fixed.get(88)? / 2;
    Some(Events {
        status_port,
        enable_port: status_port.checked_add(half.into()).filter(|_| half >= 2)?,
        line: u8::try_from(u16_at(fixed, 46)?).ok().filter(|line| (1..ISA_LINES).contains(line))?,
        hand_over: port_at(fixed, 48).zip(fixed.get(52).copied()),
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

fn u16_at(table: &[u8], at: usize) -> Option<u16> {
    table.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(table: &[u8], at: usize) -> Option<u32> {
    table.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn port_at(table: &[u8], at: usize) -> Option<u16> {
    u32_at(table, at)?.try_into().ok().filter(|&port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::{events, off_type};

    #[test]
    fn finds_the_off_type_as_qemu_and_others_write_it() {
        assert_eq!(off_type(b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00"), Some(0));
        assert_eq!(off_type(b"\x08_S5_\x12\x07\x04\x0A\x05\x00\x00\x00"), Some(5));
        assert_eq!(off_type(b"\x08_S4_\x12"), None);
    }

    /// As QEMU 7.2 has it for q35, and what must not be believed.
    #[test]
    fn finds_the_events_of_the_fixed_table() {
        let mut table = [0; 116];
        table[46] = 9;
        table[48] = 0xB2;
        table[52] = 2;
        table[56..58].copy_from_slice(&[0x00, 0x06]);
        table[88] = 4;
        let found = events(&table).unwrap();
        assert_eq!((found.status_port, found.enable_port, found.line), (0x600, 0x602, 9));
        assert_eq!(found.hand_over, Some((0xB2, 2)));
        table[48] = 0;
        assert_eq!(events(&table).unwrap().hand_over, None);
        for (at, value) in [(88, 0), (46, 0), (46, 16), (57, 0)] {
            let mut wrong = table;
            wrong[at] = value;
            assert!(events(&wrong).is_none(), "{at}");
        }
        assert!(events(&table[..80]).is_none());
    }
}
