//! The store's test programs, run on a tree that may have a defect: which of their tests notice it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::tree::Tree;
use crate::workspace::text;

/// A test program that is not done by then hangs, which is as good as failing.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a running program is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// The programs in the order in which they run: what random runs catch needs no test of its own, and what
/// only a story catches was found by somebody who knew it.
const ORDER: [&str; 6] =
    ["store_random", "service_random", "store_explore", "store_matrix", "store_faults", "store_traps"];

/// What Cargo builds first, and only where that notices nothing.
const STAGES: [&[&str]; 2] = [
    &["--package", "datum-tests", "--test", "store_random", "--test", "service_random"],
    &[
        "--package",
        "datum-store",
        "--package",
        "datum-tests",
        "--lib",
        "--test",
        "store_*",
        "--test",
        "service_allocations",
    ],
];

/// Tests that a verdict names; more are counted.
const NAMED_MAX: usize = 3;

/// What the suites said of a tree.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) caught: Option<Catch>,
    building: Duration,
    running: Duration,
}

/// A program in which tests failed.
pub(super) struct Catch {
    program: String,
    /// Each with its seed, where it tells one.
    tests: Vec<String>,
    after: Duration,
}

/// Builds the suites of a tree and runs them, up to the first one that fails.
pub(super) fn trial(tree: &Tree) -> Result<Verdict> {
    let logs = tree.copy.with_file_name("logs");
    fs::create_dir_all(&logs)?;
    let mut verdict = Verdict::default();
    let mut tried = BTreeSet::new();
    for stage in STAGES {
        let started = Instant::now();
        let programs = build(tree, stage)?;
        verdict.building += started.elapsed();
        for (name, program) in programs {
            if !tried.insert(program.clone()) {
                continue;
            }
            let started = Instant::now();
            let log = logs.join(&name).with_extension("log");
            let ended = run(&program, &log)?;
            let after = started.elapsed();
            verdict.running += after;
            let tests = match ended {
                Some(status) if status.success() => continue,
                Some(_) => failed_tests(&String::from_utf8_lossy(&fs::read(&log)?)),
                None => vec![format!("not done after {} s", PATIENCE.as_secs())],
            };
            verdict.caught = Some(Catch { program: name, tests, after });
            return Ok(verdict);
        }
    }
    Ok(verdict)
}

/// The test programs that Cargo builds for these arguments, by name.
fn build(tree: &Tree, what: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = tree.cargo(&["test", "--locked", "--no-run", "--message-format=json"]);
    let output = cargo.args(what).stdin(Stdio::null()).output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !output.status.success() {
        let errors = messages.iter().filter(|message| message["message"]["level"] == "error");
        let errors: String = errors.map(|message| text(&message["message"]["rendered"])).collect();
        bail!("the tests do not build: {errors}{}", String::from_utf8_lossy(&output.stderr));
    }
    // Cargo also names the programs that tests may start.
    let tests = messages.iter().filter(|message| message["profile"]["test"] == true);
    let program = |message: &Value| {
        Some((text(&message["target"]["name"]).to_owned(), message["executable"].as_str()?.into()))
    };
    let mut programs: Vec<(String, PathBuf)> = tests.filter_map(program).collect();
    ensure!(!programs.is_empty(), "there are no tests in {what:?}");
    let rank = |name: &str| ORDER.iter().position(|first| *first == name).unwrap_or(ORDER.len());
    programs.sort_by_key(|(name, _)| (rank(name), name.clone()));
    Ok(programs)
}

/// Runs a test program; `None` where it had to be stopped.
fn run(program: &Path, log: &Path) -> Result<Option<ExitStatus>> {
    let output = File::create(log)?;
    let mut command = Command::new(program);
    // Shrinking a failure would take longer than finding it.
    command.env("DATUM_NO_SHRINK", "1").env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
    let mut child = command.spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(GLANCE);
    }
}

/// The names of failed tests in the output of a test program, each with the first seed it tells.
fn failed_tests(log: &str) -> Vec<String> {
    let mut tests: Vec<String> = Vec::new();
    for line in log.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            tests.push(name.to_owned());
        } else if let Some(test) = tests.last_mut()
            && !test.contains(" seed ")
            && let Some(seed) = seed(line)
        {
            test.push_str(&format!(" seed {seed}"));
        }
    }
    if tests.is_empty() {
        tests.push(log.lines().last().unwrap_or("no output").to_owned());
    }
    tests
}

/// The number after the word `seed`.
fn seed(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("seed ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.caught {
            Some(catch) => write!(out, "caught by {catch}")?,
            None => write!(out, "SURVIVED")?,
        }
        let (building, running) = (self.building.as_secs_f32(), self.running.as_secs_f32());
        write!(out, " [built in {building:.0} s, run in {running:.0} s]")
    }
}

impl fmt::Display for Catch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<&str> = self.tests.iter().take(NAMED_MAX).map(String::as_str).collect();
        write!(out, "{} after {:.1} s ({}", self.program, self.after.as_secs_f32(), named.join(", "))?;
        match self.tests.len().saturating_sub(NAMED_MAX) {
            0 => write!(out, ")"),
            more => write!(out, " and {more} more)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_are_found_with_their_seeds() {
        let log = "running 3 tests\ntest a ... FAILED\n\n---- a stdout ----\n\nseed 17 fails with 60 operations;\n\
                   seed 18 too\n---- b stdout ----\nno number\n\nfailures:\n    a\n    b\n";
        assert_eq!(failed_tests(log), ["a seed 17", "b"]);
        assert_eq!(failed_tests("memory allocation failed"), ["memory allocation failed"]);
    }
}
