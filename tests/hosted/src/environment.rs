//! Time, randomness, memory and power: those of the process.

use crate::reactor::Host;
use datum_service::environment::{Environment, MemoryUsage, Power};
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

impl Environment for Host {
    fn unix_time_nanoseconds(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic_nanoseconds(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        // Each state is keyed from the system's randomness.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(self.monotonic_nanoseconds());
        hasher.finish()
    }

    fn sleep(&self, nanoseconds: u64) -> impl Future<Output = ()> {
        self.sleep_until(Instant::now() + Duration::from_nanos(nanoseconds))
    }

    fn memory(&self) -> MemoryUsage {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kibibytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        };
        MemoryUsage {
            heap_bytes: kibibytes("VmSize:") << 10,
            used_bytes: kibibytes("VmRSS:") << 10,
            high_water_bytes: kibibytes("VmHWM:") << 10,
        }
    }

    fn power(&self, how: Power) {
        std::process::exit(match how {
            Power::Off => 0,
            Power::Reset => 3,
        });
    }
}
