//! What the service needs of the machine beside disks and ports: time, randomness, memory figures, power.

use core::future::Future;

/// Heap figures in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Bytes the heap has in all.
    pub heap_bytes: u64,
    /// Bytes now allocated.
    pub used_bytes: u64,
    /// The most that was ever allocated.
    pub high_water_bytes: u64,
}

/// How the appliance ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Switch the machine off.
    Off,
    /// Start again from the firmware.
    Reset,
}

/// The machine as the service sees it.
pub trait Environment {
    /// Wall time: nanoseconds since 1970-01-01T00:00:00Z.
    fn unix_time_nanoseconds(&self) -> u64;
    /// Nanoseconds since some fixed moment; never goes back.
    fn monotonic_nanoseconds(&self) -> u64;
    /// 64 random bits, fit for identities (not for keys).
    fn random(&self) -> u64;
    /// Waits at least this long.
    fn sleep(&self, nanoseconds: u64) -> impl Future<Output = ()>;
    /// Heap figures.
    fn memory(&self) -> MemoryUsage;
    /// Ends the appliance. Returns only where the machine cannot be ended (a hosted test).
    fn power(&self, how: Power);
}
