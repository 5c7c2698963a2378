//! What a client of a volume did and what it was told, with the order of both; and from that, what the volume
//! may look like after a power loss.
//!
//! Every write is of one block and carries its own number, so a block that is read back names the write it
//! came from. One rule covers durability and order alike: the *horizon* is the latest moment that the volume
//! is known to have reached (the submission of any write found in it, or of an acknowledged flush or
//! administrative command). Every write acknowledged before the horizon must be there, unless a later write
//! to its block is.

use std::collections::HashMap;

/// Bytes in a block.
const BLOCK_BYTES: usize = 4096;

/// A write of one block. Moments are ticks of the client's own clock.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// The block.
    pub block: u64,
    /// Before it was sent.
    pub submitted: u64,
    /// After its answer came, if it did.
    pub acknowledged: Option<u64>,
}

/// All writes to a volume.
#[derive(Debug, Default)]
pub struct History {
    writes: Vec<Write>,
    by_block: HashMap<u64, Vec<usize>>,
    durable_until: u64,
}

/// What a volume held when it was read as a whole: for each block, the number of the write it shows.
pub type Survivors = Vec<Option<usize>>;

impl History {
    /// A write is about to be sent. Returns its number.
    pub fn submit(&mut self, block: u64, moment: u64) -> usize {
        let number = self.writes.len();
        self.writes.push(Write { block, submitted: moment, acknowledged: None });
        self.by_block.entry(block).or_default().push(number);
        number
    }

    /// The answer to a write came.
    pub fn acknowledge(&mut self, number: usize, moment: u64) {
        self.writes[number].acknowledged = Some(moment);
    }

    /// What was acknowledged before `moment` is durable: a flush or a command sent then has been answered.
    pub fn durable(&mut self, moment: u64) {
        self.durable_until = self.durable_until.max(moment);
    }

    /// A write by its number.
    pub fn write(&self, number: usize) -> &Write {
        &self.writes[number]
    }

    /// Whether nobody waits for an answer about this block.
    pub fn is_settled(&self, block: u64) -> bool {
        let last = self.by_block.get(&block).and_then(|numbers| numbers.last());
        last.is_none_or(|last| self.writes[*last].acknowledged.is_some())
    }

    /// The content of a write's block: its number and block in every sixteenth byte, so that a torn block shows.
    pub fn content(&self, number: usize) -> Vec<u8> {
        let mut pair = (number as u64 + 1).to_le_bytes().to_vec();
        pair.extend_from_slice(&self.writes[number].block.to_le_bytes());
        pair.repeat(BLOCK_BYTES / pair.len())
    }

    /// Which write each block of a volume shows. Panics on a block that shows none and is not zero.
    pub fn identify(&self, volume: &[u8]) -> Survivors {
        volume
            .chunks_exact(BLOCK_BYTES)
            .enumerate()
            .map(|(block, bytes)| self.identify_block(block, bytes))
            .collect()
    }

    fn identify_block(&self, block: usize, bytes: &[u8]) -> Option<usize> {
        let first = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let Some(number) = first.checked_sub(1).map(|number| number as usize) else {
            assert!(
                bytes.iter().all(|byte| *byte == 0),
                "block {block} begins with zeroes and goes on otherwise"
            );
            return None;
        };
        assert!(number < self.writes.len(), "block {block} shows a write that never was");
        assert_eq!(self.writes[number].block, block as u64, "block {block} shows another block's write");
        assert!(bytes == self.content(number), "block {block} is torn");
        Some(number)
    }

    /// Checks the rule above, and takes what survived as what is there from now on.
    pub fn settle(&mut self, survivors: &Survivors, moment: u64) {
        let seen = survivors.iter().flatten().map(|number| self.writes[*number].submitted).max();
        let horizon = self.durable_until.max(seen.unwrap_or(0));
        for (block, survivor) in survivors.iter().enumerate() {
            let numbers = self.by_block.get(&(block as u64)).map(Vec::as_slice).unwrap_or_default();
            let owed = numbers.iter().rev().find(|number| {
                self.writes[**number].acknowledged.is_some_and(|acknowledged| acknowledged < horizon)
            });
            assert!(
                survivor.is_some() || owed.is_none(),
                "block {block} is empty, but {:?} was before {horizon}",
                owed.map(|number| self.writes[*number])
            );
            if let (Some(survivor), Some(owed)) = (survivor, owed) {
                assert!(
                    survivor >= owed,
                    "block {block} shows {:?}, but {:?} was before {horizon}",
                    self.writes[*survivor],
                    self.writes[*owed]
                );
            }
        }
        self.forget_lost(survivors, moment);
    }

    /// After a power loss only the survivors have been.
    fn forget_lost(&mut self, survivors: &Survivors, moment: u64) {
        self.by_block.clear();
        for (block, number) in survivors.iter().enumerate().filter_map(|(block, n)| Some((block, (*n)?))) {
            self.by_block.insert(block as u64, vec![number]);
            self.writes[number].acknowledged.get_or_insert(moment);
        }
        self.durable(moment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks: write 0 to block 0, acknowledged; then write 1 to block 1, not acknowledged.
    fn two_writes() -> History {
        let mut history = History::default();
        history.submit(0, 1);
        history.acknowledge(0, 2);
        history.submit(1, 3);
        history
    }

    #[test]
    fn an_unflushed_write_may_be_gone() {
        two_writes().settle(&vec![None, None], 10);
        two_writes().settle(&vec![Some(0), None], 10);
        two_writes().settle(&vec![Some(0), Some(1)], 10);
    }

    #[test]
    #[should_panic(expected = "block 0 is empty")]
    fn a_later_write_without_the_earlier_is_reordering() {
        two_writes().settle(&vec![None, Some(1)], 10);
    }

    #[test]
    #[should_panic(expected = "block 0 is empty")]
    fn a_flushed_write_may_not_be_gone() {
        let mut history = two_writes();
        history.durable(3);
        history.settle(&vec![None, None], 10);
    }

    #[test]
    #[should_panic(expected = "block 0 shows")]
    fn an_older_write_may_not_come_back() {
        let mut history = two_writes();
        let newer = history.submit(0, 4);
        history.acknowledge(newer, 5);
        history.durable(6);
        history.settle(&vec![Some(0), Some(1)], 10);
    }

    #[test]
    #[should_panic(expected = "is torn")]
    fn a_torn_block_is_seen() {
        let history = two_writes();
        let mut volume = history.content(0);
        volume[4000] ^= 1;
        history.identify(&volume);
    }
}
