//! `cargo xtask run`: the appliance in this terminal.
//!
//! Leaving it, by key or by signal, shuts the appliance down; where it does not go by itself it is killed,
//! which costs nothing that was flushed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::kernel;
use crate::qemu::{Accelerator, Appliance, Disk, Firmware, Machine, MachineType, Port};
use crate::setup::{Need, ensure};
use crate::shell::{quote, say};
use crate::symbols::BACKTRACE_MARK;
use crate::terminal::{self, AtEnd, Left, Signals};
use crate::{size, workspace};

/// Boot the appliance on a sparse disk and give its console; Ctrl-] leaves and shuts it down.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// RAM in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u64,
    /// A disk: a file, made sparse with the size given (20G) where it is missing; repeatable
    /// [default: disk0.img in the directory].
    #[arg(long = "disk", value_name = "PATH[,SIZE]", value_parser = disk)]
    disks: Vec<(PathBuf, u64)>,
    /// How instructions are executed; auto takes KVM where a probe shows that it works.
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accelerator,
    /// The chipset.
    #[arg(long, value_enum, default_value = "q35")]
    machine: MachineType,
    /// What runs before the kernel; qboot, on q35, is there sooner.
    #[arg(long, value_enum, default_value = "seabios")]
    firmware: Firmware,
    /// NBD ports; each serves one client at a time.
    #[arg(long, value_name = "N", default_value_t = 4)]
    ports: u32,
    /// More options for the appliance, such as panic=halt.
    #[arg(long, value_name = "KEY=VALUE …")]
    cmdline: Vec<String>,
    /// Show the boot log instead of the console.
    #[arg(long)]
    no_console: bool,
    /// Build the kernel without optimisation.
    #[arg(long)]
    debug: bool,
    /// Where sockets, logs and the default disk are put [default: target/datum/run].
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
}

const DISK_BYTES_DEFAULT: u64 = 20 << 30;
const HELLO_PATIENCE: Duration = Duration::from_secs(60);
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(15);
const LOG_INTERVAL: Duration = Duration::from_millis(100);

/// The appliance has 30 NBD ports by contract.
const NBD_PORTS_MAX: u32 = 30;

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.ports > NBD_PORTS_MAX {
            bail!(
                "the appliance knows NBD ports 0 to {}: ask for at most {NBD_PORTS_MAX}",
                NBD_PORTS_MAX - 1
            );
        }
        ensure(&[Need::BareTarget, Need::Qemu])?;
        let kernel = kernel::build(self.debug)?;
        let machine = self.machine(kernel.elf);
        let signals = Signals::listen()?;
        let mut appliance = machine.start()?;
        drop(appliance.wait_for_hello(HELLO_PATIENCE)?);
        say(format!("up after {} ms", appliance.started().elapsed().as_millis()));
        self.introduce(&appliance);
        let left = match self.no_console {
            true => follow_log(&mut appliance, &machine, &signals)?,
            false => terminal::attach(&appliance.connect(Port::Console, HELLO_PATIENCE)?, AtEnd::Stay)?,
        };
        finish(appliance, left)
    }

    fn machine(&self, kernel: PathBuf) -> Machine {
        let directory = self.directory.clone().unwrap_or_else(workspace::run_directory);
        let mut disks = self.disks.clone();
        if disks.is_empty() {
            disks.push((directory.join("disk0.img"), DISK_BYTES_DEFAULT));
        }
        for (path, size) in disks.iter().filter(|(path, _)| !path.exists()) {
            say(format!("making a sparse disk of {} at {}", size::format(*size), path.display()));
        }
        let accelerator = self.accel.resolve();
        say(format!("starting QEMU with {accelerator:?} in {}", directory.display()));
        let disks = disks.into_iter().enumerate();
        let disks = disks.map(|(index, (path, size))| Disk::file(path, size).serial(format!("disk{index}")));
        let machine = Machine::new(kernel, directory)
            .memory(self.memory)
            .machine_type(self.machine)
            .firmware(self.firmware)
            .accelerator(accelerator)
            .nbd_ports(self.ports)
            .disks(disks)
            .option("pool=auto");
        // The appliance takes the last of repeated options, so these may override ours.
        self.cmdline.iter().fold(machine, |machine, option| machine.option(option))
    }

    fn introduce(&self, appliance: &Appliance) {
        let control = appliance.socket(Port::Control);
        let at = match &self.directory {
            Some(directory) => format!(" --directory {}", quote(&directory.to_string_lossy())),
            None => String::new(),
        };
        println!("control  {}", control.display());
        println!("console  {}", appliance.socket(Port::Console).display());
        for port in 0..self.ports {
            println!("nbd {port:<4} {}", appliance.socket(Port::Nbd(port)).display());
        }
        println!("\nTry, in another terminal:");
        println!("  cargo xtask ctl{at} volume.create name=vol size=1G");
        let uri = quote(&appliance.nbd_uri(0, "vol"));
        println!("  nbdcopy README.md {uri}");
        println!("  nbdinfo {uri}");
        println!("\nCtrl-] leaves and shuts the appliance down; `help` lists the console's commands.");
    }
}

/// Shows COM1 until the machine ends or a signal asks us to.
fn follow_log(appliance: &mut Appliance, machine: &Machine, signals: &Signals) -> Result<Left> {
    let mut log = File::open(machine.directory().join("serial.log"))?;
    loop {
        let mut new = Vec::new();
        log.read_to_end(&mut new)?;
        io::stdout().write_all(&new)?;
        io::stdout().flush()?;
        if appliance.ended()?.is_some() {
            return Ok(Left::Closed);
        }
        if signals.wait(LOG_INTERVAL)? {
            return Ok(Left::Signalled);
        }
    }
}

/// Ends the appliance unless it has ended by itself, and shows any panic it left behind.
fn finish(mut appliance: Appliance, left: Left) -> Result<ExitCode> {
    println!();
    let log = appliance.serial_log();
    if log.contains(BACKTRACE_MARK) {
        eprintln!("The appliance panicked; COM1 said:\n{log}");
    }
    if left == Left::Closed {
        let status = appliance.wait_for_end(SHUTDOWN_PATIENCE)?;
        say(format!("QEMU ended with {status}"));
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    say("shutting the appliance down");
    if !appliance.shut_down(SHUTDOWN_PATIENCE)? {
        say("it did not go by itself and was killed; everything flushed is on the disks");
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads `PATH` or `PATH,SIZE`.
fn disk(text: &str) -> Result<(PathBuf, u64), String> {
    let (path, bytes) = match text.rsplit_once(',') {
        Some((path, bytes)) => (path, size::parse(bytes)?),
        None => (text, DISK_BYTES_DEFAULT),
    };
    if path.is_empty() {
        return Err("a disk needs a path".into());
    }
    Ok((path.into(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_a_path_and_perhaps_a_size() {
        assert_eq!(disk("/a.img"), Ok(("/a.img".into(), DISK_BYTES_DEFAULT)));
        assert_eq!(disk("/a,b.img,1T"), Ok(("/a,b.img".into(), 1 << 40)));
        assert!(disk("/a.img,huge").is_err());
        assert!(disk(",1G").is_err());
    }
}
