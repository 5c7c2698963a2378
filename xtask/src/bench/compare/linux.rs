//! A Linux guest with Debian's kernel in the same machine as ours: one disk, the same ports, nbdkit on one of them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::initramfs::{self, Archive};
use super::peer::Peer;
use super::{Compare, MEMORY_MIB};
use crate::nbd::PATIENCE;
use crate::qemu::{Appliance, Disk, Machine, Port};
use crate::{setup, shell};

const START_PATIENCE: Duration = Duration::from_secs(120);

/// What every guest loads. The checksum's implementation is asked for by name, not by dependency.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "crc32c_generic",
    "libcrc32c",
    "dm-mod",
    "dm-era",
    "dm-thin-pool",
];

/// Sectors of 512 bytes: what the device mapper's targets get for their metadata, and what they track.
const METADATA_SECTORS: u64 = (128 << 20) / 512;
const CHUNK_SECTORS: u64 = (64 << 10) / 512;

/// What nbdkit serves in the guest.
#[derive(Clone, Copy)]
pub(super) enum Volume {
    /// The disk itself.
    Raw,
    /// dm-era: chunks of 64 KiB with the era they were last written in.
    Era,
    /// dm-thin: a thin volume, with snapshots, in chunks of 64 KiB.
    Thin,
}

impl Volume {
    fn device(self) -> &'static str {
        match self {
            Volume::Raw => "/dev/vda",
            Volume::Era => "/dev/mapper/era",
            Volume::Thin => "/dev/mapper/thin",
        }
    }

    /// Shell commands that make the device.
    fn setup(self, run: &Compare) -> String {
        let data = run.disk_bytes() / 512 - METADATA_SECTORS;
        let parts = format!(
            "dmsetup create meta --table '0 {METADATA_SECTORS} linear /dev/vda 0'\n\
             dmsetup create data --table '0 {data} linear /dev/vda {METADATA_SECTORS}'\n"
        );
        let (maps, volume) = ("/dev/mapper/meta /dev/mapper/data", run.size / 512);
        match self {
            Volume::Raw => String::new(),
            Volume::Era => {
                format!("{parts}dmsetup create era --table '0 {data} era {maps} {CHUNK_SECTORS}'\n")
            }
            Volume::Thin => format!(
                "{parts}dmsetup create pool --table '0 {data} thin-pool {maps} {CHUNK_SECTORS} 0'\n\
                 dmsetup message /dev/mapper/pool 0 'create_thin 0'\n\
                 dmsetup create thin --table '0 {volume} thin /dev/mapper/pool 0'\n"
            ),
        }
    }

    fn make_point(self) -> Option<&'static str> {
        match self {
            Volume::Raw => None,
            Volume::Era => Some("dmsetup message era 0 checkpoint"),
            Volume::Thin => Some(
                "dmsetup suspend thin && dmsetup message pool 0 'create_snap 1 0' && dmsetup resume thin",
            ),
        }
    }

    fn drop_point(self) -> Option<&'static str> {
        match self {
            Volume::Raw | Volume::Era => None,
            Volume::Thin => Some("dmsetup message pool 0 'delete 1'"),
        }
    }
}

/// A running guest.
pub(super) struct Linux {
    appliance: Appliance,
    volume: Volume,
    commands: UnixStream,
    answers: BufReader<UnixStream>,
}

/// A machine that boots Debian's kernel and serves that volume.
fn machine(run: &Compare, directory: &Path, volume: Volume) -> Result<Machine> {
    let system = setup::linux_guest()?;
    let archive = directory.join("initramfs");
    fs::write(&archive, root(&system, volume, run)?)?;
    Ok(Machine::new(kernel(&system)?, directory.join("run"))
        .accelerator(run.accelerator)
        .memory(MEMORY_MIB)
        .disk(Disk::file(directory.join("disk.img"), run.disk_bytes()).serial("disk0"))
        .without(Port::Console(0))
        .option("console=ttyS0")
        .option("quiet")
        .option("panic=-1")
        .argument("-initrd")
        .argument(archive.display().to_string()))
}

/// A machine whose nbdkit serves the disk itself: the soonest of its kind.
pub(in crate::bench) fn plain_machine(run: &Compare, directory: &Path) -> Result<Machine> {
    machine(run, directory, Volume::Raw)
}

impl Linux {
    pub(super) fn start(run: &Compare, directory: &Path, volume: Volume) -> Result<Box<dyn Peer>> {
        let machine = machine(run, directory, volume)?;
        let mut appliance = machine.start()?;
        let commands = appliance.connect(Port::Control(0), START_PATIENCE)?;
        commands.set_read_timeout(Some(PATIENCE))?;
        let answers = BufReader::new(commands.try_clone()?);
        let mut guest = Linux { appliance, volume, commands, answers };
        let ready = guest.answer("ready");
        ready.map_err(|error| guest.appliance.explain(error))?;
        Ok(Box::new(guest))
    }

    fn run(&mut self, command: &str) -> Result<()> {
        self.commands.write_all(format!("{command}\n").as_bytes())?;
        let answered = self.answer("done").with_context(|| format!("{command} in the Linux guest"));
        answered.map_err(|error| self.appliance.explain(error))
    }

    fn answer(&mut self, expected: &str) -> Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.trim() == expected, "the Linux guest said {line:?} and not {expected}");
        Ok(())
    }
}

impl Peer for Linux {
    fn socket(&self) -> PathBuf {
        self.appliance.socket(Port::Nbd(0))
    }

    fn process_id(&self) -> u32 {
        self.appliance.process_id()
    }

    fn make_point(&mut self) -> Result<bool> {
        self.volume.make_point().map_or(Ok(false), |command| self.run(command).map(|()| true))
    }

    fn drop_point(&mut self) -> Result<()> {
        self.volume.drop_point().map_or(Ok(()), |command| self.run(command))
    }
}

fn kernel(system: &Path) -> Result<PathBuf> {
    let boot = fs::read_dir(system.join("boot"))?;
    let names = boot.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut kernels = names
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    kernels.next().context("Debian's kernel package brought no vmlinuz")
}

/// The initramfs.
fn root(system: &Path, volume: Volume, run: &Compare) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["/dev", "/proc", "/sys", "/tmp", "/run"] {
        archive.directory(Path::new(directory));
    }
    archive.file(Path::new("/bin/busybox"), &fs::read(system.join("bin/busybox"))?);
    for name in ["nbdkit", "dmsetup"] {
        let program = shell::find_program(name).with_context(|| format!("{name} is not installed"))?;
        archive.program(&program)?;
    }
    let mut print = shell::program("nbdkit");
    let configuration = shell::output(print.arg("--dump-config"))?;
    let plugins = configuration.lines().find_map(|line| line.strip_prefix("plugindir="));
    let plugins = plugins.context("nbdkit names no directory of plugins")?;
    archive.program(&Path::new(plugins).join("nbdkit-file-plugin.so"))?;
    let mut script = String::from(INIT_START);
    for (number, module) in initramfs::modules(&system.join("lib/modules"), &MODULES)?.iter().enumerate() {
        let place = format!("/modules/{number}.ko");
        archive.file(Path::new(&place), &fs::read(module)?);
        script += &format!("insmod {place}\n");
    }
    script += INIT_PORTS;
    script += &volume.setup(run);
    script += &INIT_SERVE.replace("DEVICE", volume.device());
    archive.file(Path::new("/init"), script.as_bytes());
    Ok(archive.finish())
}

const INIT_START: &str = "#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin DM_DISABLE_UDEV=1
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
";

/// Waits for what QEMU offers: the disk, and the ports by their names.
const INIT_PORTS: &str = "
port() {
  for entry in /sys/class/virtio-ports/*; do
    if [ \"$(cat $entry/name 2>/dev/null)\" = \"$1\" ]; then echo /dev/${entry##*/}; fi
  done
}
until [ -b /dev/vda ] && [ -n \"$(port org.datum.control.0)\" ] && [ -n \"$(port org.datum.nbd.0)\" ]; do
  sleep 0.02
done
control=$(port org.datum.control.0)
nbd=$(port org.datum.nbd.0)
";

/// nbdkit on its port, again after each client; commands from the other one.
const INIT_SERVE: &str = "
while :; do nbdkit -s file DEVICE 0<>$nbd 1>&0; sleep 0.05; done &
exec 3<>$control
echo ready >&3
while :; do
  if read -r line <&3; then
    if eval \"$line\" >/dev/console 2>&1; then echo done >&3; else echo failed >&3; fi
  else
    sleep 0.05
  fi
done
";
