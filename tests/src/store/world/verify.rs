//! Holds the store against the model: contents, lists, answers, health, and space that must come back.

use super::{World, fail};
use crate::model::action::Action;
use crate::model::compare::compare;
use crate::model::observe::{self, PoolView};
use crate::model::{Applies, Mark, State};
use crate::store::perform::name;
use datum_store::{CheckReport, Content, ErrorKind, Progress, Since, View};

impl World {
    /// Reads everything.
    pub fn observe(&mut self) -> PoolView {
        let page = self.page.unwrap_or(*self.rng.pick(&[1, 2, 7, 64, 1000]));
        let pool = self.pool();
        let mut view = self.executor.run(observe::observe(&pool, &self.contents, page));
        observe::cut_times(&mut view, self.time_grain);
        view
    }

    /// Compares everything a client can see, and every answer to "what changed since".
    pub fn verify(&mut self) {
        let view = self.observe();
        if let Err(what) = compare(&view, &self.model.state, &self.tokens) {
            panic!("{what}");
        }
        self.verify_changes();
    }

    /// Asks every volume and checkpoint for its changes since every point and every kept token.
    pub fn verify_changes(&mut self) {
        let state = self.model.state.clone();
        for (volume_name, volume) in &state.volumes {
            let untils = volume.checkpoints().map(|(name, _)| Some(name.clone())).chain([None]);
            for until in untils {
                let mut since: Vec<(Since, Mark)> = volume
                    .points
                    .iter()
                    .map(|(n, p)| (Since::Point(name(n)), Mark { timeline: volume.timeline, at: p.at }))
                    .collect();
                since.extend(self.tokens.iter().map(|(token, mark)| (Since::Token(*token), mark.clone())));
                while since.len() > 12 {
                    let spare = self.rng.below(since.len() as u64) as usize;
                    since.swap_remove(spare);
                }
                for (since, mark) in since {
                    self.verify_since(&state, volume_name, until.as_deref(), &since, &mark);
                }
            }
        }
    }

    fn verify_since(&mut self, state: &State, volume: &str, until: Option<&str>, since: &Since, mark: &Mark) {
        let known = &state.volumes[volume];
        let until_at = until.map(|until| known.points[until].at);
        let map =
            until.map_or(&known.head, |until| known.points[until].image.as_ref().expect("a checkpoint"));
        let until_name = until.map(name);
        let what = format!("changes of {volume} until {until:?} since {since:?}");
        let resolved =
            self.call(async |pool| pool.resolve_since(&name(volume), until_name.as_ref(), since).await);
        let change = match (known.applies(mark, until_at), resolved) {
            (Applies::Yes, Ok(change)) => change,
            (Applies::Yes, Err(error)) => panic!("{what}: {error} {:?}", error.observations()),
            (applies, Err(error)) => {
                let fits = match applies {
                    Applies::Newer => error.kind() == ErrorKind::RefpointNewer,
                    Applies::BeyondFork => {
                        [ErrorKind::RefpointForeign, ErrorKind::RefpointNewer].contains(&error.kind())
                    }
                    _ => error.kind() == ErrorKind::RefpointForeign,
                };
                assert!(fits, "{what}: {applies:?} must not be answered with {:?}: {error}", error.kind());
                return;
            }
            (applies, Ok(change)) => panic!("{what}: {applies:?}, yet resolved to change id {change}"),
        };
        let page = self.page.unwrap_or(*self.rng.pick(&[1, 3, 50, 1000]));
        let shown = self.call(async |pool| {
            let image = pool.open_image(&name(volume), until_name.as_ref()).await;
            let image = image.unwrap_or_else(fail("open the image"));
            observe::all_extents(&image, View::Changes(change), page).await
        });
        let shown: Vec<_> = shown
            .iter()
            .map(|e| (e.first.0, e.blocks, e.changed, e.changed && e.content == Content::Data))
            .collect();
        let mut expected: Vec<(u64, u64, bool, bool)> = Vec::new();
        for run in map.runs() {
            let changed = run.cell.change > mark.at;
            let kind = (changed, changed && run.cell.content.is_some());
            match expected.last_mut() {
                Some(last) if (last.2, last.3) == kind => last.1 += run.blocks,
                _ => expected.push((run.first, run.blocks, kind.0, kind.1)),
            }
        }
        assert_eq!(shown, expected, "{what} (first, blocks, changed, data)");
    }

    /// Demands a clean bill of health.
    pub fn check(&mut self) {
        let report = self.call(async |pool| pool.check(&Progress::new()).await);
        clean(&report.unwrap_or_else(fail("check the pool")), "check");
    }

    /// Reads and verifies every block.
    pub fn scrub(&mut self) {
        let report = self.call(async |pool| pool.scrub(&Progress::new()).await);
        clean(&report.unwrap_or_else(fail("scrub the pool")), "scrub");
    }

    /// Waits until background work has come to rest and everything is committed: until three commits in a row
    /// leave as much in use as they found.
    pub fn quiesce(&mut self) {
        let mut still = 0;
        for _ in 0..64 {
            let before = self.pool().status();
            self.executor.idle();
            self.act(Action::Commit);
            self.executor.idle();
            let status = self.pool().status();
            let same = status.allocated_bytes == before.allocated_bytes && status.releases_pending == 0;
            still = if same { still + 1 } else { 0 };
            if still == 3 {
                self.verify_counts();
                return;
            }
        }
        panic!("the pool never comes to rest: {:?}", self.pool().status());
    }

    /// With nothing left to release, the count of each volume's blocks is exact.
    fn verify_counts(&mut self) {
        let pool = self.pool();
        for info in self.executor.run(observe::all_volumes(&pool, 100)) {
            let known = self.model.state.volumes[info.name.as_str()].head.data_blocks() * 4096;
            assert_eq!(info.allocated_bytes, known, "allocated bytes of {} at rest", info.name);
        }
    }

    /// Reads around a range of the live volume and compares.
    pub fn verify_range(&mut self, volume: &str, first: u64, count: u64) {
        let head = self.model.state.volumes[volume].head.clone();
        let start = first.saturating_sub(1);
        let count = (count + 2).min(head.size() - start).min(256);
        let image = self.image(volume);
        let shown = self.executor.run(observe::read(&image, &self.contents, start, count));
        let known: Vec<_> = (start..start + count).map(|at| head.get(at).content).collect();
        assert_eq!(shown, known, "contents of {volume} from block {start}");
    }
}

fn clean(report: &CheckReport, what: &str) {
    assert!(report.errors == 0, "{what} finds {} errors: {:#?}", report.errors, report.findings);
}
