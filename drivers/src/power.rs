//! How the machine ends: off, reset, halt, or (in tests) QEMU's exit device; and the button by which somebody asks for it.

use crate::interrupts::OutOfVectors;
use acpi::Fixed;
use core::hint;
use spin::Once;
use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts, tables};
use x86_64::structures::DescriptorTablePointer;

mod acpi;
mod button;

pub use button::button_pressed;

/// QEMU's `-device isa-debug-exit,iobase=0xf4,iosize=0x04`: writing v ends QEMU with status 2v + 1.
const EXIT_PORT: u16 = 0xF4;
/// The chipset's reset register, on both `q35` and `pc`.
const RESET_PORT: u16 = 0xCF9;
/// The keyboard controller's command port; its reset line is the oldest way.
const KEYBOARD_PORT: u16 = 0x64;

/// What ACPI's fixed table says, where there is one.
static FIXED: Once<Fixed> = Once::new();

/// How a run under test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// QEMU ends with status 33.
    Success = 0x10,
    /// QEMU ends with status 35.
    Failure = 0x11,
}

/// Reads from ACPI's tables how to switch off, and which timer to trust. `root` is what the boot protocol
/// reported. Only on the bare machine.
pub fn initialise(root: Option<u64>) {
    if let Some(fixed) = root.and_then(acpi::read) {
        FIXED.call_once(|| fixed);
    }
}

/// The port of ACPI's 3.579545 MHz timer, if the machine has one.
pub(crate) fn timer_port() -> Option<u16> {
    FIXED.get().and_then(|fixed| fixed.timer_port)
}

/// Lets the power button wake [`button_pressed`]. Only on the bare machine, once, after [`initialise`] and
/// [`crate::interrupts::initialise`].
pub fn enable_button() -> Result<(), OutOfVectors> {
    FIXED.get().map_or(Ok(()), button::enable)
}

/// Switches the machine off; where that is not possible, halts it.
pub fn off() -> ! {
    if let Some(fixed) = FIXED.get() {
        // SAFETY: ACPI's fixed table names this register; the value enters the off state and touches no memory.
        unsafe { Port::<u16>::new(fixed.control_port).write(fixed.sleep_value) }
        pause();
    }
    halt()
}

/// Starts the machine again from the firmware.
pub fn reset() -> ! {
    // SAFETY: ends the machine; nothing runs after it.
    unsafe {
        Port::<u8>::new(RESET_PORT).write(0x06);
        pause();
        Port::<u8>::new(KEYBOARD_PORT).write(0xFE);
        pause();
    }
    triple_fault()
}

/// Stops for good, with interrupts off.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}

/// Ends QEMU with a status, if it has the exit device; else halts.
pub fn exit(code: ExitCode) -> ! {
    // SAFETY: the port is the exit device's or nobody's.
    unsafe { Port::<u32>::new(EXIT_PORT).write(code as u32) }
    halt()
}

/// Gives the machine time to end.
fn pause() {
    (0..10_000_000).for_each(|_| hint::spin_loop());
}

/// An exception without an interrupt table resets every PC.
fn triple_fault() -> ! {
    let nothing = DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
    interrupts::disable();
    // SAFETY: ends the machine, on purpose.
    unsafe { tables::lidt(&nothing) };
    interrupts::int3();
    halt()
}
