//! KVM's clock: the host's wall time to the microsecond, where KVM runs the machine.
//!
//! The processor is told where the two structures lie (Linux, Documentation/virt/kvm/x86/msr.rst): KVM writes into one what
//! the host's wall time was when KVM's own clock began, and into the other where that clock is and how it follows from the
//! time-stamp counter. Both are asked for anew each time, because the host may set its clock; in between KVM writes nothing.

use super::{NANOSECONDS_PER_SECOND, counter};
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use x86_64::registers::model_specific::Msr;

/// The feature leaf's bit for both registers.
const CLOCK_SOURCE: u32 = 1 << 3;
const HYPERVISOR: u32 = 1 << 31;
/// Where a hypervisor's leaves begin; those of another kind that KVM plays as well come first.
const LEAVES: [u32; 2] = [0x4000_0000, 0x4000_0100];
const SIGNATURE: &[u8; 12] = b"KVMKVMKVM\0\0\0";
const WALL_CLOCK: u32 = 0x4b56_4d00;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Looks at structures that KVM is just writing.
const TRIES_MAX: u32 = 100;

/// What KVM writes. Aligned so that neither structure crosses a page.
#[repr(C, align(64))]
struct Shared {
    /// Version, seconds, nanoseconds.
    wall: [AtomicU32; 4],
    /// Version, padding, the counter's value (two words), the clock's (two words), a factor, and a shift in the lowest byte.
    system: [AtomicU32; 8],
}

static SHARED: Shared =
    Shared { wall: [const { AtomicU32::new(0) }; 4], system: [const { AtomicU32::new(0) }; 8] };

/// Whether KVM is there and has the clock. Only on the bare machine, like everything here.
pub(super) fn is_there() -> bool {
    let signed = |leaf: &u32| {
        let name = __cpuid(*leaf);
        [name.ebx, name.ecx, name.edx].map(u32::to_le_bytes).as_flattened() == SIGNATURE
    };
    let leaf = LEAVES.into_iter().find(signed);
    __cpuid(1).ecx & HYPERVISOR != 0 && leaf.is_some_and(|leaf| __cpuid(leaf + 1).eax & CLOCK_SOURCE != 0)
}

/// The host's wall time now, in nanoseconds since 1970.
pub(super) fn unix_nanoseconds() -> Option<u64> {
    let (wall, system) = (address(&SHARED.wall), address(&SHARED.system));
    // SAFETY: `is_there` has found both registers. KVM writes to the statics only, within their bounds; they are atomics,
    // and what it writes there is believed by nobody but `elapsed`, which takes any value.
    unsafe {
        Msr::new(WALL_CLOCK).write(wall);
        Msr::new(SYSTEM_TIME).write(system | 1);
    }
    let told = stable(&SHARED.wall, [1, 2]).zip(stable(&SHARED.system, [2, 3, 4, 5, 6, 7]));
    let now = counter();
    // SAFETY: as above; KVM writes there no more.
    unsafe { Msr::new(SYSTEM_TIME).write(0) };
    let ([seconds, nanoseconds], [counter_low, counter_high, time_low, time_high, factor, shift]) = told?;
    let since = now.wrapping_sub(joined(counter_low, counter_high));
    let begun = u64::from(seconds) * NANOSECONDS_PER_SECOND + u64::from(nanoseconds);
    Some(begun.saturating_add(joined(time_low, time_high)).saturating_add(elapsed(
        since,
        factor,
        shift as u8 as i8,
    )))
}

/// All memory is mapped one to one.
fn address(words: &[AtomicU32]) -> u64 {
    words.as_ptr() as u64
}

/// These words, read while the first, the version, is even and stays the same.
fn stable<const COUNT: usize>(words: &[AtomicU32], which: [usize; COUNT]) -> Option<[u32; COUNT]> {
    let [version, ..] = words else { return None };
    for _ in 0..TRIES_MAX {
        let before = version.load(Ordering::Acquire);
        let read = which.map(|word| words.get(word).map_or(0, |word| word.load(Ordering::Relaxed)));
        fence(Ordering::Acquire);
        if before != 0 && before % 2 == 0 && version.load(Ordering::Relaxed) == before {
            return Some(read);
        }
    }
    None
}

fn joined(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Nanoseconds that so many ticks of the counter are: shifted left (or right, where negative), then times the factor as a
/// fraction of 2^32.
fn elapsed(ticks: u64, factor: u32, shift: i8) -> u64 {
    let by = u32::from(shift.unsigned_abs());
    let shifted = if shift < 0 { ticks.checked_shr(by) } else { ticks.checked_shl(by) };
    ((u128::from(shifted.unwrap_or(0)) * u128::from(factor)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_scaled_as_kvm_says() {
        // 2 GHz and 3 GHz as Linux scales them, and what no host would say.
        assert_eq!(elapsed(2_000_000_000, 1 << 31, 0), 1_000_000_000);
        assert!(elapsed(3_000_000_000, 2_863_311_530, -1).abs_diff(1_000_000_000) < 2);
        assert_eq!(elapsed(500_000_000, 1 << 31, 2), 1_000_000_000);
        assert_eq!(elapsed(u64::MAX, u32::MAX, 127), 0);
        assert_eq!(elapsed(u64::MAX, u32::MAX, -128), 0);
    }

    #[test]
    fn what_is_being_written_is_not_read() {
        let words = [2, 7, 8, 9].map(AtomicU32::new);
        assert_eq!(stable(&words, [1, 3]), Some([7, 9]));
        words[0].store(3, Ordering::Relaxed);
        assert_eq!(stable(&words, [1]), None);
        words[0].store(0, Ordering::Relaxed);
        assert_eq!(stable(&words, [1]), None);
    }
}
