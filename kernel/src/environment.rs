//! The machine as the service sees it: time, randomness, memory figures and power.

use core::cell::RefCell;
use core::future::Future;
use datum_drivers::{clock, entropy, memory, power};
use datum_service::environment::{Environment, MemoryUsage, Power};

/// The real machine.
pub(crate) struct Machine {
    generator: RefCell<Generator>,
}

impl Machine {
    /// Randomness is drawn from `seed` (virtio-rng's, if there is one), and from what the processor adds.
    pub(crate) fn new(seed: [u64; 4]) -> Self {
        Self { generator: RefCell::new(Generator(seed.map(|word| word ^ entropy::random()))) }
    }
}

impl Environment for Machine {
    fn unix_time_nanoseconds(&self) -> u64 {
        clock::unix_nanoseconds()
    }

    fn monotonic_nanoseconds(&self) -> u64 {
        clock::monotonic_nanoseconds()
    }

    fn random(&self) -> u64 {
        self.generator.borrow_mut().next()
    }

    fn sleep(&self, nanoseconds: u64) -> impl Future<Output = ()> {
        clock::sleep(nanoseconds)
    }

    fn memory(&self) -> MemoryUsage {
        let usage = memory::usage();
        MemoryUsage {
            heap_bytes: usage.heap_bytes as u64,
            used_bytes: usage.used_bytes as u64,
            high_water_bytes: usage.high_water_bytes as u64,
        }
    }

    fn power(&self, how: Power) {
        match how {
            Power::Off => power::off(),
            Power::Reset => power::reset(),
        }
    }
}

/// xoshiro256** (Blackman and Vigna): 256 bits of state, so that identities drawn from one seed are as good as the seed.
struct Generator([u64; 4]);

impl Generator {
    fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }
}
