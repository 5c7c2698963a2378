//! The local APIC, through memory or (x2APIC) through model-specific registers, and the I/O APIC's ISA lines.
//!
//! Offsets and bits: Intel SDM volume 3, chapter 12; I/O APIC: Intel 82093AA datasheet, section 3.

use super::{SPURIOUS_VECTOR, Vector};
use crate::memory::{MapError, map_mmio};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

const IDENTIFIER: u32 = 0x20;
const END_OF_INTERRUPT: u32 = 0xB0;
const SPURIOUS: u32 = 0xF0;
const TIMER: u32 = 0x320;
const LINT0: u32 = 0x350;
const LINT1: u32 = 0x360;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3E0;

const ENABLED: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_16: u32 = 3;

/// The I/O APIC of every machine this runs on (`q35`, `pc`).
const IO_APIC_ADDRESS: u64 = 0xFEC0_0000;
const REGISTERS_BYTES: usize = 4096;

/// Address of the local APIC's registers. 0 until initialised; 1 for x2APIC.
static LOCAL: AtomicUsize = AtomicUsize::new(0);
const X2APIC: usize = 1;
/// Address of the I/O APIC's registers; 0 until initialised.
static IO: AtomicUsize = AtomicUsize::new(0);

/// Finds, maps and enables the local APIC, and maps the I/O APIC. Local interrupt lines stay masked.
pub(super) fn initialise() -> Result<(), MapError> {
    let (frame, flags) = ApicBase::read();
    let local = if flags.contains(ApicBaseFlags::X2APIC_ENABLE) {
        X2APIC
    } else {
        // SAFETY: the processor itself says that its APIC's registers are here.
        unsafe { map_mmio(frame.start_address().as_u64(), REGISTERS_BYTES)?.as_ptr() as usize }
    };
    LOCAL.store(local, Ordering::Relaxed);
    // SAFETY: the I/O APIC's registers on every supported machine.
    let io = unsafe { map_mmio(IO_APIC_ADDRESS, REGISTERS_BYTES)? };
    IO.store(io.as_ptr() as usize, Ordering::Relaxed);
    write(LINT0, MASKED);
    write(LINT1, MASKED);
    write(TIMER, MASKED);
    write(DIVIDE, DIVIDE_BY_16);
    write(SPURIOUS, ENABLED | u32::from(SPURIOUS_VECTOR));
    Ok(())
}

/// The local APIC's identifier, which messages and lines are sent to.
pub(super) fn identifier() -> u32 {
    match LOCAL.load(Ordering::Relaxed) {
        X2APIC => read(IDENTIFIER),
        _ => read(IDENTIFIER) >> 24,
    }
}

pub(super) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Lets the timer interrupt; until then it only counts.
pub(crate) fn let_timer_interrupt(vector: Vector) {
    write(TIMER, u32::from(vector.number()));
}

/// Starts the timer: one interrupt when `count` sixteenths of the bus clock have passed; 0 stops it.
pub(crate) fn start_timer(count: u32) {
    write(INITIAL_COUNT, count);
}

/// What is left of the timer's count.
pub(crate) fn timer_count() -> u32 {
    read(CURRENT_COUNT)
}

/// Sends ISA line `line` to this processor as `vector`: edge triggered, active high, fixed delivery.
pub(super) fn route_isa(line: u8, vector: u8) {
    let entry = 0x10 + 2 * u32::from(line);
    write_io(entry + 1, identifier() << 24);
    write_io(entry, u32::from(vector));
}

fn read(offset: u32) -> u32 {
    match LOCAL.load(Ordering::Relaxed) {
        0 => 0,
        // SAFETY: x2APIC registers are MSRs from 0x800; the APIC is in that mode.
        X2APIC => unsafe { Msr::new(0x800 + (offset >> 4)).read() as u32 },
        // SAFETY: mapped by `initialise` for good, and `offset` is a register within.
        base => unsafe { ptr::read_volatile((base + offset as usize) as *const u32) },
    }
}

fn write(offset: u32, value: u32) {
    match LOCAL.load(Ordering::Relaxed) {
        0 => {}
        // SAFETY: as in `read`; the registers written here affect interrupts only.
        X2APIC => unsafe { Msr::new(0x800 + (offset >> 4)).write(u64::from(value)) },
        // SAFETY: as in `read`.
        base => unsafe { ptr::write_volatile((base + offset as usize) as *mut u32, value) },
    }
}

fn write_io(register: u32, value: u32) {
    let base = IO.load(Ordering::Relaxed);
    if base == 0 {
        return;
    }
    // SAFETY: the I/O APIC's index and data registers, mapped by `initialise` for good.
    unsafe {
        ptr::write_volatile(base as *mut u32, register);
        ptr::write_volatile((base + 0x10) as *mut u32, value);
    }
}
