//! Time: nanoseconds since boot from the time-stamp counter, wall time from the CMOS clock, and sleeping.
//!
//! The counter's rate is measured at boot against the ACPI timer (else the 8254), over two milliseconds.
//! There is no periodic tick: the local APIC's timer is set for the earliest sleeper only, so an idle machine
//! sleeps until something happens. [`monotonic_nanoseconds`] never goes back.

mod calibration;
mod rtc;
mod sleepers;

pub use sleepers::{Sleep, sleep};

use crate::interrupts::OutOfVectors;
use calibration::Rates;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;
/// How far wall time may be from the CMOS clock, which counts whole seconds, before it is set anew.
const WALL_TOLERANCE_NANOSECONDS: u64 = 3 * NANOSECONDS_PER_SECOND / 2;

static CLOCK: Once<Clock> = Once::new();
/// The counter when the machine's first Rust code ran; 0 where nobody told.
static BEGUN: AtomicU64 = AtomicU64::new(0);

struct Clock {
    rates: Rates,
    /// The counter when time began.
    start: u64,
    /// Wall time at that moment, in nanoseconds since 1970.
    wall: AtomicU64,
}

/// Time begins now: to be called by the machine's first Rust code, so that what comes before [`initialise`] counts too.
pub fn begin() {
    BEGUN.store(counter(), Ordering::Relaxed);
}

/// Measures the clocks, which takes about two milliseconds, and lets the timer wake sleepers. Only on the bare machine,
/// once, after [`crate::interrupts::initialise`] and [`crate::power::initialise`].
pub fn initialise() -> Result<(), OutOfVectors> {
    CLOCK.call_once(|| {
        let rates = calibration::measure();
        let wall = rtc::read_unix_seconds() * NANOSECONDS_PER_SECOND;
        let now = counter();
        let start = Some(BEGUN.load(Ordering::Relaxed)).filter(|begun| *begun != 0).unwrap_or(now);
        let wall = wall.saturating_sub(rates.nanoseconds(now.saturating_sub(start)));
        Clock { rates, start, wall: AtomicU64::new(wall) }
    });
    sleepers::start()
}

/// Nanoseconds since [`begin`]; 0 until [`initialise`].
pub fn monotonic_nanoseconds() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.rates.nanoseconds(counter().saturating_sub(clock.start)))
}

/// Wall time: nanoseconds since 1970-01-01T00:00:00Z, as the machine's clock had it when it was last looked at.
pub fn unix_nanoseconds() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.wall.load(Ordering::Relaxed) + monotonic_nanoseconds())
}

/// Sets wall time by the CMOS clock where the two have drifted apart: the counter's rate is known to some parts in ten
/// thousand only, and the host may have set its clock. Call it every few minutes. Monotonic time is not touched.
pub fn follow_wall_clock() {
    let Some(clock) = CLOCK.get() else { return };
    let wall = rtc::read_unix_seconds() * NANOSECONDS_PER_SECOND;
    if wall.abs_diff(unix_nanoseconds()) > WALL_TOLERANCE_NANOSECONDS {
        clock.wall.store(wall.saturating_sub(monotonic_nanoseconds()), Ordering::Relaxed);
    }
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
