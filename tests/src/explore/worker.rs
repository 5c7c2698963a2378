//! One worker of an exploration: takes sequences, runs them, and recovers from everything they could leave.

use super::Shared;
use super::history::{Allowed, Boundary, History, run};
use super::prelude::{PRELUDES, Prelude};
use super::recovery::{PROOF_OPERATIONS, Recovered, recover};
use super::report::{Counts, Failure};
use super::sequence::Letter;
use super::states::{self, Breadth, Fates};
use crate::rng::mix;
use crate::store::simulation::silent;
use crate::store::world::Start;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// How many times the recovery of one history loses power again.
const DEPTH_MAX: usize = 2;

/// A power loss to be tried: what makes its case different from all others, the moment, and what becomes of what is unflushed
/// then.
type Loss = (u64, usize, Fates);

/// A worker.
pub(super) struct Worker<'a> {
    shared: &'a Shared,
    starts: Vec<Start>,
    counts: Counts,
}

/// One sequence under way.
struct Case<'a> {
    prelude: &'static Prelude,
    letters: &'a [Letter],
    history: &'a History,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let starts = PRELUDES.iter().map(|prelude| prelude.start(shared.options.seed)).collect();
        Self { shared, starts, counts: Counts::default() }
    }

    pub(super) fn work(mut self) {
        while let Some((prelude, letters)) = self.shared.next_item() {
            self.sequence(prelude, &letters);
        }
        if let Ok(mut counts) = self.shared.counts.lock() {
            *counts += self.counts;
        }
    }

    fn sequence(&mut self, prelude: &'static Prelude, letters: &[Letter]) {
        let index = PRELUDES.iter().position(|other| other.name == prelude.name).unwrap_or_default();
        let (start, options) = (&self.starts[index], self.shared.options);
        let history = match guarded(|| run(prelude, start, letters, options.seed)) {
            Ok(Some(history)) => history,
            Ok(None) => return,
            Err(what) => return self.fail(place(prelude, letters), what),
        };
        self.counts.sequences += 1;
        self.counts.boundaries += history.boundaries.len() as u64;
        self.counts.operations += history.operations;
        self.counts.requests += history.requests;
        let case = Case { prelude, letters, history: &history };
        let (breadth, most) = match letters.len() {
            length if length < options.length => (options.breadth, usize::MAX),
            _ => options.longest,
        };
        self.losses(&case, &breadth, most);
    }

    /// Every power loss of a sequence, or the first `most` in the order of their digests, which is no order at all.
    fn losses(&mut self, case: &Case<'_>, breadth: &Breadth, most: usize) {
        let mut chosen = Vec::new();
        for (moment, boundary) in case.history.boundaries.iter().enumerate() {
            let seed = mix(self.shared.options.seed ^ moment as u64);
            for fates in states::losses(&boundary.moments, breadth, seed) {
                chosen.push((key(boundary, &fates), moment, fates));
            }
        }
        self.counts.left_out += keep(&mut chosen, most);
        let place = place(case.prelude, case.letters);
        self.recoveries(case, &case.history.boundaries, chosen, &place, 0);
    }

    /// Power losses in a recovery that was itself the `depth`th of its history.
    fn nested(&mut self, case: &Case<'_>, recovered: &Recovered, outer: &str, depth: usize) {
        let options = self.shared.options;
        let mut chosen = Vec::new();
        for (moment, boundary) in recovered.boundaries.iter().enumerate() {
            let breadth = Breadth { torn_max: 4, subsets_max: 4, samples: 4 };
            for fates in states::losses(&boundary.moments, &breadth, options.seed ^ moment as u64) {
                chosen.push((key(boundary, &fates), moment, fates));
            }
        }
        self.counts.nested_left_out += keep(&mut chosen, options.nested_states);
        self.recoveries(case, &recovered.boundaries, chosen, outer, depth);
    }

    /// Recovers from each that is new; some recoveries lose power again.
    fn recoveries(
        &mut self,
        case: &Case<'_>,
        boundaries: &[Boundary],
        chosen: Vec<Loss>,
        outer: &str,
        depth: usize,
    ) {
        for (key, moment, fates) in chosen {
            let boundary = &boundaries[moment];
            if !self.shared.is_new(key) {
                self.counts.repeated += 1;
                continue;
            }
            self.counts.states += 1;
            self.counts.nested += u64::from(depth > 0);
            self.counts.nested_twice += u64::from(depth > 1);
            let place = format!("{outer}:{moment}:{}", states::spell(&fates));
            let again = depth < DEPTH_MAX && mix(key).is_multiple_of(self.shared.options.nested_every);
            let recovered = self.recover(case, boundary, &fates, &place, again);
            if let Some(recovered) = recovered.filter(|_| again) {
                self.nested(case, &recovered, &place, depth + 1);
            }
        }
    }

    fn recover(
        &mut self,
        case: &Case<'_>,
        boundary: &Boundary,
        fates: &Fates,
        place: &str,
        record: bool,
    ) -> Option<Recovered> {
        match guarded(|| attempt(case, boundary, fates, record)) {
            Ok(recovered) => {
                self.counts.requests += recovered.requests;
                self.counts.operations += PROOF_OPERATIONS;
                Some(recovered)
            }
            Err(what) => {
                self.fail(place.to_string(), what);
                None
            }
        }
    }

    fn fail(&mut self, place: String, what: String) {
        self.shared.fail(Failure { place, seed: self.shared.options.seed, what });
    }
}

/// Keeps the first `most`, and tells how many are gone. What another worker has seen counts too: or the choice would depend on
/// who came first.
fn keep(chosen: &mut Vec<Loss>, most: usize) -> u64 {
    let gone = chosen.len().saturating_sub(most);
    if gone > 0 {
        chosen.sort_by_key(|(key, ..)| mix(*key));
        chosen.truncate(most);
    }
    gone as u64
}

/// What makes a case different from all others.
fn key(boundary: &Boundary, fates: &Fates) -> u64 {
    mix(states::digest(&boundary.moments, fates) ^ boundary.allowed.digest)
}

fn attempt(case: &Case<'_>, boundary: &Boundary, fates: &Fates, record: bool) -> Recovered {
    let images = states::images(&boundary.moments, fates);
    let seed = states::digest(&boundary.moments, fates);
    let allowed: &Rc<Allowed> = &boundary.allowed;
    recover(case.prelude, case.history, images, seed, allowed, record)
}

fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    silent(|| catch_unwind(AssertUnwindSafe(work)))
}

fn place(prelude: &Prelude, letters: &[Letter]) -> String {
    let words: Vec<&str> = letters.iter().map(|letter| letter.word()).collect();
    format!("{}:{}", prelude.name, words.join(","))
}

/// The sequence of which a place is one.
pub(super) fn sequence_of(place: &str) -> Option<(&'static Prelude, Vec<Letter>)> {
    let mut parts = place.split(':');
    let prelude = Prelude::named(parts.next()?)?;
    Some((prelude, parts.next()?.split(',').map(Letter::parse).collect::<Option<_>>()?))
}

/// Runs the one case that a place names. What does not hold is a panic.
///
/// # Errors
/// The place names nothing.
pub fn replay(place: &str, seed: u64) -> Result<(), String> {
    let (prelude, letters) = sequence_of(place).ok_or("the place names no prelude and operations")?;
    let history =
        run(prelude, &prelude.start(seed), &letters, seed).ok_or("an operation means nothing there")?;
    let case = Case { prelude, letters: &letters, history: &history };
    println!("{}: {} moments", self::place(case.prelude, case.letters), history.boundaries.len());
    let mut recovered: Option<Recovered> = None;
    let rest: Vec<&str> = place.split(':').skip(2).collect();
    for pair in rest.chunks(2) {
        let [moment, fates] = pair else { return Err("a moment comes with its blocks".into()) };
        let boundaries = recovered.as_ref().map_or(&history.boundaries, |outer| &outer.boundaries);
        let moment = moment.parse::<usize>().ok().and_then(|moment| boundaries.get(moment));
        let boundary = moment.ok_or("there is no such moment")?;
        let fates = states::parse(fates).ok_or("blocks are w, t or -")?;
        if fates.len() != states::unflushed(&boundary.moments) {
            return Err(format!("{} blocks are unflushed there", states::unflushed(&boundary.moments)));
        }
        recovered = Some(attempt(&case, boundary, &fates, true));
        println!("recovered");
    }
    Ok(())
}
