//! Bringing the machine up: power, interrupts, clock, serial port, in the order they need one another.

use datum_drivers::{clock, interrupts, log, memory, power, uart};

/// What a machine of 64 MiB leaves for the heap, with room for the image to grow.
const HEAP_BYTES_MIN: usize = 56 << 20;

/// Starts what every later step needs. A machine without it cannot serve, so failure is a panic that says why.
pub(crate) fn start(acpi_root: Option<u64>) {
    power::initialise(acpi_root);
    if let Err(error) = interrupts::initialise() {
        panic!("the interrupt controllers cannot be mapped ({error:?}): use -M q35 or -M pc");
    }
    if clock::initialise().is_err() {
        panic!("no interrupt vector is left for the timer: this is an error in the appliance; report it");
    }
    if uart::enable_interrupts().is_err() {
        log!("datum: no interrupt vector is left for COM1: its console will not hear you");
    }
    if power::enable_button().is_err() {
        log!("datum: no interrupt vector is left for the power button: it will do nothing");
    }
    let heap_bytes = memory::usage().heap_bytes;
    log!("datum: {} MiB of heap, time-stamp counter at {} kHz", heap_bytes >> 20, clock::counter_kilohertz());
    if heap_bytes < HEAP_BYTES_MIN {
        log!(
            "datum: this machine has less than 64 MiB of RAM, on which nothing is promised: start it with -m 64"
        );
    }
}
