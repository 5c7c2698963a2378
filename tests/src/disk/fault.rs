//! A disk that misbehaves on demand: a wrapper around the simulated disk, driven by rules.
//!
//! A rule names the kind of request and the blocks it is about, how many matching requests it lets pass
//! first, how often it strikes, and what it does: fail, come late, lie, or do the wrong thing. Without rules the
//! wrapper changes nothing. Clones share the rules.

use crate::disk::SimulatedDisk;
use crate::disk::held::pause;
use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};
use std::cell::{Cell, RefCell};
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
    /// Any of them.
    Any,
}

/// What a rule does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The request fails; a write leaves nothing behind.
    Fail,
    /// The request fails, but its first half was written, be it that of a single block.
    FailHalfway,
    /// The disk loses what no flush has made durable, and the flush fails so many turns later. The next one succeeds and brings
    /// nothing back.
    Forget(u32),
    /// The request succeeds and nothing was done. With a flush, what it was for is lost.
    Lose,
    /// A flush succeeds and was not done: what it was for stays in the cache. Nothing to the others.
    Skip,
    /// One bit of what is written or read is another one. Nothing to flushes and discards.
    Corrupt,
    /// A write goes to the blocks behind its own. Nothing to the others.
    Misdirect,
    /// The request is done, and its answer takes so many turns more.
    Delay(u32),
    /// The request is done, and its answer never comes.
    Withhold,
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
    /// Once struck, it goes on for good at the blocks it struck first, and only there.
    pub sticks: bool,
}

impl Rule {
    /// Every request of a kind fails.
    pub fn always(on: Request) -> Self {
        Self { on, blocks: 0..u64::MAX, after: 0, times: u64::MAX, effect: Effect::Fail, sticks: false }
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

    /// A bad place: from its first strike on, for good, at the blocks it struck.
    #[must_use]
    pub fn sticking(self) -> Self {
        Self { sticks: true, ..self }
    }

    /// With this effect.
    #[must_use]
    pub fn with(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    fn strikes(&mut self, on: Request, blocks: &Range<u64>) -> bool {
        let touches =
            on == Request::Flush || (self.blocks.start < blocks.end && blocks.start < self.blocks.end);
        if (self.on != on && self.on != Request::Any) || !touches {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        if self.sticks {
            (self.blocks, self.times, self.sticks) = (blocks.clone(), u64::MAX, false);
        }
        self.times = self.times.saturating_sub(if self.times == u64::MAX { 0 } else { 1 });
        true
    }
}

/// A disk with rules of misbehaviour.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    inner: SimulatedDisk,
    rules: Rc<RefCell<Vec<Rule>>>,
    struck: Rc<Cell<u64>>,
    misdeeds: Rc<RefCell<Vec<(Request, Effect)>>>,
}

impl FaultyDisk {
    /// A disk that behaves, until told otherwise.
    pub fn new(inner: SimulatedDisk) -> Self {
        Self { inner, rules: Rc::default(), struck: Rc::default(), misdeeds: Rc::default() }
    }

    /// The disk itself.
    pub fn inner(&self) -> &SimulatedDisk {
        &self.inner
    }

    /// Adds a rule.
    pub fn add(&self, rule: Rule) {
        self.rules.borrow_mut().push(rule);
    }

    /// Whether it behaves.
    pub fn is_honest(&self) -> bool {
        self.rules.borrow().is_empty()
    }

    /// Behaves again.
    pub fn heal(&self) {
        self.rules.borrow_mut().clear();
        self.misdeeds.borrow_mut().clear();
    }

    /// What it has done to which kind of request since it was healed, each once.
    pub fn misdeeds(&self) -> Vec<(Request, Effect)> {
        self.misdeeds.borrow().clone()
    }

    /// Requests that a rule has struck so far.
    pub fn struck(&self) -> u64 {
        self.struck.get()
    }

    fn effect(&self, on: Request, start: u64, count: u64) -> Option<Effect> {
        let blocks = start..start.saturating_add(count);
        let mut rules = self.rules.borrow_mut();
        let effect = rules.iter_mut().find_map(|rule| rule.strikes(on, &blocks).then_some(rule.effect));
        rules.retain(|rule| rule.times > 0);
        if let Some(effect) = effect {
            self.struck.set(self.struck.get() + 1);
            let mut misdeeds = self.misdeeds.borrow_mut();
            if !misdeeds.contains(&(on, effect)) {
                misdeeds.push((on, effect));
            }
        }
        effect
    }

    /// Leaves of what is written at `start` the first half.
    fn halve(&self, start: u64, blocks: &mut Vec<Block>) {
        match blocks.as_mut_slice() {
            [block] => {
                let half = block.len() / 2;
                block[half..].copy_from_slice(&self.inner.visible().block(start)[half..]);
            }
            _ => blocks.truncate(blocks.len() / 2),
        }
    }
}

/// What a struck request answers, after the time it takes.
async fn outcome(effect: Option<Effect>, result: Result<(), DeviceError>) -> Result<(), DeviceError> {
    match effect {
        Some(Effect::Fail | Effect::FailHalfway) => return Err(DeviceError::Io),
        Some(Effect::Forget(turns)) => {
            pause(turns).await;
            return Err(DeviceError::Io);
        }
        Some(Effect::Lose) => return Ok(()),
        Some(Effect::Delay(turns)) => pause(turns).await,
        Some(Effect::Withhold) => std::future::pending().await,
        Some(Effect::Corrupt | Effect::Misdirect | Effect::Skip) | None => {}
    }
    result
}

/// Whether a request goes to the device although it was struck.
fn is_done(effect: Option<Effect>) -> bool {
    !matches!(effect, Some(Effect::Fail | Effect::FailHalfway | Effect::Forget(_) | Effect::Lose))
}

/// Turns one bit over.
fn corrupt(blocks: &mut [Block]) {
    if let Some(block) = blocks.first_mut() {
        block[77] ^= 8;
    }
}

impl BlockDevice for FaultyDisk {
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
            let (mut buffers, result) = request.await;
            if effect == Some(Effect::Corrupt) {
                corrupt(&mut buffers);
            }
            (buffers, outcome(effect, result).await)
        }
    }

    fn write(&self, start: u64, from: Vec<Block>) -> impl Future<Output = Transfer> {
        let count = from.len() as u64;
        let effect = self.effect(Request::Write, start, count);
        let (mut sent, mut held) = (from, Vec::new());
        let mut to = start;
        match effect {
            Some(Effect::FailHalfway) => {
                held = sent.clone();
                self.halve(start, &mut sent);
            }
            Some(Effect::Corrupt) => {
                held = sent.clone();
                corrupt(&mut sent);
            }
            // The superblocks at a disk's end have nothing behind them.
            Some(Effect::Misdirect) if start + 2 * count <= self.geometry().blocks => to = start + count,
            _ if !is_done(effect) => held = std::mem::take(&mut sent),
            _ => {}
        }
        let request = self.inner.write(to, sent);
        async move {
            let (mut buffers, result) = request.await;
            if matches!(effect, Some(Effect::Corrupt | Effect::FailHalfway)) {
                buffers.clear();
            }
            buffers.extend(held);
            (buffers, outcome(effect, result).await)
        }
    }

    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> {
        let effect = self.effect(Request::Flush, 0, 0);
        if matches!(effect, Some(Effect::Forget(_) | Effect::Lose)) {
            self.inner.lose_cache();
        }
        let request = (is_done(effect) && effect != Some(Effect::Skip)).then(|| self.inner.flush());
        async move {
            let result = match request {
                Some(request) => request.await,
                None => Ok(()),
            };
            outcome(effect, result).await
        }
    }

    fn discard(&self, start: u64, count: u64) -> impl Future<Output = Result<(), DeviceError>> {
        let effect = self.effect(Request::Discard, start, count);
        let request = is_done(effect).then(|| self.inner.discard(start, count));
        async move {
            let result = match request {
                Some(request) => request.await,
                None => Ok(()),
            };
            outcome(effect, result).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_bad_place_stays_bad_and_its_neighbours_do_not() {
        let disk = FaultyDisk::new(SimulatedDisk::blank("d", 64));
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.inner().clone()));
        disk.add(Rule::once(Request::Write).after(1).sticking());
        let mut write = |at| executor.run(disk.write(at, vec![Box::new([1; 4096])])).1.is_ok();
        assert_eq!([write(3), write(8), write(9), write(8), write(3)], [true, false, true, false, true]);
        assert_eq!(disk.struck(), 2);
    }

    #[test]
    fn a_lying_disk_keeps_the_callers_buffers_whole() {
        let disk = FaultyDisk::new(SimulatedDisk::blank("d", 64));
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.inner().clone()));
        for (effect, shown) in
            [(Effect::Delay(9), (0, 0)), (Effect::Corrupt, (8, 0)), (Effect::Misdirect, (0, 1))]
        {
            disk.add(Rule::once(Request::Write).with(effect));
            let (buffers, result) = executor.run(disk.write(5, vec![Box::new([0; 4096])]));
            assert!(result.is_ok() && buffers.len() == 1 && buffers[0].iter().all(|&byte| byte == 0));
            let image = disk.inner().visible();
            assert_eq!((image.block(5)[77], u8::from(image.written().contains(&6))), shown, "{effect:?}");
            disk.inner().rot(5, |block| block.fill(0));
        }
    }

    #[test]
    fn what_a_failed_flush_lost_no_other_brings_back() {
        let disk = FaultyDisk::new(SimulatedDisk::blank("d", 64));
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.inner().clone()));
        let mut write = |at, byte| executor.run(disk.write(at, vec![Box::new([byte; 4096])])).1.is_ok();
        assert!(write(5, 1));
        assert!(executor.run(disk.flush()).is_ok());
        let mut write = |at, byte| executor.run(disk.write(at, vec![Box::new([byte; 4096])])).1.is_ok();
        assert!(write(5, 2) && write(6, 2));
        disk.add(Rule::once(Request::Flush).with(Effect::Forget(3)));
        assert!(executor.run(disk.flush()).is_err());
        assert!(executor.run(disk.flush()).is_ok());
        let image = disk.inner().visible();
        assert_eq!([5, 6].map(|at| image.block(at)[0]), [1, 0]);
        assert_eq!(disk.inner().unflushed(), 0);
    }

    #[test]
    fn a_skipped_flush_is_acknowledged_and_a_power_loss_shows_it() {
        let disk = FaultyDisk::new(SimulatedDisk::blank("d", 64));
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.inner().clone()));
        assert!(executor.run(disk.write(5, vec![Box::new([1; 4096])])).1.is_ok());
        disk.add(Rule::once(Request::Flush).with(Effect::Skip));
        assert!(executor.run(disk.flush()).is_ok());
        assert_eq!((disk.inner().visible().block(5)[0], disk.inner().unflushed()), (1, 1));
        assert_eq!(disk.misdeeds(), [(Request::Flush, Effect::Skip)]);
        assert!(executor.run(disk.flush()).is_ok());
        assert_eq!(disk.inner().unflushed(), 0);
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

    #[test]
    fn a_write_that_fails_halfway_leaves_its_first_half() {
        let disk = FaultyDisk::new(SimulatedDisk::blank("d", 64));
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.inner().clone()));
        for count in [1, 4] {
            disk.add(Rule::once(Request::Write).with(Effect::FailHalfway));
            let (buffers, result) =
                executor.run(disk.write(8 * count, vec![Box::new([9; 4096]); count as usize]));
            assert!(result.is_err() && buffers == vec![Box::new([9; 4096]); count as usize]);
        }
        let image = disk.inner().visible();
        let halves = |at: u64| [0, 2048].map(|byte| image.block(at)[byte]);
        assert_eq!([8, 32, 33, 34, 35].map(halves), [[9, 0], [9, 9], [9, 9], [0, 0], [0, 0]]);
    }

    #[test]
    fn a_lost_flush_is_acknowledged_and_what_it_was_for_is_gone() {
        let disk = FaultyDisk::new(SimulatedDisk::blank("d", 64));
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.inner().clone()));
        assert!(executor.run(disk.write(5, vec![Box::new([1; 4096])])).1.is_ok());
        disk.add(Rule::once(Request::Flush).with(Effect::Lose));
        assert!(executor.run(disk.flush()).is_ok());
        assert_eq!((disk.inner().visible().block(5)[0], disk.inner().unflushed()), (0, 0));
    }
}
