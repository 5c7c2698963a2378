//! Power losses: cut the power, open again, and find the one state of history the pool stands at.

use super::{World, fail};
use crate::action::Action;
use crate::compare::compare;
use crate::disk::{DiskImage, PowerLoss};
use crate::model::Candidate;
use datum_store::{ErrorKind, Pool};
use std::rc::Rc;

impl World {
    /// Starts `actions`, lets `steps` steps pass, cuts the power under `policy`, and opens the pool again,
    /// failing the power once more after each number of steps in `reopenings`.
    pub fn crash_during(&mut self, actions: Vec<Action>, steps: u64, policy: PowerLoss, reopenings: &[u64]) {
        let candidates = self.interrupt(actions, steps);
        if self.trace {
            eprintln!("  power fails: {policy:?}, again after {reopenings:?}");
        }
        self.crash(policy, reopenings, candidates);
    }

    /// Starts `actions` and lets `steps` steps pass. Returns the states the pool may stand at if it ends here.
    fn interrupt(&mut self, actions: Vec<Action>, steps: u64) -> Vec<Candidate> {
        let mut work = Vec::new();
        for action in &actions {
            self.note(action);
            work.push(self.prepare(action));
        }
        let (replies, _) = self.executor.drive(work, steps);
        let under_way: Vec<Action> = actions
            .iter()
            .zip(&replies)
            .filter(|(_, reply)| reply.is_none())
            .map(|(a, _)| a.clone())
            .collect();
        let done: Vec<(Action, Option<_>)> =
            actions.into_iter().zip(replies).filter(|(_, reply)| reply.is_some()).collect();
        match done.len() {
            0 => self.model.candidates(&under_way, self.incarnation),
            1 if under_way.is_empty() => {
                for (action, reply) in done {
                    match reply {
                        Some(Ok(_)) => self.model.acknowledge(&action, self.incarnation),
                        Some(Err(error)) => {
                            assert_eq!(error.kind(), ErrorKind::NoSpace, "{action:?}: {error}")
                        }
                        None => {}
                    }
                }
                self.model.candidates(&[], self.incarnation)
            }
            _ => {
                // Acknowledged or not, an unflushed write may be there or not.
                let mut all: Vec<Action> = done.into_iter().map(|(action, _)| action).collect();
                all.extend(under_way);
                self.model.candidates(&all, self.incarnation)
            }
        }
    }

    /// Cuts the power now.
    pub fn crash_now(&mut self, policy: PowerLoss) {
        self.crash_during(Vec::new(), 0, policy, &[]);
    }

    /// Closes the pool in good order and opens it again.
    pub fn reopen(&mut self) {
        self.call(async |pool| pool.close().await).unwrap_or_else(fail("close the pool"));
        let images = self.power_off(PowerLoss::Nothing);
        self.power_on(images);
        self.open().unwrap_or_else(fail("open the pool"));
        self.model.state.restart();
        self.model.settle(self.model.state.clone());
    }

    fn crash(&mut self, policy: PowerLoss, reopenings: &[u64], candidates: Vec<Candidate>) {
        let mut images = self.power_off(policy);
        for steps in reopenings {
            self.power_on(images);
            self.incarnation = self.rng.draw();
            let open = Pool::open(self.disks.clone(), self.incarnation, self.config);
            if let Some(Err(error)) = self.executor.run_for(open, *steps) {
                panic!("after a power loss the pool does not open: {error} {:?}", error.observations());
            }
            let policy = *self.rng.pick(&PowerLoss::ALL);
            images = self.power_off(policy);
        }
        self.recover(images, candidates);
    }

    /// Opens the pool on what a power loss left, wherever that happened, and finds which of `candidates` it is.
    pub fn recover(&mut self, images: Vec<DiskImage>, candidates: Vec<Candidate>) {
        self.forget_machine();
        self.power_on(images);
        self.open().unwrap_or_else(fail("open the pool after a power loss"));
        if let Some(why) = self.pool().status().read_only {
            panic!("after a power loss the pool opened read-only: {why}");
        }
        self.settle(candidates);
        self.check();
    }

    /// Finds the one state of history the pool stands at.
    fn settle(&mut self, candidates: Vec<Candidate>) {
        let view = self.observe();
        let mut verdicts = Vec::new();
        let total = candidates.len();
        for (i, mut candidate) in candidates.into_iter().enumerate().rev() {
            candidate.state.restart();
            for (volume, block, cell) in candidate.optional {
                let shown = view.get(&volume).filter(|shown| block < shown.head.size());
                if shown.is_some_and(|shown| shown.head.get(block).content == cell.content) {
                    let head = &mut candidate.state.volume(&volume).head;
                    Rc::make_mut(head).set(block, 1, cell);
                }
            }
            match compare(&view, &candidate.state, &self.tokens) {
                Ok(()) => return self.model.settle(candidate.state),
                Err(what) => verdicts.push(format!("  state {} of {total}: {what}", i + 1)),
            }
        }
        panic!("the pool stands at no state of its history:\n{}", verdicts.join("\n"));
    }
}
