//! Operations that end a life of the machine: a power loss or reset at some moment of something, of what many clients do, after
//! many flushes beside a commit, after a flush that failed.

use super::Run;
use crate::disk::fault::{Effect, Request, Rule};
use crate::disk::{Slow, Sort};
use crate::model::action::Action;
use crate::model::operation::{Chooser, Kind, Operation};
use crate::rng::Rng;
use crate::store::world::{Ending, Moment};
use datum_store::ErrorKind;

/// Steps after which a request that waits for something is given up.
const STEPS: u64 = 1_000_000;
/// So long, as a disk counts, that the machine has come to its end.
const FOR_EVER: u64 = 1 << 40;
/// Requests that go on until a disk has failed a flush.
const REQUESTS_MAX: u64 = 20;

/// How many in a hundred of a burst's flushed writes are looked for after a power loss.
const LOOKED_AT: u64 = 5;

impl Run<'_> {
    /// Writes, each flushed: the log fills, whatever a commit is at, and now and then goes all round. Where space may run out
    /// some are large, and take what commits have just given back.
    pub(super) fn burst(&mut self, operation: Operation) {
        let mut rng = Rng::new(operation.salt);
        let most = if self.plan.may_fill { *rng.pick(&[1, 16, 64, 64]) } else { 1 };
        let rounds = if rng.chance(25) { rng.between(200, 400) } else { rng.between(20, 100) };
        let rounds = (rounds / most).max(20);
        let slow = rng.chance(50).then(|| if self.plan.may_fill { rng.below(rounds) } else { 0 });
        let ends = rng.chance(if self.plan.may_fill { 60 } else { 30 });
        for round in 0..rounds {
            if slow == Some(round) {
                // What was freed so far is listed by one commit and returned by the next.
                if self.plan.may_fill && rng.chance(70) && self.refused(Action::Commit) {
                    return;
                }
                self.slow_commit(operation);
            } else if self.plan.may_fill && rng.chance(5) {
                self.world.commit_beside();
            }
            let state = self.world.model.state.clone();
            let mut chooser = Chooser::new(operation.salt ^ (round << 32), &state, &self.plan.shape);
            let write = chooser.write_up_to(Some(most), &mut self.world.contents);
            if write.into_iter().chain([Action::Flush]).any(|action| self.refused(action)) {
                return;
            }
            if self.world.rng.chance(LOOKED_AT) {
                self.world.demand_survival();
            }
        }
        if ends {
            self.crash(operation);
        }
    }

    /// Many clients write and flush at the same time, on disks that hold some of it up, until the machine ends.
    pub(super) fn cut_rush(&mut self, operation: Operation) {
        let mut rng = Rng::new(operation.salt ^ 0xc07);
        let state = self.world.model.state.clone();
        let mut clients =
            Chooser::new(operation.salt, &state, &self.plan.shape).clients(&mut self.world.contents);
        let kept = |action: &Action| matches!(action, Action::Write { .. } | Action::Flush | Action::Commit);
        clients.iter_mut().for_each(|client| client.retain(kept));
        if !self.plan.may_fill || clients.is_empty() {
            return;
        }
        let readers = if rng.chance(30) { self.readers(&mut rng, &clients) } else { Vec::new() };
        if readers.is_empty() {
            let sort = *rng.pick(&[Sort::Changes, Sort::Flushes]);
            let one = rng.between(1, 30);
            self.slow_alike(Slow { sort, requests: one, one_in: one, lasting: FOR_EVER });
        }
        let most = *rng.pick(&[300, 3000, 20_000]);
        let steps = rng.below(most);
        let flushes = rng.chance(50).then(|| (rng.between(1, 30), rng.below(8)));
        self.held.clear();
        self.world.rush_until(&clients, &readers, Moment { steps, replies: 0, flushes });
        self.world.verify_changes();
    }

    /// A disk fails a flush and loses what that was for. It does not matter to the store whether the next one would succeed:
    /// nothing is acknowledged any more, and what was is there when the pool is opened again.
    pub(super) fn failed_flush(&mut self, operation: Operation) {
        let mut rng = Rng::new(operation.salt ^ 0xf1a5);
        // Those who read are not to be told of what the disk has lost.
        self.world.executor.idle();
        self.held.clear();
        if rng.chance(30) {
            self.slow_commit(operation);
        }
        let disk = rng.pick(&self.world.disks).clone();
        let effect = Effect::Forget(*rng.pick(&[0, 0, 10, 100]));
        disk.add(Rule::once(Request::Flush).after(rng.below(5)).with(effect));
        for round in 0..REQUESTS_MAX {
            let kind = *rng.pick(&[
                Kind::Write,
                Kind::Write,
                Kind::Flush,
                Kind::Flush,
                Kind::Commit,
                Kind::Checkpoint,
            ]);
            let salt = operation.salt ^ (round << 32);
            let Some(action) = self.choose(Operation { kind, salt }, kind) else { continue };
            let incarnation = self.world.incarnation();
            match self.world.ask(&action, STEPS).unwrap_or_else(|| panic!("{action:?} is never answered")) {
                Ok(()) => self.world.model.acknowledge(&action, incarnation),
                Err(error) if error.kind() == ErrorKind::NoSpace && self.plan.may_fill => {}
                Err(error) => {
                    assert!(disk.struck() > 0, "{action:?}: {error} {:?}", error.observations());
                    let candidates = self.world.model.candidates(&[action], incarnation);
                    self.demand_nothing_is_acknowledged(operation);
                    self.world.crash_to(candidates);
                    return self.world.verify_changes();
                }
            }
        }
        disk.heal();
    }

    fn demand_nothing_is_acknowledged(&mut self, operation: Operation) {
        assert!(
            self.world.pool().status().read_only.is_some(),
            "a flush has failed and the pool takes writes"
        );
        for kind in [Kind::Flush, Kind::Write, Kind::Commit, Kind::Checkpoint] {
            let Some(action) = self.choose(operation, kind) else { continue };
            let fate = self.world.ask(&action, STEPS);
            assert!(matches!(fate, Some(Err(_))), "{action:?} after a failed flush: {fate:?}");
        }
    }

    /// The machine ends in the midst of something.
    pub(super) fn crash(&mut self, operation: Operation) {
        let mut rng = Rng::new(operation.salt ^ 2);
        // What no flush covers yet, and a commit beside which it is asked for.
        if rng.chance(30) {
            self.together(operation);
        }
        if rng.chance(30) {
            self.slow_commit(operation);
        }
        let inner = *rng.pick(&[
            Kind::Write,
            Kind::Write,
            Kind::Trim,
            Kind::Flush,
            Kind::Commit,
            Kind::Commit,
            Kind::Checkpoint,
            Kind::Convert,
            Kind::DeleteCheckpoint,
            Kind::Revert,
            Kind::Clone,
            Kind::Resize,
            Kind::CreateVolume,
            Kind::DeleteVolume,
            Kind::Refpoint,
            Kind::Together,
            Kind::AtOnce,
            Kind::AtOnce,
            Kind::AtOnce,
            Kind::Background,
        ]);
        let actions = match inner {
            Kind::Together => {
                let state = self.world.model.state.clone();
                let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
                chooser.writes_together(&mut self.world.contents)
            }
            Kind::AtOnce if !self.plan.may_fill => self.group(operation),
            kind => self.choose(operation, kind).into_iter().collect(),
        };
        let most = *rng.pick(&[10, 60, 400]);
        let (steps, replies) = (rng.below(most), actions.len());
        // Some end right after an acknowledgement, which is when a promise is easiest broken, and some during a flush,
        // which is when most can be lost.
        let moment = match rng.below(10) {
            0..3 if replies > 0 => {
                let replies = rng.between(1, replies as u64) as usize;
                Moment { steps: 20_000, replies, flushes: None }
            }
            3..6 => Moment { steps: 2000, replies, flushes: Some((rng.between(1, 6), rng.below(8))) },
            _ => Moment { steps, replies, flushes: None },
        };
        let ending = Ending::pick(&mut rng);
        let depth = *rng.pick(&[0, 0, 1, 2]);
        let reopenings: Vec<Moment> = (0..depth).map(|_| Moment::in_an_opening(&mut rng)).collect();
        self.held.clear();
        self.world.crash_at(actions, moment, ending, &reopenings);
        self.world.verify_changes();
    }
}
