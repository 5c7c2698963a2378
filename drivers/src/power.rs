//! How the machine ends: off, reset, halt, or (in tests) QEMU's exit device.

use core::hint;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts, tables};
use x86_64::structures::DescriptorTablePointer;

mod acpi;

pub(crate) use acpi::timer_port;

/// QEMU's `-device isa-debug-exit,iobase=0xf4,iosize=0x04`: writing v ends QEMU with status 2v + 1.
const EXIT_PORT: u16 = 0xF4;
/// The chipset's reset register, on both `q35` and `pc`.
const RESET_PORT: u16 = 0xCF9;
/// The keyboard controller's command port; its reset line is the oldest way.
const KEYBOARD_PORT: u16 = 0x64;

/// ACPI's power control register and what to write there to switch off.
static CONTROL_PORT: AtomicU16 = AtomicU16::new(0);
static SLEEP_VALUE: AtomicU32 = AtomicU32::new(0);

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
        SLEEP_VALUE.store(fixed.sleep_value.into(), Ordering::Relaxed);
        CONTROL_PORT.store(fixed.control_port, Ordering::Relaxed);
        acpi::set_timer_port(fixed.timer_port);
    }
}

/// Switches the machine off; where that is not possible, halts it.
pub fn off() -> ! {
    let port = CONTROL_PORT.load(Ordering::Relaxed);
    if port != 0 {
        // SAFETY: ACPI's fixed table names this register; the value enters the off state and touches no memory.
        unsafe { Port::<u16>::new(port).write(SLEEP_VALUE.load(Ordering::Relaxed) as u16) }
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
