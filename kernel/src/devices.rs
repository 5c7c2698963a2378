//! Finding the virtio devices and making of them what the service wants: ports and randomness first, so that the ports
//! answer whatever the disks are at, then disks.
//!
//! A device that cannot be used is a problem to report, never a reason to stop: the others may be enough.

use crate::disk::Disk;
use crate::executor::Executor;
use crate::port::DevicePort;
use crate::service::NBD_PORTS;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use datum_drivers::virtio::block::{BlockDevice, QUEUE_DEPTH_MAX};
use datum_drivers::virtio::console::{Console, ConsoleOptions};
use datum_drivers::virtio::entropy::Entropy;
use datum_drivers::virtio::pci::{self, PciTransport, VirtioFunction};
use datum_drivers::virtio::transport::DeviceType;
use datum_drivers::{cmos, log};
use datum_service::{FoundDisk, FoundDisks};

/// Receive buffers of an NBD port, 4 KiB each: enough to keep a large write flowing.
const NBD_RECEIVE_BUFFERS: u16 = 64;
/// Receive buffers of a port that people or programs send commands to.
const COMMAND_RECEIVE_BUFFERS: u16 = 4;
/// Longest disk name; a virtio serial has 20 bytes.
const DISK_NAME_BYTES_MAX: usize = 64;

/// What was found.
#[derive(Default)]
pub(crate) struct Devices {
    pub(crate) ports: Vec<DevicePort<PciTransport>>,
    /// Randomness from virtio-rng, or zeroes.
    pub(crate) seed: [u64; 4],
    /// The disks, not opened yet.
    disks: Vec<VirtioFunction>,
    /// Clients of the ports may be those of before a reset.
    after_reset: bool,
    /// What could not be used, each as a sentence that names the device.
    problems: Vec<String>,
}

impl Devices {
    /// Opens every device on the bus but the disks, and gives it to the executor.
    pub(crate) async fn find(executor: &Executor) -> Self {
        // Here and no sooner: a machine that is reset before has greeted nobody.
        let mut devices = Self { after_reset: cmos::mark_start(), ..Self::default() };
        for function in pci::discover() {
            let address = function.address().to_string();
            if let Err(reason) = devices.open(executor, function).await {
                devices.problems.push(unused(&address, &reason));
            }
        }
        devices
    }

    async fn open(&mut self, executor: &Executor, function: VirtioFunction) -> Result<(), String> {
        match function.device_type() {
            DeviceType::Block => self.disks.push(function),
            DeviceType::Console => self.open_console(executor, open(function)?).await?,
            DeviceType::EntropySource => self.open_entropy(executor, open(function)?).await?,
            other => {
                return Err(format!("the appliance has no use for a virtio device of type {other:?}"));
            }
        }
        Ok(())
    }

    /// Opens the disks.
    pub(crate) async fn disks(self, executor: &Executor) -> FoundDisks<Disk<PciTransport>> {
        let mut found = FoundDisks { disks: Vec::new(), problems: self.problems };
        for function in self.disks {
            let address = function.address().to_string();
            // By position among all disks, so that a name stays when another disk gets a serial.
            let position = format!("vd{}", found.disks.len());
            match open_disk(executor, function, &address, position).await {
                Ok(device) => found.disks.push(FoundDisk { device, location: address }),
                Err(reason) => found.problems.push(unused(&address, &reason)),
            }
        }
        found
    }

    async fn open_console(&mut self, executor: &Executor, transport: PciTransport) -> Result<(), String> {
        if !self.ports.is_empty() {
            return Err("there is one virtio-serial device already; put all ports on that".into());
        }
        let options = ConsoleOptions { receive_buffers, after_reset: self.after_reset };
        let console = Console::new(transport, options).map_err(sentence)?;
        executor.add_device(console.clone());
        console.settled().await.map_err(sentence)?;
        self.ports = console.ports().into_iter().map(DevicePort).collect();
        if let Some((served, number)) = console.beyond() {
            self.problems.push(format!(
                "port number {number} of the virtio-serial device stays closed, and any after it: {served} numbers are served"
            ));
        }
        Ok(())
    }

    async fn open_entropy(&mut self, executor: &Executor, transport: PciTransport) -> Result<(), String> {
        let device = Rc::new(Entropy::new(transport).map_err(sentence)?);
        executor.add_device(device.clone());
        let mut bytes = [0; 32];
        device.fill(&mut bytes).await.map_err(sentence)?;
        for (word, chunk) in self.seed.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
        Ok(())
    }
}

async fn open_disk(
    executor: &Executor,
    function: VirtioFunction,
    address: &str,
    position: String,
) -> Result<Disk<PciTransport>, String> {
    let device = Rc::new(BlockDevice::new(open(function)?, QUEUE_DEPTH_MAX).map_err(sentence)?);
    executor.add_device(device.clone());
    let serial = device.serial().await.unwrap_or_default();
    if !serial.is_empty() && !is_name(&serial) {
        log!(
            "datum: the disk at {address} is called {position}: its serial is no name (letters, digits, '.', '_', '-')"
        );
    }
    Ok(Disk::new(if is_name(&serial) { serial } else { position }, device))
}

fn unused(address: &str, reason: &str) -> String {
    format!("the device at {address} is not used: {reason}")
}

fn open(function: VirtioFunction) -> Result<PciTransport, String> {
    function.open().map_err(sentence)
}

fn sentence(error: impl Display) -> String {
    error.to_string()
}

fn receive_buffers(port: &str) -> u16 {
    if NBD_PORTS.include(port) { NBD_RECEIVE_BUFFERS } else { COMMAND_RECEIVE_BUFFERS }
}

/// Whether a serial can be a name, by the contract's pattern.
fn is_name(serial: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    serial.len() <= DISK_NAME_BYTES_MAX
        && serial.bytes().all(allowed)
        && serial.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}
