//! The test programs, each run with one defect after the other switched on: which test notices it first.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::patch::Defect;
use super::program::Run;
use super::tree::Tree;
use crate::shell::say;
use crate::workspace::text;

/// The programs in the order in which they run: what random runs catch needs no test of its own, and what
/// only a story catches was found by somebody who knew it.
const ORDER: [&str; 6] =
    ["store_random", "service_random", "store_explore", "store_matrix", "store_faults", "store_traps"];

/// What Cargo builds first, and once that notices no more.
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

/// The test programs of a tree, by name.
pub(super) struct Suites<'a> {
    tree: &'a Tree,
    programs: BTreeMap<String, PathBuf>,
}

/// What the suites say of a defect.
pub(super) enum Verdict {
    Caught(Catch),
    /// Only tests that were written for it fail.
    Told(Catch),
    Survived,
}

/// The first test that failed.
pub(super) struct Catch {
    pub(super) program: String,
    pub(super) failed: String,
    /// Processor time, from the program's start.
    pub(super) after: Duration,
}

impl<'a> Suites<'a> {
    pub(super) fn of(tree: &'a Tree) -> Self {
        Self { tree, programs: BTreeMap::new() }
    }

    /// Builds programs, and returns the names of those that were not there, in order.
    fn build(&mut self, what: &[&str]) -> Result<Vec<String>> {
        let mut cargo = super::cargo(self.tree, &["test", "--locked", "--no-run", "--message-format=json"]);
        let output = cargo.args(what).output()?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let messages: Vec<Value> =
            stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if !output.status.success() {
            let errors = messages.iter().filter(|message| message["message"]["level"] == "error");
            let errors: String = errors.map(|message| text(&message["message"]["rendered"])).collect();
            bail!("the tests do not build: {errors}{}", String::from_utf8_lossy(&output.stderr));
        }
        let mut new = Vec::new();
        // Cargo also names the programs that tests may start.
        for message in messages.iter().filter(|message| message["profile"]["test"] == true) {
            let Some(program) = message["executable"].as_str() else { continue };
            let name = text(&message["target"]["name"]).to_owned();
            if self.programs.insert(name.clone(), program.into()).is_none() {
                new.push(name);
            }
        }
        ensure!(!new.is_empty(), "there are no tests in {what:?}");
        let rank = |name: &str| ORDER.iter().position(|first| *first == name).unwrap_or(ORDER.len());
        new.sort_by_key(|name| (rank(name), name.clone()));
        Ok(new)
    }

    /// Runs each program with every defect that none before it has noticed, and tells of each as soon as it is known;
    /// if asked to, first without any defect. The tests that were written for a defect come last.
    pub(super) fn try_out(
        &mut self,
        defects: &[&Defect],
        sound: bool,
        mut tell: impl FnMut(&Defect, Verdict),
    ) -> Result<()> {
        let mut left = defects.to_vec();
        for stage in STAGES {
            if left.is_empty() {
                return Ok(());
            }
            say("building test programs, with all defects switched off");
            for program in self.build(stage)? {
                if left.is_empty() {
                    return Ok(());
                }
                if sound {
                    self.run_soundly(&program)?;
                }
                say(format!("{program}, with {} defects, one at a time", left.len()));
                let mut unnoticed = Vec::new();
                for defect in left {
                    if is_nothing_to(&program, defect) {
                        unnoticed.push(defect);
                        continue;
                    }
                    let own = defect.told_by.iter().filter(|(of, _)| *of == program);
                    let others: Vec<&str> = own.flat_map(|(_, test)| ["--skip", test]).collect();
                    match self.run(Some(defect), &program, &others)? {
                        (Some(catch), _) => tell(defect, Verdict::Caught(catch)),
                        (None, _) => unnoticed.push(defect),
                    }
                }
                left = unnoticed;
            }
        }
        for defect in left {
            tell(defect, self.by_its_own(defect)?);
        }
        Ok(())
    }

    /// Nothing said of a defect means anything where tests fail without it.
    fn run_soundly(&self, program: &str) -> Result<()> {
        match self.run(None, program, &[])? {
            (Some(catch), _) => bail!("tests fail without any defect: {catch}"),
            (None, took) => say(format!("{program} without a defect: {:.0} s", took.as_secs_f32())),
        }
        Ok(())
    }

    fn by_its_own(&self, defect: &Defect) -> Result<Verdict> {
        for (program, test) in &defect.told_by {
            if let (Some(catch), _) = self.run(Some(defect), program, &[test])? {
                return Ok(Verdict::Told(catch));
            }
        }
        Ok(Verdict::Survived)
    }

    /// Runs a program: the first test of it that failed, and how much of the processor's time it took.
    fn run(
        &self,
        defect: Option<&Defect>,
        program: &str,
        arguments: &[&str],
    ) -> Result<(Option<Catch>, Duration)> {
        let path = self.programs.get(program);
        let path = path.with_context(|| format!("there is no test program {program}"))?;
        let logs = self.tree.copy.with_file_name("logs");
        fs::create_dir_all(&logs)?;
        let defect = defect.map(|defect| defect.name.as_str());
        let mut run = Run::start(path, defect, arguments, &logs.join(program))?;
        let ending = run.watch()?;
        let after = run.processor;
        let catch = |failed| Catch { program: program.to_owned(), failed, after };
        Ok((ending.map(catch), after))
    }
}

/// Whether nothing of a program runs what the defect changes: tests of the store run it without the service.
fn is_nothing_to(program: &str, defect: &Defect) -> bool {
    program.starts_with("store_") && defect.lies_within("kernel/service")
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Caught(catch) => write!(out, "caught by {catch}"),
            Verdict::Told(catch) => write!(out, "SURVIVED all but what was written for it: {catch}"),
            Verdict::Survived => write!(out, "SURVIVED"),
        }
    }
}

impl fmt::Display for Catch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} after {:.1} s", self.program, self.failed, self.after.as_secs_f32())
    }
}
