//! Proving a pool sound: `pool.check` reads all metadata, `pool.scrub` all data too.
//!
//! The check looks at a commit made for it, not at memory: those blocks do not change, and a reader's guard
//! keeps them from being reused, so clients go on meanwhile. It walks every version's own blocks, so that
//! each block in use is met exactly once, marks them, and compares the marks with the free map. The marks
//! cover one stretch of the pool at a time; a pool too large for memory takes several walks.
//!
//! What clients free meanwhile waits on disk. If they want that space before the check has ended, it lets go
//! and begins again with a new commit.

mod marks;
mod objects;
mod space;
mod walk;

use crate::device::{BLOCK_SIZE, Block, BlockDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::forest::span;
use crate::format::Address;
use crate::format::object::VersionKind;
use crate::format::superblock::Superblock;
use crate::holders::KnownAs;
use crate::limits::{DAMAGED_VOLUMES_MAX, FINDINGS_MAX};
use crate::pool::Progress;
use crate::shell::Shell;
use crate::sync::{Deferred, yield_now};
use crate::transaction::Transaction;
use crate::types::{CheckReport, ObjectId};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::pin::pin;
use futures_util::future::{join_all, select};
use marks::Marks;
use objects::Version;
use walk::{Located, Tree};

/// How often a check begins, at most, when clients need what it keeps from being reused.
const ATTEMPTS: usize = 4;

/// Whether a check keeps freed space from being reused. One at a time does.
#[derive(Default)]
pub(crate) struct Hold {
    held: Cell<bool>,
    wanted: Cell<bool>,
}

impl Hold {
    /// Makes a check let go of freed space, if one keeps it.
    pub(crate) fn reclaim(&self) {
        self.wanted.set(true);
    }
}

impl<D: BlockDevice> Shell<D> {
    fn hold_for_check(&self) -> impl Drop + '_ {
        self.check_hold.held.set(true);
        Deferred::new(|| {
            self.check_hold.held.set(false);
            self.changed.notify();
        })
    }
}

/// Why a check did not get to its end.
enum Halt {
    /// Somebody needs the space it holds.
    LetGo,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Checks a pool as of a commit made now.
pub(crate) async fn check<D: BlockDevice>(
    shell: &Shell<D>,
    data: bool,
    progress: &Progress,
) -> Result<CheckReport> {
    for _ in 0..ATTEMPTS {
        turn(shell, progress).await?;
        let _hold = shell.hold_for_check();
        if shell.check_alive().is_ok() {
            shell.commit_now(false).await?;
        }
        let _guard = shell.read_guard();
        let met = shell.damage.borrow().met();
        shell.check_hold.wanted.set(false);
        let mut checker = Checker::new(shell, data, progress);
        match checker.run().await {
            Ok(()) => {
                progress.set(1.0);
                // Only a scrub reads all that a client may have read.
                if data && checker.report.errors == 0 {
                    shell.damage.borrow_mut().disprove(met);
                }
                return Ok(checker.report);
            }
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::LetGo) => {}
        }
    }
    let message =
        "clients need all free space again and again; check when they are quiet, or free some first";
    Err(Error::new(ErrorKind::Limit, message))
}

/// Waits until no other check is under way.
async fn turn<D: BlockDevice>(shell: &Shell<D>, progress: &Progress) -> Result<()> {
    let free = pin!(shell.changed.until(|| !shell.check_hold.held.get()));
    select(free, pin!(progress.until_cancelled())).await;
    not_cancelled(progress)
}

fn not_cancelled(progress: &Progress) -> Result<()> {
    match progress.cancelled() {
        true => {
            let message = "the check was cancelled; start it again for a verdict";
            Err(Error::new(ErrorKind::Cancelled, message))
        }
        false => Ok(()),
    }
}

struct Checker<'a, D: BlockDevice> {
    shell: &'a Shell<D>,
    data: bool,
    progress: &'a Progress,
    superblock: Superblock,
    report: CheckReport,
    marks: Marks,
    versions: BTreeMap<ObjectId, Version>,
    /// Blocks met so far, and how many there will be.
    met: u64,
    to_meet: u64,
}

impl<'a, D: BlockDevice> Checker<'a, D> {
    fn new(shell: &'a Shell<D>, data: bool, progress: &'a Progress) -> Self {
        Self {
            shell,
            data,
            progress,
            superblock: shell.engine.borrow().superblock.clone(),
            report: CheckReport::default(),
            marks: Marks::default(),
            versions: BTreeMap::new(),
            met: 0,
            to_meet: 0,
        }
    }

    fn find(&mut self, finding: String) {
        self.report.errors += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        }
    }

    async fn run(&mut self) -> Result<(), Halt> {
        self.check_superblocks().await;
        let root = self.read_objects().await?;
        self.check_version_tree(&root);
        let stretches = self.stretches().await;
        self.to_meet = self.superblock.map.change.0.saturating_mul(stretches.len() as u64);
        for (n, stretch) in stretches.into_iter().enumerate() {
            self.marks.cover(stretch);
            self.mark_system();
            // Everything is verified in the first walk; later ones only mark.
            self.walk_all(n == 0).await?;
            self.compare_with_map().await?;
        }
        Ok(())
    }

    /// Reads blocks of a level from their devices, whatever the cache holds, all at the same time.
    async fn read_all(&mut self, blocks: &[Located], level: usize, tree: Tree) -> Vec<Option<Block>> {
        let shell = self.shell;
        let reads = join_all(blocks.iter().map(|(pointer, _)| shell.read_verified(pointer))).await;
        self.report.blocks_checked += reads.len() as u64;
        let mut kept = Vec::with_capacity(reads.len());
        for (&(pointer, base), read) in blocks.iter().zip(reads) {
            if let Err(error) = &read {
                let why = error.observations().first().cloned().unwrap_or_default();
                let lost = self.name_lost(tree, pointer.address, base, span(level)).await;
                self.find(format!("{lost}: {} cannot be read: {why}", shell.place(pointer.address)));
            }
            kept.push(read.ok());
        }
        kept
    }

    /// Whose blocks are lost with one that they lie below, and which. What shares them has lost them too.
    async fn name_lost(&mut self, tree: Tree, address: Address, first: u64, count: u64) -> String {
        let known = match tree {
            Tree::Version(id) => {
                self.shell.run(|engine| Transaction::new(engine).known_as(id)).await.ok().flatten()
            }
            Tree::Objects | Tree::Map => None,
        };
        if let Some(known) = &known {
            self.shell.tell_whose(address, known, first);
            let volumes = &mut self.report.volumes;
            if let Some(volume) = &known.volume
                && volumes.len() < DAMAGED_VOLUMES_MAX
                && !volumes.contains(volume)
            {
                volumes.push(volume.clone());
            }
        }
        let (whose, blocks) = match known {
            Some(KnownAs { volume: Some(volume), point, kind, size }) => {
                let whose = match (kind, point) {
                    (VersionKind::Head, _) => format!("volume {volume}"),
                    (VersionKind::Checkpoint, Some(name)) => format!("checkpoint {name} of volume {volume}"),
                    (_, Some(name)) => format!("former checkpoint {name} of volume {volume}"),
                    _ => format!("{tree} of volume {volume}"),
                };
                (whose, size / BLOCK_SIZE as u64)
            }
            _ => (format!("{tree}"), u64::MAX),
        };
        // A node reaches beyond the volume's end.
        let last = (first + count).min(blocks.max(first + 1)) - 1;
        match first == last {
            true => format!("{whose}, block {first}"),
            false => format!("{whose}, blocks {first} to {last}"),
        }
    }

    /// Lets clients go on, and stops where that was asked for.
    async fn breathe(&mut self) -> Result<(), Halt> {
        yield_now().await;
        self.progress.set((self.met as f32 / self.to_meet.max(1) as f32).min(0.999));
        not_cancelled(self.progress)?;
        match self.shell.check_hold.wanted.get() {
            true => Err(Halt::LetGo),
            false => Ok(()),
        }
    }
}
