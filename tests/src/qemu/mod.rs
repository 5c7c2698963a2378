//! What the tests that boot the kernel are made of: a machine in a directory of its own, unmodified clients
//! with a time limit, and the questions that every test asks at its end.
//!
//! What always holds: at most two machines run at a time, each dies with its test and after [`MACHINE_LIMIT`]
//! at the latest, a test that ends well has seen no panic on COM1, and one that fails leaves its machine's logs in
//! `target/datum/failed/`.

pub mod chronicle;
pub mod daemon;
pub mod failing;
pub mod host;
pub mod load;
mod monitor;
mod slot;
mod time;
mod tools;
pub mod writelog;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::control::{Client, ControlError, Refusal};
use xtask::nbd;
use xtask::qemu::{Appliance, Disk, Machine, Port};
use xtask::symbols::BACKTRACE_MARK;

pub use crate::model::history::{History, Survivors, Write};
pub use monitor::ask_monitor;
pub use time::nanoseconds;
pub use tools::{INSTALLED, Tools};

/// The longest any start of a machine may live.
pub const MACHINE_LIMIT: Duration = Duration::from_secs(180);

/// How long a start may take on a busy host.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(30);

/// How long a job may take.
pub const JOB_PATIENCE: Duration = Duration::from_secs(60);

/// A directory and the right to run one machine.
pub struct Stage {
    directory: TempDir,
    tools: Tools,
    _slot: slot::Slot,
}

impl Stage {
    /// Waits until fewer than two machines run.
    pub fn wait() -> Stage {
        Stage::wait_with(INSTALLED)
    }

    /// The same, for machines in the emulator of these versions.
    pub fn wait_with(tools: Tools) -> Stage {
        let slot = slot::Slot::wait();
        let directory = tempfile::Builder::new().prefix("datum-test-").tempdir().unwrap();
        Stage { directory, tools, _slot: slot }
    }

    /// A q35 of 64 MiB with control, console and one NBD port, no disk, and `pool=auto`. A panic ends it. It does not
    /// wait for the owner of a pool that was not closed: QEMU's lock on the disk has told already.
    pub fn machine(&self) -> Machine {
        Machine::new(kernel(), self.path("run"))
            .emulator(self.tools.program("qemu-system-x86_64"))
            .memory(64)
            .limit(MACHINE_LIMIT)
            .keep_evidence()
            .option("pool=auto")
            .option("panic=exit")
            .option("takeover=now")
    }

    /// The machine, with one disk of this size.
    pub fn with_disk(&self, bytes: u64) -> Machine {
        self.machine().disk(self.disk("a", bytes))
    }

    /// A sparse disk that carries its name as its serial.
    pub fn disk(&self, name: &str, bytes: u64) -> Disk {
        Disk::file(self.path(name).with_extension("img"), bytes).serial(name)
    }

    /// Leaves the directory in place when the stage goes; returns it.
    pub fn keep(&mut self) -> &Path {
        self.directory.disable_cleanup(true);
        self.directory.path()
    }

    /// A place in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file of reproducible bytes.
    pub fn file(&self, name: &str, bytes: usize, seed: u64) -> PathBuf {
        let mut rng = crate::rng::Rng::new(seed);
        let content: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| rng.draw().to_le_bytes()).collect();
        fs::write(self.path(name), &content[..bytes]).unwrap();
        self.path(name)
    }
}

/// The kernel under test.
pub fn kernel() -> PathBuf {
    std::env::var_os("DATUM_KERNEL").map_or_else(xtask::kernel::elf_path, PathBuf::from)
}

/// Starts a machine and waits for its greeting.
pub fn boot(machine: &Machine) -> (Appliance, Client) {
    let mut appliance = machine.start().unwrap();
    let control = appliance.wait_for_hello(HELLO_PATIENCE).unwrap();
    (appliance, control)
}

/// Waits until the pool has been opened for the `count`th time since the machine got its power. Who connects sooner after
/// a reset may be taken for a client of before.
pub fn wait_until_open(appliance: &Appliance, count: usize) {
    let deadline = Instant::now() + HELLO_PATIENCE;
    while appliance.serial_log().matches("is open").count() < count {
        let log = appliance.serial_log();
        assert!(Instant::now() < deadline, "the pool was not opened {count} times:\n{log}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Has the pool prove itself sound, sees that the machine has not panicked, and that it goes down by itself.
pub fn finish(appliance: Appliance, mut control: Client) {
    check(&mut control);
    end(appliance, control);
}

/// As [`finish`], where there is no pool to check.
pub fn end(mut appliance: Appliance, mut control: Client) {
    control.call("system.shutdown", json!({})).unwrap();
    let status = appliance.wait_for_end(HELLO_PATIENCE).unwrap();
    let log = appliance.serial_log();
    assert!(!log.contains(BACKTRACE_MARK), "the appliance panicked:\n{log}");
    assert!(status.success(), "QEMU ended with {status}; COM1 said:\n{log}");
}

/// `pool.check` must find nothing.
pub fn check(control: &mut Client) {
    let result = job(control, "pool.check", json!({}));
    assert_eq!(result["errors"], 0, "{result}");
}

/// Calls a method that answers with a job, and waits for the job's result.
pub fn job(control: &mut Client, method: &str, params: Value) -> Value {
    let answer = call(control, method, params);
    control.wait_for_job(answer["job"].as_str().unwrap(), JOB_PATIENCE, |_| {}).unwrap()
}

/// Calls a method that must succeed.
pub fn call(control: &mut Client, method: &str, params: Value) -> Value {
    control.call(method, params.clone()).unwrap_or_else(|error| panic!("{method} {params}: {error}"))
}

/// Calls a method that must be refused; the refusal must be of this kind and say something.
pub fn refused(control: &mut Client, method: &str, params: Value, kind: &str) -> Refusal {
    match control.call(method, params.clone()) {
        Err(ControlError::Refused(refusal)) => {
            assert_eq!(refusal.kind, kind, "{method} {params}: {refusal}");
            assert!(refusal.message.len() > 10, "{method} {params}: {refusal}");
            refusal
        }
        other => panic!("{method} {params} must be refused as {kind}: {other:?}"),
    }
}

/// Makes a volume.
pub fn volume(control: &mut Client, name: &str, size: u64) {
    call(control, "volume.create", json!({ "name": name, "size": size }));
}

/// Every extent that changed since a mark, all pages.
pub fn changes(control: &mut Client, volume: &str, since: &str) -> Vec<(u64, u64)> {
    let mut extents = Vec::new();
    let mut offset = Some(0);
    while let Some(from) = offset {
        let params = json!({ "volume": volume, "since": since, "offset": from });
        let page = call(control, "changes.query", params);
        let listed = page["extents"].as_array().unwrap().iter();
        extents.extend(listed.map(|e| (e["offset"].as_u64().unwrap(), e["length"].as_u64().unwrap())));
        offset = page["next_offset"].as_u64();
    }
    extents
}

/// A connection of our own NBD client to port 0.
pub fn nbd(appliance: &Appliance, export: &str) -> nbd::Client {
    nbd::Client::connect(&appliance.socket(Port::Nbd(0)), export).unwrap()
}

/// Runs an installed client within its time; it must succeed. Returns what it printed.
pub fn client(program: &str, arguments: &[&str]) -> String {
    INSTALLED.run(program, arguments)
}

/// Runs an installed client within its time, however it ends.
pub fn attempt(program: &str, arguments: &[&str]) -> Output {
    INSTALLED.attempt(program, arguments)
}

/// Whether two files hold the same bytes.
pub fn same(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}
