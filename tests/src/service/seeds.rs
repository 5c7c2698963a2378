//! Many runs: seeds in turn on several threads, what fails made shorter, and how to run it again. A failure is told by the
//! seed and the numbers of the steps that it needs.

use super::faults::Faults;
use super::judge::Judge;
use super::plan::Plan;
use super::run::{Run, Tally, carry_out};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Runs that shrinking tries before it gives up.
const SHRINK_TRIES_MAX: usize = 400;
/// How long it goes on trying.
const SHRINK_TIME: Duration = Duration::from_secs(60);
/// Failures after which no further seeds are run.
const FAILURES_MAX: usize = 3;
/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The first seed.
    pub seed: u64,
    /// Seeds that are run at least.
    pub seeds: u64,
    /// Seeds are run until then.
    pub time: Option<Duration>,
    /// Workers.
    pub threads: usize,
    /// Whether a failure is told with the shortest run that shows it.
    pub shrink: bool,
    /// What disks may do.
    pub faults: Faults,
}

/// A run that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    seed: u64,
    faults: Faults,
    /// The steps it needs, in ranges.
    kept: String,
    what: String,
    log: String,
}

impl Failure {
    /// What a person needs to know of it.
    pub fn text(&self) -> String {
        let Self { seed, kept, what, log, .. } = self;
        let faults = match self.faults {
            Faults::ALL => String::new(),
            some => format!(" --faults {some}"),
        };
        format!(
            "service: seed {seed} fails; all that was asked and answered in the shortest run:\n{log}\n{what}\n\
             replay: cargo xtask sim --service{faults} --replay '{seed}:{kept}'"
        )
    }
}

/// Leaves out steps while the run still fails: halves first, then ever smaller pieces.
fn shrink(plan: &Plan, mut failure: (String, String)) -> (BTreeSet<usize>, (String, String)) {
    let mut kept: Vec<usize> = (1..=plan.steps).collect();
    let mut piece = kept.len().div_ceil(2);
    let mut tries = 0;
    let started = Instant::now();
    let goes_on = |tries| tries < SHRINK_TRIES_MAX && started.elapsed() < SHRINK_TIME;
    while goes_on(tries) {
        let mut at = 0;
        let mut dropped = false;
        while at < kept.len() && goes_on(tries) {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + piece).min(fewer.len()));
            tries += 1;
            match carry_out(&plan.with(&fewer.iter().copied().collect())) {
                Err(still) => (kept, failure, dropped) = (fewer, still, true),
                Ok(_) => at += piece,
            }
        }
        if piece == 1 && !dropped {
            break;
        }
        piece = if piece == 1 { 1 } else { piece.div_ceil(2) };
    }
    (kept.into_iter().collect(), failure)
}

/// `1-3,7` for 1, 2, 3 and 7.
fn ranges(numbers: &BTreeSet<usize>) -> String {
    let numbers: Vec<usize> = numbers.iter().copied().collect();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let texts: Vec<String> = runs
        .map(|run| match run {
            [one] => one.to_string(),
            _ => format!("{}-{}", run[0], run[run.len() - 1]),
        })
        .collect();
    texts.join(",")
}

/// The numbers that [`ranges`] has written.
fn numbers(text: &str) -> Option<BTreeSet<usize>> {
    let mut numbers = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(numbers)
}

/// Runs one case again: `seed`, or `seed:steps`, with these classes of faults.
///
/// # Errors
/// What is wrong with the case, or what fails.
pub fn replay(place: &str, faults: Faults) -> Result<(), String> {
    let (seed, kept) = place.split_once(':').unwrap_or((place, ""));
    let plan = Plan::new(seed.parse().map_err(|_| format!("{seed} is no seed"))?).only(faults);
    let plan = match kept {
        "" => plan,
        _ => plan.with(&numbers(kept).ok_or_else(|| format!("{kept} are no steps"))?),
    };
    carry_out(&plan).map(drop).map_err(|(what, log)| format!("{log}\n{what}"))
}

/// Everything that was asked and answered in the run of a seed, and a digest of what reached the disks.
pub fn trace(seed: u64) -> (String, u64) {
    let judge = Rc::new(RefCell::new(Judge::default()));
    let plan = Plan::new(seed);
    let tally = Run::new(&plan, judge.clone()).all();
    let log = judge.borrow().log.text();
    (log, tally.trace)
}

/// What many runs have come to.
#[derive(Debug)]
pub struct Report {
    tally: Tally,
    /// Runs that failed.
    pub failures: Vec<Failure>,
    elapsed: Duration,
}

/// Runs seeds.
pub fn run(options: Options) -> Report {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let failures: Mutex<Vec<Failure>> = Mutex::default();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let late = options.time.is_none_or(|time| started.elapsed() > time);
            let failed = failures.lock().map_or(FAILURES_MAX, |failures| failures.len()) >= FAILURES_MAX;
            if (number >= options.seeds && late) || failed {
                return;
            }
            let seed = options.seed + number;
            match carry_out(&Plan::new(seed).only(options.faults)) {
                Ok(done) => {
                    if let Ok(mut tally) = tally.lock() {
                        tally.add(done);
                    }
                }
                Err(failure) => {
                    eprintln!("service: seed {seed} fails: {}", failure.0);
                    let failure = tell(seed, failure, options);
                    eprintln!("{}", failure.text());
                    if let Ok(mut failures) = failures.lock() {
                        failures.push(failure);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(work);
        }
    });
    let tally = tally.into_inner().unwrap_or_default();
    Report { tally, failures: failures.into_inner().unwrap_or_default(), elapsed: started.elapsed() }
}

fn tell(seed: u64, failure: (String, String), options: Options) -> Failure {
    let plan = Plan::new(seed).only(options.faults);
    let (kept, (what, log)) = match options.shrink {
        true => shrink(&plan, failure),
        false => ((1..=plan.steps).collect(), failure),
    };
    Failure { seed, faults: options.faults, kept: ranges(&kept), what, log }
}

impl Report {
    /// How many methods of the control port were called.
    pub fn methods(&self) -> usize {
        self.tally.methods.len()
    }

    /// The figures.
    pub fn table(&self) -> String {
        let Tally { simulated, .. } = self.tally;
        let tally = &self.tally;
        let seconds = self.elapsed.as_secs_f64();
        let operations = tally.requests + tally.commands;
        let ratio = simulated as f64 / 1e9 / seconds;
        let rows = [
            ("runs, each of one pool", tally.runs.to_string()),
            ("lives of the appliance", tally.lives.to_string()),
            ("of them ended in the midst of opening the pool", tally.false_starts.to_string()),
            ("of them with disks that fail or lie", tally.troubled.to_string()),
            ("power losses", tally.power_losses.to_string()),
            ("resets that keep the disks' caches", tally.resets.to_string()),
            ("of all these after an orderly shutdown", tally.shutdowns.to_string()),
            ("sessions of clients", tally.sessions.to_string()),
            ("NBD requests", tally.requests.to_string()),
            ("control requests", tally.commands.to_string()),
            ("methods among them", tally.methods.len().to_string()),
            ("refused for want of space", tally.full.to_string()),
            ("disk requests", tally.disk_requests.to_string()),
            ("steps of the executor", tally.steps.to_string()),
            ("client requests a second", format!("{:.0}", operations as f64 / seconds)),
            ("simulated seconds", format!("{:.0}", simulated as f64 / 1e9)),
            ("simulated seconds a second", format!("{ratio:.0}")),
            ("runs that failed", self.failures.len().to_string()),
        ];
        let mut table = String::new();
        for (what, value) in rows {
            let _ = writeln!(table, "{what:>50}  {value}");
        }
        let _ = writeln!(table, "{:>50}  {seconds:.1} s", "service and clients took");
        table
    }
}
