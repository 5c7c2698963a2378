//! Long work: what runs, how far it is, and how it ended.
//!
//! A job runs as a task of the service and outlives the client that asked for it. Ids count from a number drawn
//! at the start, so that an id kept over a restart names nothing instead of another job. What the store has
//! begun to release goes on after a restart by itself; `pool.status` counts it.

use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::events::Event;
use crate::limits::{JOBS_ACTIVE_MAX, JOBS_ENDED_MAX};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use datum_store::device::BlockDevice;
use datum_store::{Error, ErrorKind, Progress, Result};
use serde_json::Value;

/// The life of a job.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Queued,
    Running,
    Done(Value),
    Failed(Error),
    Cancelled,
}

impl State {
    /// The stable word of `job.show`.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done(_) => "done",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_) | Self::Cancelled)
    }
}

/// One piece of long work.
pub(crate) struct Job {
    pub(crate) id: u64,
    /// The method that asked for it.
    pub(crate) kind: &'static str,
    /// What it works on.
    pub(crate) subject: String,
    pub(crate) state: RefCell<State>,
    /// Progress, and the wish to stop, of work that the store does in one call.
    pub(crate) progress: Progress,
    /// Progress of work that the store does by itself.
    pub(crate) fraction: Cell<f32>,
    /// What it waits for.
    pub(crate) held_by: RefCell<Vec<String>>,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    pub(crate) ended: Cell<Option<u64>>,
    cancellable: bool,
}

impl Job {
    /// 0 to 1.
    pub(crate) fn progress(&self) -> f32 {
        match &*self.state.borrow() {
            State::Done(_) => 1.0,
            _ => self.fraction.get().max(self.progress.fraction()).clamp(0.0, 1.0),
        }
    }
}

/// All jobs, by id.
pub(crate) struct Jobs {
    next: Cell<u64>,
    known: RefCell<BTreeMap<u64, Rc<Job>>>,
}

impl Jobs {
    pub(crate) fn new(random: u64) -> Self {
        let first = (random % 90_000 + 10_000) * 100_000 + 1;
        Self { next: Cell::new(first), known: RefCell::new(BTreeMap::new()) }
    }

    pub(crate) fn find(&self, id: u64) -> Result<Rc<Job>> {
        self.known.borrow().get(&id).cloned().ok_or_else(|| {
            let message = format!("there is no job {id} in this run of the appliance; see `job list`");
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// Those after job `after`, oldest first.
    pub(crate) fn list(&self, after: u64, limit: usize) -> Vec<Rc<Job>> {
        self.known.borrow().range(after.saturating_add(1)..).take(limit).map(|(_, job)| job.clone()).collect()
    }

    pub(crate) fn active(&self) -> usize {
        self.known.borrow().values().filter(|job| !job.state.borrow().has_ended()).count()
    }

    /// Asks a job to stop. It ends as `cancelled` at the next point where it can.
    pub(crate) fn cancel(&self, id: u64) -> Result<Rc<Job>> {
        let job = self.find(id)?;
        if job.state.borrow().has_ended() {
            let message = format!("job {id} has ended; `job show` tells how");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !job.cancellable {
            let message =
                format!("job {id} returns space that nothing uses any more, and cannot be cancelled");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        job.progress.cancel();
        Ok(job)
    }

    /// Whether one more may start; ask before the work has begun, so that nothing runs unseen.
    pub(crate) fn check_room(&self) -> Result<()> {
        if self.active() < JOBS_ACTIVE_MAX {
            return Ok(());
        }
        let message = format!("{JOBS_ACTIVE_MAX} jobs are under way; wait until one ends");
        Err(Error::new(ErrorKind::Limit, message))
    }

    fn add(&self, kind: &'static str, subject: String, cancellable: bool, created: u64) -> Rc<Job> {
        let id = self.next.get();
        self.next.set(id + 1);
        let job = Rc::new(Job {
            id,
            kind,
            subject,
            state: RefCell::new(State::Queued),
            progress: Progress::new(),
            fraction: Cell::new(0.0),
            held_by: RefCell::new(Vec::new()),
            created,
            ended: Cell::new(None),
            cancellable,
        });
        let mut known = self.known.borrow_mut();
        known.insert(id, job.clone());
        self.forget(&mut known);
        job
    }

    fn forget(&self, known: &mut BTreeMap<u64, Rc<Job>>) {
        let ended: Vec<u64> =
            known.values().filter(|job| job.state.borrow().has_ended()).map(|job| job.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(JOBS_ENDED_MAX)) {
            known.remove(id);
        }
    }
}

/// What a job is about.
pub(crate) struct Work {
    /// The method that asked for it.
    pub(crate) kind: &'static str,
    pub(crate) subject: String,
    pub(crate) cancellable: bool,
}

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    /// Starts long work and returns its job's id.
    pub(crate) fn start_job<F: Future<Output = Result<Value>> + 'static>(
        self: &Rc<Self>,
        work: Work,
        run: impl FnOnce(Rc<Self>, Rc<Job>) -> F,
    ) -> String {
        let created = self.now();
        let job = self.jobs.add(work.kind, work.subject, work.cancellable, created);
        let (appliance, id) = (self.clone(), job.id.to_string());
        let running = run(self.clone(), job.clone());
        self.tasks.spawn(async move {
            *job.state.borrow_mut() = State::Running;
            let outcome = running.await;
            appliance.end_job(&job, outcome);
        });
        id
    }

    fn end_job(&self, job: &Job, outcome: Result<Value>) {
        let state = match outcome {
            Ok(result) => State::Done(result),
            Err(error) if error.kind() == ErrorKind::Cancelled => State::Cancelled,
            Err(error) => State::Failed(error),
        };
        let word = state.as_str();
        *job.state.borrow_mut() = state;
        job.ended.set(Some(self.now()));
        job.held_by.borrow_mut().clear();
        self.publish(&Event::JobFinished { job: job.id.to_string(), kind: job.kind, state: word });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_another_run_name_nothing() {
        let (before, now) = (Jobs::new(1), Jobs::new(2));
        let old = before.add("pool.check", String::new(), true, 0);
        let new = now.add("pool.check", String::new(), true, 0);
        assert!(now.find(new.id).is_ok());
        assert_eq!(now.find(old.id).err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    }

    #[test]
    fn only_so_many_ended_jobs_are_kept() {
        let jobs = Jobs::new(0);
        let running = jobs.add("pool.scrub", String::new(), true, 0);
        for _ in 0..2 * JOBS_ENDED_MAX {
            *jobs.add("pool.check", String::new(), true, 0).state.borrow_mut() = State::Done(Value::Null);
        }
        assert_eq!(jobs.active(), 1);
        assert!(jobs.list(0, usize::MAX).len() <= JOBS_ENDED_MAX + 2);
        assert!(jobs.find(running.id).is_ok(), "what runs is never forgotten");
    }

    #[test]
    fn cancelling_needs_something_that_runs_and_can_stop() {
        let jobs = Jobs::new(0);
        let release = jobs.add("checkpoint.delete", String::new(), false, 0);
        assert_eq!(jobs.cancel(release.id).err().map(|e| e.kind()), Some(ErrorKind::Invalid));
        let check = jobs.add("pool.check", String::new(), true, 0);
        assert!(jobs.cancel(check.id).is_ok());
        *check.state.borrow_mut() = State::Cancelled;
        assert!(jobs.cancel(check.id).is_err());
    }
}
