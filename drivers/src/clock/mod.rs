//! Time: nanoseconds since boot from the time-stamp counter, wall time from the CMOS clock, and sleeping.
//!
//! The counter's rate is measured at boot against the ACPI timer (else the 8254), over a few milliseconds.
//! There is no periodic tick: the local APIC's timer is set for the earliest sleeper only, so an idle machine
//! sleeps until something happens. [`monotonic_nanoseconds`] never goes back.

mod calibration;
mod rtc;
mod sleepers;

pub use sleepers::{Sleep, expire, sleep};

use calibration::Rates;
use spin::Once;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

static CLOCK: Once<Clock> = Once::new();

struct Clock {
    rates: Rates,
    /// The counter when the clock was started.
    start: u64,
    /// Wall time at that moment, in nanoseconds since 1970.
    wall: u64,
}

/// Measures the clocks; takes about five milliseconds. Only on the bare machine, after
/// [`crate::interrupts::initialise`] and [`crate::power::initialise`].
pub fn initialise() {
    CLOCK.call_once(|| {
        let rates = calibration::measure();
        Clock { rates, start: counter(), wall: rtc::read_unix_seconds() * NANOSECONDS_PER_SECOND }
    });
}

/// Nanoseconds since boot; 0 until [`initialise`].
pub fn monotonic_nanoseconds() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.rates.nanoseconds(counter().saturating_sub(clock.start)))
}

/// Wall time: nanoseconds since 1970-01-01T00:00:00Z, as the machine's clock had it at boot.
pub fn unix_nanoseconds() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.wall + monotonic_nanoseconds())
}

/// The time-stamp counter's rate in kHz, for the boot log.
pub fn counter_kilohertz() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.rates.counter_hertz / 1000)
}

/// The time-stamp counter.
pub(crate) fn counter() -> u64 {
    // SAFETY: reads a counter that every x86-64 processor has; it has no side effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}
