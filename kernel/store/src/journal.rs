//! The intent log's memory: operations that no record holds yet, and where the next record goes.
//!
//! A freeze *cuts* the log: what was applied before it and is in no record may still be asked for by a flush
//! during the commit, and then goes out in records of its own, so that no record spans a commit.

use crate::device::BLOCK_SIZE;
use crate::format::journal::{HEADER_SIZE, Operation, PAYLOAD_MAX};
use crate::format::superblock::LogPosition;
use alloc::vec::Vec;

/// Encoded operations, with the ends of each.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Splits into payloads that end at operations' boundaries.
    pub(crate) fn payloads(&self) -> Vec<&[u8]> {
        let mut payloads = Vec::new();
        let (mut start, mut end) = (0, 0);
        for &next in &self.ends {
            if next - start > PAYLOAD_MAX {
                payloads.push(&self.bytes[start..end]);
                start = end;
            }
            end = next;
        }
        if end > start {
            payloads.push(&self.bytes[start..end]);
        }
        payloads
    }
}

/// The log as memory knows it.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Applied, in no record yet.
    pending: Batch,
    /// The same, but from before the freeze of the commit under way.
    cut: Batch,
    /// Where the log of the commit under way starts; known once the cut is settled.
    cut_end: Option<LogPosition>,
    /// Where the next record goes.
    pub(crate) position: LogPosition,
    /// The first block that the newest durable superblock still needs.
    pub(crate) start: u64,
    /// Operations applied so far, those a flush or commit made durable, and those a freeze has seen.
    pub(crate) applied: u64,
    pub(crate) durable: u64,
    pub(crate) frozen: u64,
    /// A record is being written and flushed.
    pub(crate) busy: bool,
    /// A superblock is being written: no record may be until that is done.
    pub(crate) sealing: bool,
}

impl Journal {
    pub(crate) fn new(position: LogPosition) -> Self {
        Self {
            pending: Batch::default(),
            cut: Batch::default(),
            cut_end: None,
            position,
            start: position.block,
            applied: 0,
            durable: 0,
            frozen: 0,
            busy: false,
            sealing: false,
        }
    }

    /// Notes an applied operation.
    pub(crate) fn push(&mut self, operation: &Operation) {
        operation.encode_to(&mut self.pending.bytes);
        self.pending.ends.push(self.pending.bytes.len());
        self.applied += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.cut.is_empty() && self.applied == self.frozen
    }

    /// Bytes of operations that wait for a record.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.bytes.len()
    }

    /// Ring blocks in use, of `ring`.
    pub(crate) fn used(&self, ring: u64) -> u64 {
        (self.position.block + ring - self.start) % ring.max(1)
    }

    /// What to write next: first what a freeze cut off, then the rest.
    pub(crate) fn take(&mut self) -> (Batch, bool) {
        if self.cut.is_empty() {
            (core::mem::take(&mut self.pending), false)
        } else {
            (core::mem::take(&mut self.cut), true)
        }
    }

    /// The cut is on its way in records; what follows belongs to the coming commit.
    pub(crate) fn cut_written(&mut self) {
        self.cut_end = Some(self.position);
    }

    /// Where a record of `blocks` goes in a ring of that many; `None` where it must wait for a commit.
    pub(crate) fn place(&self, blocks: u64, ring: u64) -> Option<u64> {
        let (position, start) = (self.position.block, self.start);
        if position < start {
            return (position + blocks < start).then_some(position);
        }
        if position + blocks <= ring {
            return Some(position);
        }
        (blocks < start).then_some(0)
    }

    /// Whether the next batch finds room without a commit. Asked before a batch is taken: while one is being
    /// written no commit can freeze.
    pub(crate) fn next_batch_fits(&self, ring: u64) -> bool {
        let batch = if self.cut.is_empty() { &self.pending } else { &self.cut };
        let payloads = batch.payloads();
        let blocks = payloads.iter().map(|p| (HEADER_SIZE + p.len()).div_ceil(BLOCK_SIZE) as u64).sum();
        self.place(blocks, ring).is_some()
    }

    /// Cuts the log at a freeze.
    pub(crate) fn freeze(&mut self) {
        assert!(self.cut.is_empty() && !self.busy);
        self.cut = core::mem::take(&mut self.pending);
        self.cut_end = self.cut.is_empty().then_some(self.position);
        self.frozen = self.applied;
    }

    /// Where the log of the commit about to be sealed starts.
    pub(crate) fn seal(&mut self) -> LogPosition {
        self.sealing = true;
        self.cut_end.unwrap_or(self.position)
    }

    /// The commit is durable, and with it all that was cut.
    pub(crate) fn committed(&mut self, log: LogPosition) {
        self.cut = Batch::default();
        self.cut_end = None;
        self.start = log.block;
        self.durable = self.durable.max(self.frozen);
        self.sealing = false;
    }
}
