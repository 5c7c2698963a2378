//! The operations of the table, each with as much around it that it makes reads, writes and flushes.

use super::{Cell, Outcome, STEPS};
use crate::action::Action;
use crate::model::Candidate;
use crate::perform::name;
use datum_store::{ErrorKind, Extent, Pool, Progress, Result, Since, View};

/// Something that a client, an operator or the appliance itself does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operation {
    Write,
    Flush,
    Trim,
    Checkpoint,
    Convert,
    Delete,
    Clone,
    Revert,
    Resize,
    Commit,
    Release,
    Open,
    Check,
    Changes,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Write,
        Self::Flush,
        Self::Trim,
        Self::Checkpoint,
        Self::Convert,
        Self::Delete,
        Self::Clone,
        Self::Revert,
        Self::Resize,
        Self::Commit,
        Self::Release,
        Self::Open,
        Self::Check,
        Self::Changes,
    ];
}

impl Cell {
    /// Does the operation. Returns with what came of it the states at which the pool may stand afterwards.
    pub(super) fn perform(&mut self) -> (Outcome, Vec<Candidate>) {
        let volume = || "v".to_owned();
        let actions = match self.operation {
            Operation::Write => vec![self.write(258, 40), Action::Flush],
            Operation::Flush => vec![self.write(70, 1), self.write(290, 1), Action::Flush],
            Operation::Trim => vec![Action::Trim { volume: volume(), first: 100, count: 150 }, Action::Flush],
            Operation::Checkpoint => {
                vec![Action::CreateCheckpoint { volumes: vec![volume()], name: "c".into(), time: 5 }]
            }
            Operation::Convert => {
                vec![Action::ConvertCheckpoint { volume: volume(), name: "b".into(), refpoint: "b".into() }]
            }
            Operation::Delete => vec![Action::DeleteCheckpoint { volume: volume(), name: "b".into() }],
            Operation::Clone => vec![Action::CloneVolume {
                volume: volume(),
                checkpoint: "b".into(),
                name: "k".into(),
                timeline: 77,
                time: 5,
            }],
            Operation::Revert => vec![Action::RevertVolume { volume: volume(), checkpoint: "a".into() }],
            Operation::Resize => vec![Action::ResizeVolume { name: volume(), size: 130 }],
            Operation::Commit => vec![Action::Commit],
            Operation::Release => {
                self.world.executor.step(STEPS);
                vec![Action::Commit]
            }
            Operation::Open => return self.open(),
            Operation::Check => return self.check(),
            Operation::Changes => return self.changes(),
        };
        self.act(&actions)
    }

    /// One action after the other, up to the first that fails.
    fn act(&mut self, actions: &[Action]) -> (Outcome, Vec<Candidate>) {
        for (part, action) in actions.iter().enumerate() {
            let incarnation = self.world.incarnation();
            let outcome = match self.world.ask(action, STEPS) {
                Some(Ok(())) => {
                    self.world.model.acknowledge(action, incarnation);
                    self.pass();
                    continue;
                }
                Some(Err(error)) => Outcome::Refused { kind: error.kind(), part },
                None => Outcome::Unknown,
            };
            return (outcome, self.world.model.candidates(std::slice::from_ref(action), incarnation));
        }
        (Outcome::Done, self.world.model.candidates(&[], 0))
    }

    fn open(&mut self) -> (Outcome, Vec<Candidate>) {
        let opening = self.world.open_for(STEPS);
        let outcome = match opening {
            Some(Ok(())) if self.world.pool().status().read_only.is_some() => refused(ErrorKind::ReadOnly),
            Some(Ok(())) => Outcome::Done,
            Some(Err(error)) => refused(error.kind()),
            None => Outcome::Unknown,
        };
        (outcome, self.world.model.candidates(&[], 0))
    }

    fn check(&mut self) -> (Outcome, Vec<Candidate>) {
        let pool = self.world.pool();
        let check = async { pool.check(&Progress::new()).await };
        let (mut reports, _) = self.world.executor.drive(vec![Box::pin(check)], STEPS);
        let outcome = match reports.remove(0) {
            Some(Ok(report)) if report.errors == 0 => Outcome::Done,
            Some(Ok(_)) => refused(ErrorKind::Io),
            Some(Err(error)) => refused(error.kind()),
            None => Outcome::Unknown,
        };
        (outcome, self.world.model.candidates(&[], 0))
    }

    /// A query beside a client's write; its answer, if it has one, is exact.
    fn changes(&mut self) -> (Outcome, Vec<Candidate>) {
        let pool = self.world.pool();
        let (mut answers, _) = self.world.executor.drive(vec![Box::pin(changed_since(pool, "r"))], STEPS);
        let written = [self.write(270, 2), Action::Flush];
        let (outcome, candidates) = match answers.remove(0) {
            Some(Ok(shown)) => {
                let head = &self.world.model.state.volumes["v"];
                let at = head.points["r"].at;
                let known = |block: u64| head.head.get(block).change > at;
                let right =
                    shown.iter().all(|e| (e.first.0..e.first.0 + e.blocks).all(|b| known(b) == e.changed));
                assert!(right, "a change query that was answered under a fault is exact: {shown:?}");
                return self.act(&written);
            }
            Some(Err(error)) => (refused(error.kind()), self.world.model.candidates(&[], 0)),
            None => (Outcome::Unknown, self.world.model.candidates(&[], 0)),
        };
        (outcome, candidates)
    }
}

fn refused(kind: ErrorKind) -> Outcome {
    Outcome::Refused { kind, part: 0 }
}

async fn changed_since(pool: Pool<crate::perform::Disk>, point: &str) -> Result<Vec<Extent>> {
    let since = Since::Point(name(point));
    let change = pool.resolve_since(&name("v"), None, &since).await?;
    let image = pool.open_image(&name("v"), None).await?;
    let end = datum_store::BlockIndex(image.size() / 4096);
    let page = image.extents(datum_store::BlockIndex(0), end, View::Changes(change), 1000).await?;
    Ok(page.extents)
}
