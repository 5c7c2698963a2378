//! Requests and commands under way together, which may get in each other's way.

use super::{Moment, World, fail};
use crate::executor::BoxFuture;
use crate::executor::turn;
use crate::model::Candidate;
use crate::model::action::Action;
use crate::model::blockmap::BlockMap;
use crate::model::content::BLOCK_SIZE;
use crate::model::orders::{Member, may_be_refused, side_by_side};
use datum_store::{BlockIndex, Error, ErrorKind, Progress};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Reads that one reader does beside other work.
const READS_BESIDE: usize = 12;

/// Power losses that a rush which ends in one is looked at for besides.
const GLANCES: usize = 6;

/// Some blocks of a volume: its name, the first, and how many.
pub type Stretch = (String, u64, u64);

/// What became of an action: an answer, or none yet.
pub type Fate = Option<Result<(), Error>>;

/// The answer to a request of a client's, and when it was asked for and answered.
struct Told {
    client: usize,
    at: usize,
    asked: u64,
    answered: u64,
    reply: Result<(), Error>,
}

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

    /// Has clients do their requests side by side, each one after the other; where none meets another's. They may be
    /// refused for want of space, and then it must be true: not where the pool had as much as all of them could need.
    /// Readers go on at their stretches for as long as that takes.
    pub fn rush(&mut self, clients: &[Vec<Action>], readers: &[Stretch]) {
        let room = self.room();
        let busy = Rc::new(Cell::new(true));
        for (volume, first, count) in readers {
            let busy = busy.clone();
            self.read_while(volume, *first, *count, move || busy.get());
        }
        let mut work: Vec<BoxFuture<'static, Vec<Result<(), Error>>>> = Vec::new();
        for client in clients {
            let mut requests = Vec::new();
            for action in client {
                self.note(action);
                requests.push(self.prepare(action));
            }
            work.push(Box::pin(async move {
                let mut replies = Vec::new();
                for request in requests {
                    replies.push(request.await.map(drop));
                }
                replies
            }));
        }
        let fates = self.executor.run_all(work);
        busy.set(false);
        let mut done: Vec<Vec<Action>> = Vec::new();
        let mut refused = Vec::new();
        for (client, replies) in clients.iter().zip(fates) {
            let mut own = Vec::new();
            for (action, reply) in client.iter().zip(replies) {
                match reply {
                    Ok(()) => own.push(action.clone()),
                    Err(error) => refused.push((action, error)),
                }
            }
            done.push(own);
        }
        self.demand_reasons(&refused, room, clients);
        let reached = side_by_side(&self.model.state, &done, self.incarnation);
        self.call(async |pool| pool.flush().await).unwrap_or_else(fail("flush"));
        self.settle(vec![Candidate::exactly(reached)]);
    }

    /// The same of writes, flushes and commits alone, and the machine ends at some moment of it. What is there then is at
    /// least what was answered before a flush or commit was asked for that was answered too; of the rest any block may be
    /// there.
    pub fn rush_until(&mut self, clients: &[Vec<Action>], readers: &[Stretch], moment: Moment) {
        self.act(Action::Flush);
        let room = self.room();
        for (volume, first, count) in readers {
            self.read_while(volume, *first, *count, || true);
        }
        let (clock, told) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
        for (client, actions) in clients.iter().enumerate() {
            let mut requests = Vec::new();
            for action in actions {
                self.note(action);
                requests.push(self.prepare(action));
            }
            let (clock, told) = (clock.clone(), told.clone());
            self.executor.spawn(async move {
                for (at, request) in requests.into_iter().enumerate() {
                    let asked = clock.replace(clock.get() + 1);
                    let reply = request.await.map(drop);
                    let answered = clock.replace(clock.get() + 1);
                    told.borrow_mut().push(Told { client, at, asked, answered, reply });
                }
            });
        }
        self.halt_at(moment);
        let so_far = told.clone();
        let glances = self.glance(GLANCES, move || so_far.borrow().len());
        // What the disks hold up they hold up to the end.
        self.executor.step(moment.steps);
        self.executor.halt_when(None);
        self.executor.watch(None);
        let told = told.take();
        let action = |told: &Told| &clients[told.client][told.at];
        let refused = told.iter().filter_map(|told| Some((action(told), told.reply.clone().err()?)));
        self.demand_reasons(&refused.collect::<Vec<_>>(), room, clients);
        for (images, so_far) in glances.take() {
            let candidate = self.left_by(clients, &told[..so_far]);
            self.demand_recovery(images, vec![candidate]);
        }
        self.crash_to(vec![self.left_by(clients, &told)]);
    }

    /// What the machine may leave if it ends with clients having been told this much.
    fn left_by(&self, clients: &[Vec<Action>], told: &[Told]) -> Candidate {
        let covering = |told: &&Told| {
            told.reply.is_ok() && matches!(clients[told.client][told.at], Action::Flush | Action::Commit)
        };
        let covered = told.iter().filter(covering).map(|told| told.asked).max().unwrap_or(0);
        let (mut certain, mut possible): (Vec<Vec<Action>>, _) =
            (vec![Vec::new(); clients.len()], Vec::new());
        for (client, actions) in clients.iter().enumerate() {
            for (at, action) in actions.iter().enumerate() {
                match told.iter().find(|told| (told.client, told.at) == (client, at)) {
                    Some(told) if told.reply.is_err() => {}
                    Some(told) if told.answered < covered => certain[client].push(action.clone()),
                    _ => possible.push(action.clone()),
                }
            }
        }
        let state = side_by_side(&self.model.state, &certain, self.incarnation);
        let optional = state.optional(&possible);
        Candidate { state, optional }
    }

    /// What clients' writes can have by what the pool says.
    pub fn room(&self) -> Room {
        let status = self.pool().status();
        let blocks = status.available_bytes / BLOCK_SIZE as u64;
        Room { blocks, exact: status.releases_pending == 0 }
    }

    /// Demands that what was refused of all that clients ask for side by side was refused for want of space, that so much
    /// space was not there before they began, and that it was nothing that gives space back.
    pub fn demand_reasons(&self, refused: &[(&Action, Error)], room: Room, clients: &[Vec<Action>]) {
        if refused.is_empty() {
            return;
        }
        let (need, had) = (self.need(room, clients), room.blocks);
        for (action, error) in refused {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{action:?}: {error} {:?}", error.observations());
            assert!(!action.is_removal(), "{action:?}: {error}");
            assert!(had < need, "{action:?}: {error}, with room for {had} blocks where {need} are enough");
        }
    }

    /// More blocks than clients can need at any time, however their requests come together: a place for each block that
    /// they write, unless it has one that comes back, another while it is being overwritten, and the nodes above, which a
    /// commit may hold twice.
    fn need(&self, room: Room, clients: &[Vec<Action>]) -> u64 {
        let mut written: BTreeSet<(&str, u64)> = BTreeSet::new();
        let mut nodes: BTreeSet<(&str, u64, u64)> = BTreeSet::new();
        let mut under_way = 0;
        for client in clients {
            let mut largest = 0;
            for action in client {
                let (volume, first, count) = match action {
                    Action::Write { volume, first, contents } => (volume, *first, contents.len() as u64),
                    Action::WritePartial { volume, block, .. } => (volume, *block, 1),
                    Action::Trim { volume, first, count } => {
                        nodes.extend(paths(volume, *first));
                        nodes.extend(paths(volume, first + count - 1));
                        continue;
                    }
                    _ => continue,
                };
                largest = largest.max(count);
                for block in first..first + count {
                    written.insert((volume, block));
                    nodes.extend(paths(volume, block));
                }
            }
            under_way += largest;
        }
        let grows = |&&(volume, block): &&(&str, u64)| !(room.exact && self.is_alone(volume, block));
        written.iter().filter(grows).count() as u64 + under_way + 4 * nodes.len() as u64 + SLACK
    }

    /// Whether a block holds something that no checkpoint and no other volume shares with it.
    fn is_alone(&self, volume: &str, block: u64) -> bool {
        let volumes = &self.model.state.volumes;
        let shown = |map: &BlockMap| (block < map.size()).then(|| map.get(block).content).flatten();
        let Some(content) = shown(&volumes[volume].head) else { return false };
        volumes.iter().all(|(name, other)| {
            let shares = |map: &BlockMap| shown(map) == Some(content);
            (name == volume || !shares(&other.head)) && !other.checkpoints().any(|(_, map)| shares(map))
        })
    }

    /// Starts a commit that goes on beside what follows. Only a fault of a disk can stop it.
    pub fn commit_beside(&mut self) {
        let (pool, disks) = (self.pool(), self.disks.clone());
        self.executor.spawn(async move {
            if let Err(error) = pool.commit().await
                && disks.iter().all(|disk| disk.struck() == 0)
            {
                panic!("a commit beside other work: {error} {:?}", error.observations());
            }
        });
    }

    /// Starts reads that go on beside what follows.
    pub fn read_beside(&mut self, volume: &str, first: u64, count: u64) {
        let mut reads = 0..READS_BESIDE;
        self.read_while(volume, first, count, move || reads.next().is_some());
    }

    /// Starts reads, one after the other for as long as `go_on` says. On a healthy pool none finds a wrong block, whatever
    /// becomes of the volume meanwhile.
    fn read_while(
        &mut self,
        volume: &str,
        first: u64,
        count: u64,
        mut go_on: impl FnMut() -> bool + 'static,
    ) {
        let image = self.image(volume);
        self.executor.spawn(async move {
            while go_on() {
                if let Err(error) = image.read(BlockIndex(first), count).await {
                    let gone = [ErrorKind::NotFound, ErrorKind::Invalid].contains(&error.kind());
                    assert!(gone, "a read beside other work: {error} {:?}", error.observations());
                }
                // What is in memory or a hole takes no time.
                turn().await;
            }
        });
    }

    /// Starts a check that goes on beside what follows. It finds nothing, or lets go again and again of space that is needed.
    pub fn check_beside(&mut self) {
        let pool = self.pool();
        self.executor.spawn(async move {
            match pool.check(&Progress::new()).await {
                Ok(report) => assert_eq!(report.findings, [""; 0], "a check beside other work"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Limit, "a check beside other work: {error}")
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

/// What a pool has left.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    blocks: u64,
    /// No version waits for its release, so that what only one head has comes back when it is overwritten.
    exact: bool,
}

/// Blocks of metadata that nobody here needs more of at a time, whatever else is done: paths of the object table, of the
/// free map, what both allocation windows keep from each other.
const SLACK: u64 = 512;

/// The nodes above a block.
fn paths(volume: &str, block: u64) -> impl Iterator<Item = (&str, u64, u64)> {
    (1..=5).map(move |level| (volume, level, block >> (7 * level)))
}
