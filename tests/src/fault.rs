//! A disk that misbehaves on demand: a wrapper around any block device, driven by rules.
//!
//! A rule names the kind of request and the blocks it is about, how many matching requests it lets pass
//! first, how often it strikes, and what it does: fail, or (writes) claim success and do nothing. Without rules the
//! wrapper changes nothing. Clones share the rules.

use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};
use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

/// Kind of request that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Discard,
}

/// What a rule does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The request fails; a write leaves nothing behind.
    Fail,
    /// The request fails, but its first half was written.
    FailHalfway,
    /// The request succeeds and nothing was done.
    Lose,
}

/// When and how a disk misbehaves.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The kind of request.
    pub on: Request,
    /// Requests that touch these blocks (flushes touch all).
    pub blocks: Range<u64>,
    /// Matching requests that pass unharmed first.
    pub after: u64,
    /// Matching requests that are struck then.
    pub times: u64,
    /// What becomes of them.
    pub effect: Effect,
}

impl Rule {
    /// Every request of a kind fails.
    pub fn always(on: Request) -> Self {
        Self { on, blocks: 0..u64::MAX, after: 0, times: u64::MAX, effect: Effect::Fail }
    }

    /// The next request of a kind fails.
    pub fn once(on: Request) -> Self {
        Self { times: 1, ..Self::always(on) }
    }

    /// Lets `after` matching requests pass first.
    #[must_use]
    pub fn after(self, after: u64) -> Self {
        Self { after, ..self }
    }

    /// Only requests that touch `blocks`.
    #[must_use]
    pub fn within(self, blocks: Range<u64>) -> Self {
        Self { blocks, ..self }
    }

    /// With this effect.
    #[must_use]
    pub fn with(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    fn strikes(&mut self, on: Request, blocks: &Range<u64>) -> bool {
        let touches =
            on == Request::Flush || (self.blocks.start < blocks.end && blocks.start < self.blocks.end);
        if self.on != on || !touches {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times = self.times.saturating_sub(if self.times == u64::MAX { 0 } else { 1 });
        true
    }
}

/// A device with rules of misbehaviour.
#[derive(Clone, Debug)]
pub struct FaultyDisk<D> {
    inner: D,
    rules: Rc<RefCell<Vec<Rule>>>,
}

impl<D> FaultyDisk<D> {
    /// A device that behaves, until told otherwise.
    pub fn new(inner: D) -> Self {
        Self { inner, rules: Rc::default() }
    }

    /// The device itself.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Adds a rule.
    pub fn add(&self, rule: Rule) {
        self.rules.borrow_mut().push(rule);
    }

    /// Behaves again.
    pub fn heal(&self) {
        self.rules.borrow_mut().clear();
    }

    fn effect(&self, on: Request, start: u64, count: u64) -> Option<Effect> {
        let blocks = start..start.saturating_add(count);
        let mut rules = self.rules.borrow_mut();
        let effect = rules.iter_mut().find_map(|rule| rule.strikes(on, &blocks).then_some(rule.effect));
        rules.retain(|rule| rule.times > 0);
        effect
    }
}

fn outcome(effect: Effect) -> Result<(), DeviceError> {
    if effect == Effect::Lose { Ok(()) } else { Err(DeviceError::Io) }
}

impl<D: BlockDevice> BlockDevice for FaultyDisk<D> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, start: u64, into: Vec<Block>) -> impl Future<Output = Transfer> {
        let effect = self.effect(Request::Read, start, into.len() as u64);
        let request = self.inner.read(start, into);
        async move {
            let (buffers, result) = request.await;
            (buffers, effect.map_or(result, outcome))
        }
    }

    fn write(&self, start: u64, from: Vec<Block>) -> impl Future<Output = Transfer> {
        let effect = self.effect(Request::Write, start, from.len() as u64);
        let (sent, held) = match effect {
            None => (from, Vec::new()),
            Some(Effect::FailHalfway) => {
                let mut sent = from;
                let held = sent.split_off(sent.len() / 2);
                (sent, held)
            }
            Some(_) => (Vec::new(), from),
        };
        let request = self.inner.write(start, sent);
        async move {
            let (mut buffers, result) = request.await;
            buffers.extend(held);
            (buffers, effect.map_or(result, outcome))
        }
    }

    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> {
        let effect = self.effect(Request::Flush, 0, 0);
        let request = effect.is_none().then(|| self.inner.flush());
        async move {
            match request {
                Some(request) => request.await,
                None => effect.map_or(Ok(()), outcome),
            }
        }
    }

    fn discard(&self, start: u64, count: u64) -> impl Future<Output = Result<(), DeviceError>> {
        let effect = self.effect(Request::Discard, start, count);
        let request = effect.is_none().then(|| self.inner.discard(start, count));
        async move {
            match request {
                Some(request) => request.await,
                None => effect.map_or(Ok(()), outcome),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::executor::Executor;

    #[test]
    fn rules_strike_when_where_and_as_often_as_they_say() {
        let disk = FaultyDisk::new(SimulatedDisk::blank("d", 64));
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.inner().clone()));
        let block = || vec![Box::new([1; 4096])];
        disk.add(Rule::once(Request::Write).within(8..16).after(1));
        let mut write = |at| executor.run(disk.write(at, block())).1.is_ok();
        assert_eq!([write(0), write(8), write(0), write(9), write(10)], [true, true, true, false, true]);
    }

    #[test]
    fn a_lost_write_is_acknowledged_and_not_there() {
        let disk = FaultyDisk::new(SimulatedDisk::blank("d", 64));
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.inner().clone()));
        disk.add(Rule::once(Request::Write).with(Effect::Lose));
        assert!(executor.run(disk.write(5, vec![Box::new([1; 4096])])).1.is_ok());
        assert_eq!(disk.inner().visible().block(5)[0], 0);
    }
}
