//! What must be durable when, looked at on the disks themselves: a power loss shows it only where one happens in time.

use super::World;
use crate::disk::SimulatedDisk;
use crate::disk::layout::is_superblock;
use crate::store::perform::Disk;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

impl World {
    /// The moment it is on each disk.
    pub(super) fn clocks(&self) -> Vec<u64> {
        self.disks.iter().map(|disk| disk.inner().now()).collect()
    }

    /// Demands that whatever volumes and checkpoints show, and was on the disks by then, be durable, where the disks tell
    /// the truth.
    pub(super) fn demand_durable(&self, by: &[u64]) {
        if !self.disks.iter().all(Disk::is_honest) {
            return;
        }
        let mut volatile = BTreeSet::new();
        for (disk, by) in self.disks.iter().zip(by) {
            disk.inner().each_volatile(|block| {
                if block.completed.is_some_and(|completed| completed <= *by) {
                    volatile.extend(self.contents.identify(block.bytes));
                }
            });
        }
        // As a rule there are none. What was overwritten since, or refused, may be lost.
        if volatile.is_empty() {
            return;
        }
        for (name, volume) in &self.model.state.volumes {
            let maps = volume.checkpoints().map(|(_, map)| map).chain([&volume.head]);
            for run in maps.flat_map(|map| map.runs()) {
                let lost = run.cell.content.is_some_and(|content| volatile.contains(&content));
                assert!(
                    !lost,
                    "block {} of {name} was acknowledged as durable and no flush covers it",
                    run.first
                );
            }
        }
    }

    /// While the pool is opened: superblocks go out only when all else on the disks is durable, whichever life wrote it.
    /// Returns who watched before, to be put back.
    pub(super) fn watch_superblocks(&mut self) -> Option<Rc<dyn Fn()>> {
        let disks = self.simulated_disks();
        let (clocks, seen) = (self.clocks(), Cell::new(u64::MAX));
        let honest = self.disks.iter().all(Disk::is_honest);
        let before = self.executor.watch(None);
        let others = before.clone();
        self.executor.watch(Some(Rc::new(move || {
            let changes = disks.iter().map(SimulatedDisk::changes).sum();
            if honest && seen.replace(changes) != changes {
                superblocks_come_last(&disks, &clocks);
            }
            if let Some(others) = &others {
                others();
            }
        })));
        before
    }
}

fn superblocks_come_last(disks: &[SimulatedDisk], clocks: &[u64]) {
    let (mut superblock, mut other) = (false, None);
    for (disk, clock) in disks.iter().zip(clocks) {
        disk.each_volatile(|block| match is_superblock(block.bytes) {
            true => superblock |= block.submitted > *clock,
            false if !block.rubbish => other = Some(block.at),
            false => {}
        });
    }
    if let (true, Some(at)) = (superblock, other) {
        panic!("a superblock goes out while block {at} of some disk is not durable");
    }
}
