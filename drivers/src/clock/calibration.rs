//! How fast the time-stamp counter and the local APIC's timer run, measured against a clock of known rate.

use super::{NANOSECONDS_PER_SECOND, counter};
use crate::interrupts::{start_timer, timer_count};
use crate::power::timer_port;
use x86_64::instructions::port::Port;

/// How long to measure: a start waits for it, and twice as long would only halve an error of some 0.01 %.
const WINDOW_MILLISECONDS: u64 = 2;
/// Looks at the reference before it counts as stopped.
const LOOKS_MAX: u32 = 1_000_000;
/// Assumed when the machine has no working reference: wrong, but time still passes.
const FALLBACK: Rates = Rates { counter_hertz: 1_000_000_000, timer_hertz: 62_500_000 };

/// Ticks per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) counter_hertz: u64,
    /// The local APIC's timer, after its divider.
    pub(super) timer_hertz: u64,
}

impl Rates {
    /// What `ticks` of the time-stamp counter are in nanoseconds.
    pub(super) fn nanoseconds(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * u128::from(NANOSECONDS_PER_SECOND) / u128::from(self.counter_hertz)) as u64
    }

    /// The timer's count for `nanoseconds`, at least 1; saturates, so that a long sleep wakes early and goes on.
    pub(super) fn timer_count(&self, nanoseconds: u64) -> u32 {
        let ticks =
            u128::from(nanoseconds) * u128::from(self.timer_hertz) / u128::from(NANOSECONDS_PER_SECOND);
        ticks.clamp(1, u32::MAX.into()) as u32
    }
}

/// A counter of known rate.
#[derive(Clone, Copy)]
enum Reference {
    /// ACPI's timer: counts up, 24 bits.
    Acpi(u16),
    /// Channel 2 of the 8254: counts down, 16 bits.
    Legacy,
}

impl Reference {
    fn hertz(self) -> u64 {
        match self {
            Self::Acpi(_) => 3_579_545,
            Self::Legacy => 1_193_182,
        }
    }

    /// Starts the counter, where it must be started.
    fn start(self) {
        if let Self::Legacy = self {
            // SAFETY: gate on, speaker off; then channel 2 counts down from 65,535 once. No memory is touched.
            unsafe {
                let mut gate = Port::<u8>::new(0x61);
                let value = gate.read();
                gate.write(value & !0x02 | 0x01);
                Port::<u8>::new(0x43).write(0xB0);
                Port::<u8>::new(0x42).write(0xFF);
                Port::<u8>::new(0x42).write(0xFF);
            }
        }
    }

    fn read(self) -> u64 {
        match self {
            // SAFETY: reading the timer that ACPI's fixed table names has no side effect.
            Self::Acpi(port) => unsafe { Port::<u32>::new(port).read().into() },
            // SAFETY: latches channel 2 and reads its two halves.
            Self::Legacy => unsafe {
                Port::<u8>::new(0x43).write(0x80);
                let low = Port::<u8>::new(0x42).read();
                let high = Port::<u8>::new(0x42).read();
                u16::from_le_bytes([low, high]).into()
            },
        }
    }

    fn elapsed(self, from: u64, to: u64) -> u64 {
        match self {
            Self::Acpi(_) => to.wrapping_sub(from) & 0xFF_FFFF,
            Self::Legacy => from.wrapping_sub(to) & 0xFFFF,
        }
    }
}

/// One moment on the time-stamp counter and on the reference.
#[derive(Clone, Copy)]
struct Sample {
    counter: u64,
    reference: u64,
}

/// Measures both rates; falls back to a guess only if no reference moves.
pub(super) fn measure() -> Rates {
    let acpi = timer_port().and_then(|port| measure_against(Reference::Acpi(port)));
    acpi.or_else(|| measure_against(Reference::Legacy)).unwrap_or(FALLBACK)
}

fn measure_against(reference: Reference) -> Option<Rates> {
    let window = reference.hertz() * WINDOW_MILLISECONDS / 1000;
    reference.start();
    start_timer(u32::MAX);
    let first = sample(reference);
    let timer_first = timer_count();
    let elapsed = |sample: Sample| reference.elapsed(first.reference, sample.reference);
    (0..LOOKS_MAX).find(|_| reference.elapsed(first.reference, reference.read()) >= window)?;
    let last = sample(reference);
    let timer_ticks = u64::from(timer_first.wrapping_sub(timer_count()));
    start_timer(0);
    let per_second = |ticks: u64| ticks * reference.hertz() / elapsed(last);
    let rates = Rates {
        counter_hertz: per_second(last.counter - first.counter),
        timer_hertz: per_second(timer_ticks),
    };
    (rates.counter_hertz > 0 && rates.timer_hertz > 0).then_some(rates)
}

/// The tightest of a few looks: a look that the host interrupted would spoil the rate.
fn sample(reference: Reference) -> Sample {
    let look = || {
        let before = counter();
        let value = reference.read();
        let after = counter();
        (after.wrapping_sub(before), Sample { counter: before + (after - before) / 2, reference: value })
    };
    (0..4).map(|_| look()).fold(look(), |best, next| if next.0 < best.0 { next } else { best }).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_convert_without_overflow() {
        let rates = Rates { counter_hertz: 3_000_000_000, timer_hertz: 62_500_000 };
        assert_eq!(rates.nanoseconds(3_000_000_000), NANOSECONDS_PER_SECOND);
        assert_eq!(rates.nanoseconds(u64::MAX), 6_148_914_691_236_517_205);
        assert_eq!(rates.timer_count(16), 1);
        assert_eq!(rates.timer_count(u64::MAX), u32::MAX);
    }
}
