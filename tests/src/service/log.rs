//! The log of what clients asked for and were told: the one thing everything is judged by.
//!
//! An operation takes effect at one instant between its sending and its answer; one without an answer may have
//! taken effect at any time since it was sent, or never. Moments are ticks of a clock that advances with every
//! entry.

use std::fmt::Write;

/// A moment.
pub(crate) type Tick = u64;

/// No answer, ever.
pub(crate) const NEVER: Tick = Tick::MAX;

/// The number of an operation in the log.
pub(crate) type OpId = usize;

/// When something was looked at, or happened: at one instant from one moment to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Tick,
    pub(crate) to: Tick,
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    what: String,
    outcome: String,
    pub(crate) span: Span,
    /// Its answer vouches for its own durability.
    pub(crate) durable: bool,
    /// It was refused, and has not happened.
    pub(crate) void: bool,
    /// It happens wholly or not at all.
    whole: bool,
    /// The latest of what is known to have been there when it happened: it was no earlier.
    pub(crate) reached: Tick,
}

/// All operations, in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    ops: Vec<Op>,
    tick: Tick,
    /// Whatever was answered before is durable.
    durable: Tick,
}

impl Log {
    /// The next moment.
    pub(crate) fn now(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    /// An operation is about to be sent.
    pub(crate) fn send(&mut self, what: String) -> OpId {
        let from = self.now();
        let span = Span { from, to: NEVER };
        let (outcome, durable, void, whole) = (String::new(), false, false, false);
        self.ops.push(Op { what, outcome, span, durable, void, whole, reached: from });
        self.ops.len() - 1
    }

    /// The answer came: it has happened.
    pub(crate) fn done(&mut self, op: OpId, outcome: &str) -> Span {
        let now = self.now();
        let op = &mut self.ops[op];
        op.span.to = op.span.to.min(now);
        op.outcome = format!("{now} {outcome}");
        Span { from: op.span.from, to: now }
    }

    /// The answer came: it is durable, and with it what was answered before it was sent.
    pub(crate) fn done_durably(&mut self, op: OpId, outcome: &str) -> Span {
        let span = self.done(op, outcome);
        self.ops[op].durable = true;
        self.durable = self.durable.max(span.from);
        span
    }

    /// The answer came: it has not happened.
    pub(crate) fn refused(&mut self, op: OpId, outcome: &str) -> Span {
        let span = self.failed(op, outcome);
        self.ops[op].void = true;
        span
    }

    /// The answer came, and leaves open whether it has happened or will yet.
    pub(crate) fn failed(&mut self, op: OpId, outcome: &str) -> Span {
        let now = self.now();
        self.ops[op].outcome = format!("{now} {outcome}");
        Span { from: self.ops[op].span.from, to: now }
    }

    /// An operation that happens wholly or not at all.
    pub(crate) fn whole(&mut self, op: OpId) {
        self.ops[op].whole = true;
    }

    /// A recovery shows that it has happened. What happens in parts is not known to have happened everywhere.
    pub(crate) fn happened(&mut self, op: OpId) {
        let now = self.now();
        let op = &mut self.ops[op];
        if op.whole {
            op.span.to = op.span.to.min(now);
            op.durable = true;
        }
    }

    pub(crate) fn op(&self, op: OpId) -> &Op {
        &self.ops[op]
    }

    /// An operation is known to have happened after another moment.
    pub(crate) fn reach(&mut self, op: OpId, moment: Tick) {
        let reached = &mut self.ops[op].reached;
        *reached = (*reached).max(moment);
    }

    pub(crate) fn durable(&self) -> Tick {
        self.durable
    }

    /// Everything so far is durable, after a recovery.
    pub(crate) fn recovered(&mut self) -> OpId {
        let op = self.send("recovery".into());
        self.done_durably(op, "");
        self.durable = self.now();
        op
    }

    /// One line for an operation.
    pub(crate) fn line(&self, op: OpId) -> String {
        let Op { what, outcome, span, .. } = &self.ops[op];
        let outcome = if outcome.is_empty() { "no answer" } else { outcome };
        format!("#{op} {} {what} -> {outcome}", span.from)
    }

    /// All of it, for a person.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for op in 0..self.ops.len() {
            let _ = writeln!(text, "  {}", self.line(op));
        }
        text
    }
}
