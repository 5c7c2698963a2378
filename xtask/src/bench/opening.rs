//! Opening a pool: against its size, against how full its log is, after a crash and after an orderly end.
//!
//! The log is filled by the hosted binary, which writes the same format faster than its commits come, and which is then
//! killed; what it left is opened in the appliance. What opening itself takes is the appliance's own figure
//! (`open_nanoseconds`); what a client waits for is from `hello` to its first answer from the pool.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::compare::{Hosted, build_hosted};
use super::report::milliseconds;
use super::{BLOCK, Bench, GIB, Report, TIB, boot, load, metrics, sample, sparse, volume};
use crate::control::Client;
use crate::nbd;
use crate::qemu::{Disk, Machine};

/// Pools by their names, and what members they have. No file of a host's ext4 has 16 TiB.
const POOLS: [(&str, usize, u64); 4] =
    [("1 GiB", 1, GIB), ("1 TiB", 1, TIB), ("10 TiB", 1, 10 * TIB), ("64 TiB", 8, 8 * TIB)];

/// The pool in which the log's fill is in question.
const MAIN: &str = "10 TiB";

/// How full the log is, in percent of what it takes before a commit starts.
const FILLS: [u64; 4] = [0, 25, 50, 100];

/// Blocks that lie scattered in the volume. A record of the log then overwrites each of the first in turn.
const BLOCKS: u64 = 10_000;

/// How much of the disks the host has already found places for: the log, and what is written while it fills. Else a flush
/// takes the host so long that a commit comes by time before the log is full.
const WRITTEN_BYTES: u64 = GIB;

/// Records between two looks at whether a commit has come.
const STRIDE: u64 = 8;

/// Left to the commit that would come next, where the log is to be full.
const MARGIN: u64 = 3 * STRIDE;

/// Metadata blocks in memory of the hosted binary, so that only what is to be replayed decides when a commit starts.
const CACHE_BLOCKS: &str = "262144";

/// How often a log is filled anew because a commit came by time.
const CRASHES_MAX: u32 = 5;

const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn all(bench: &Bench, report: &mut Report) -> Result<()> {
    let program = build_hosted()?;
    for (name, members, size) in POOLS {
        let pool = Pool::make(&program, members, size)?;
        let full = pool.records_until_a_commit(Place::Scattered)?;
        let fills = if name == MAIN { &FILLS[..] } else { &[0, 100] };
        for fill in fills {
            pool.crash(full * fill / 100, Place::Scattered)?;
            let what = format!("opening {name} after a crash, log {fill} % full");
            pool.open(bench, "now")?.tell(report, &what, Some("under 100"));
        }
        if name == MAIN {
            pool.crash(pool.records_until_a_commit(Place::Adjacent)?, Place::Adjacent)?;
            let what = format!("opening {name} after a crash, log 100 % full of blocks side by side");
            pool.open(bench, "now")?.tell(report, &what, Some("under 100"));
            pool.crash(full, Place::Scattered)?;
            pool.natively(report, &format!("opening {name} after a crash, log 100 % full, natively"))?;
            pool.crash(0, Place::Scattered)?;
            pool.open(bench, "wait")?.tell(
                report,
                &format!("opening {name} after a crash, takeover=wait"),
                None,
            );
            pool.hosted("now")?.0.shut_down()?;
            pool.open(bench, "wait")?.tell(report, &format!("opening {name} after an orderly end"), None);
        }
    }
    Ok(())
}

/// Where the blocks of the log's records lie.
#[derive(Clone, Copy)]
enum Place {
    /// Each in a leaf of its own, as far as the volume is large enough: the most nodes that a replay can need.
    Scattered,
    /// Side by side.
    Adjacent,
}

/// The disks of a pool, as one run after the other leaves them.
struct Pool {
    program: PathBuf,
    directory: TempDir,
    disks: Vec<PathBuf>,
    size: u64,
}

/// What one opening took.
struct Opening {
    own: Duration,
    answer: Duration,
    reads: u64,
    records: u64,
}

impl Opening {
    fn of(control: &mut Client, answer: Duration) -> Result<Opening> {
        let metrics = metrics(control)?;
        let own = Duration::from_nanos(sample(&metrics, "open_nanoseconds"));
        let (reads, records) =
            (sample(&metrics, "open_reads_total"), sample(&metrics, "replayed_records_total"));
        Ok(Opening { own, answer, reads, records })
    }

    fn tell(&self, report: &mut Report, what: &str, goal: Option<&'static str>) {
        report.add(format!("{what}: the opening itself"), milliseconds(self.own), "ms", goal);
        report.add(format!("{what}: hello to the first answer"), milliseconds(self.answer), "ms", None);
        report.add(format!("{what}: device reads"), self.reads as f64, "requests", None);
        report.add(format!("{what}: records replayed"), self.records as f64, "records", None);
    }
}

impl Pool {
    /// A pool of so many members with one volume of its size and blocks scattered over it, closed in order.
    fn make(program: &Path, members: usize, member_bytes: u64) -> Result<Pool> {
        let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
        let place = |number| directory.path().join(format!("disk{number}.img"));
        let written = WRITTEN_BYTES.min(member_bytes) / members as u64;
        let disks = (0..members).map(|number| begun_disk(&place(number), member_bytes, written));
        let disks = disks.collect::<Result<Vec<_>>>()?;
        let size = members as u64 * member_bytes;
        let pool = Pool { program: program.into(), directory, disks, size };
        let (mut hosted, _) = pool.hosted("now")?;
        volume(&mut hosted.control, "db", size)?;
        let mut client = nbd::Client::connect(&hosted.nbd_socket(), "db")?;
        load::scatter(&mut client, size, BLOCKS, 0..BLOCKS)?;
        client.disconnect()?;
        hosted.shut_down()?;
        Ok(pool)
    }

    /// The hosted binary with the pool open, and how long the first answer from it took.
    fn hosted(&self, takeover: &str) -> Result<(Hosted, Duration)> {
        let mut command = Command::new(&self.program);
        command.args(["--cache-blocks", CACHE_BLOCKS, "--takeover", takeover]);
        let begun = Instant::now();
        let mut hosted = Hosted::on(command, self.directory.path(), &self.disks)?;
        hosted.control.call_within("pool.status", json!({}), PATIENCE)?;
        Ok((hosted, begun.elapsed()))
    }

    fn machine(&self, bench: &Bench, takeover: &str) -> Machine {
        let disks = self.disks.iter().enumerate();
        Machine::new(&bench.kernel, self.directory.path().join("run"))
            .accelerator(bench.accelerator)
            .disks(disks.map(|(number, path)| Disk::file(path, 0).serial(format!("disk{number}"))))
            .option(format!("takeover={takeover}"))
            .option("panic=exit")
    }

    /// How many records the log takes, each a flush after one block, before a commit starts.
    fn records_until_a_commit(&self, place: Place) -> Result<u64> {
        let (mut hosted, _) = self.hosted("now")?;
        let mut client = nbd::Client::connect(&hosted.nbd_socket(), "db")?;
        let before = sample(&metrics(&mut hosted.control)?, "commits_total");
        let mut records = 0;
        while sample(&metrics(&mut hosted.control)?, "commits_total") == before {
            self.write(&mut client, records..records + STRIDE, place)?;
            records += STRIDE;
        }
        client.disconnect()?;
        hosted.shut_down()?;
        ensure!(records > MARGIN, "a commit came after {records} records");
        Ok(records - MARGIN)
    }

    /// Leaves so many records in the log, and an appliance that lost its power.
    fn crash(&self, records: u64, place: Place) -> Result<()> {
        for _ in 0..CRASHES_MAX {
            let (mut hosted, _) = self.hosted("now")?;
            let mut client = nbd::Client::connect(&hosted.nbd_socket(), "db")?;
            let before = sample(&metrics(&mut hosted.control)?, "commits_total");
            self.write(&mut client, 0..records, place)?;
            if sample(&metrics(&mut hosted.control)?, "commits_total") == before {
                // Dropped, it is killed.
                return Ok(());
            }
        }
        bail!("a commit always came before {records} records: this machine is too slow to fill the log")
    }

    fn write(&self, client: &mut nbd::Client, records: Range<u64>, place: Place) -> Result<()> {
        for record in records {
            match place {
                Place::Scattered => load::scatter_one(client, self.size, BLOCKS, record % BLOCKS)?,
                Place::Adjacent => client.write(record * BLOCK, &[0x5a; BLOCK as usize])?,
            }
            client.flush()?;
        }
        Ok(())
    }

    /// Opens the pool in the appliance.
    fn open(&self, bench: &Bench, takeover: &str) -> Result<Opening> {
        let (appliance, mut control) = boot(&self.machine(bench, takeover))?;
        let begun = Instant::now();
        let shown = control.call_within("volume.show", json!({ "name": "db" }), PATIENCE);
        let answer = begun.elapsed();
        shown.map_err(|error| appliance.explain(error.into()))?;
        Opening::of(&mut control, answer)
    }

    fn natively(&self, report: &mut Report, what: &str) -> Result<()> {
        let (mut hosted, answer) = self.hosted("now")?;
        Opening::of(&mut hosted.control, answer)?.tell(report, what, None);
        hosted.shut_down()
    }
}

/// A disk of which so many bytes were written once, and the rest never.
fn begun_disk(path: &Path, bytes: u64, written: u64) -> Result<PathBuf> {
    let disk = sparse(path, bytes)?;
    let mut file = OpenOptions::new().write(true).open(&disk)?;
    let zeroes = vec![0; 1 << 20];
    for _ in 0..written / zeroes.len() as u64 {
        file.write_all(&zeroes)?;
    }
    file.sync_data()?;
    Ok(disk)
}
