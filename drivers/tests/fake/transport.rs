//! A transport without a bus: registers are fields, and the device behind them is the test.

use super::DeviceQueue;
use datum_drivers::virtio::SetupError;
use datum_drivers::virtio::transport::{
    DeviceStatus, DeviceTransport, DeviceType, InterruptStatus, Transport,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub const EVENT_IDX: u64 = 1 << 29;
pub const INDIRECT: u64 = 1 << 28;
pub const VERSION_1: u64 = 1 << 32;

/// Reads of a generation that never stays after which the driver is taken to hang.
const GENERATION_READS_MAX: u32 = 1_000_000;

/// The device's side: what it offers, and what the driver has set up.
#[derive(Debug, Default)]
pub struct Registers {
    pub offered: u64,
    pub agreed: u64,
    pub config: Vec<u8>,
    pub config_changed: bool,
    pub queue_size: u32,
    pub queues: BTreeMap<u16, DeviceQueue>,
    pub notified: BTreeSet<u16>,
    pub status: DeviceStatus,
    pub resets: usize,
    pub stuck: bool,
    /// Called once the device has let go of everything.
    pub on_reset: Option<fn()>,
    /// The configuration changes under every read.
    pub restless: bool,
    pub generation: Cell<u32>,
    /// Queues from this number on do not exist.
    pub queues_end: Option<u16>,
}

#[derive(Clone, Debug)]
pub struct FakeTransport(pub Rc<RefCell<Registers>>);

impl FakeTransport {
    pub fn new(offered: u64, queue_size: u32, config: Vec<u8>) -> Self {
        let offered = offered | VERSION_1;
        Self(Rc::new(RefCell::new(Registers { offered, queue_size, config, ..Registers::default() })))
    }
}

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn read_device_features(&mut self) -> u64 {
        self.0.borrow().offered
    }

    fn write_driver_features(&mut self, features: u64) {
        self.0.borrow_mut().agreed = features;
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        let registers = self.0.borrow();
        if registers.queues_end.is_some_and(|end| queue >= end) { 0 } else { registers.queue_size }
    }

    fn notify(&mut self, queue: u16) {
        self.0.borrow_mut().notified.insert(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.0.borrow().status
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let mut registers = self.0.borrow_mut();
        if status == DeviceStatus::empty() {
            registers.resets += 1;
            if registers.stuck {
                return;
            }
            registers.queues.clear();
            registers.on_reset.iter().for_each(|told| told());
        }
        registers.status = status;
    }

    fn set_guest_page_size(&mut self, _size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver: PhysAddr,
        device: PhysAddr,
    ) {
        let mut registers = self.0.borrow_mut();
        let event_index = registers.agreed & EVENT_IDX != 0;
        registers
            .queues
            .insert(queue, DeviceQueue::new(size as u16, [descriptors, driver, device], event_index));
    }

    fn queue_unset(&mut self, _queue: u16) {}

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.borrow().queues.contains_key(&queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        let registers = self.0.borrow();
        let generation = registers.generation.get();
        registers.generation.set(generation.wrapping_add(u32::from(registers.restless)));
        assert!(generation < GENERATION_READS_MAX, "the driver looks at the configuration without end");
        generation
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let registers = self.0.borrow();
        let bytes =
            registers.config.get(offset..offset + size_of::<T>()).ok_or(Error::ConfigSpaceTooSmall)?;
        T::read_from_bytes(bytes).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _offset: usize, _value: T) -> Result<()> {
        Err(Error::ConfigSpaceMissing)
    }
}

impl DeviceTransport for FakeTransport {
    fn route_queue(&mut self, _queue: u16) -> core::result::Result<(), SetupError> {
        Ok(())
    }

    fn route_configuration(&mut self) -> core::result::Result<(), SetupError> {
        Ok(())
    }

    fn take_configuration_change(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().config_changed)
    }
}
