//! Putting the appliance together: devices in, one task a port out.

use crate::commandline::Options;
use crate::devices::Devices;
use crate::disk::Disk;
use crate::environment::Machine;
use crate::executor::Executor;
use crate::port::DevicePort;
use crate::serial_port::SerialPort;
use alloc::rc::Rc;
use core::{fmt, mem};
use datum_drivers::virtio::pci::PciTransport;
use datum_drivers::{clock, log, memory, power};
use datum_service::port::Port;
use datum_service::{Appliance, Setup};
use datum_store::yield_now;

const CONTROL_PORTS: Ports = Ports { prefix: "org.datum.control.", last: 3 };
const CONSOLE_PORTS: Ports = Ports { prefix: "org.datum.console.", last: 3 };
pub(crate) const NBD_PORTS: Ports = Ports { prefix: "org.datum.nbd.", last: 29 };

/// Left for device queues, port buffers and sessions before the rest is divided.
const FIXED_BYTES: usize = 32 << 20;
/// Least memory for metadata blocks.
const CACHE_BYTES_MIN: usize = 8 << 20;
/// Most memory for payloads under way; more would only lengthen queues.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;
const BLOCK_BYTES: usize = 4096;

/// The ports of one kind: how their names begin, and the last number with which one may end.
pub(crate) struct Ports {
    prefix: &'static str,
    last: u8,
}

impl Ports {
    pub(crate) fn include(&self, name: &str) -> bool {
        let number = name.strip_prefix(self.prefix).and_then(|number| number.parse::<u8>().ok());
        number.is_some_and(|number| number <= self.last)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}0 to {}", self.prefix, self.last)
    }
}

type Datum = Appliance<Disk<PciTransport>, Machine>;

/// Finds the devices, serves every port, opens the pool. The ports answer while disks are being found and the pool is
/// being opened.
pub(crate) async fn start(executor: Executor, options: Options) {
    let mut devices = Devices::find(&executor).await;
    let heap = memory::usage().heap_bytes;
    let appliance = Appliance::new(Setup {
        pool: options.pool,
        takeover: options.takeover,
        environment: Machine::new(devices.seed),
        version: env!("CARGO_PKG_VERSION").into(),
        cache_blocks: (heap.saturating_sub(FIXED_BYTES) / 2).max(CACHE_BYTES_MIN) / BLOCK_BYTES,
        buffer_bytes: (heap / 8).min(PAYLOAD_BYTES_MAX) as u64,
    });
    let background = appliance.clone();
    executor.spawn(async move { background.background().await });
    executor.spawn(obey_power_button(appliance.clone()));
    let has_console = devices.ports.iter().any(|port| CONSOLE_PORTS.include(port.name()));
    mem::take(&mut devices.ports).into_iter().for_each(|port| serve(&executor, &appliance, port));
    // Who is connected already is greeted first.
    yield_now().await;
    executor.spawn(clock::follow_wall_clock());
    let found = devices.disks(&executor).await;
    found.problems.iter().for_each(|problem| log!("datum: {problem}"));
    log!("datum: {}", appliance.start(found).await);
    // Last, so that the boot log does not run into the console's prompt.
    if !has_console {
        executor.spawn(async move { appliance.serve_console(SerialPort::default()).await });
    }
}

/// What a port is for follows from its name.
fn serve(executor: &Executor, appliance: &Rc<Datum>, port: DevicePort<PciTransport>) {
    let appliance = appliance.clone();
    match port.name() {
        name if CONTROL_PORTS.include(name) => {
            executor.spawn(async move { appliance.serve_control(port).await });
        }
        name if CONSOLE_PORTS.include(name) => {
            executor.spawn(async move { appliance.serve_console(port).await });
        }
        name if NBD_PORTS.include(name) => executor.spawn(async move { appliance.serve_nbd(port).await }),
        name => log!(
            "datum: port '{name}' is not served; ports are called {CONTROL_PORTS}, {CONSOLE_PORTS} or {NBD_PORTS}"
        ),
    }
}

/// Whoever presses the button wants what `system.shutdown` does.
async fn obey_power_button(appliance: Rc<Datum>) {
    power::button_pressed().await;
    appliance.power_button().await;
}
