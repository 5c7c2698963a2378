//! What a driver needs of the bus: virtio-drivers' [`Transport`], and interrupts by message.
//!
//! Setting up a device runs in one order (virtio 1.2, 3.1.1): [`negotiate`], then queues by [`open_queue`], then
//! [`Transport::finish_init`]. Stopping it is [`reset`], after which it touches no memory.

use super::SetupError;
use super::queue::QueueFeatures;
use super::ring::Ring;
pub use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};

const RING_INDIRECT_DESC: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// Status reads before a device is taken to be stuck: a register read is at least some hundred nanoseconds, so
/// this is well over a tenth of a second.
const RESET_READS_MAX: u32 = 1_000_000;

/// A transport that routes the device's interrupts.
pub trait DeviceTransport: Transport {
    /// Lets `queue` interrupt. Called once for each queue, before it is enabled.
    fn route_queue(&mut self, queue: u16) -> Result<(), SetupError>;

    /// Lets changes of the device's configuration interrupt.
    fn route_configuration(&mut self) -> Result<(), SetupError>;

    /// Whether the configuration may have changed since the last call. Does not touch the device.
    fn take_configuration_change(&self) -> bool;
}

/// Features agreed on with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// Whether all bits of `mask` were agreed on.
    pub fn has(self, mask: u64) -> bool {
        self.0 & mask == mask
    }

    /// The part that concerns queues.
    pub fn queue(self) -> QueueFeatures {
        QueueFeatures { event_index: self.has(RING_EVENT_IDX), indirect: self.has(RING_INDIRECT_DESC) }
    }
}

/// Resets the device and agrees on features: what it offers of `wanted`, and of what the queues can use.
pub fn negotiate<T: DeviceTransport>(transport: &mut T, wanted: u64) -> Result<Features, SetupError> {
    if !reset(transport) {
        return Err(SetupError::StuckInReset);
    }
    let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(status);
    let agreed =
        transport.read_device_features() & (wanted | RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1);
    if agreed & VERSION_1 == 0 {
        return Err(SetupError::Legacy);
    }
    transport.write_driver_features(agreed);
    status |= DeviceStatus::FEATURES_OK;
    transport.set_status(status);
    if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        return Err(SetupError::FeaturesRefused);
    }
    Ok(Features(agreed))
}

/// Makes a ring of at most `size_limit` entries and gives it to the device as `queue`.
pub fn open_queue<T: DeviceTransport>(
    transport: &mut T,
    queue: u16,
    size_limit: u16,
) -> Result<Ring, SetupError> {
    let offered = transport.max_queue_size(queue).min(u32::from(size_limit));
    if offered == 0 {
        return Err(SetupError::NoQueue);
    }
    let ring = Ring::allocate(1 << offered.ilog2())?;
    let [descriptors, available, used] = ring.addresses();
    transport.route_queue(queue)?;
    transport.queue_set(queue, u32::from(ring.size()), descriptors, available, used);
    Ok(ring)
}

/// Resets the device and waits until it is. False if it does not answer, and may still touch memory.
#[must_use]
pub fn reset<T: Transport>(transport: &mut T) -> bool {
    transport.set_status(DeviceStatus::empty());
    (0..RESET_READS_MAX).any(|_| transport.get_status() == DeviceStatus::empty())
}

/// Four little-endian bytes of the configuration, or 0 where it is too short.
pub(super) fn config_u32<T: Transport>(transport: &T, offset: usize) -> u32 {
    transport.read_config_space::<u32>(offset).map_or(0, u32::from_le)
}

/// One byte of the configuration, or 0 where it is too short.
pub(super) fn config_u8<T: Transport>(transport: &T, offset: usize) -> u8 {
    transport.read_config_space::<u8>(offset).unwrap_or(0)
}
