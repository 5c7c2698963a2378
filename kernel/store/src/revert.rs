//! Reverting a volume to a checkpoint: a write of the old contents that copies none.
//!
//! The new contents start as the checkpoint's tree, aside. A walk in lock-step with the head gives every
//! block where the two differ a new change id, and every other the head's. It goes on over any number of
//! commits; at the end one logged operation swaps the heads. The new tree holds the checkpoint's blocks and
//! fresh ones, never the old head's, which is released as a whole.

use crate::cache::LEVELS;
use crate::device::BlockDevice;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::forest::{Step, TREE_BLOCKS, slot_of, span};
use crate::format::journal::Body;
use crate::format::object::Bound;
use crate::format::{NODE_FANOUT, Pointer};
use crate::pool::Progress;
use crate::shell::Shell;
use crate::space::Urgency;
use crate::sync::{Deferred, yield_now};
use crate::transaction::Transaction;
use crate::types::{ChangeId, ObjectId};

/// A revert under way.
struct Walk {
    head: Pointer,
    checkpoint: Pointer,
    /// Root of the new contents.
    built: Pointer,
    bound: Bound,
    /// The change id of what is reverted.
    change: ChangeId,
    /// Blocks of the head: what lies beyond comes anew.
    head_blocks: u64,
    /// Blocks of the checkpoint: what lies beyond is nobody's.
    blocks: u64,
    cursor: u64,
    /// Metadata blocks to leave for recording the step.
    kept: u64,
}

impl Engine {
    /// Goes on building; true when complete. Each step records how far it came before it ends.
    fn build_step(&mut self, building: ObjectId, volume: ObjectId, cursor: &mut u64) -> Step<bool> {
        self.check_writable()?;
        let head = self.load_head(volume)?;
        let mut transaction = Transaction::new(self);
        let version = transaction.version(building)?;
        let checkpoint = transaction.version(version.parent)?;
        transaction.put_version(building, version.clone())?;
        let mut plan = transaction.finish(Urgency::Administration)?;
        let mut walk = Walk {
            head: head.root,
            checkpoint: checkpoint.root,
            built: version.root,
            bound: Bound::same(checkpoint.epoch),
            change: head.clock,
            head_blocks: head.blocks(),
            blocks: checkpoint.size / crate::device::BLOCK_SIZE as u64,
            cursor: *cursor,
            kept: plan.nodes,
        };
        let (from, to) = (walk.head, walk.checkpoint);
        let stepped = self.build_below(&from, &to, LEVELS, 0, &mut walk, &mut { self.step_pointers });
        plan.set_version_root(building, walk.built);
        plan.apply(self);
        *cursor = walk.cursor;
        stepped
    }

    fn build_below(
        &mut self,
        head: &Pointer,
        checkpoint: &Pointer,
        level: usize,
        base: u64,
        walk: &mut Walk,
        budget: &mut usize,
    ) -> Step<bool> {
        let end = base + span(level);
        if base >= walk.blocks {
            walk.cursor = end;
            return Ok(true);
        }
        let anew = base >= walk.head_blocks;
        let partly_anew = !anew && end > walk.head_blocks;
        let same = !anew && !partly_anew && head.address == checkpoint.address;
        let uniform = level == 0 || (checkpoint.is_hole() && (anew || same)) || (same && !head.is_hole());
        if uniform {
            let change = if same { head.change } else { walk.change };
            // Equal nodes are equal in all they hold.
            let equal = same && (change == checkpoint.change || level > 0 && !head.is_hole());
            if !equal {
                self.put_built(walk, level, base, Pointer { change, ..*checkpoint })?;
            }
            *budget = budget.saturating_sub(1);
            walk.cursor = end;
            return Ok(true);
        }
        for pointer in [head, checkpoint] {
            if !pointer.is_hole() {
                self.forest.load(pointer)?;
            }
        }
        let from = if walk.cursor > base { slot_of(walk.cursor, level) } else { 0 };
        for slot in from..NODE_FANOUT {
            if *budget == 0 {
                return Ok(false);
            }
            let head = if anew { Pointer::default() } else { self.forest.child(head, slot)? };
            let checkpoint = self.forest.child(checkpoint, slot)?;
            let base = base + slot as u64 * span(level - 1);
            if !self.build_below(&head, &checkpoint, level - 1, base, walk, budget)? {
                return Ok(false);
            }
        }
        walk.cursor = end;
        Ok(true)
    }

    fn put_built(&mut self, walk: &mut Walk, level: usize, base: u64, pointer: Pointer) -> Step<()> {
        let nodes = self.forest.prepare_pointer(&walk.built, level, base)?;
        self.forest.require(nodes + walk.kept, Urgency::Administration)?;
        walk.built = self.forest.set_pointer(walk.built, level, base, pointer, &walk.bound);
        Ok(())
    }
}

impl<D: BlockDevice> Shell<D> {
    /// Reverts a volume to one of its checkpoints.
    pub(crate) async fn revert(
        &self,
        volume: ObjectId,
        checkpoint: ObjectId,
        progress: &Progress,
    ) -> Result<()> {
        self.gates.hold(volume);
        let _resume = Deferred::new(|| {
            self.gates.release(volume);
            self.changed.notify();
        });
        self.changed.until(|| self.gates.is_quiet(volume)).await;
        let start = |engine: &mut Engine| {
            engine.check_writable()?;
            if engine.building.is_some() {
                return Ok(None);
            }
            engine.load_head(volume)?;
            engine.admits_draws(&Body::Revert { volume, building: checkpoint })?;
            let mut transaction = Transaction::new(engine);
            let building = transaction.start_building(checkpoint, volume)?;
            transaction.finish(Urgency::Administration)?.apply(engine);
            engine.building = Some(building);
            engine.dirty_aside = true;
            Ok(Some(building))
        };
        // One revert at a time builds; the others wait for their turn.
        let building = loop {
            match self.run(start).await? {
                Some(building) => break building,
                None => {
                    let free = |engine: &Engine| engine.building.is_none() || engine.failed.is_some();
                    self.changed.until(|| free(&self.engine.borrow())).await;
                }
            }
        };
        let _abandon = Deferred::new(|| {
            let mut engine = self.engine.borrow_mut();
            engine.building = engine.building.filter(|&other| other != building);
            drop(engine);
            self.changed.notify();
        });
        self.build(building, volume, progress).await?;
        // Only a tree that is durable may take the head's place by a log record.
        self.engine.borrow_mut().dirty_aside = true;
        self.commit_now(true).await?;
        self.run(|engine| {
            let operation = engine.operation(Body::Revert { volume, building })?;
            engine.apply(&operation)?;
            engine.journal.push(&operation);
            engine.building = None;
            Ok(())
        })
        .await?;
        self.flush().await
    }

    async fn build(&self, building: ObjectId, volume: ObjectId, progress: &Progress) -> Result<()> {
        let mut cursor = 0;
        let blocks = self.run(|engine| engine.load_head(volume)).await?.blocks().max(1);
        loop {
            if progress.cancelled() {
                return Err(Error::new(
                    ErrorKind::Cancelled,
                    "the revert was cancelled; the volume is as it was",
                ));
            }
            // Each attempt may leave something dirty behind, also one that stopped for want of a block.
            self.throttle().await?;
            let step = self.attempt(|engine| engine.build_step(building, volume, &mut cursor)).await?;
            progress.set(cursor.min(blocks) as f32 / blocks as f32);
            match step {
                Some(done) if done || cursor >= TREE_BLOCKS => return Ok(()),
                Some(_) => yield_now().await,
                None => {}
            }
        }
    }
}
