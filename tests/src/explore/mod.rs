//! The exhaustive part of the crash simulator: every short sequence of operations on tiny volumes, the power lost
//! at every moment, and every state that a power loss could leave.
//!
//! A place names one case exactly: `prelude:letters:moment:fates`, and once more `moment:fates` for a power loss
//! in the recovery. Cases are told apart by what is on the disks and what may come out; each is recovered once.

pub mod history;
pub mod prelude;
pub mod recovery;
pub mod report;
pub mod sequence;
pub mod states;
mod worker;

pub use report::{Counts, Failure, Report};
pub use states::Breadth;
pub use worker::replay;

use crate::rng::Rng;
use prelude::{PRELUDES, Prelude};
use sequence::{Letter, sequences};
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use worker::Worker;

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seeds every choice.
    pub seed: u64,
    /// Workers, each with worlds of its own.
    pub threads: usize,
    /// Letters of the longest sequences that are all run.
    pub length: usize,
    /// What is tried at each moment of all shorter sequences.
    pub breadth: Breadth,
    /// What is tried at each moment of the longest ones, and how many states of one such sequence at most.
    pub longest: (Breadth, usize),
    /// One recovery in so many loses power again.
    pub nested_every: u64,
    /// States tried of a recovery that loses power again.
    pub nested_states: usize,
    /// When everything is done, longer random sequences until so much time has passed since the beginning.
    pub until: Option<Duration>,
}

impl Options {
    /// The form for a build with every assertion: up to two letters.
    pub fn quick(seed: u64) -> Self {
        let breadth = Breadth { torn_max: 3, subsets_max: 4, samples: 4 };
        Self { length: 2, breadth, longest: (breadth, 16), ..Self::short(seed) }
    }

    /// The form that runs with every test.
    pub fn short(seed: u64) -> Self {
        Self {
            seed,
            threads: 2,
            length: 3,
            breadth: Breadth { torn_max: 8, subsets_max: 8, samples: 24 },
            longest: (Breadth { torn_max: 3, subsets_max: 4, samples: 6 }, 10),
            nested_every: 24,
            nested_states: 12,
            until: None,
        }
    }

    /// The form for nights: everything at each moment of all sequences.
    pub fn long(seed: u64, time: Duration) -> Self {
        let breadth = Breadth { torn_max: 8, subsets_max: 8, samples: 100 };
        Self { breadth, longest: (breadth, usize::MAX), until: Some(time), ..Self::short(seed) }
    }
}

/// Unique crash states that the short form recovers and checks at least, or it has not looked at enough.
pub const SHORT_STATES_MIN: u64 = 200_000;

/// Failures after which an exploration ends.
const FAILURES_MAX: usize = 5;

/// A sequence of operations, and the pool on which it begins.
type Item = (&'static Prelude, Vec<Letter>);

/// What all workers share.
struct Shared {
    options: Options,
    items: Vec<Item>,
    next: AtomicUsize,
    seen: Mutex<HashSet<u64>>,
    failures: Mutex<Vec<Failure>>,
    counts: Mutex<Counts>,
    started: Instant,
    cut_short: AtomicBool,
}

impl Shared {
    /// The next sequence to run. Beyond those that are listed, random longer ones while there is time.
    fn next_item(&self) -> Option<Item> {
        let failures = self.failures.lock().map_or(FAILURES_MAX, |failures| failures.len());
        let out_of_time = self.options.until.is_some_and(|until| self.started.elapsed() > until);
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        if failures >= FAILURES_MAX || out_of_time {
            self.cut_short.fetch_or(at < self.items.len(), Ordering::Relaxed);
            return None;
        }
        match self.items.get(at) {
            Some((prelude, letters)) => Some((prelude, letters.clone())),
            None => self.options.until.map(|_| self.random_item(at)),
        }
    }

    fn random_item(&self, at: usize) -> Item {
        let mut rng = Rng::new(self.options.seed ^ (at as u64) << 8);
        let length = rng.between(self.options.length as u64 + 1, 12);
        let letters = (0..length).map(|_| rng.pick(&sequence::ALPHABET).0).collect();
        (rng.pick(&PRELUDES), letters)
    }

    /// Whether this is the first case of its kind.
    fn is_new(&self, key: u64) -> bool {
        self.seen.lock().is_ok_and(|mut seen| seen.insert(key))
    }

    fn fail(&self, failure: Failure) {
        if let Ok(mut failures) = self.failures.lock() {
            eprintln!("{}", failure.text());
            failures.push(failure);
        }
    }
}

/// Explores, and reports.
pub fn explore(options: Options) -> Report {
    let started = Instant::now();
    let mut items = Vec::new();
    for prelude in &PRELUDES {
        let start = prelude.start(options.seed);
        for length in 1..=options.length {
            let all = sequences(&start.state, &start.contents, start.drawn, length);
            items.extend(all.into_iter().map(|letters| (prelude, letters)));
        }
    }
    // Short ones first: what fails is told by the shortest.
    items.sort_by_key(|(_, letters)| letters.len());
    let mut report = explore_all(options, items, started);
    for failure in &mut report.failures {
        shrink(failure, options);
    }
    report
}

/// Explores these sequences, and then random ones while there is time.
fn explore_all(options: Options, items: Vec<Item>, started: Instant) -> Report {
    let shared = Shared {
        options,
        items,
        next: AtomicUsize::new(0),
        seen: Mutex::default(),
        failures: Mutex::default(),
        counts: Mutex::default(),
        started,
        cut_short: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| Worker::new(&shared).work());
        }
    });
    let complete = !shared.cut_short.into_inner();
    let counts = shared.counts.into_inner().unwrap_or_default();
    let failures = shared.failures.into_inner().unwrap_or_default();
    Report { counts, failures, elapsed: started.elapsed(), complete }
}

/// Takes letters out of a random history for as long as what is left fails too. Those that are all run come in the order of
/// their lengths and need none of it.
fn shrink(failure: &mut Failure, options: Options) {
    let Some((prelude, mut letters)) = worker::sequence_of(&failure.place) else { return };
    let alone = Options { threads: 1, until: None, ..options };
    let mut at = 0;
    while letters.len() > options.length && at < letters.len() {
        let fewer = [&letters[..at], &letters[at + 1..]].concat();
        let report = explore_all(alone, vec![(prelude, fewer.clone())], Instant::now());
        match report.failures.into_iter().next() {
            Some(shorter) => (*failure, letters) = (shorter, fewer),
            None => at += 1,
        }
    }
}
