//! What a block may show: a register that several clients write at once.
//!
//! One rule serves for reads, for checkpoints and for what is there after a power loss. Each is a *look* at some
//! instant of a span. A byte may show what a write left there if that write was sent before the look's end and is
//! not certainly overwritten: no write that certainly came after it has certainly been by the look's beginning. A
//! write that is seen anywhere in a block has been: a block changes as a whole.

use super::log::{Log, NEVER, OpId, Span, Tick};
use crate::rng::mix;
use std::rc::Rc;

/// Bytes in a block.
pub(crate) const BLOCK: usize = 4096;

/// The bytes of a block.
pub(crate) type Bytes = Rc<[u8; BLOCK]>;

/// What a write leaves.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    /// Bytes that follow from the operation's number and their place in the volume.
    Own,
    Zero,
    Bytes(Bytes),
}

/// Whether a write counts as a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Yes,
    No,
    /// Only if something else was there.
    Perhaps,
}

/// The part of an operation that is about one block.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) op: OpId,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) data: Data,
    pub(crate) change: Change,
    /// When it was first seen.
    pub(crate) seen: Tick,
}

/// How to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) span: Span,
    /// After a power loss: what is durable is there, whenever it was answered.
    pub(crate) durable: bool,
}

impl Look {
    pub(crate) fn at(span: Span) -> Self {
        Self { span, durable: false }
    }
}

/// The byte that operation `op` writes at `at`.
pub(crate) fn own_byte(op: OpId, at: u64) -> u8 {
    (mix((op as u64) << 40 ^ at >> 3) >> (8 * (at & 7))) as u8
}

impl Put {
    pub(crate) fn done_by(&self, log: &Log) -> Tick {
        log.op(self.op).span.to.min(self.seen)
    }

    fn is(&self, block: u64, start: usize, bytes: &[u8]) -> bool {
        match &self.data {
            Data::Zero => bytes.iter().all(|byte| *byte == 0),
            Data::Bytes(known) => known[start..start + bytes.len()] == *bytes,
            Data::Own => {
                let at = block * BLOCK as u64 + start as u64;
                (at..).zip(bytes).all(|(at, byte)| own_byte(self.op, at) == *byte)
            }
        }
    }

    fn covers(&self, start: usize, end: usize) -> bool {
        self.start <= start && end <= self.end
    }

    /// Whether it has been by the beginning of a look.
    pub(crate) fn has_been(&self, log: &Log, look: Look) -> bool {
        let done = self.done_by(log);
        done < look.span.from || (look.durable && log.op(self.op).durable && done < NEVER)
    }
}

/// All that was asked of one block, in the order in which it was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    pub(crate) puts: Vec<Put>,
    /// Those before the last recovery, which only a disk of an earlier day may bring back.
    old: Vec<Put>,
}

impl Block {
    pub(crate) fn new(op: OpId, data: Data, change: Change) -> Self {
        Self { puts: vec![Put { op, start: 0, end: BLOCK, data, change, seen: NEVER }], old: Vec::new() }
    }

    /// It holds this since a recovery, whatever was asked before.
    pub(crate) fn settled(self, op: OpId, bytes: Bytes) -> Self {
        let old = [self.old, self.puts].concat();
        Self { old, ..Self::new(op, Data::Bytes(bytes), Change::No) }
    }

    /// With all that was ever asked of it.
    pub(crate) fn with_old(&self) -> Self {
        Self { puts: [&self.old[..], &self.puts].concat(), old: Vec::new() }
    }

    /// Looks at bytes `start..` of it. Returns which puts they certainly show.
    pub(crate) fn look(
        &self,
        log: &Log,
        block: u64,
        start: usize,
        bytes: &[u8],
        look: Look,
    ) -> Result<Vec<usize>, String> {
        let end = start + bytes.len();
        let may = |put: &Put| {
            let op = log.op(put.op);
            !op.void && op.span.from <= look.span.to && put.start < end && start < put.end
        };
        let candidates: Vec<usize> = (0..self.puts.len()).filter(|at| may(&self.puts[*at])).collect();
        let mut cuts: Vec<usize> =
            candidates.iter().flat_map(|at| [self.puts[*at].start, self.puts[*at].end]).collect();
        cuts.retain(|cut| start < *cut && *cut < end);
        cuts.extend([start, end]);
        cuts.sort_unstable();
        cuts.dedup();
        let shown = |from: usize, to: usize| -> Vec<usize> {
            let bytes = &bytes[from - start..to - start];
            let shows = |put: &Put| put.covers(from, to) && put.is(block, from, bytes);
            candidates.iter().copied().filter(|at| shows(&self.puts[*at])).collect()
        };
        let pieces: Vec<(usize, usize, Vec<usize>)> =
            cuts.windows(2).map(|cut| (cut[0], cut[1], shown(cut[0], cut[1]))).collect();
        let mut seen: Vec<usize> = Vec::new();
        for (from, to, shown) in &pieces {
            // A few bytes may be alike by chance.
            if let [only] = shown[..]
                && (to - from >= 8 || matches!(self.puts[only].data, Data::Zero | Data::Bytes(_)))
                && !seen.contains(&only)
            {
                seen.push(only);
            }
        }
        for (from, to, shown) in &pieces {
            let stale = |at: usize| {
                let put = &self.puts[at];
                candidates.iter().copied().find(|newer| {
                    let over = &self.puts[*newer];
                    *newer != at
                        && over.start < *to
                        && *from < over.end
                        && put.done_by(log) < log.op(over.op).span.from
                        && (over.has_been(log, look) || seen.contains(newer))
                })
            };
            if shown.iter().all(|at| stale(*at).is_some()) {
                let place = format!("bytes {from}..{to} of block {block}");
                return Err(match shown.first() {
                    None => format!("{place} show what nobody wrote there"),
                    Some(at) => format!(
                        "{place} show [{}], although [{}] came later and has been",
                        log.line(self.puts[*at].op),
                        stale(*at).map(|at| log.line(self.puts[at].op)).unwrap_or_default()
                    ),
                });
            }
        }
        self.one_order(log, block, &pieces, &seen)?;
        Ok(seen)
    }

    /// Two writes that are both seen where both have been cannot each be the later one.
    fn one_order(
        &self,
        log: &Log,
        block: u64,
        pieces: &[(usize, usize, Vec<usize>)],
        seen: &[usize],
    ) -> Result<(), String> {
        let over = |a: usize, b: usize| {
            pieces.iter().any(|(from, to, shown)| shown[..] == [a] && self.puts[b].covers(*from, *to))
        };
        for (at, a) in seen.iter().enumerate() {
            for b in &seen[..at] {
                if over(*a, *b) && over(*b, *a) {
                    let (a, b) = (log.line(self.puts[*a].op), log.line(self.puts[*b].op));
                    return Err(format!("block {block} is torn between [{a}] and [{b}]"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with zeroes, and writes to it.
    struct Story {
        log: Log,
        block: Block,
    }

    impl Story {
        fn new() -> Self {
            let mut log = Log::default();
            let op = log.send("create".into());
            log.done_durably(op, "ok");
            Self { log, block: Block::new(op, Data::Zero, Change::No) }
        }

        fn send(&mut self, start: usize, end: usize) -> OpId {
            let op = self.log.send("write".into());
            self.block.puts.push(Put { op, start, end, data: Data::Own, change: Change::Yes, seen: NEVER });
            op
        }

        fn write(&mut self, start: usize, end: usize) -> OpId {
            let op = self.send(start, end);
            self.log.done(op, "ok");
            op
        }

        /// The bytes after these writes, in this order.
        fn bytes(&self, ops: &[OpId]) -> [u8; BLOCK] {
            let mut bytes = [0; BLOCK];
            for op in ops {
                let put = self.block.puts.iter().find(|put| put.op == *op).unwrap();
                (put.start..put.end).for_each(|at| bytes[at] = own_byte(*op, at as u64));
            }
            bytes
        }

        fn read(&mut self, bytes: &[u8]) -> Result<Vec<usize>, String> {
            let span = Span { from: self.log.now(), to: self.log.now() };
            self.block.look(&self.log, 0, 0, bytes, Look::at(span))
        }

        fn recover(&self, bytes: &[u8]) -> Result<Vec<usize>, String> {
            let span = Span { from: self.log.durable(), to: NEVER - 1 };
            self.block.look(&self.log, 0, 0, bytes, Look { span, durable: true })
        }
    }

    #[test]
    fn a_read_shows_what_was_answered() {
        let mut story = Story::new();
        let (first, second) = (story.write(0, BLOCK), story.write(100, 200));
        assert!(story.read(&story.bytes(&[first, second])).is_ok());
        for stale in [story.bytes(&[]), story.bytes(&[first]), story.bytes(&[second])] {
            assert!(story.read(&stale).is_err());
        }
        let mut wrong = story.bytes(&[first, second]);
        wrong[150] ^= 1;
        assert!(story.read(&wrong).is_err_and(|what| what.contains("nobody wrote")));
    }

    #[test]
    fn what_is_under_way_together_comes_in_some_order() {
        let mut story = Story::new();
        let (first, second) = (story.send(0, 3000), story.send(2000, BLOCK));
        for order in [&[][..], &[first], &[second], &[first, second], &[second, first]] {
            assert!(story.read(&story.bytes(order)).is_ok(), "{order:?}");
        }
        let mut torn = story.bytes(&[first]);
        torn[..1000].fill(0);
        assert!(story.read(&torn).is_err(), "half a write");
        let third = story.send(2500, 2600);
        let mut torn = story.bytes(&[first, second, third]);
        torn[2000..2500].copy_from_slice(&story.bytes(&[first])[2000..2500]);
        assert!(story.read(&torn).is_err_and(|what| what.contains("torn")));
    }

    #[test]
    fn a_recovery_may_lose_what_nobody_vouched_for() {
        let mut story = Story::new();
        let first = story.write(0, BLOCK);
        assert!(story.recover(&story.bytes(&[])).is_ok());
        assert!(story.recover(&story.bytes(&[first])).is_ok());
        let flush = story.log.send("flush".into());
        let second = story.write(0, 100);
        story.log.done_durably(flush, "ok");
        assert!(story.recover(&story.bytes(&[])).is_err(), "what was flushed is gone");
        assert!(story.recover(&story.bytes(&[first])).is_ok());
        assert!(story.recover(&story.bytes(&[first, second])).is_ok());
        let third = story.send(200, 300);
        story.log.done_durably(third, "ok");
        assert!(story.recover(&story.bytes(&[first])).is_err(), "what was vouched for is gone");
        assert!(story.recover(&story.bytes(&[first, second, third])).is_ok());
    }
}
