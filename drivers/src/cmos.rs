//! The PC's CMOS memory: the clock's registers, and bytes that outlive a reset.
//!
//! An access selects a register and then reads or writes it. Nothing comes in between: interrupts run no code that
//! looks here. Bit 7 of the selector would switch non-maskable interrupts off; it stays 0.

use x86_64::instructions::port::Port;

const SELECTOR: u16 = 0x70;
const DATA: u16 = 0x71;

/// The byte that tells a reset from power coming on. QEMU keeps it across resets and starts with 0. Below 0x40 are the clock
/// and what IBM's and QEMU's machines tell the firmware; above, QEMU and SeaBIOS use 0x5B to 0x5F (memory beyond 4 GiB,
/// processors), and qboot nothing.
const MARK: u8 = 0x50;
/// What is there once [`mark_start`] was called: neither erased memory nor a likely number.
const STARTED: u8 = 0xDA;

pub(crate) fn read(register: u8) -> u8 {
    // SAFETY: selects and reads a CMOS register.
    unsafe {
        Port::<u8>::new(SELECTOR).write(register);
        Port::<u8>::new(DATA).read()
    }
}

/// Leaves a mark that lasts as long as the machine has power. True where an earlier start left it: the machine was reset
/// since. Only on the bare machine, once.
pub fn mark_start() -> bool {
    let was_there = read(MARK) == STARTED;
    // SAFETY: selects and writes a byte of memory that nothing else uses.
    unsafe {
        Port::<u8>::new(SELECTOR).write(MARK);
        Port::<u8>::new(DATA).write(STARTED);
    }
    was_there
}
