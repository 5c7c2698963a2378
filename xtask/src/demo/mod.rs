//! The main job on real data: back up a file system in full, keep only a reference point of it, change it, lose
//! power in the middle of writes, back up what changed, and prove that both together are the newer image.
//!
//! Every client is unmodified: nbdcopy, nbdinfo, qemu-img, qemu-io, nbdfuse with fuse2fs. What always holds: all
//! processes are our children and end with us, mounts are undone also on failure, and all files lie in one
//! temporary directory.
//!
//! [`files`] makes and checks data, [`mount`] mounts it, [`increment`] is the incremental backup, [`counter`]
//! counts on the wire, [`table`] prints the result.

mod counter;
mod files;
mod increment;
mod mount;
mod table;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control::Client;
use crate::qemu::{Accelerator, Appliance, Disk, Machine, Port};
use crate::shell::{self, say};
use crate::size::format as readable;
use crate::workspace::items;
use counter::Counter;
use mount::{FileSystem, VolumeFile};
use table::Row;

const VOLUME: &str = "db";
const VOLUME_BYTES: u64 = 512 << 20;
const DISK_BYTES: u64 = 4 << 30;
const FULL: &str = "monday";
const LATER: &str = "tuesday";

/// The whole story may take this long; one start of the machine never more than that.
const LIMIT: Duration = Duration::from_secs(15 * 60);
const HELLO_PATIENCE: Duration = Duration::from_secs(60);
const JOB_PATIENCE: Duration = Duration::from_secs(120);

/// How many synced files the writer must have finished before the power goes.
const FILES_BEFORE_KILL: u64 = 8;

/// Everything the demonstration owns. Dropping it leaves nothing behind.
pub struct Demo {
    machine: Machine,
    directory: TempDir,
}

impl Demo {
    /// Prepares a machine with this kernel.
    pub fn new(kernel: &Path) -> Result<Demo> {
        let directory = tempfile::Builder::new().prefix("datum-demo-").tempdir()?;
        let machine = Machine::new(kernel, directory.path().join("run"))
            .accelerator(Accelerator::Auto.resolve())
            .disk(Disk::file(directory.path().join("disk.img"), DISK_BYTES).serial("disk0"))
            .nbd_ports(2)
            .limit(LIMIT)
            .option("pool=auto");
        Ok(Demo { machine, directory })
    }

    /// Tells the story, and prints the table.
    pub fn run(self) -> Result<()> {
        let started = Instant::now();
        self.make_image()?;
        let mut rows = Vec::new();
        let mut appliance = self.machine.start()?;
        self.first_day(&mut appliance, &mut rows).map_err(|error| appliance.explain(error))?;
        self.lose_power(appliance)?;
        let mut appliance = self.machine.start()?;
        self.second_day(&mut appliance, &mut rows).map_err(|error| appliance.explain(error))?;
        appliance.shut_down(HELLO_PATIENCE)?;
        table::print(&rows);
        say(format!("all of it in {} s", started.elapsed().as_secs()));
        Ok(())
    }

    fn make_image(&self) -> Result<()> {
        let staging = self.path("files");
        let copied = files::collect(&staging)?;
        say(format!("{} files of this machine, {}", copied.files, readable(copied.bytes)));
        files::make_file_system(&self.path("image"), VOLUME_BYTES, &staging)?;
        Ok(fs::remove_dir_all(staging)?)
    }

    /// Import, checkpoint, full backup while work goes on, conversion.
    fn first_day(&self, appliance: &mut Appliance, rows: &mut Vec<Row>) -> Result<()> {
        let mut control = appliance.wait_for_hello(HELLO_PATIENCE)?;
        control.call("volume.create", json!({ "name": VOLUME, "size": VOLUME_BYTES }))?;
        let started = Instant::now();
        nbdcopy(self.path("image"), appliance.nbd_uri(0, VOLUME))?;
        let used = allocated(&mut control)?;
        rows.push(Row::new("import").bytes(VOLUME_BYTES).changed(used).since(started));

        let started = Instant::now();
        checkpoint(&mut control, FULL)?;
        rows.push(Row::new("checkpoint").since(started));

        // Work goes on during the backup: what it overwrites is now held by the checkpoint alone.
        self.work(appliance, 40, "overwriting files while the backup runs")?;
        let counter = self.counter(appliance, "full")?;
        let started = Instant::now();
        nbdcopy(counter.uri(&format!("{VOLUME}@{FULL}")), self.path("full.img"))?;
        rows.push(Row::new("full backup").bytes(VOLUME_BYTES).copied(counter.take_received()).since(started));
        same(&self.path("image"), &self.path("full.img"), "the full backup and the image it began with")?;

        let started = Instant::now();
        let returned = convert(&mut control)?;
        rows.push(Row::new("conversion returned").bytes(returned).since(started));
        Ok(())
    }

    /// Changes real files in the mounted volume.
    fn work(&self, appliance: &Appliance, step: usize, what: &str) -> Result<()> {
        let mounted =
            self.mount(VolumeFile::open(self.directory.path(), "volume", &appliance.nbd_uri(0, VOLUME))?)?;
        let mut bytes = 0;
        let chosen = files::every(mounted.root(), step)?;
        for file in &chosen {
            bytes += files::invert(file, 64 << 10)?;
        }
        say(format!("{what}: {} in {} files", readable(bytes), chosen.len()));
        mounted.unmount()
    }

    /// Writes file after file into the mounted volume, and kills the machine while that goes on.
    fn lose_power(&self, appliance: Appliance) -> Result<()> {
        let volume = VolumeFile::open(self.directory.path(), "volume", &appliance.nbd_uri(0, VOLUME))?;
        let mounted = self.mount(volume)?;
        let written = AtomicU64::new(0);
        let root = mounted.root().to_owned();
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_it_fails(&root, &written));
            let deadline = Instant::now() + HELLO_PATIENCE;
            while written.load(Ordering::Relaxed) < FILES_BEFORE_KILL
                && Instant::now() < deadline
                && !writer.is_finished()
            {
                thread::sleep(Duration::from_millis(1));
            }
            let before = written.load(Ordering::Relaxed);
            appliance.kill()?;
            ensure!(
                before >= FILES_BEFORE_KILL,
                "only {before} files could be written before the power loss"
            );
            say(format!("SIGKILL to QEMU in the middle of writes, after {before} synced files"));
            // Its error is the power loss itself.
            let _ = writer.join();
            Ok(())
        })?;
        drop(mounted);
        Ok(())
    }

    /// What an operator does after a power loss, and then the incremental backup.
    fn second_day(&self, appliance: &mut Appliance, rows: &mut Vec<Row>) -> Result<()> {
        let started = Instant::now();
        let mut control = appliance.wait_for_hello(HELLO_PATIENCE)?;
        rows.push(Row::new("boot and recovery").since(started));
        let volume = VolumeFile::open(self.directory.path(), "volume", &appliance.nbd_uri(0, VOLUME))?;
        volume.repair().context("repairing the file system after the power loss")?;
        volume.close()?;
        self.work(appliance, 100, "the next day's work")?;
        checkpoint(&mut control, LATER)?;

        let started = Instant::now();
        let changed = changed_bytes(&mut control)?;
        rows.push(Row::new("changes.query").bytes(VOLUME_BYTES).changed(changed).since(started));
        self.increment(appliance, changed, rows)?;
        self.prove(appliance, rows)
    }

    fn increment(&self, appliance: &Appliance, changed: u64, rows: &mut Vec<Row>) -> Result<()> {
        let counter = self.counter(appliance, "later")?;
        let export = format!("{VOLUME}@{LATER}");
        let started = Instant::now();
        let ranges = increment::dirty_ranges(&counter, &export, FULL)?;
        let flagged: u64 = ranges.iter().map(|range| range.length).sum();
        ensure!(flagged == changed, "the bitmap flags {flagged} bytes, changes.query says {changed}");
        increment::copy(&counter, &export, VOLUME_BYTES, &ranges, &self.path("increment.qcow2"))?;
        let copied = counter.take_received();
        rows.push(
            Row::new("incremental backup").bytes(VOLUME_BYTES).changed(changed).copied(copied).since(started),
        );
        Ok(())
    }

    /// Restores, and compares with what the checkpoint's own export says.
    fn prove(&self, appliance: &Appliance, rows: &mut Vec<Row>) -> Result<()> {
        let started = Instant::now();
        increment::restore(
            &self.path("full.img"),
            &self.path("increment.qcow2"),
            &self.path("restored.img"),
        )?;
        rows.push(Row::new("restore").bytes(VOLUME_BYTES).since(started));
        let started = Instant::now();
        nbdcopy(appliance.nbd_uri(0, &format!("{VOLUME}@{LATER}")), self.path("checkpoint.img"))?;
        same(
            &self.path("restored.img"),
            &self.path("checkpoint.img"),
            "the restored image and the checkpoint",
        )?;
        rows.push(Row::new("compared, equal").bytes(VOLUME_BYTES).since(started));
        files::check_file_system(&self.path("restored.img"))?;
        say("e2fsck finds nothing wrong in the restored file system");
        Ok(())
    }

    fn mount(&self, volume: VolumeFile) -> Result<FileSystem> {
        FileSystem::mount(volume, &self.path("mnt"))
    }

    /// A counted way to the second NBD port: the first belongs to the work that goes on.
    fn counter(&self, appliance: &Appliance, name: &str) -> Result<Counter> {
        Counter::listen(&self.path(&format!("{name}.sock")), &appliance.socket(Port::Nbd(1)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Writes synced files of 64 KiB until one fails.
fn write_until_it_fails(root: &Path, written: &AtomicU64) -> std::io::Result<()> {
    for number in 0.. {
        let mut file = File::create(root.join(format!("written-{number}")))?;
        file.write_all(&[number as u8; 64 << 10])?;
        file.sync_all()?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Copies an image. One of the two is an address, the other a file.
fn nbdcopy(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
    shell::run(shell::program("nbdcopy").arg("--flush").arg(from).arg(to))
}

fn checkpoint(control: &mut Client, name: &str) -> Result<()> {
    control.call("checkpoint.create", json!({ "volumes": [VOLUME], "name": name }))?;
    Ok(())
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().with_context(|| format!("the appliance's answer has no {key}: {value}"))
}

/// Bytes that the pool has in use, those included that only await a commit to be usable again.
fn allocated(control: &mut Client) -> Result<u64> {
    number(&control.call("pool.status", json!({}))?, "allocated_bytes")
}

/// Converts the checkpoint and waits for its space. Returns how much came back.
fn convert(control: &mut Client) -> Result<u64> {
    let before = allocated(control)?;
    let answer = control.call("checkpoint.convert", json!({ "volume": VOLUME, "name": FULL }))?;
    let job = answer["job"].as_str().context("the conversion named no job")?;
    control.wait_for_job(job, JOB_PATIENCE, |_| {})?;
    let after = allocated(control)?;
    ensure!(after < before, "the conversion returned no space: {before} bytes in use before, {after} after");
    Ok(before - after)
}

/// Bytes changed between the reference point and the later checkpoint, page after page.
fn changed_bytes(control: &mut Client) -> Result<u64> {
    let (mut offset, mut bytes) = (Some(0), 0);
    while let Some(from) = offset {
        let page = control.call(
            "changes.query",
            json!({ "volume": VOLUME, "since": FULL, "until": LATER, "offset": from }),
        )?;
        let listed: u64 = items(&page["extents"]).filter_map(|extent| extent["length"].as_u64()).sum();
        ensure!(listed == number(&page, "changed_bytes")?, "a page's extents do not add up: {page}");
        bytes += listed;
        offset = page["next_offset"].as_u64();
    }
    Ok(bytes)
}

fn same(a: &Path, b: &Path, what: &str) -> Result<()> {
    let difference = files::first_difference(a, b)?;
    ensure!(difference.is_none(), "{what} differ at byte {}", difference.unwrap_or_default());
    Ok(())
}
