//! Power losses and resets: end the machine, open again, and find the one state of history the pool stands at.

use super::{World, fail};
use crate::disk::{DiskImage, PowerLoss};
use crate::model::Candidate;
use crate::model::action::Action;
use crate::model::compare::compare;
use crate::rng::Rng;
use datum_store::{ErrorKind, Pool};
use std::rc::Rc;

/// How a life of the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the disks: they keep what they must, and of the rest what the policy says.
    PowerLoss(PowerLoss),
    /// Alone, by a reset or a panic: the disks keep their caches, and go on losing them at the next power loss.
    Reset,
}

impl Ending {
    /// One of all.
    pub fn pick(rng: &mut Rng) -> Self {
        match rng.chance(25) {
            true => Self::Reset,
            false => Self::PowerLoss(*rng.pick(&PowerLoss::ALL)),
        }
    }
}

/// When a life of the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// After so many steps at the latest.
    pub steps: u64,
    /// As soon as so many of the actions under way were answered.
    pub replies: usize,
    /// Or so many flushes were asked of the disks, and so many steps have passed since.
    pub flushes: Option<(u64, u64)>,
}

impl Moment {
    /// Some time in an opening.
    pub fn in_an_opening(rng: &mut Rng) -> Self {
        let flushes = rng.chance(50).then(|| (rng.between(1, 12), rng.below(8)));
        Self { steps: if flushes.is_some() { 2000 } else { rng.below(400) }, replies: 1, flushes }
    }
}

impl World {
    /// Starts `actions`, lets `steps` steps pass, cuts the power under `policy`, and opens the pool again,
    /// failing the power once more after each number of steps in `reopenings`.
    pub fn crash_during(&mut self, actions: Vec<Action>, steps: u64, policy: PowerLoss, reopenings: &[u64]) {
        let moment = Moment { steps, replies: actions.len(), flushes: None };
        let reopenings: Vec<Moment> =
            reopenings.iter().map(|&steps| Moment { steps, replies: 1, flushes: None }).collect();
        self.crash_at(actions, moment, Ending::PowerLoss(policy), &reopenings);
    }

    /// Starts `actions`, ends the machine at some moment, and opens the pool again, which comes to some other
    /// end at each moment in `reopenings`.
    pub fn crash_at(&mut self, actions: Vec<Action>, moment: Moment, ending: Ending, reopenings: &[Moment]) {
        let candidates = self.interrupt(actions, moment);
        if self.trace {
            eprintln!("  the machine ends: {ending:?} at {moment:?}, again after {reopenings:?}");
        }
        self.crash(ending, reopenings, candidates);
    }

    /// Ends the machine now and opens the pool again, which must stand at one of `candidates`.
    pub fn crash_to(&mut self, candidates: Vec<Candidate>) {
        let ending = Ending::pick(&mut self.rng);
        self.say(format_args!("  the machine ends: {ending:?}"));
        self.crash(ending, &[], candidates);
    }

    /// Starts `actions` and lets them come to a moment. Returns the states the pool may stand at if it ends here.
    fn interrupt(&mut self, actions: Vec<Action>, moment: Moment) -> Vec<Candidate> {
        let mut work = Vec::new();
        for action in &actions {
            self.note(action);
            work.push(self.prepare(action));
        }
        self.halt_at(moment);
        let (replies, _) = self.executor.drive_until(work, moment.replies, moment.steps);
        self.executor.halt_when(None);
        let data = |action: &Action| matches!(action, Action::Write { .. } | Action::WritePartial { .. });
        if actions.len() > 1 && !actions.iter().all(data) {
            let replies: Vec<_> =
                replies.into_iter().map(|reply| reply.map(|reply| reply.map(drop))).collect();
            return self.candidates_of_group(&actions, &replies);
        }
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
                            assert_eq!(error.kind(), ErrorKind::NoSpace, "{action:?}: {error}");
                            assert!(!action.is_removal(), "{action:?}: {error}");
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

    /// Has the executor end what it drives while a flush is under way, where the moment says so.
    pub(super) fn halt_at(&mut self, moment: Moment) {
        let Some((flushes, mut steps)) = moment.flushes else { return };
        let disks = self.simulated_disks();
        let asked = move || disks.iter().map(|disk| disk.flushes()).sum::<u64>();
        let until = asked() + flushes;
        self.executor.halt_when(Some(Box::new(move || {
            let over = asked() >= until && steps == 0;
            steps -= u64::from(asked() >= until && steps > 0);
            over
        })));
    }

    fn crash(&mut self, ending: Ending, reopenings: &[Moment], candidates: Vec<Candidate>) {
        self.restart(ending);
        for moment in reopenings {
            self.incarnation = self.rng.draw();
            let open = Pool::open(self.disks.clone(), self.incarnation, self.config);
            self.halt_at(*moment);
            let before = self.watch_superblocks();
            let opened = self.executor.run_for(open, moment.steps);
            self.executor.watch(before);
            self.executor.halt_when(None);
            if let Some(Err(error)) = opened {
                panic!("after a power loss the pool does not open: {error} {:?}", error.observations());
            }
            let ending = Ending::pick(&mut self.rng);
            self.restart(ending);
        }
        self.find_itself(candidates);
    }

    /// Opens the pool on what a power loss left, wherever that happened, and finds which of `candidates` it is.
    pub fn recover(&mut self, images: Vec<DiskImage>, candidates: Vec<Candidate>) {
        self.forget_machine();
        self.power_on(images);
        self.find_itself(candidates);
    }

    pub(super) fn find_itself(&mut self, candidates: Vec<Candidate>) {
        self.open_again();
        self.settle(candidates);
        self.check();
    }

    /// Opens the pool after a power loss, which must leave it as writable as it was.
    pub fn open_again(&mut self) {
        self.open().unwrap_or_else(fail("open the pool after a power loss"));
        if let Some(why) = self.pool().status().read_only {
            panic!("after a power loss the pool opened read-only: {why}");
        }
    }

    /// Ends the machine and starts it again; the pool is not opened.
    fn restart(&mut self, ending: Ending) {
        match ending {
            Ending::PowerLoss(policy) => {
                let images = self.power_off(policy);
                self.power_on(images);
            }
            Ending::Reset => {
                self.forget_machine();
                for disk in &self.disks {
                    disk.inner().reset(&mut self.rng);
                    self.executor.attach(Rc::new(disk.inner().clone()));
                }
            }
        }
    }

    /// Finds the one state of history the pool stands at.
    pub fn settle(&mut self, candidates: Vec<Candidate>) {
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
