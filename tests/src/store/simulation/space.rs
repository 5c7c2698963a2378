//! Operations that use up a pool's space, and wait for what comes back: many clients at once, readers who keep what was freed,
//! pools filled by all means.

use super::{Run, STEPS_TO_BEGIN};
use crate::disk::{Slow, Sort};
use crate::model::Point;
use crate::model::action::Action;
use crate::model::operation::{Chooser, Kind, Operation};
use crate::rng::Rng;
use crate::store::world::Stretch;

impl Run<'_> {
    /// Many clients at work at the same time. Where they come again, each block they write has its place already: all they
    /// need is room to overwrite it.
    pub(super) fn rush(&mut self, operation: Operation) {
        let mut rng = Rng::new(operation.salt ^ 0x4ead);
        for _ in 0..rng.between(1, 2) {
            let state = self.world.model.state.clone();
            let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
            let clients = chooser.clients(&mut self.world.contents);
            if !self.plan.may_fill || clients.is_empty() {
                return;
            }
            let readers = self.readers(&mut rng, &clients);
            self.world.rush(&clients, &readers);
        }
    }

    /// Readers who come one after the other, each during a commit of what was overwritten meanwhile, and stay; then clients who
    /// want what all of them keep.
    pub(super) fn queue(&mut self, operation: Operation) {
        let mut rng = Rng::new(operation.salt ^ 0x9e0e);
        if rng.chance(60) {
            self.fill_up(operation);
        }
        let (most, lasting) = (*rng.pick(&[16, 64, 128]), *rng.pick(&[3000, 30_000]));
        self.slow_alike(Slow { sort: Sort::Reads, requests: 30, one_in: 1, lasting });
        for round in 0..rng.between(2, 12) {
            let salt = operation.salt ^ (round << 32);
            let state = self.world.model.state.clone();
            let mut chooser = Chooser::new(salt, &state, &self.plan.shape);
            let Some((volume, known)) = chooser.volume() else { return };
            let first = chooser.position(known.head.size());
            let count = most.min(known.head.size() - first);
            if self.fill([(volume.clone(), first, count)].into_iter()) {
                break;
            }
            self.world.commit_beside();
            self.world.executor.step(rng.below(60));
            self.world.read_beside(volume, first, count.min(16));
            self.world.executor.step(STEPS_TO_BEGIN);
        }
        self.rush(operation);
    }

    /// Readers of what clients are about to write, some of them slow, and those who look at everything.
    pub(super) fn readers(&mut self, rng: &mut Rng, clients: &[Vec<Action>]) -> Vec<Stretch> {
        if rng.chance(50) {
            let (requests, one_in) = *rng.pick(&[(1, 1), (4, 1), (30, 7), (400, 20)]);
            let lasting = *rng.pick(&[30, 300, 3000, 30_000]);
            let slow = Slow { sort: Sort::Reads, requests, one_in, lasting };
            self.slow_alike(slow);
        }
        if rng.chance(10) {
            self.world.check_beside();
        }
        let written = clients.iter().flatten().filter_map(|action| match action {
            Action::Write { volume, first, contents } => {
                Some((volume.clone(), *first, (contents.len() as u64).min(16)))
            }
            _ => None,
        });
        let written: Vec<Stretch> = written.collect();
        let readers = if written.is_empty() { 0 } else { *rng.pick(&[0, 0, 1, 2, 4, 8]) };
        (0..readers).map(|_| rng.pick(&written).clone()).collect()
    }

    /// Fills the pool by all means: with data until there is no place for another block, then with what may take of the
    /// reserve. What gives space back goes on all the same.
    pub(super) fn brim(&mut self, operation: Operation) {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let leaves = chooser.leaves();
        // Each of these holds nodes of its own.
        let between = *chooser.rng.pick(&[1000, 30, 5]);
        for some in leaves.chunks(between) {
            self.fill(some.iter().map(|(volume, first)| (volume.clone(), *first, 1)));
            if between < leaves.len() {
                let (volumes, name) = (vec![some[0].0.clone()], self.world.fresh("p"));
                self.refused(Action::CreateCheckpoint { volumes, name, time: 0 });
            }
        }
        if chooser.rng.chance(70) {
            self.plain(Operation { kind: Kind::Checkpoint, ..operation });
        }
        let filled = chooser.filling(256);
        self.fill(filled.iter().cloned());
        for length in [16, 1] {
            self.fill(chooser.filling(length).into_iter());
        }
        let trim = |(volume, first): &(String, u64)| Action::Trim {
            volume: volume.clone(),
            first: *first,
            count: 1,
        };
        self.until_refused(leaves.iter().map(trim));
        let of_leaves = leaves.first().map(|(volume, _)| volume.clone());
        let Some(volume) = of_leaves.or_else(|| Some(chooser.volume()?.0.clone())) else { return };
        let points: Vec<String> = (0..chooser.rng.below(100)).map(|_| self.world.fresh("p")).collect();
        let make = |name: String| match chooser.rng.chance(50) {
            true => Action::CreateRefpoint { volume: volume.clone(), name, time: 0 },
            false => Action::CreateCheckpoint { volumes: vec![volume.clone()], name, time: 0 },
        };
        self.until_refused(points.into_iter().map(make));
        // While somebody reads, commits return nothing.
        if chooser.rng.chance(50) {
            let lasting = *chooser.rng.pick(&[30, 30_000]);
            let slow = Slow { sort: Sort::Reads, requests: 1, one_in: 1, lasting };
            self.slow_alike(slow);
            filled.iter().take(1).for_each(|(volume, first, _)| self.world.read_beside(volume, *first, 1));
            self.world.executor.step(STEPS_TO_BEGIN);
        }
        self.until_refused(vec![Action::Commit; *chooser.rng.pick(&[0, 1, 200])].into_iter());
        for kind in [Kind::Convert, Kind::DeleteCheckpoint, Kind::DeleteRefpoint] {
            self.plain(Operation { kind, ..operation });
        }
        self.remove_surplus(&mut chooser.rng, &volume, &leaves);
    }

    /// Removes all points of a volume but a few, or they would be more and more: one after the other, or many at a time.
    fn remove_surplus(&mut self, rng: &mut Rng, volume: &str, places: &[(String, u64)]) {
        let points = &self.world.model.state.volumes[volume].points;
        let surplus = points.len().saturating_sub(self.plan.shape.points_max);
        let remove = |(name, point): (&String, &Point)| match point.image {
            Some(_) => Action::DeleteCheckpoint { volume: volume.into(), name: name.clone() },
            None => Action::DeleteRefpoint { volume: volume.into(), name: name.clone() },
        };
        let mut removals: Vec<Action> = points.iter().map(remove).collect();
        rng.shuffle(&mut removals);
        removals.truncate(surplus);
        if rng.chance(70) {
            return self.remove_side_by_side(rng, removals, places);
        }
        for removal in removals {
            self.refused(removal);
        }
    }

    /// Clients that remove something and write somewhere, by turns, beside commits and those who read.
    fn remove_side_by_side(&mut self, rng: &mut Rng, removals: Vec<Action>, places: &[(String, u64)]) {
        let mut clients = vec![Vec::new(); *rng.pick(&[4, 16])];
        let mut places = places.iter().cloned();
        for (removal, client) in removals.into_iter().zip((0..clients.len()).cycle()) {
            clients[client].push(removal);
            clients[client].extend(places.next().map(|(volume, first)| Action::Write {
                volume,
                first,
                contents: vec![self.world.contents.draw()],
            }));
        }
        let commits = *rng.pick(&[0, 100, 100]);
        clients.push(vec![Action::Commit; commits]);
        let readers = self.readers(rng, &clients);
        self.world.rush(&clients, &readers);
    }

    /// Writes until there is no space for more data, and trims some of it again.
    pub(super) fn fill_up(&mut self, operation: Operation) {
        let state = self.world.model.state.clone();
        let mut chooser = Chooser::new(operation.salt, &state, &self.plan.shape);
        let mut filled = chooser.filling(256);
        self.fill(filled.iter().cloned());
        self.fill(chooser.filling(16).into_iter());
        chooser.rng.shuffle(&mut filled);
        filled.truncate(chooser.rng.below(6) as usize);
        let trims = filled.into_iter().map(|(volume, first, count)| Action::Trim { volume, first, count });
        let commits = vec![Action::Commit; chooser.rng.below(3) as usize];
        self.until_refused(trims.chain(commits));
    }

    /// Carries out actions one after the other, until there is no space for one.
    fn until_refused(&mut self, mut actions: impl Iterator<Item = Action>) {
        let _ = actions.any(|action| self.refused(action));
    }

    /// The same with writes of fresh contents. Tells whether one was refused.
    fn fill(&mut self, mut stretches: impl Iterator<Item = Stretch>) -> bool {
        stretches.any(|(volume, first, count)| {
            let contents = (0..count).map(|_| self.world.contents.draw()).collect();
            self.refused(Action::Write { volume, first, contents })
        })
    }
}
