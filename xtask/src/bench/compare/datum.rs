//! Datum itself: the appliance under QEMU, and the same store and service as a process of the host.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::peer::{Peer, Process};
use super::{Compare, MEMORY_MIB};
use crate::bench::{BLOCK, HELLO_PATIENCE, volume};
use crate::control::Client;
use crate::qemu::{Appliance, Disk, Machine, Port};
use crate::{nbd, shell};

const VOLUME: &str = "db";
const POINT: &str = "point";

/// How long the hosted binary may take to end.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// How long a release of one image may take.
const RELEASE_PATIENCE: Duration = Duration::from_secs(60);

/// The appliance, in QEMU.
pub(super) struct Guest {
    appliance: Appliance,
    control: Client,
    /// The job that gives a converted checkpoint's space back.
    release: Option<String>,
}

impl Guest {
    pub(super) fn start(run: &Compare, kernel: &Path, directory: &Path) -> Result<Box<dyn Peer>> {
        Ok(Box::new(Guest::boot(run, kernel, directory)?))
    }

    /// With so many checkpoints of its volume, each after one more write.
    pub(super) fn with_points(run: &Compare, directory: &Path, count: u64) -> Result<Box<dyn Peer>> {
        let mut guest = Guest::boot(run, &run.kernel, directory)?;
        let socket = guest.socket();
        make_points(&socket, &mut guest.control, run.size, count)?;
        Ok(Box::new(guest))
    }

    fn boot(run: &Compare, kernel: &Path, directory: &Path) -> Result<Guest> {
        let disk = allocate(directory, run.disk_bytes())?;
        let machine = Machine::new(kernel, directory.join("run"))
            .accelerator(run.accelerator)
            .memory(MEMORY_MIB)
            .disk(Disk::file(disk, run.disk_bytes()).serial("disk0"))
            .option("pool=auto")
            .option("panic=exit");
        let mut appliance = machine.start()?;
        let mut control = appliance.wait_for_hello(HELLO_PATIENCE)?;
        volume(&mut control, VOLUME, run.size)?;
        Ok(Guest { appliance, control, release: None })
    }
}

impl Peer for Guest {
    fn socket(&self) -> PathBuf {
        self.appliance.socket(Port::Nbd(0))
    }

    fn export(&self) -> &str {
        VOLUME
    }

    fn process_id(&self) -> u32 {
        self.appliance.process_id()
    }

    fn make_point(&mut self) -> Result<bool> {
        make_point(&mut self.control)
    }

    fn drop_point(&mut self) -> Result<()> {
        drop_point(&mut self.control)
    }

    fn begin_release(&mut self) -> Result<()> {
        self.release = Some(begin_release(&mut self.control)?);
        Ok(())
    }

    fn end_release(&mut self) -> Result<()> {
        self.release.take().map_or(Ok(()), |job| end_release(&mut self.control, &job))
    }
}

/// The hosted binary.
pub(in crate::bench) struct Hosted {
    pub(in crate::bench) process: Process,
    directory: PathBuf,
    pub(in crate::bench) control: Client,
    /// As the appliance's.
    release: Option<String>,
}

impl Hosted {
    pub(super) fn start(run: &Compare, directory: &Path) -> Result<Box<dyn Peer>> {
        let command = Command::new(build_hosted()?);
        Ok(Box::new(Hosted::under(command, directory, run.size, run.disk_bytes())?))
    }

    /// Starts it by a command that may be another program's, which runs it; with a volume of `size` bytes.
    pub(in crate::bench) fn under(
        command: Command,
        directory: &Path,
        size: u64,
        disk_bytes: u64,
    ) -> Result<Hosted> {
        let disk = allocate(directory, disk_bytes)?;
        let mut hosted = Hosted::on(command, directory, &[disk])?;
        volume(&mut hosted.control, VOLUME, size)?;
        Ok(hosted)
    }

    /// Starts it on disks that are there.
    pub(in crate::bench) fn on(mut command: Command, directory: &Path, disks: &[PathBuf]) -> Result<Hosted> {
        for disk in disks {
            command.arg("--disk").arg(disk);
        }
        command.arg("--dir").arg(directory);
        let mut process = Process::start(command, directory, "hosted")?;
        let socket = directory.join("org.datum.control.0");
        process.wait_for(&socket)?;
        let control = Client::connect(&socket, HELLO_PATIENCE)?;
        Ok(Hosted { process, directory: directory.into(), control, release: None })
    }

    pub(in crate::bench) fn nbd_socket(&self) -> PathBuf {
        self.directory.join("org.datum.nbd.0")
    }

    /// Ends it in order.
    pub(in crate::bench) fn shut_down(mut self) -> Result<()> {
        // Answers nothing: the process ends in it.
        self.control.send("system.shutdown", json!({}))?;
        self.process.wait(END_PATIENCE)
    }
}

impl Peer for Hosted {
    fn socket(&self) -> PathBuf {
        self.nbd_socket()
    }

    fn export(&self) -> &str {
        VOLUME
    }

    fn process_id(&self) -> u32 {
        self.process.id()
    }

    fn make_point(&mut self) -> Result<bool> {
        make_point(&mut self.control)
    }

    fn drop_point(&mut self) -> Result<()> {
        drop_point(&mut self.control)
    }

    fn begin_release(&mut self) -> Result<()> {
        self.release = Some(begin_release(&mut self.control)?);
        Ok(())
    }

    fn end_release(&mut self) -> Result<()> {
        self.release.take().map_or(Ok(()), |job| end_release(&mut self.control, &job))
    }
}

/// A disk whose blocks the host has already found places for. What overwrites in place does so after its volume was
/// written once; Datum writes elsewhere each time, and would otherwise measure how the host extends a file.
pub(in crate::bench) fn allocate(directory: &Path, bytes: u64) -> Result<PathBuf> {
    let path = directory.join("disk.img");
    let mut file = File::create(&path)?;
    let zeroes = vec![0; 1 << 20];
    for _ in 0..bytes / zeroes.len() as u64 {
        file.write_all(&zeroes)?;
    }
    file.sync_data()?;
    Ok(path)
}

/// So many checkpoints of a volume of `size` bytes, each after one more write.
pub(in crate::bench) fn make_points(
    socket: &Path,
    control: &mut Client,
    size: u64,
    count: u64,
) -> Result<()> {
    let mut client = nbd::Client::connect(socket, VOLUME)?;
    for number in 0..count {
        client.write(number * 7919 % (size / BLOCK) * BLOCK, &[0xa5; BLOCK as usize])?;
        let point = json!({ "volumes": [VOLUME], "name": format!("kept{number}") });
        control.call("checkpoint.create", point)?;
    }
    Ok(client.disconnect()?)
}

fn make_point(control: &mut Client) -> Result<bool> {
    control.call("checkpoint.create", json!({ "volumes": [VOLUME], "name": POINT }))?;
    Ok(true)
}

fn drop_point(control: &mut Client) -> Result<()> {
    let answer = control.call("checkpoint.delete", json!({ "volume": VOLUME, "name": POINT }))?;
    let job = answer["job"].as_str().context("checkpoint.delete names no job")?;
    control.wait_for_job(job, RELEASE_PATIENCE, |_| {})?;
    Ok(())
}

/// Converts the point; names the job that gives its space back.
fn begin_release(control: &mut Client) -> Result<String> {
    let answer = control.call("checkpoint.convert", json!({ "volume": VOLUME, "name": POINT }))?;
    answer["job"].as_str().map(String::from).context("checkpoint.convert names no job")
}

fn end_release(control: &mut Client, job: &str) -> Result<()> {
    control.wait_for_job(job, RELEASE_PATIENCE, |_| {})?;
    control.call("refpoint.delete", json!({ "volume": VOLUME, "name": POINT }))?;
    Ok(())
}

/// Builds the hosted binary, optimised.
pub(in crate::bench) fn build_hosted() -> Result<PathBuf> {
    build_program(shell::cargo(), "datum-hosted", "hosted")
}

/// Builds a program of the tests, optimised, by a Cargo that may be at work in a copy of the tree.
pub(in crate::bench) fn build_native(cargo: Command, program: &str) -> Result<PathBuf> {
    build_program(cargo, "datum-tests", program)
}

fn build_program(mut cargo: Command, package: &str, program: &str) -> Result<PathBuf> {
    cargo.args(["build", "--locked", "--release", "--package", package, "--bin", program]);
    shell::say(shell::describe(&cargo));
    let messages = shell::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == program)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no {program}"))
}
