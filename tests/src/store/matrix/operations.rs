//! The operations of the table, each with as much around it that it makes reads, writes and flushes.

use super::{Cell, Class, Outcome, STEPS};
use crate::model::Candidate;
use crate::model::action::Action;
use crate::store::perform::name;
use datum_store::device::Block;
use datum_store::{BlockIndex, ErrorKind, Extent, Pool, Progress, Result, Since, View};

/// Something that a client, an operator or the appliance itself does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operation {
    Read,
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
    pub const ALL: [Self; 15] = [
        Self::Read,
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
            Operation::Read => return self.read(),
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

    /// One action after the other, up to the first that fails. Where a discard is to fail, a commit belongs to it.
    fn act(&mut self, actions: &[Action]) -> (Outcome, Vec<Candidate>) {
        let commit = [Action::Commit];
        let last: &[Action] = if self.class == Class::DISCARD { &commit } else { &[] };
        for (part, action) in actions.iter().chain(last).enumerate() {
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

    /// A read of everything and a write; what is shown is what was written.
    fn read(&mut self) -> (Outcome, Vec<Candidate>) {
        let pool = self.world.pool();
        let (mut answers, _) = self.world.executor.drive(vec![Box::pin(everything(pool))], STEPS);
        self.go_on(answers.remove(0), |cell, shown| {
            let volume = &cell.world.model.state.volumes["v"];
            let checkpoint = volume.points["b"].image.as_ref().expect("a checkpoint");
            for (map, blocks) in [&volume.head, checkpoint].into_iter().zip(shown) {
                for (at, block) in (0..).zip(blocks) {
                    let shown = block.map(|bytes| cell.world.contents.identify(&bytes));
                    let known = map.get(at).content.map(Some);
                    assert_eq!(shown, known, "block {at}, which was read under a fault");
                }
            }
        })
    }

    /// A query and a write; its answer, if it has one, is exact.
    fn changes(&mut self) -> (Outcome, Vec<Candidate>) {
        let pool = self.world.pool();
        let (mut answers, _) = self.world.executor.drive(vec![Box::pin(changed_since(pool, "r"))], STEPS);
        self.go_on(answers.remove(0), |cell, shown| {
            let head = &cell.world.model.state.volumes["v"];
            let at = head.points["r"].at;
            let known = |block: u64| head.head.get(block).change > at;
            let right =
                shown.iter().all(|e| (e.first.0..e.first.0 + e.blocks).all(|b| known(b) == e.changed));
            assert!(right, "a change query that was answered under a fault is exact: {shown:?}");
        })
    }

    /// Demands an answer to be right, and lets a write and a flush follow it.
    fn go_on<T>(
        &mut self,
        answer: Option<Result<T>>,
        demand: impl FnOnce(&Self, T),
    ) -> (Outcome, Vec<Candidate>) {
        let outcome = match answer {
            Some(Ok(shown)) => {
                demand(self, shown);
                let write = self.write(270, 2);
                return self.act(&[write, Action::Flush]);
            }
            Some(Err(error)) => refused(error.kind()),
            None => Outcome::Unknown,
        };
        (outcome, self.world.model.candidates(&[], 0))
    }
}

fn refused(kind: ErrorKind) -> Outcome {
    Outcome::Refused { kind, part: 0 }
}

async fn changed_since(pool: Pool<crate::store::perform::Disk>, point: &str) -> Result<Vec<Extent>> {
    let since = Since::Point(name(point));
    let change = pool.resolve_since(&name("v"), None, &since).await?;
    let image = pool.open_image(&name("v"), None).await?;
    let end = BlockIndex(image.size() / 4096);
    let page = image.extents(BlockIndex(0), end, View::Changes(change), 1000).await?;
    Ok(page.extents)
}

/// The volume, and its checkpoint `b`.
async fn everything(pool: Pool<crate::store::perform::Disk>) -> Result<Vec<Vec<Option<Block>>>> {
    let mut shown = Vec::new();
    for point in [None, Some("b")] {
        let image = pool.open_image(&name("v"), point.map(name).as_ref()).await?;
        let (blocks, mut read) = (image.size() / 4096, Vec::new());
        for first in (0..blocks).step_by(64) {
            read.extend(image.read(BlockIndex(first), 64.min(blocks - first)).await?);
        }
        shown.push(read);
    }
    Ok(shown)
}
