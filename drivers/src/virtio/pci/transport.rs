//! virtio over PCI (virtio 1.2, 4.1): the layout of the register windows, and [`DeviceTransport`] on them.

use super::msix::{Interrupts, Messages};
use super::registers::Registers;
use super::window;
use super::{ConfigurationPorts, DeviceFunction};
use crate::virtio::SetupError;
use crate::virtio::capabilities::Windows;
use crate::virtio::transport::{DeviceStatus, DeviceTransport, DeviceType, InterruptStatus, Transport};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use virtio_drivers::transport::pci::bus::PciRoot;
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0C;
const CONFIG_MSIX_VECTOR: usize = 0x10;
const NUM_QUEUES: usize = 0x12;
const DEVICE_STATUS: usize = 0x14;
const CONFIG_GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_MSIX_VECTOR: usize = 0x1A;
const QUEUE_ENABLE: usize = 0x1C;
const QUEUE_NOTIFY_OFF: usize = 0x1E;
const QUEUE_DESC: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;
const COMMON_BYTES: usize = 0x38;

/// A virtio device behind a PCI function.
#[derive(Debug)]
pub struct PciTransport {
    function: DeviceFunction,
    device_type: DeviceType,
    common: Registers,
    notify: Registers,
    notify_multiplier: u32,
    device: Option<Registers>,
    interrupts: Interrupts,
    /// Where in `notify` each queue is rung, found once.
    doorbells: Vec<usize>,
}

impl PciTransport {
    pub(super) fn open(function: DeviceFunction, device_type: DeviceType) -> Result<Self, SetupError> {
        let mut root = PciRoot::new(ConfigurationPorts);
        let windows = Windows::find(ConfigurationPorts, function);
        let (common, (notify, notify_multiplier)) =
            windows.common.zip(windows.notify).ok_or(SetupError::Legacy)?;
        window::disable(&mut root, function);
        let common = window::map(&mut root, function, common)?;
        if common.bytes() < COMMON_BYTES {
            return Err(SetupError::NoRegisters);
        }
        let notify = window::map(&mut root, function, notify)?;
        let device = windows.device.map(|place| window::map(&mut root, function, place)).transpose()?;
        let messages = Messages::find(&mut root, function)?;
        window::enable(&mut root, function);
        let interrupts = messages.enable(function)?;
        let doorbells = Vec::new();
        let mut transport =
            Self { function, device_type, common, notify, notify_multiplier, device, interrupts, doorbells };
        transport.find_doorbells()?;
        Ok(transport)
    }

    /// Where on the bus the device is.
    pub fn address(&self) -> DeviceFunction {
        self.function
    }

    fn find_doorbells(&mut self) -> Result<(), SetupError> {
        for queue in 0..self.common.read::<u16>(NUM_QUEUES) {
            self.common.write::<u16>(QUEUE_SELECT, queue);
            let offset =
                usize::from(self.common.read::<u16>(QUEUE_NOTIFY_OFF)) * self.notify_multiplier as usize;
            if !offset.is_multiple_of(2) || offset + 2 > self.notify.bytes() {
                return Err(SetupError::NoRegisters);
            }
            self.doorbells.push(offset);
        }
        Ok(())
    }

    fn write_address(&self, register: usize, address: PhysAddr) {
        self.common.write::<u32>(register, address as u32);
        self.common.write::<u32>(register + 4, (address >> 32) as u32);
    }

    /// Writes an interrupt entry and reads it back: a device that has none to give answers otherwise.
    fn route(&self, register: usize, entry: u16) -> Result<(), SetupError> {
        self.common.write::<u16>(register, entry);
        if self.common.read::<u16>(register) == entry { Ok(()) } else { Err(SetupError::NoInterrupts) }
    }
}

impl Transport for PciTransport {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |select: u32| {
            self.common.write::<u32>(DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read::<u32>(DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        for (select, half) in [(0u32, driver_features as u32), (1, (driver_features >> 32) as u32)] {
            self.common.write::<u32>(DRIVER_FEATURE_SELECT, select);
            self.common.write::<u32>(DRIVER_FEATURE, half);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        if usize::from(queue) >= self.doorbells.len() {
            return 0;
        }
        self.common.write::<u16>(QUEUE_SELECT, queue);
        u32::from(self.common.read::<u16>(QUEUE_SIZE))
    }

    fn notify(&mut self, queue: u16) {
        if let Some(&offset) = self.doorbells.get(usize::from(queue)) {
            self.notify.write::<u16>(offset, queue);
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(u32::from(self.common.read::<u8>(DEVICE_STATUS)))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.common.write::<u8>(DEVICE_STATUS, status.bits() as u8);
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.common.write::<u16>(QUEUE_SELECT, queue);
        self.common.write::<u16>(QUEUE_SIZE, size as u16);
        self.write_address(QUEUE_DESC, descriptors);
        self.write_address(QUEUE_DRIVER, driver_area);
        self.write_address(QUEUE_DEVICE, device_area);
        self.common.write::<u16>(QUEUE_ENABLE, 1);
    }

    fn queue_unset(&mut self, _queue: u16) {
        // A queue on PCI goes only with a reset of the whole device.
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.common.write::<u16>(QUEUE_SELECT, queue);
        self.common.read::<u16>(QUEUE_ENABLE) == 1
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // Messages need no acknowledgement; the status register is for interrupt lines.
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        u32::from(self.common.read::<u8>(CONFIG_GENERATION))
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V, Error> {
        let device = self.device.as_ref().ok_or(Error::ConfigSpaceMissing)?;
        if offset.checked_add(size_of::<V>()).is_none_or(|end| end > device.bytes()) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        let mut value = V::new_zeroed();
        let whole = size_of::<V>().is_multiple_of(4) && offset.is_multiple_of(4);
        for (index, bytes) in value.as_mut_bytes().chunks_mut(if whole { 4 } else { 1 }).enumerate() {
            match whole {
                // A field is read as wide as it is (4.1.3.1), eight bytes as two halves.
                true => bytes.copy_from_slice(&device.read::<u32>(offset + 4 * index).to_ne_bytes()),
                false => bytes.copy_from_slice(&device.read::<u8>(offset + index).to_ne_bytes()),
            }
        }
        Ok(value)
    }

    fn write_config_space<V: IntoBytes + Immutable>(&mut self, offset: usize, value: V) -> Result<(), Error> {
        let device = self.device.as_ref().ok_or(Error::ConfigSpaceMissing)?;
        if offset.checked_add(size_of::<V>()).is_none_or(|end| end > device.bytes()) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        for (index, &byte) in value.as_bytes().iter().enumerate() {
            device.write::<u8>(offset + index, byte);
        }
        Ok(())
    }
}

impl DeviceTransport for PciTransport {
    fn route_queue(&mut self, queue: u16) -> Result<(), SetupError> {
        self.common.write::<u16>(QUEUE_SELECT, queue);
        self.route(QUEUE_MSIX_VECTOR, self.interrupts.queues)
    }

    fn route_configuration(&mut self) -> Result<(), SetupError> {
        self.route(CONFIG_MSIX_VECTOR, self.interrupts.configuration)
    }

    fn take_configuration_change(&self) -> bool {
        // Looked at between any two tasks: a load, and a swap only when there is something.
        let flag = self.interrupts.configuration_changed;
        flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed)
    }
}
