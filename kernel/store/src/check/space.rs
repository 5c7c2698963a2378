//! Comparing what a check has met with the free map.

use super::marks::{STRETCH_BLOCKS, Stretch};
use super::{Checker, Halt};
use crate::device::{Block, BlockDevice};
use crate::format::Address;
use crate::format::journal::Run;
use crate::limits::FINDINGS_MAX;
use crate::map::{chunk_index, list_extents, list_index};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl<D: BlockDevice> Checker<'_, D> {
    /// The stretches of the pool in which the free map or a walk may find something.
    pub(crate) async fn stretches(&mut self) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        for (member, blocks) in self.superblock.members.clone().into_iter().enumerate() {
            let mut first = 0;
            while first < blocks {
                let length = STRETCH_BLOCKS.min(blocks - first);
                let stretch = Stretch { start: Address::new(member, first), blocks: length };
                if self.is_in_use(&stretch).await {
                    stretches.push(stretch);
                }
                first += length;
            }
        }
        stretches
    }

    async fn is_in_use(&self, stretch: &Stretch) -> bool {
        let map = self.superblock.map;
        for chunk in stretch.chunks() {
            match self.shell.run(|engine| engine.forest.lookup(&map, chunk_index(chunk))).await {
                Ok(pointer) if pointer.change.0 == 0 => {}
                _ => return true,
            }
        }
        false
    }

    pub(crate) fn mark_system(&mut self) {
        for run in self.superblock.system_runs() {
            self.mark_run(run);
        }
    }

    fn mark_run(&mut self, run: Run) {
        for block in 0..run.blocks {
            let address = Address(run.address.0 + block);
            if !self.marks.mark(address) {
                self.find(format!("{} is used twice", self.shell.place(address)));
            }
        }
    }

    /// Compares the marks with bitmaps and freed extents.
    pub(crate) async fn compare_with_map(&mut self) -> Result<(), Halt> {
        self.mark_freed().await?;
        let (mut leaked, mut lost) = (Vec::new(), Vec::new());
        for chunk in self.marks.stretch.chunks() {
            let bitmap = self.map_content(chunk_index(chunk)).await;
            for (address, marked) in self.marks.differences(chunk, bitmap.as_ref()) {
                let list = if marked { &mut lost } else { &mut leaked };
                list.push(address);
            }
            self.breathe().await?;
            if leaked.len().max(lost.len()) >= FINDINGS_MAX {
                break;
            }
        }
        let place = |address| self.shell.place(address);
        let leaked = leaked.into_iter().map(|a| format!("{} is allocated and nothing uses it", place(a)));
        let lost = lost.into_iter().map(|a| format!("{} is in use and the free map calls it free", place(a)));
        let found: Vec<String> = leaked.chain(lost).collect();
        found.into_iter().for_each(|finding| self.find(finding));
        Ok(())
    }

    /// Marks what waits to be returned to the bitmaps.
    async fn mark_freed(&mut self) -> Result<(), Halt> {
        let freed = self.superblock.freed;
        for position in freed.first..freed.next {
            let cursor = if position < freed.sweeping { freed.cursor } else { 0 };
            let content = self.map_content(list_index(position)).await;
            let Some(extents) = content.as_ref().and_then(list_extents) else {
                self.find(format!("list {position} of freed extents cannot be read"));
                continue;
            };
            for run in extents.filter(|run| run.address.0 >= cursor) {
                match self.is_on_a_member(&run) {
                    true => self.mark_run(run),
                    false => {
                        let place = self.shell.place(run.address);
                        self.find(format!(
                            "list {position} of freed extents names {place}, which does not exist"
                        ));
                    }
                }
            }
            self.breathe().await?;
        }
        Ok(())
    }

    fn is_on_a_member(&self, run: &Run) -> bool {
        let member = self.superblock.members.get(run.address.member());
        member.is_some_and(|&end| run.address.block().checked_add(run.blocks).is_some_and(|stop| stop <= end))
    }

    /// A block of the free map, which a walk has verified or will.
    async fn map_content(&self, index: u64) -> Option<Block> {
        let map = self.superblock.map;
        self.shell.run(|engine| Ok(engine.forest.content(&map, index)?.cloned())).await.unwrap_or_default()
    }
}
