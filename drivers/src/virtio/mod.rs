//! virtio devices: disks, the multiport console, entropy.
//!
//! - [`queue`] is the virtqueue everything runs on, over the shared memory of [`ring`] and [`dma`],
//!   in chains of [`segment`]s.
//! - [`transport`] is what a driver needs of the bus; `pci`, on the appliance only, finds devices and implements
//!   it, where [`capabilities`] says. Tests implement it with devices of their own, misbehaving ones among them.
//! - [`block`], [`console`] and [`entropy`] are the drivers. They are asynchronous and single-threaded, own every
//!   buffer while a device may touch it, and treat all that a device writes as untrusted.
//!
//! No driver knows an executor or an interrupt handler. Whoever runs the tasks calls [`Polled::poll`] between
//! them, which wakes the tasks whose requests are done. Interrupts have one purpose, to end a halt: they are off
//! while tasks run, [`Polled::arm`] switches them on just before the processor halts, and their handler does
//! nothing but acknowledge them.

pub mod block;
pub mod capabilities;
pub mod console;
pub mod dma;
pub mod entropy;
#[cfg(target_os = "none")]
pub mod pci;
pub mod queue;
pub mod ring;
pub mod segment;
mod slab;
pub mod transport;
mod wakers;

use core::fmt;

/// A device as the executor sees it.
///
/// The order that loses no wake-up: disable interrupts; `arm` every device; if one of them returned true, enable
/// interrupts and go on polling; else enable interrupts and halt in one step (`sti; hlt`), then `disarm`.
pub trait Polled {
    /// Tells the device of new requests, takes in what it completed and wakes whoever waits for it. True if
    /// anything was completed. Costs a few memory reads where nothing happened.
    fn poll(&self) -> bool;

    /// Asks for an interrupt at the next completion. True if one is waiting already.
    #[must_use]
    fn arm(&self) -> bool;

    /// Asks for no more interrupts.
    fn disarm(&self);
}

/// Why a device cannot be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The heap has no room for the rings.
    OutOfMemory,
    /// The device has no virtio 1 interface.
    Legacy,
    /// The device insists on a feature that is not supported.
    FeaturesRefused,
    /// A queue that the device must have is missing.
    NoQueue,
    /// The PCI function lacks a capability or register window that virtio needs.
    NoRegisters,
    /// A register window has no address and none could be given.
    NoAddress,
    /// The device has no message-signalled interrupts, or too few.
    NoInterrupts,
    /// The device's limits cannot hold one 4 KiB block.
    LimitsTooSmall,
    /// The device offers no multiport console.
    NotMultiport,
    /// The device does not come out of reset.
    StuckInReset,
    /// The device's configuration changes under every read.
    NeverSettles,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "not enough memory for the device's queues; give the machine more RAM",
            Self::Legacy => "the device has no virtio 1 interface; start it without disable-modern=on",
            Self::FeaturesRefused => "the device insists on a feature this appliance lacks; start it without iommu_platform=on or packed=on",
            Self::NoQueue => "the device lacks a queue it must have; check how it is configured",
            Self::NoRegisters => "the PCI function lacks a virtio register window; use a virtio-*-pci device",
            Self::NoAddress => "the firmware gave the device no address and none is free; put it on the root bus",
            Self::NoInterrupts => "the device has no MSI-X interrupt to give; start it with vectors=2",
            Self::LimitsTooSmall => "the disk cannot transfer one 4 KiB block in a request; use logical_block_size of at most 4096 and larger segments",
            Self::NotMultiport => "the serial device has a single port; use virtio-serial-pci with virtserialport",
            Self::StuckInReset => "the device does not come out of reset; check its host",
            Self::NeverSettles => "the device's configuration changes without end; check its host",
        })
    }
}

impl core::error::Error for SetupError {}
