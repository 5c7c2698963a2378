//! `cargo xtask test`: every test. First those of the host, then the crash simulator and the fuzzer, then those that boot
//! the kernel under QEMU: the test targets of `datum-tests` that require its feature `qemu`. Last a comparison in its
//! short form, which shows ratios and judges nothing: what a request may cost is judged by counts, in `store_costs`.
//!
//! The output passes through here to be counted, so that the last line is the sum of all.

use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::sim;
use crate::bench::compare::Compare;
use crate::fuzz;
use crate::kernel;
use crate::setup::{Need, ensure};
use crate::shell::{self, cargo, say};
use crate::workspace::{self, items, members, text};

/// Run every test, on the host and in QEMU.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The host's test programs only: no crash simulator, no fuzzer, no kernel, no QEMU.
    #[arg(long)]
    quick: bool,
    /// The full form of tests that have a short one (`DATUM_SCALE=full`), with what all of them print; takes hours.
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Only tests whose names contain one of these.
    filters: Vec<String>,
}

/// Where the QEMU tests find the kernel.
const KERNEL_VARIABLE: &str = "DATUM_KERNEL";

/// Where they find this program, which some of them run.
const PROGRAM_VARIABLE: &str = "DATUM_XTASK";

/// What makes tests take their full form.
const SCALE_VARIABLE: &str = "DATUM_SCALE";

/// How long each target of the fuzzer runs.
const FUZZ_SECONDS: u64 = 20;

const TESTS: &str = "datum-tests";
const QEMU_FEATURE: &str = "qemu";

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        let started = Instant::now();
        let mut tally = Tally::default();
        if self.quick {
            say("the host's tests only");
        } else {
            ensure(&[Need::BareTarget, Need::Qemu, Need::Clients, Need::Peers, Need::Versions])?;
        }
        self.count(cargo().args(["test", "--locked", "--no-fail-fast"]), &mut tally)?;
        if !self.quick {
            self.simulate(&mut tally);
            self.fuzz(&mut tally)?;
            self.qemu_tests(&mut tally)?;
            self.compare()?;
        }
        say(format!("{} test programs in {} s", tally.programs, started.elapsed().as_secs()));
        println!(
            "{} passed, {} failed, {} skipped",
            tally.passed - tally.unmet,
            tally.failed,
            tally.ignored + tally.unmet
        );
        Ok(if tally.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The crash simulator's short form, which is no test program and has no part to be chosen by name.
    fn simulate(&self, tally: &mut Tally) {
        if self.filters.is_empty() {
            tally.programs += 1;
            match shell::run(&mut sim::simulator()) {
                Ok(()) => tally.passed += 1,
                Err(_) => tally.failed += 1,
            }
        }
    }

    /// Hostile bytes for a short while; no test program either.
    fn fuzz(&self, tally: &mut Tally) -> Result<()> {
        if self.filters.is_empty() {
            tally.programs += 1;
            match fuzz::run(&[], FUZZ_SECONDS)? {
                true => tally.passed += 1,
                false => tally.failed += 1,
            }
        }
        Ok(())
    }

    fn compare(&self) -> Result<()> {
        if self.filters.is_empty() {
            Compare::short(kernel::build(false)?.elf).run()?.print();
        }
        Ok(())
    }

    fn qemu_tests(&self, tally: &mut Tally) -> Result<()> {
        let targets = qemu_targets(&workspace::metadata()?);
        if targets.is_empty() {
            say(format!("{TESTS} has no test target that requires the feature {QEMU_FEATURE}"));
            return Ok(());
        }
        let kernel = kernel::build(false)?;
        let mut command = cargo();
        command.args(["test", "--locked", "--no-fail-fast", "--package", TESTS, "--features", QEMU_FEATURE]);
        command.env(KERNEL_VARIABLE, kernel.elf).env(PROGRAM_VARIABLE, std::env::current_exe()?);
        for target in targets {
            command.args(["--test", &target]);
        }
        self.count(&mut command, tally)
    }

    /// Runs one `cargo test`, shows its output and counts its results.
    fn count(&self, command: &mut Command, tally: &mut Tally) -> Result<()> {
        let color = if std::io::stdout().is_terminal() { "always" } else { "never" };
        command.args(["--color", color, "--", "--color", color]).args(&self.filters);
        if self.long {
            command.env(SCALE_VARIABLE, "full").arg("--show-output");
        }
        say(shell::describe(command));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("cargo has no output")?;
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            tally.take(&line);
        }
        tally.commands_failed |= !child.wait()?.success();
        Ok(())
    }
}

/// The test targets of `datum-tests` that boot the kernel.
fn qemu_targets(metadata: &Value) -> Vec<String> {
    members(metadata)
        .filter(|package| package["name"] == TESTS)
        .flat_map(|package| items(&package["targets"]))
        .filter(|target| items(&target["kind"]).any(|kind| kind == "test"))
        .filter(|target| items(&target["required-features"]).any(|feature| feature == QEMU_FEATURE))
        .map(|target| text(&target["name"]).to_owned())
        .collect()
}

/// What test programs reported.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Tests that found something missing and said so; the test runner counts them among those that passed.
    unmet: u64,
    /// A `cargo test` failed, be it before any test ran.
    commands_failed: bool,
}

impl Tally {
    /// Adds a line `test result: ok. 3 passed; 0 failed; 1 ignored; …`; others are nothing to it.
    fn take(&mut self, line: &str) {
        self.unmet += u64::from(line.contains("skipped: "));
        let Some((_, counts)) = line.split_once("test result:") else { return };
        self.programs += 1;
        self.passed += count(counts, "passed");
        self.failed += count(counts, "failed");
        self.ignored += count(counts, "ignored");
    }

    fn is_good(&self) -> bool {
        !self.commands_failed && self.failed == 0
    }
}

/// The number before a word.
fn count(text: &str, word: &str) -> u64 {
    let words: Vec<_> = text.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    let pair = words.windows(2).find(|pair| pair[1] == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_are_added_up() {
        let mut tally = Tally::default();
        tally.take("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        tally.take("test result: \u{1b}[31mFAILED\u{1b}[m. 1 passed; 2 failed; 0 ignored; 0 measured");
        tally.take("test some_test ... ok");
        tally.take("skipped: qemu_newest::a_test: qemu-newest is not there");
        let expected =
            Tally { programs: 2, passed: 4, failed: 2, ignored: 1, unmet: 1, commands_failed: false };
        assert_eq!(tally, expected);
        assert!(!tally.is_good());
    }

    #[test]
    fn a_command_that_fails_before_any_test_is_not_good() {
        assert!(!Tally { commands_failed: true, ..Tally::default() }.is_good());
    }

    #[test]
    fn tests_that_boot_the_kernel_are_found_by_their_feature() {
        let metadata = json!({ "packages": [
            { "name": "datum-tests", "source": null, "targets": [
                { "name": "qemu_nbd", "kind": ["test"], "required-features": ["qemu"] },
                { "name": "model", "kind": ["test"] },
            ] },
            { "name": "other", "source": "registry", "targets": [] },
        ] });
        assert_eq!(qemu_targets(&metadata), ["qemu_nbd"]);
    }
}
