//! What is known of one volume, its checkpoints and its reference points: every name, size and write, and the operation
//! that brought it.
//!
//! Until a recovery settles it, nothing is replaced: what came later stands beside what was before, and the log tells
//! which of them a look may find.

use super::block::{BLOCK, Block, Bytes, Change, Data, Look, Put};
use super::log::{Log, NEVER, OpId, Span, Tick};
use std::collections::BTreeMap;

/// The number of a volume, whatever its name.
pub(crate) type VolumeId = usize;

/// The number of a checkpoint or reference point.
pub(crate) type PointId = usize;

/// From when to when something is there.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) born: OpId,
    pub(crate) ends: Vec<OpId>,
}

impl Life {
    pub(super) fn new(born: OpId) -> Self {
        Self { born, ends: Vec::new() }
    }

    fn ended(&self, log: &Log) -> impl Iterator<Item = OpId> {
        self.ends.iter().copied().filter(|end| !log.op(*end).void)
    }

    /// Whether a look may find it.
    pub(crate) fn may_be(&self, log: &Log, look: Span) -> bool {
        let born = log.op(self.born);
        let mut ended = self.ended(log);
        !born.void && born.span.from <= look.to && ended.all(|end| log.op(end).span.to >= look.from)
    }

    /// Whether a look must find it.
    pub(crate) fn must_be(&self, log: &Log, look: Span) -> bool {
        let born = log.op(self.born);
        let mut ended = self.ended(log);
        !born.void && born.span.to < look.from && ended.all(|end| log.op(end).span.from > look.to)
    }

    /// Whether anybody has reason to think that it is there.
    pub(super) fn is_likely(&self, log: &Log) -> bool {
        !log.op(self.born).void && self.ended(log).next().is_none()
    }
}

/// A mark on a volume's clock: made by a checkpoint or a reference point, and kept by a token.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) made: OpId,
    /// What has changed since, up to now (`None`) and to checkpoints, as of the last recovery.
    pub(crate) settled: BTreeMap<Option<PointId>, Vec<bool>>,
    pub(crate) tokens: Vec<String>,
}

/// A checkpoint or reference point.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) name: String,
    pub(crate) life: Life,
    pub(crate) mark: usize,
    /// Of a checkpoint: its size in blocks where it is known, and the blocks that were read.
    pub(crate) image: Option<Image>,
}

/// What is known of a checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) size: Option<u64>,
    pub(crate) blocks: BTreeMap<u64, Bytes>,
}

impl Image {
    pub(crate) fn is_known(&self) -> bool {
        self.size.is_some_and(|size| self.blocks.len() as u64 == size)
    }
}

/// A volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) names: Vec<(String, Life)>,
    /// Sizes in blocks, and what brought them.
    pub(crate) sizes: Vec<(OpId, u64)>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) points: Vec<Point>,
    pub(crate) marks: Vec<Mark>,
    /// A client may have it open for writing, or a revert may hold it.
    pub(crate) busy: bool,
    /// A clone may hold it.
    pub(crate) cloned: bool,
    /// A revert may hold it.
    pub(crate) reverted: bool,
    /// Somebody wanted another name for it.
    pub(crate) renamed: bool,
    /// Somebody wanted it to wait. It then keeps its name, by which it is let go of in the end.
    pub(crate) suspended: bool,
    /// When somebody first used force.
    pub(crate) forced: Tick,
    /// Somebody has asked for more of it in one piece than the appliance holds at a time.
    pub(crate) read_whole: bool,
}

impl Volume {
    pub(super) fn new(name: &str, born: OpId, size: u64, blocks: Vec<Block>) -> Self {
        Self {
            names: vec![(name.into(), Life::new(born))],
            sizes: vec![(born, size)],
            blocks,
            points: Vec::new(),
            marks: Vec::new(),
            busy: false,
            cloned: false,
            reverted: false,
            renamed: false,
            suspended: false,
            forced: NEVER,
            read_whole: false,
        }
    }

    /// The name it most likely has.
    pub(crate) fn name(&self, log: &Log) -> Option<&str> {
        let mut names = self.names.iter().rev();
        names.find(|(_, life)| life.is_likely(log)).map(|(name, _)| name.as_str())
    }

    pub(crate) fn must_be(&self, log: &Log, look: Span) -> bool {
        // A rename ends one name and begins another at one instant.
        let mut ends = self.names.iter().flat_map(|(_, life)| life.ended(log));
        let born = log.op(self.names[0].1.born);
        let renames: Vec<OpId> = self.names[1..].iter().map(|(_, life)| life.born).collect();
        !born.void
            && born.span.to < look.from
            && ends.all(|end| renames.contains(&end) || log.op(end).span.from > look.to)
    }

    /// The sizes that a look may find.
    pub(crate) fn sizes_at<'a>(&'a self, log: &'a Log, look: Look) -> impl Iterator<Item = u64> + 'a {
        let live = move |op: OpId| !log.op(op).void && log.op(op).span.from <= look.span.to;
        let been = move |op: OpId| {
            let op = log.op(op);
            op.span.to < look.span.from || (look.durable && op.durable && op.span.to < NEVER)
        };
        self.sizes.iter().filter(move |(op, _)| live(*op)).filter_map(move |(op, size)| {
            let later = |over: OpId| log.op(*op).span.to < log.op(over).span.from;
            let mut others = self.sizes.iter().filter(|(over, _)| live(*over));
            (!others.any(|(over, _)| later(*over) && been(*over))).then_some(*size)
        })
    }

    pub(super) fn likely_size(&self, log: &Log) -> u64 {
        self.likely_size_before(log, OpId::MAX)
    }

    pub(super) fn likely_size_before(&self, log: &Log, op: OpId) -> u64 {
        let mut sizes = self.sizes.iter().rev();
        sizes.find(|(by, _)| *by < op && !log.op(*by).void).map_or(1, |(_, size)| *size)
    }

    pub(super) fn put(&mut self, block: u64, put: Put) {
        let at = block as usize;
        if self.blocks.len() <= at {
            self.blocks.resize(at + 1, Block::default());
        }
        self.blocks[at].puts.push(put);
    }

    /// Every block in `first..end` by operation `op`.
    pub(super) fn put_all(
        &mut self,
        op: OpId,
        first: u64,
        end: u64,
        data: impl Fn(u64) -> Data,
        change: Change,
    ) {
        for block in first..end {
            let put = Put { op, start: 0, end: BLOCK, data: data(block), change, seen: NEVER };
            self.put(block, put);
        }
    }

    /// Whether a block must, and may, count as changed since a mark, up to now or to a checkpoint.
    pub(super) fn changed(
        &self,
        log: &Log,
        mark: &Mark,
        until: Option<PointId>,
        block: u64,
        look: Look,
    ) -> (bool, bool) {
        let bit = |bits: &Vec<bool>| bits.get(block as usize).copied().unwrap_or(false);
        if let (Some(_), Some(bits)) = (until, mark.settled.get(&until)) {
            return (bit(bits), bit(bits));
        }
        let before = mark.settled.get(&None).is_some_and(bit);
        let made = log.op(mark.made).span;
        let (mut must, mut may) = (before, before);
        for put in self.blocks.get(block as usize).iter().flat_map(|block| &block.puts) {
            let sent = log.op(put.op).span.from;
            if log.op(put.op).void || put.change == Change::No {
                continue;
            }
            must |= put.change == Change::Yes && made.to < sent && put.has_been(log, look);
            may |= put.done_by(log) >= made.from && sent <= look.span.to;
        }
        (must, may)
    }
}

/// Where a client reads: a volume, or one of its checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) volume: VolumeId,
    pub(crate) checkpoint: Option<PointId>,
}
