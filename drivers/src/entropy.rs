//! Randomness of last resort, where the machine has no virtio-rng: the processor's, and the jitter of its timing.
//!
//! Fit for identities that must not collide, not for keys.

use crate::clock;
use x86_64::instructions::port::Port;

/// Timing samples folded into one value. Each holds a bit or more of jitter: the read leaves the virtual machine.
const SAMPLES: u32 = 64;
/// Attempts before RDRAND counts as exhausted; Intel asks for ten.
const TRIES_MAX: u32 = 10;

/// 64 random bits from what the machine has by itself. Takes some tens of microseconds. Only on the bare machine.
pub fn random() -> u64 {
    let seed = clock::unix_nanoseconds() ^ from_processor().unwrap_or(0);
    (0..SAMPLES).fold(seed, |mixed, _| {
        // SAFETY: reading the speaker's gate has no side effect.
        unsafe { Port::<u8>::new(0x61).read() };
        mix(mixed ^ clock::counter())
    })
}

/// The finaliser of splitmix64: every bit of the input changes half of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

fn from_processor() -> Option<u64> {
    use core::arch::x86_64::{__cpuid, _rdrand64_step};
    const RDRAND: u32 = 1 << 30;
    if __cpuid(1).ecx & RDRAND == 0 {
        return None;
    }
    let mut value = 0;
    // SAFETY: the processor has the instruction, as was just asked.
    (0..TRIES_MAX).any(|_| unsafe { _rdrand64_step(&mut value) } == 1).then_some(value)
}
