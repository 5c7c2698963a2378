//! Starts a process for each case, and judges how it ends.

use super::Ending;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The environment variable that names one case.
pub const WHERE: &str = "DATUM_ALLOCATION";

/// What a process says before an allocation fails, and its bytes.
const RECOVERED: &str = "recovered; no memory for bytes: ";
/// What it says before the work that was refused is done again and again.
const AGAIN: &str = "once more, and more often";
const BEYOND: &str = "done; allocations: ";
const SITES: &str = "first of each call site, and the site:";
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
    /// Call sites among them, those of each workload for itself.
    pub sites: u64,
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
    pub works: BTreeMap<String, u64>,
    /// What did not hold.
    pub failures: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Says how the case ended that this process was started for.
pub(crate) fn say(ending: Option<Ending>) {
    match ending {
        None => println!("{NOTHING}"),
        Some(Ending::Beyond { count, large, sites }) => {
            let large: String = large.iter().map(|number| format!(" {number}")).collect();
            println!("{BEYOND}{count}{large}");
            let sites: String = sites.iter().map(|(number, site)| format!(" {number} {site}")).collect();
            println!("{SITES}{sites}");
        }
        Some(Ending::Refused) => println!("{REFUSED}"),
        Some(Ending::Absorbed) => println!("{ABSORBED}"),
    }
}

/// Says that every power loss at this moment was recovered from, and what there is no memory for.
pub(crate) fn say_recovered(bytes: usize) {
    println!("{RECOVERED}{bytes}");
}

/// Says that from here on a reset is no news.
pub(crate) fn say_again() {
    println!("{AGAIN}");
}

/// The test that starts processes: of this program, and asked for by this name, it answers where the environment says so.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// The program, as cargo calls it.
    pub program: &'static str,
    /// The test's name.
    pub name: &'static str,
}

/// Work whose allocations fail. A case of it is spelt `work:after`.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What names it.
    pub spelling: String,
    /// Under which word it is counted.
    pub word: String,
    /// One allocation in so many fails, each large one, and one of each call site of such as may be large that no other workload has tried.
    pub stride: usize,
    /// So many fail at its end, where it is answered.
    pub last: u64,
}

impl Workload {
    fn case(&self, after: u64) -> String {
        format!("{}:{after}", self.spelling)
    }
}

/// How a process ended.
enum End {
    /// How many allocations there are, the numbers of the large ones, and call sites.
    Beyond(u64, Vec<u64>, Vec<(u64, u64)>),
    Nothing,
    Reset(usize),
    Refused,
    Absorbed,
}

struct Shared {
    test: Test,
    workloads: Vec<Workload>,
    next: AtomicUsize,
    report: Mutex<Report>,
    /// Call sites of which an allocation has failed or is about to.
    tried: Mutex<BTreeSet<u64>>,
}

/// Runs all workloads, with one failing allocation a case.
pub fn explore(test: Test, workloads: Vec<Workload>, threads: usize) -> Report {
    let started = Instant::now();
    let shared = Shared {
        test,
        workloads,
        next: AtomicUsize::new(0),
        report: Mutex::default(),
        tried: Mutex::default(),
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(|| shared.work()))));
    let report = shared.report.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    Report { elapsed: started.elapsed(), ..report }
}

impl Shared {
    fn work(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(workload) = self.workloads.get(number) else { return };
            self.workload(number, workload);
        }
    }

    fn workload(&self, number: usize, workload: &Workload) {
        let all = workload.case(u64::MAX);
        let (count, large, sites) = match self.run(&all) {
            Ok(End::Beyond(count, large, sites)) => (count, large, sites),
            Ok(End::Nothing) => return,
            Ok(_) => return self.fail(&all, "an allocation failed that was not to fail"),
            Err(what) => return self.fail(&all, &what),
        };
        self.note(|report| {
            report.workloads += 1;
            report.allocations += count;
            report.sites += sites.len() as u64;
        });
        let mut numbers: BTreeSet<u64> =
            (0..count).skip(number % workload.stride).step_by(workload.stride).collect();
        numbers.extend(large);
        numbers.extend(self.untried(sites));
        numbers.extend(count.saturating_sub(workload.last)..count);
        for after in numbers {
            let case = workload.case(after);
            match self.run(&case) {
                Ok(end) => self.note(|report| report.count(workload, &case, &end)),
                Err(what) => self.fail(&case, &what),
            }
        }
    }

    /// Of call sites those that no workload has tried; now they are.
    fn untried(&self, sites: Vec<(u64, u64)>) -> Vec<u64> {
        let mut tried = self.tried.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        sites.into_iter().filter(|(_, site)| tried.insert(*site)).map(|(number, _)| number).collect()
    }

    fn note(&self, change: impl FnOnce(&mut Report)) {
        if let Ok(mut report) = self.report.lock() {
            change(&mut report);
        }
    }

    fn fail(&self, case: &str, what: &str) {
        let Test { program, name } = self.test;
        let replay = format!(
            "{WHERE}={case} cargo test -p datum-tests --test {program} {name} -- --exact --nocapture"
        );
        self.note(|report| report.failures.push(format!("{what}\nreplay: {replay}")));
    }

    fn run(&self, case: &str) -> Result<End, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args([self.test.name, "--exact", "--nocapture"]).env(WHERE, case).env("RUST_BACKTRACE", "0");
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
        line.split_whitespace().map(|number| number.parse::<u64>().ok()).collect::<Option<Vec<_>>>()
    };
    let recovered = after(RECOVERED).and_then(|bytes| usize::try_from(*bytes.first()?).ok());
    if output.status.signal() == Some(ABORT) {
        let without_memory = told.contains("memory allocation of");
        let recovered = recovered.filter(|_| without_memory);
        return if said.contains(AGAIN) {
            recovered.map(|_| End::Refused)
        } else {
            recovered.map(End::Reset)
        };
    }
    if !output.status.success() {
        return None;
    }
    match recovered {
        None if said.contains(NOTHING) => Some(End::Nothing),
        None => after(BEYOND).zip(after(SITES)).and_then(|(numbers, sites)| {
            let (count, large) = numbers.split_first()?;
            let sites = sites.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            Some(End::Beyond(*count, large.to_vec(), sites))
        }),
        Some(_) if said.contains(REFUSED) => Some(End::Refused),
        Some(_) => said.contains(ABSORBED).then_some(End::Absorbed),
    }
}

impl Report {
    fn count(&mut self, workload: &Workload, case: &str, end: &End) {
        if matches!(end, End::Beyond(..) | End::Nothing) {
            // One allocation more or less, by the addresses that a hash table is seeded with.
            return;
        }
        self.cases += 1;
        *self.works.entry(workload.word.clone()).or_default() += 1;
        match end {
            End::Reset(bytes) => {
                self.resets += 1;
                if *bytes > self.largest_reset.0 {
                    self.largest_reset = (*bytes, case.to_owned());
                }
            }
            End::Refused => self.refusals += 1,
            End::Absorbed => self.absorbed += 1,
            End::Beyond(..) | End::Nothing => {}
        }
    }

    /// Shows what came out, and demands that nothing failed, that both ways to end were seen, and that no allocation above
    /// `reset_bytes_max` ended in a reset.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn judge(&self, reset_bytes_max: usize) {
        println!("{}", self.table());
        let failures = &self.failures;
        failures
            .iter()
            .filter_map(|what| what.lines().last())
            .for_each(|replay| println!("failed; {replay}"));
        assert!(failures.is_empty(), "{} failures; the first: {}", failures.len(), failures[0]);
        assert!(self.resets > 0 && self.refusals > 0, "the two ways to end are both there");
        let (bytes, case) = &self.largest_reset;
        assert!(*bytes <= reset_bytes_max, "{case} resets the machine for want of {bytes} bytes");
    }

    /// As lines of a table.
    pub fn table(&self) -> String {
        let (bytes, case) = &self.largest_reset;
        let rows = [
            ("workloads", self.workloads.to_string()),
            ("allocations they make", self.allocations.to_string()),
            ("call sites of each", self.sites.to_string()),
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
