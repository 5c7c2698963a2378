//! One appliance at a time: who has a pool open, and how another one finds out.
//!
//! Disks of this kind have no fencing: whoever can write to them may. So an appliance that opens a pool marks
//! it as its own, and one that finds another's mark *challenges* it: it leaves a mark too, and waits. The
//! owner looks for challenges several times a second and answers; who has no answer in time takes the pool
//! over. An owner that was paused meanwhile finds the other's mark when it looks next, at the latest before
//! it writes a superblock, and stops acknowledging. FORMAT.md says what can go wrong in between.

use crate::device::{Block, BlockDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Address;
use crate::format::owner::Mark;
use crate::format::pointer::{Checksummer, zeroed_block};
use crate::format::superblock::SLOTS;
use crate::probe::newest_superblock;
use crate::shell::Shell;
use crate::sync::Deferred;
use core::pin::pin;
use futures_util::future::{Either, select};

/// Where the owner's mark lies on member 0; the challenger's follows.
const OWNER_PLACE: u64 = SLOTS;
const CHALLENGE_PLACE: u64 = SLOTS + 1;

/// A question to whoever has a pool open: are you still there?
pub struct Challenge {
    /// The device, among those given, that carries the marks.
    device: usize,
    sums: Checksummer,
    /// The owner's mark when the question was asked.
    owner: Mark,
}

impl Challenge {
    /// Asks. `incarnation`: random, the number of the opening that is to follow. `None` where nobody can have
    /// the pool open: it was closed in order, or it can only be read.
    ///
    /// # Errors
    /// `Io`.
    pub async fn ask<D: BlockDevice>(devices: &[D], incarnation: u64) -> Result<Option<Self>> {
        let mut found = None;
        for (index, device) in devices.iter().enumerate() {
            if device.geometry().read_only {
                return Ok(None);
            }
            if let (Some(superblock), _) = newest_superblock(device).await?
                && superblock.member == 0
            {
                found = Some((index, Checksummer::new(superblock.pool)));
            }
        }
        let Some((device, sums)) = found else { return Ok(None) };
        let owner = read_mark(&devices[device], OWNER_PLACE, &sums).await?;
        if owner.who == 0 {
            return Ok(None);
        }
        let mark = Mark { who: incarnation, answered: 0 };
        write_mark(&devices[device], CHALLENGE_PLACE, &mark.encode(&sums)).await?;
        Ok(Some(Self { device, sums, owner }))
    }

    /// Whether the owner, or another who took the pool over, has shown up since.
    ///
    /// # Errors
    /// `Io`.
    pub async fn is_answered<D: BlockDevice>(&self, devices: &[D]) -> Result<bool> {
        Ok(read_mark(&devices[self.device], OWNER_PLACE, &self.sums).await? != self.owner)
    }
}

async fn read_mark<D: BlockDevice>(device: &D, place: u64, sums: &Checksummer) -> Result<Mark> {
    let (blocks, result) = device.read(place, alloc::vec![zeroed_block()]).await;
    result.map_err(|e| Error::device(device.name(), "reading who has the pool open", e))?;
    Ok(blocks.first().map(|block| Mark::decode(block, sums)).unwrap_or_default())
}

async fn write_mark<D: BlockDevice>(device: &D, place: u64, mark: &Block) -> Result<()> {
    let (_, result) = device.write(place, alloc::vec![mark.clone()]).await;
    result.map_err(|e| Error::device(device.name(), "marking who has the pool open", e))
}

impl<D: BlockDevice> Shell<D> {
    /// Marks the pool as this opening's, or as nobody's.
    pub(crate) async fn mark_owner(&self, mark: Mark) -> Result<()> {
        let block = mark.encode(&self.engine.borrow().forest.sums);
        self.write_fixed(Address::new(0, OWNER_PLACE), alloc::vec![block]).await
    }

    /// Fails where another appliance has marked the pool as its own. A mark that cannot be read says nothing.
    pub(crate) async fn check_owner(&self) -> Result<Mark> {
        let (incarnation, sums) = {
            let engine = self.engine.borrow();
            (engine.incarnation, engine.forest.sums)
        };
        let Ok(blocks) = self.read_blocks(Address::new(0, OWNER_PLACE), 1).await else {
            return Ok(Mark { who: incarnation, answered: 0 });
        };
        let mark = blocks.first().map(|block| Mark::decode(block, &sums)).unwrap_or_default();
        if mark.who == incarnation || mark.who == 0 {
            return Ok(mark);
        }
        let message = "another appliance has taken the pool over; stop one of the two";
        Err(Error::new(ErrorKind::ReadOnly, message).observed(alloc::format!(
            "opening {:016x} found the mark of {:016x}",
            incarnation,
            mark.who
        )))
    }

    /// Looks whether the pool is still this opening's, and answers whoever asks. Where that takes longer than `patience`,
    /// nothing counts as durable until it is done: somebody may have taken the pool over for want of an answer.
    pub(crate) async fn guard_owner(&self, patience: impl Future<Output = ()>) -> Result<()> {
        self.check_alive()?;
        let look = pin!(self.look_and_answer());
        let overdue = match select(look, pin!(patience)).await {
            Either::Left((looked, _)) => return looked,
            Either::Right(((), look)) => look,
        };
        self.owner_in_doubt.set(true);
        let _certain = Deferred::new(|| {
            self.owner_in_doubt.set(false);
            self.changed.notify();
        });
        overdue.await
    }

    /// Waits for as long as it is in doubt whose the pool is.
    pub(crate) async fn be_certain_of_owner(&self) -> Result<()> {
        self.changed.until(|| !self.owner_in_doubt.get() || self.check_alive().is_err()).await;
        self.check_alive()
    }

    async fn look_and_answer(&self) -> Result<()> {
        let mark = self.check_owner().await.map_err(|error| self.latch(&error))?;
        let Ok(blocks) = self.read_blocks(Address::new(0, CHALLENGE_PLACE), 1).await else { return Ok(()) };
        let (incarnation, asked) = {
            let engine = self.engine.borrow();
            let asked = blocks.first().map(|block| Mark::decode(block, &engine.forest.sums));
            (engine.incarnation, asked.unwrap_or_default().who)
        };
        if asked != 0 && asked != incarnation && asked != mark.answered {
            self.mark_owner(Mark { who: incarnation, answered: asked }).await?;
        }
        Ok(())
    }
}
