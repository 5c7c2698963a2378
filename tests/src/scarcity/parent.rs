//! Starts a process for each case, and judges how it ends.

use super::case::{Case, Ending, Work, meaningful};
use crate::explore::prelude::{LARGE, PRELUDES, Prelude};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The environment variable that names one case.
pub const WHERE: &str = "DATUM_ALLOCATION";

/// What a process says before an allocation fails, and its bytes.
pub(super) const RECOVERED: &str = "recovered; no memory for bytes: ";
const BEYOND: &str = "done; allocations: ";
const REFUSED: &str = "refused, and goes on";
const ABSORBED: &str = "goes on";
const NOTHING: &str = "means nothing";

/// The signal of an abort.
const ABORT: i32 = 6;

/// What came of all cases.
#[derive(Debug, Default)]
pub struct Report {
    /// Workloads.
    pub workloads: u64,
    /// Allocations that their last works make.
    pub allocations: u64,
    /// Those that were made to fail.
    pub cases: u64,
    /// The machine was reset.
    pub resets: u64,
    /// A request was refused.
    pub refusals: u64,
    /// Nobody noticed.
    pub absorbed: u64,
    /// The largest allocation that ended in a reset: its bytes, and the case.
    pub largest_reset: (usize, String),
    /// Cases of each work, by its word.
    pub works: BTreeMap<&'static str, u64>,
    /// What did not hold.
    pub failures: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs the case that the environment names, in the process that was started for it.
pub fn answer(text: &str) {
    let case = Case::parse(text).unwrap_or_else(|| panic!("{text} is no case"));
    match case.run() {
        None => println!("{NOTHING}"),
        Some(Ending::Beyond(count)) => println!("{BEYOND}{count}"),
        Some(Ending::Refused) => println!("{REFUSED}"),
        Some(Ending::Absorbed) => println!("{ABSORBED}"),
    }
}

/// How a process ended.
enum End {
    Beyond(u64),
    Nothing,
    Reset(usize),
    Refused,
    Absorbed,
}

struct Shared<'a> {
    test: &'a str,
    workloads: Vec<(&'static Prelude, Work)>,
    stride: usize,
    next: AtomicUsize,
    report: Mutex<Report>,
}

/// Runs all workloads of one work, each allocation failing in turn, or one in `stride` of them. `test` is the test
/// of this program that calls [`answer`] where the environment says so.
pub fn explore(test: &str, stride: usize, threads: usize) -> Report {
    let started = Instant::now();
    let mut workloads = Vec::new();
    for prelude in PRELUDES.iter().chain([&LARGE]) {
        let state = prelude.start(1).state;
        workloads.extend(
            Work::all().into_iter().filter(|work| meaningful(&state, *work)).map(|work| (prelude, work)),
        );
    }
    let shared = Shared { test, workloads, stride, next: AtomicUsize::new(0), report: Mutex::default() };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(|| shared.work()))));
    let report = shared.report.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    Report { elapsed: started.elapsed(), ..report }
}

impl Shared<'_> {
    fn work(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((prelude, work)) = self.workloads.get(number) else { return };
            self.workload(number, prelude, *work);
        }
    }

    fn workload(&self, number: usize, prelude: &'static Prelude, work: Work) {
        let case = |after| Case { prelude, work: vec![work], after };
        let count = match self.run(&case(u64::MAX)) {
            Ok(End::Beyond(count)) => count,
            Ok(End::Nothing) => return,
            Ok(_) => return self.fail(&case(u64::MAX), "an allocation failed that was not to fail"),
            Err(what) => return self.fail(&case(u64::MAX), &what),
        };
        self.note(|report| {
            report.workloads += 1;
            report.allocations += count;
        });
        for after in (0..count).skip(number % self.stride).step_by(self.stride) {
            let case = case(after);
            match self.run(&case) {
                Ok(end) => self.note(|report| report.count(&case, &end)),
                Err(what) => return self.fail(&case, &what),
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut Report)) {
        if let Ok(mut report) = self.report.lock() {
            change(&mut report);
        }
    }

    fn fail(&self, case: &Case, what: &str) {
        let replay = format!(
            "{WHERE}={} cargo test -p datum-tests --test store_allocations {} -- --exact --nocapture",
            case.spell(),
            self.test
        );
        self.note(|report| report.failures.push(format!("{what}\nreplay: {replay}")));
    }

    fn run(&self, case: &Case) -> Result<End, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command
            .args([self.test, "--exact", "--nocapture"])
            .env(WHERE, case.spell())
            .env("RUST_BACKTRACE", "0");
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        end(&output).ok_or_else(|| {
            let (said, told) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            format!("{}: {said}{told}", output.status)
        })
    }
}

/// How a process ended, if it ended in order.
fn end(output: &Output) -> Option<End> {
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let after = |words: &str| {
        let line = said.lines().find_map(|line| line.split_once(words).map(|(_, rest)| rest))?;
        line.trim().parse::<u64>().ok()
    };
    let recovered = after(RECOVERED).and_then(|bytes| usize::try_from(bytes).ok());
    if output.status.signal() == Some(ABORT) {
        let without_memory = told.contains("memory allocation of");
        return recovered.filter(|_| without_memory).map(End::Reset);
    }
    if !output.status.success() {
        return None;
    }
    match recovered {
        None if said.contains(NOTHING) => Some(End::Nothing),
        None => after(BEYOND).map(End::Beyond),
        Some(_) if said.contains(REFUSED) => Some(End::Refused),
        Some(_) => said.contains(ABSORBED).then_some(End::Absorbed),
    }
}

impl Report {
    fn count(&mut self, case: &Case, end: &End) {
        if matches!(end, End::Beyond(_) | End::Nothing) {
            // One allocation more or less, by the addresses that a hash table is seeded with.
            return;
        }
        self.cases += 1;
        *self.works.entry(case.work[0].word()).or_default() += 1;
        match end {
            End::Reset(bytes) => {
                self.resets += 1;
                if *bytes > self.largest_reset.0 {
                    self.largest_reset = (*bytes, case.spell());
                }
            }
            End::Refused => self.refusals += 1,
            End::Absorbed => self.absorbed += 1,
            End::Beyond(_) | End::Nothing => {}
        }
    }

    /// As lines of a table.
    pub fn table(&self) -> String {
        let (bytes, case) = &self.largest_reset;
        let rows = [
            ("workloads", self.workloads.to_string()),
            ("allocations they make", self.allocations.to_string()),
            ("of them made to fail", self.cases.to_string()),
            ("ended in a reset", self.resets.to_string()),
            ("ended in a refused request", self.refusals.to_string()),
            ("noticed by nobody", self.absorbed.to_string()),
            ("largest that ended in a reset", format!("{bytes} bytes ({case})")),
            ("seconds", format!("{:.0}", self.elapsed.as_secs_f32())),
        ];
        let works = self.works.iter().map(|(work, cases)| format!("{work} {cases}"));
        let works = works.collect::<Vec<_>>().join(", ");
        let rows: String = rows.iter().map(|(what, count)| format!("| {what} | {count} |\n")).collect();
        format!("{rows}by what was going on: {works}\n")
    }
}
