//! A QEMU machine with the appliance in it, for `cargo xtask run` and for tests.
//!
//! ```no_run
//! use std::time::Duration;
//! use xtask::qemu::{Disk, Machine, Port};
//!
//! # fn example() -> anyhow::Result<()> {
//! let machine = Machine::new(xtask::kernel::elf_path(), "/tmp/story")
//!     .disk(Disk::file("/tmp/story/a.img", 1 << 30).serial("a"))
//!     .option("pool=auto")
//!     .option("panic=exit");
//! let mut appliance = machine.start()?;
//! let mut control = appliance.wait_for_hello(Duration::from_secs(20))?;
//! control.call("volume.create", serde_json::json!({ "name": "db", "size": 1 << 20 }))?;
//! let uri = appliance.nbd_uri(0, "db"); // for any NBD client
//! appliance.kill()?; // SIGKILL, as a power loss that the host survives
//! let appliance = machine.start()?; // the same disks again
//! # Ok(()) }
//! ```
//!
//! What always holds: an [`Appliance`] that is dropped takes its QEMU with it, also when the test that owned
//! it panics or is killed; a [`Machine`] is only a description, so starting it again means the same disks.
//! A directory is used by one appliance at a time.
//!
//! [`command`] writes QEMU's command line, [`disk`] makes disks, [`accelerator`] finds out whether KVM is
//! worth using, [`appliance`] holds the running machine, [`resets`] cuts the sockets of clients that a reset
//! left behind, [`evidence`] keeps what a failed test leaves.

mod accelerator;
mod appliance;
mod command;
mod disk;
mod evidence;
mod resets;

pub use accelerator::Accelerator;
pub use appliance::Appliance;
pub use command::{Firmware, MachineType};
pub use disk::Disk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

/// The longest path that a Unix socket's address holds.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// QEMU's own words, in the machine's directory.
const EMULATOR_LOG: &str = "qemu.log";

/// The socket of QEMU's monitor, in the machine's directory.
const MONITOR_SOCKET: &str = "monitor.sock";

/// The socket of QMP, for whoever wants to talk to QEMU.
const QMP_SOCKET: &str = "qmp.sock";

/// A second one, which [`resets`] keeps for itself.
const RESETS_SOCKET: &str = "resets.sock";

/// How many control ports the appliance knows, and how many consoles.
pub const COMMAND_PORTS_MAX: u32 = 4;

/// A port of the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// JSON-RPC.
    Control(u32),
    /// For people.
    Console(u32),
    /// NBD; any export on any port.
    Nbd(u32),
}

impl Port {
    /// The name by which the appliance knows the port.
    pub fn guest_name(self) -> String {
        match self {
            Port::Control(number) => format!("org.datum.control.{number}"),
            Port::Console(number) => format!("org.datum.console.{number}"),
            Port::Nbd(number) => format!("org.datum.nbd.{number}"),
        }
    }

    /// The name of its socket on the host.
    pub fn socket_name(self) -> String {
        match self {
            Port::Control(0) => "control.sock".into(),
            Port::Control(number) => format!("control{number}.sock"),
            Port::Console(0) => "console.sock".into(),
            Port::Console(number) => format!("console{number}.sock"),
            Port::Nbd(number) => format!("nbd{number}.sock"),
        }
    }
}

/// What a machine consists of.
#[derive(Clone, Debug)]
pub struct Machine {
    kernel: PathBuf,
    directory: PathBuf,
    emulator: Option<PathBuf>,
    memory_mib: u64,
    machine_type: MachineType,
    firmware: Firmware,
    crowded: bool,
    accelerator: Accelerator,
    disks: Vec<Disk>,
    ports: Vec<Port>,
    options: Vec<String>,
    arguments: Vec<String>,
    limit: Option<Duration>,
    evidence: bool,
    cut_at_reset: bool,
}

impl Machine {
    /// A q35 with 256 MiB, TCG, no disk, and a control, a console and one NBD port. Sockets and logs go to
    /// `directory`, which is made where it is missing.
    pub fn new(kernel: impl Into<PathBuf>, directory: impl Into<PathBuf>) -> Machine {
        Machine {
            kernel: kernel.into(),
            directory: directory.into(),
            emulator: None,
            memory_mib: 256,
            machine_type: MachineType::Q35,
            firmware: Firmware::Seabios,
            crowded: false,
            accelerator: Accelerator::Tcg,
            disks: Vec::new(),
            ports: vec![Port::Control(0), Port::Console(0), Port::Nbd(0)],
            options: Vec::new(),
            arguments: Vec::new(),
            limit: None,
            evidence: false,
            cut_at_reset: false,
        }
    }

    /// Runs in this emulator, and not in the one that is found by its name.
    pub fn emulator(mut self, program: impl Into<PathBuf>) -> Machine {
        self.emulator = Some(program.into());
        self
    }

    /// RAM in MiB.
    pub fn memory(mut self, mebibytes: u64) -> Machine {
        self.memory_mib = mebibytes;
        self
    }

    /// The chipset.
    pub fn machine_type(mut self, machine_type: MachineType) -> Machine {
        self.machine_type = machine_type;
        self
    }

    /// What runs before the kernel.
    pub fn firmware(mut self, firmware: Firmware) -> Machine {
        self.firmware = firmware;
        self
    }

    /// With every device that the chipset brings by default, also those that only delay the firmware.
    pub fn crowded(mut self) -> Machine {
        self.crowded = true;
        self
    }

    /// How instructions are executed.
    pub fn accelerator(mut self, accelerator: Accelerator) -> Machine {
        self.accelerator = accelerator;
        self
    }

    /// One more disk.
    pub fn disk(mut self, disk: Disk) -> Machine {
        self.disks.push(disk);
        self
    }

    /// Exactly these disks.
    pub fn disks(mut self, disks: impl IntoIterator<Item = Disk>) -> Machine {
        self.disks = disks.into_iter().collect();
        self
    }

    /// This many NBD ports, numbered from 0; control and console stay as they are.
    pub fn nbd_ports(mut self, count: u32) -> Machine {
        self.ports.retain(|port| !matches!(port, Port::Nbd(_)));
        self.ports.extend((0..count).map(Port::Nbd));
        self
    }

    /// One more port.
    pub fn with(mut self, port: Port) -> Machine {
        self.ports.push(port);
        self
    }

    /// Leaves a port away: the appliance must do without any of them.
    pub fn without(mut self, port: Port) -> Machine {
        self.ports.retain(|present| *present != port);
        self
    }

    /// One more `key=value` on the kernel's command line.
    pub fn option(mut self, option: impl Into<String>) -> Machine {
        self.options.push(option.into());
        self
    }

    /// One more argument for QEMU, as it is.
    pub fn argument(mut self, argument: impl Into<String>) -> Machine {
        self.arguments.push(argument.into());
        self
    }

    /// Kills the machine this long after each start, whatever it is doing.
    pub fn limit(mut self, limit: Duration) -> Machine {
        self.limit = Some(limit);
        self
    }

    /// Keeps logs, and what the monitor says, in `target/datum/failed/` where a thread panics that has this machine
    /// running: for tests, whose directories go with them.
    pub fn keep_evidence(mut self) -> Machine {
        self.evidence = true;
        self
    }

    /// After a reset, closes the sockets of the clients that were connected, so that they connect anew.
    pub fn cut_at_reset(mut self) -> Machine {
        self.cut_at_reset = true;
        self
    }

    /// The socket of QMP; it serves one client at a time.
    pub fn qmp(&self) -> PathBuf {
        self.directory.join(QMP_SOCKET)
    }

    fn resets(&self) -> PathBuf {
        self.directory.join(RESETS_SOCKET)
    }

    /// The socket of QEMU's monitor, on a machine that keeps evidence.
    pub fn monitor(&self) -> PathBuf {
        self.directory.join(MONITOR_SOCKET)
    }

    /// Where sockets and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The socket of a port.
    pub fn socket(&self, port: Port) -> PathBuf {
        self.directory.join(port.socket_name())
    }

    /// Starts QEMU. Blank disks are made where their files are missing. Returns before the appliance is up:
    /// see [`Appliance::wait_for_hello`].
    pub fn start(&self) -> Result<Appliance> {
        Appliance::start(self)
    }
}
