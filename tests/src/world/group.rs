//! Requests and commands under way together, which may get in each other's way.

use super::{World, fail};
use crate::action::Action;
use crate::model::Candidate;
use crate::orders::{Member, may_be_refused};
use datum_store::{BlockIndex, Error, ErrorKind};

/// Reads that one reader does beside other work.
const READS_BESIDE: usize = 12;

/// What became of an action: an answer, or none yet.
pub type Fate = Option<Result<(), Error>>;

impl World {
    /// Asks for an action, and takes no answer for an answer: after so many steps, or where nothing moves. The
    /// model learns nothing of it.
    pub fn ask(&mut self, action: &Action, steps: u64) -> Fate {
        self.note(action);
        let work = self.prepare(action);
        let (mut replies, _) = self.executor.drive(vec![work], steps);
        replies.remove(0).map(|reply| reply.map(drop))
    }

    /// Carries out actions together. Each succeeds or is refused for a reason, and then the pool stands where
    /// some order of them leads to. Data requests of the group must be for single blocks.
    pub fn act_at_once(&mut self, actions: &[Action]) {
        let mut work = Vec::new();
        for action in actions {
            self.note(action);
            work.push(self.prepare(action));
        }
        let fates: Vec<Fate> = self.executor.run_all(work).into_iter().map(|r| Some(r.map(drop))).collect();
        let done = self.done(actions, &fates);
        let group: Vec<Member<'_>> = done.iter().map(|(action, _)| (*action, true)).collect();
        let candidates = self.model.candidates_of_group(&group, true, self.incarnation);
        // What was written is durable from here on, whatever came first.
        self.call(async |pool| pool.flush().await).unwrap_or_else(fail("flush"));
        self.settle(candidates);
        self.verify_gone();
    }

    /// The states the pool may stand at if the machine ends with these actions at these points.
    pub(super) fn candidates_of_group(&self, actions: &[Action], fates: &[Fate]) -> Vec<Candidate> {
        let done = self.done(actions, fates);
        let kept = |(action, ended): &(&Action, bool)| *ended && action.is_durable();
        let group: Vec<Member<'_>> = done.iter().map(|one| (one.0, kept(one))).collect();
        let flushed = done.iter().any(kept);
        self.model.candidates_of_group(&group, flushed, self.incarnation)
    }

    /// The actions that were not refused, each with whether it has ended. Demands a reason of every refusal.
    fn done<'a>(&self, actions: &'a [Action], fates: &[Fate]) -> Vec<(&'a Action, bool)> {
        let mut done = Vec::new();
        for (at, (action, fate)) in actions.iter().zip(fates).enumerate() {
            let Some(Err(error)) = fate else {
                done.push((action, fate.is_some()));
                continue;
            };
            let others: Vec<&Action> = actions[..at].iter().chain(&actions[at + 1..]).collect();
            let reverting = others.iter().any(|other| matches!(other, Action::RevertVolume { .. }));
            let reason = match error.kind() {
                ErrorKind::InUse => reverting,
                ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Invalid => {
                    may_be_refused(&self.model.state, action, &others, self.incarnation)
                }
                _ => false,
            };
            assert!(reason, "{action:?} beside {others:?}: {error} {:?}", error.observations());
        }
        done
    }

    /// Starts a commit that goes on beside what follows.
    pub fn commit_beside(&mut self) {
        let pool = self.pool();
        self.executor.spawn(async move {
            pool.commit().await.unwrap_or_else(fail("commit beside other work"));
        });
    }

    /// Starts reads that go on beside what follows. On a healthy pool none finds a wrong block, whatever becomes
    /// of the volume meanwhile.
    pub fn read_beside(&mut self, volume: &str, first: u64, count: u64) {
        let image = self.image(volume);
        self.executor.spawn(async move {
            for _ in 0..READS_BESIDE {
                if let Err(error) = image.read(BlockIndex(first), count).await {
                    let gone = [ErrorKind::NotFound, ErrorKind::Invalid].contains(&error.kind());
                    assert!(gone, "a read beside other work: {error} {:?}", error.observations());
                }
            }
        });
    }

    /// Writes parts of one block together: none may be lost. The contents that the last one names are those
    /// that all of them make.
    pub fn act_on_one_block(&mut self, parts: &[Action]) {
        let mut work = Vec::new();
        for part in parts {
            self.note(part);
            work.push(self.prepare(part));
        }
        for reply in self.executor.run_all(work) {
            reply.unwrap_or_else(fail("write part of a block"));
        }
        for part in parts {
            self.model.acknowledge(part, self.incarnation);
        }
        if let Some(last) = parts.last() {
            self.after(last);
        }
        self.act(Action::Flush);
    }
}
