//! Time: nanoseconds since boot from the time-stamp counter, wall time from the host, and sleeping.
//!
//! The counter's rate is measured at boot against the ACPI timer (else the 8254), over two milliseconds. Wall time comes from
//! KVM's clock, or else from the CMOS clock, which counts whole seconds: what a first look at it shows is taken as the
//! beginning of its second, and [`follow_wall_clock`] waits for the next one without holding anybody up.
//! There is no periodic tick: the local APIC's timer is set for the earliest sleeper only, so an idle machine
//! sleeps until something happens. [`monotonic_nanoseconds`] never goes back.

mod calibration;
mod kvm;
mod rtc;
mod sleepers;
mod wall;

pub use sleepers::{Sleep, sleep};

use crate::interrupts::OutOfVectors;
use calibration::Rates;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;
use wall::{Bounds, Wall};

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;
/// How often the clock that wall time follows is looked at: the counter's rate is known to some parts in ten thousand only,
/// and the host may set its clock.
const FOLLOW_INTERVAL_NANOSECONDS: u64 = 60 * NANOSECONDS_PER_SECOND;
/// How much doubt of wall time is left when the CMOS clock has been watched.
const DOUBT_NANOSECONDS: u64 = 10_000_000;
/// How often the CMOS clock is looked at meanwhile.
const LOOK_INTERVAL_NANOSECONDS: u64 = 5_000_000;
/// How long before its next second the CMOS clock is watched, once that is known.
const LEAD_NANOSECONDS: u64 = 15_000_000;
/// Looks until the next time: some seconds, on a machine too busy to look often around one.
const LOOKS_MAX: u32 = 1000;

static CLOCK: Once<Clock> = Once::new();
/// The counter when the machine's first Rust code ran; 0 where nobody told.
static BEGUN: AtomicU64 = AtomicU64::new(0);

struct Clock {
    rates: Rates,
    /// The counter when time began.
    start: u64,
    wall: Wall,
    /// Whether KVM tells wall time.
    kvm: bool,
}

impl Clock {
    fn monotonic(&self) -> u64 {
        self.rates.nanoseconds(counter().saturating_sub(self.start))
    }
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
        let start = Some(BEGUN.load(Ordering::Relaxed)).filter(|begun| *begun != 0).unwrap_or_else(counter);
        let kvm = kvm::is_there();
        let known = look(kvm, || rates.nanoseconds(counter().saturating_sub(start)));
        Clock { rates, start, wall: Wall::new(known), kvm }
    });
    sleepers::start()
}

/// Nanoseconds since [`begin`]; 0 until [`initialise`].
pub fn monotonic_nanoseconds() -> u64 {
    CLOCK.get().map_or(0, Clock::monotonic)
}

/// Wall time: nanoseconds since 1970-01-01T00:00:00Z, as the host has it; until [`follow_wall_clock`] has seen the CMOS
/// clock's next second, up to a second less. It goes back only where the host's clock was set back by seconds.
pub fn unix_nanoseconds() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.wall.at(clock.monotonic()))
}

/// Keeps wall time right; never returns. Costs a look a minute, and a handful around a second of the CMOS clock; at the
/// start, up to a second of them. Monotonic time is not touched.
pub async fn follow_wall_clock() {
    let Some(clock) = CLOCK.get() else { return };
    loop {
        let mut known = look(clock.kvm, monotonic_nanoseconds);
        clock.wall.learn(known);
        for _ in 0..LOOKS_MAX {
            if known.width() <= DOUBT_NANOSECONDS {
                break;
            }
            sleep(LOOK_INTERVAL_NANOSECONDS).await;
            let seen = look(clock.kvm, monotonic_nanoseconds);
            known = known.and(seen).unwrap_or(seen);
            clock.wall.learn(known);
        }
        let since_second = unix_nanoseconds() % NANOSECONDS_PER_SECOND;
        sleep(FOLLOW_INTERVAL_NANOSECONDS - LEAD_NANOSECONDS - since_second).await;
    }
}

/// What the best clock at hand says.
fn look(kvm: bool, monotonic: impl Fn() -> u64) -> Bounds {
    let before = monotonic();
    let (first, last) = match kvm.then(kvm::unix_nanoseconds).flatten() {
        Some(exact) => (exact, exact),
        None => {
            let second = rtc::read_unix_seconds() * NANOSECONDS_PER_SECOND;
            (second, second + NANOSECONDS_PER_SECOND)
        }
    };
    Bounds::of_look(first, last, before, monotonic())
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
