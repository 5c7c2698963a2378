//! The log that QEMU's `blklogwrites` driver keeps of what reached a disk, and its replay on simulated disks.
//!
//! The format is that of Linux's dm-log-writes. What can be relied upon in QEMU 7.2, read from
//! `block/blklogwrites.c` and `bdrv_co_flush`:
//!
//! - An entry gets its place when its request has completed on the disk below, and its data is in the log before
//!   the appliance hears of it. So whatever an acknowledgement rests on lies within the bytes that the log has at
//!   that time; and whatever lies within the bytes that it had earlier was done by then.
//! - What comes after a flush's entry is not covered by it. What comes before *may* not be either: a write that
//!   completed while the flush was under way precedes it. The replay takes it as covered, so it loses less than a
//!   disk might, never more.
//! - A flush with nothing written since the last one is not logged, because QEMU does not pass it on.
//! - With several requests under way the end of the file may have gaps, so a log is read up to a length at which
//!   nothing was.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use datum_store::device::{BLOCK_SIZE, Block, BlockDevice};
use serde_json::json;
use xtask::qemu::{Disk, Machine};

use crate::disk::{DiskImage, PowerLoss, SimulatedDisk};
use crate::executor::Executor;
use crate::rng::Rng;

const SECTOR: usize = 512;
const SECTORS_PER_BLOCK: u64 = (BLOCK_SIZE / SECTOR) as u64;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLAG_FLUSH: u64 = 1;
const FLAG_DISCARD: u64 = 4;

/// What reached the disks, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `count` blocks, whose contents are in the log from byte `data` on.
    Write {
        /// The first block.
        first: u64,
        /// How many.
        count: u64,
        /// Where their contents are.
        data: usize,
    },
    /// Blocks that nobody needs any more.
    Discard {
        /// The first block.
        first: u64,
        /// How many.
        count: u64,
    },
    /// What came before is durable.
    Flush,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes of the log up to here.
    pub end: u64,
    /// What was done.
    pub kind: Kind,
}

/// The members of a pool in one file, one after the other, and the log of all that is written to it. So
/// requests to different members have one order.
#[derive(Clone, Debug)]
pub struct LoggedDisks {
    file: PathBuf,
    log: PathBuf,
    members: u64,
    member_blocks: u64,
}

impl LoggedDisks {
    /// Blank disks of equal size, in this directory.
    pub fn blank(directory: &Path, members: u64, member_blocks: u64) -> io::Result<LoggedDisks> {
        let disks = LoggedDisks {
            file: directory.join("disks.img"),
            log: directory.join("writes.log"),
            members,
            member_blocks,
        };
        File::create(&disks.file)?.set_len(members * member_blocks * BLOCK_SIZE as u64)?;
        Ok(disks)
    }

    /// The machine with these disks, and an empty log.
    pub fn attach(&self, machine: Machine) -> io::Result<Machine> {
        File::create(&self.log)?;
        let logged = self.logging_node();
        if self.members == 1 {
            return Ok(machine.disk(Disk::node(logged).serial("m0")));
        }
        // QEMU 7.2 cannot have two devices with an I/O thread on one node, so these are served by its main loop.
        let mut node = logged;
        node["node-name"] = json!("logged");
        let mut machine = machine.argument("-blockdev").argument(node.to_string());
        for member in 0..self.members {
            let bytes = self.member_blocks * BLOCK_SIZE as u64;
            let part = json!({
                "driver": "raw", "node-name": format!("m{member}"), "file": "logged", "discard": "unmap",
                "offset": member * bytes, "size": bytes,
            });
            let device = format!(
                "virtio-blk-pci,drive=m{member},serial=m{member},share-rw=on,werror=report,rerror=report"
            );
            machine = machine.argument("-blockdev").argument(part.to_string());
            machine = machine.argument("-device").argument(device);
        }
        Ok(machine)
    }

    /// The host need not make anything durable: it is not the one that loses power here.
    fn logging_node(&self) -> serde_json::Value {
        let file = |path: &Path| {
            json!({
                "driver": "file", "filename": path.display().to_string(), "discard": "unmap",
                "cache": { "no-flush": true },
            })
        };
        json!({
            "driver": "blklogwrites", "file": file(&self.file), "log": file(&self.log), "discard": "unmap",
            "log-sector-size": SECTOR, "log-super-update-interval": 1,
        })
    }

    /// Bytes of the log now.
    pub fn position(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    /// What the disks hold now.
    pub fn images(&self) -> io::Result<Vec<DiskImage>> {
        let all = DiskImage::read_file(&self.file)?;
        Ok(all.split(self.member_blocks))
    }

    /// The log up to a length at which no request was under way.
    pub fn read_log(&self, length: u64) -> io::Result<WriteLog> {
        let mut bytes = fs::read(&self.log)?;
        bytes.truncate(length as usize);
        Ok(WriteLog::parse(bytes))
    }
}

/// A log in memory.
#[derive(Debug)]
pub struct WriteLog {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl WriteLog {
    fn parse(bytes: Vec<u8>) -> WriteLog {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((number(0), number(8)), (MAGIC, 1), "this is no log of blklogwrites");
        assert_eq!(number(24) as u32 as usize, SECTOR, "the log's sectors");
        let (mut at, mut entries) = (SECTOR, Vec::new());
        while at < bytes.len() {
            let (sector, sectors, flags) = (number(at), number(at + 8), number(at + 16));
            at += SECTOR;
            let whole = sector % SECTORS_PER_BLOCK == 0 && sectors % SECTORS_PER_BLOCK == 0;
            assert!(whole, "a request for {sectors} sectors from {sector} on is not in blocks");
            let (first, count) = (sector / SECTORS_PER_BLOCK, sectors / SECTORS_PER_BLOCK);
            let kind = match flags {
                FLAG_FLUSH => Kind::Flush,
                FLAG_DISCARD => Kind::Discard { first, count },
                0 if count > 0 => Kind::Write { first, count, data: at },
                _ => panic!("entry {} at {at} has flags {flags} and {sectors} sectors", entries.len()),
            };
            if let Kind::Write { count, .. } = kind {
                at += count as usize * BLOCK_SIZE;
            }
            entries.push(Entry { end: at as u64, kind });
        }
        assert_eq!(at, bytes.len(), "the log ends within an entry");
        WriteLog { bytes, entries }
    }

    /// What was done, in order of completion.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Disks to which a log is done again, entry by entry.
pub struct Replay<'a> {
    log: &'a WriteLog,
    disks: Vec<SimulatedDisk>,
    executor: Executor,
    member_blocks: u64,
    rng: Rng,
}

impl<'a> Replay<'a> {
    /// Begins with what the disks held when the log was empty.
    pub fn new(log: &'a WriteLog, before: Vec<DiskImage>, seed: u64) -> Replay<'a> {
        let member_blocks = before[0].blocks();
        let mut executor = Executor::new(seed);
        let power_on = |image| {
            let disk = SimulatedDisk::power_on("replayed", image);
            executor.attach(Rc::new(disk.clone()));
            disk
        };
        let disks = before.into_iter().map(power_on).collect();
        Replay { log, disks, executor, member_blocks, rng: Rng::new(seed) }
    }

    /// Does one entry. A flush covers every member: the log does not tell which one it was for.
    pub fn apply(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::Write { first, count, data } => {
                let (disk, first) = self.disk(first);
                let bytes = &self.log.bytes[data..data + count as usize * BLOCK_SIZE];
                let (blocks, _) = bytes.as_chunks::<BLOCK_SIZE>();
                let blocks: Vec<Block> = blocks.iter().map(|block| Box::new(*block)).collect();
                self.executor.run(disk.write(first, blocks)).1.unwrap();
            }
            Kind::Discard { first, count } => {
                let (disk, first) = self.disk(first);
                self.executor.run(disk.discard(first, count)).unwrap();
            }
            Kind::Flush => {
                for disk in self.disks.clone() {
                    self.executor.run(disk.flush()).unwrap();
                }
            }
        }
    }

    fn disk(&self, first: u64) -> (SimulatedDisk, u64) {
        (self.disks[(first / self.member_blocks) as usize].clone(), first % self.member_blocks)
    }

    /// Whether a power loss could take anything now.
    pub fn is_flushed(&self) -> bool {
        self.disks.iter().all(|disk| disk.unflushed() == 0)
    }

    /// What a power loss might leave now.
    pub fn lose(&mut self, policy: PowerLoss) -> Vec<DiskImage> {
        self.disks.iter().map(|disk| disk.power_loss(policy, &mut self.rng)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sector: u64, sectors: u64, flags: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            [sector, sectors, flags, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.resize(SECTOR, 0);
        bytes
    }

    /// Block 1 of 7s, a flush, block 1 of 9s, a discard of block 5 on.
    fn log() -> WriteLog {
        let mut bytes: Vec<u8> = [MAGIC, 1, 4, 512].iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.resize(SECTOR, 0);
        for part in [entry(8, 8, 0), vec![7; 4096], entry(0, 0, 1), entry(8, 8, 0), vec![9; 4096]] {
            bytes.extend(part);
        }
        bytes.extend(entry(40, 16, 4));
        WriteLog::parse(bytes)
    }

    #[test]
    fn entries_are_read() {
        let kinds: Vec<Kind> = log().entries().iter().map(|entry| entry.kind).collect();
        let expected = [
            Kind::Write { first: 1, count: 1, data: 1024 },
            Kind::Flush,
            Kind::Write { first: 1, count: 1, data: 6144 },
            Kind::Discard { first: 5, count: 2 },
        ];
        assert_eq!(kinds, expected);
        assert_eq!(log().entries()[0].end, 5120);
    }

    #[test]
    fn only_what_was_flushed_is_sure() {
        let log = log();
        let mut replay = Replay::new(&log, vec![DiskImage::blank(4), DiskImage::blank(4)], 1);
        for entry in &log.entries()[..3] {
            replay.apply(entry);
        }
        assert!(!replay.is_flushed());
        assert_eq!(replay.lose(PowerLoss::Nothing)[0].block(1), [7; 4096]);
        assert_eq!(replay.lose(PowerLoss::Everything)[0].block(1), [9; 4096]);
        replay.apply(&log.entries()[3]);
    }

    #[test]
    #[should_panic(expected = "flags 0 and 0 sectors")]
    fn a_gap_is_no_entry() {
        let mut bytes = log().bytes;
        bytes.extend(vec![0; SECTOR]);
        WriteLog::parse(bytes);
    }
}
