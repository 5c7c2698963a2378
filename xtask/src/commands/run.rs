//! `cargo xtask run`: the appliance in this terminal.
//!
//! Leaving it, by key, by signal or by the end of a script, shuts the appliance down; where it does not go by itself it is
//! killed, which costs nothing that was flushed. QEMU has a session of its own, so a signal to our process group reaches us
//! alone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use crate::control::Client;
use crate::kernel;
use crate::qemu::{Accelerator, Appliance, Disk, Firmware, Machine, MachineType, Port};
use crate::script::{self, Ended};
use crate::setup::{Need, ensure};
use crate::shell::{quote, say};
use crate::symbols::BACKTRACE_MARK;
use crate::terminal::{self, Left, Signals};
use crate::{size, workspace};

/// Boot the appliance on a sparse disk and give its console; Ctrl-] leaves and shuts it down.
///
/// Standard input that is no terminal is a script for the console; its end shuts the appliance down. To run in the background,
/// use --no-console.
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
    /// Show the boot log instead of the console, and do not read standard input.
    #[arg(long)]
    no_console: bool,
    /// Build the kernel without optimisation.
    #[arg(long)]
    debug: bool,
    /// Boot this kernel instead of building one.
    #[arg(long, value_name = "PATH", conflicts_with = "debug")]
    kernel: Option<PathBuf>,
    /// Where sockets, logs and the default disk are put [default: target/datum/run].
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
}

const DISK_BYTES_DEFAULT: u64 = 20 << 30;
const HELLO_PATIENCE: Duration = Duration::from_secs(60);
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(15);
const LOG_INTERVAL: Duration = Duration::from_millis(100);

/// How long the pool may take to open before we go on without knowing.
const POOL_PATIENCE: Duration = Duration::from_secs(10);
const POOL_INTERVAL: Duration = Duration::from_millis(10);

/// How long QEMU takes to end at most once it has closed its sockets.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// The appliance has 30 NBD ports by contract.
const NBD_PORTS_MAX: u32 = 30;

/// Why the appliance is no longer watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// By the user, by a signal, or at the end of a script.
    Asked,
    /// A line of a script was refused.
    Failed,
    /// QEMU has ended.
    Closed,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.ports > NBD_PORTS_MAX {
            bail!(
                "the appliance knows NBD ports 0 to {}: ask for at most {NBD_PORTS_MAX}",
                NBD_PORTS_MAX - 1
            );
        }
        ensure(&[Need::Qemu])?;
        let kernel = match &self.kernel {
            Some(kernel) => kernel.clone(),
            None => {
                ensure(&[Need::BareTarget])?;
                kernel::build(self.debug)?.elf
            }
        };
        let machine = self.machine(kernel);
        let signals = Signals::listen()?;
        let mut appliance = machine.start()?;
        let mut control = appliance.wait_for_hello(HELLO_PATIENCE)?;
        announce(&appliance, &mut control)?;
        drop(control);
        self.introduce(&appliance);
        let left = match self.no_console {
            true => follow_log(&mut appliance, &machine, &signals)?,
            false => follow_console(&mut appliance, &signals)?,
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
            .with(Port::Control(1))
            .with(Port::Console(1))
            .nbd_ports(self.ports)
            .disks(disks)
            .cut_at_reset()
            .option("pool=auto");
        // The appliance takes the last of repeated options, so these may override ours.
        self.cmdline.iter().fold(machine, |machine, option| machine.option(option))
    }

    fn introduce(&self, appliance: &Appliance) {
        let at = match &self.directory {
            Some(directory) => format!(" --directory {}", quote(&directory.to_string_lossy())),
            None => String::new(),
        };
        for number in 0..2 {
            println!("control  {}", appliance.socket(Port::Control(number)).display());
        }
        for number in 0..2 {
            println!("console  {}", appliance.socket(Port::Console(number)).display());
        }
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

/// Says that the appliance is up, or why it has no pool.
fn announce(appliance: &Appliance, control: &mut Client) -> Result<()> {
    let milliseconds = appliance.started().elapsed().as_millis();
    let mut info = control.call("system.info", json!({}))?;
    let deadline = Instant::now() + POOL_PATIENCE;
    while info["pool_state"] == "opening" && Instant::now() < deadline {
        thread::sleep(POOL_INTERVAL);
        info = control.call("system.info", json!({}))?;
    }
    let problem = info["pool_problem"].as_str().unwrap_or("no reason is known");
    match info["pool_state"].as_str() {
        Some("opening") => {
            say("the pool is still being opened; `system info` on the console tells how it stands")
        }
        Some("absent") => {
            say(format!("the appliance answers, but it has no pool and serves no volume: {problem}"))
        }
        _ => say(format!("up after {milliseconds} ms")),
    }
    for problem in info["problems"].as_array().into_iter().flatten() {
        say(format!("problem: {}", problem.as_str().unwrap_or_default()));
    }
    Ok(())
}

/// Gives the console to the terminal, or to the script that standard input is. A reset of the machine closes the console's
/// socket, and the terminal goes on with the next one.
fn follow_console(appliance: &mut Appliance, signals: &Signals) -> Result<Stopped> {
    if !terminal::is_interactive() {
        let console = appliance.connect(Port::Console(0), HELLO_PATIENCE)?;
        return Ok(match script::run(&console, io::stdin().as_fd(), false)? {
            Ended::Done | Ended::Signalled => Stopped::Asked,
            Ended::Closed if has_ended(appliance)? => Stopped::Closed,
            // A restart took the rest of the script with it.
            Ended::Errors(_) | Ended::Closed => Stopped::Failed,
        });
    }
    loop {
        let console = appliance.connect(Port::Console(0), HELLO_PATIENCE)?;
        match terminal::attach(&console)? {
            Left::ByUser | Left::Signalled => return Ok(Stopped::Asked),
            Left::Closed if has_ended(appliance)? => return Ok(Stopped::Closed),
            Left::Closed if signals.wait(Duration::ZERO)? => return Ok(Stopped::Asked),
            Left::Closed => println!("\n(the appliance has started anew)"),
        }
    }
}

/// Whether QEMU ends now, or only the console was cut.
fn has_ended(appliance: &mut Appliance) -> Result<bool> {
    let deadline = Instant::now() + END_PATIENCE;
    while appliance.ended()?.is_none() {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(POOL_INTERVAL);
    }
    Ok(true)
}

/// Shows COM1 until the machine ends or a signal asks us to.
fn follow_log(appliance: &mut Appliance, machine: &Machine, signals: &Signals) -> Result<Stopped> {
    let mut log = File::open(machine.directory().join("serial.log"))?;
    loop {
        let mut new = Vec::new();
        log.read_to_end(&mut new)?;
        io::stdout().write_all(&new)?;
        io::stdout().flush()?;
        if appliance.ended()?.is_some() {
            return Ok(Stopped::Closed);
        }
        if signals.wait(LOG_INTERVAL)? {
            return Ok(Stopped::Asked);
        }
    }
}

/// Ends the appliance unless it has ended by itself, and shows any panic it left behind.
fn finish(mut appliance: Appliance, stopped: Stopped) -> Result<ExitCode> {
    println!();
    let log = appliance.serial_log();
    if log.contains(BACKTRACE_MARK) {
        eprintln!("The appliance panicked; COM1 said:\n{log}");
    }
    if stopped == Stopped::Closed {
        let status = appliance.wait_for_end(SHUTDOWN_PATIENCE)?;
        say(format!("QEMU ended with {status}"));
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    say("shutting the appliance down");
    if !appliance.shut_down(SHUTDOWN_PATIENCE)? {
        say("it did not go by itself and was killed; everything flushed is on the disks");
    }
    Ok(if stopped == Stopped::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
