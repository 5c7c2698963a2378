//! Coverage-guided fuzzing: builds the targets of tests/fuzz with libFuzzer and lets each run for a while.
//!
//! The pinned stable compiler can do it: the coverage that libFuzzer wants is an LLVM pass, switched on by flags
//! that are stable. Only packages built for a target get them, so build scripts and macros stay as they are.
//!
//! What a target begins with is one archive in tests/fuzz/corpus ([`corpus`]).

mod corpus;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::{Need, ensure};
use crate::shell::{self, cargo, say};
use crate::workspace::{self, HOST};

/// Every target.
const TARGETS: [&str; 7] = ["image", "verified", "nbd", "control", "console", "token", "device"];

const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Cforce-frame-pointers=yes";
const PACKAGE: &str = "datum-fuzz";
/// Targets that run at once.
const AT_ONCE: usize = 2;
/// Bounds on one input: bytes, seconds, and MiB of memory in all.
const LIMITS: [&str; 3] = ["-max_len=512", "-timeout=20", "-rss_limit_mb=1024"];

/// What one target did.
struct Outcome {
    name: &'static str,
    executions: u64,
    new: u64,
    good: bool,
}

/// Runs the named targets, or all, for so many seconds each. False where an input was found
/// that does harm.
pub fn run(names: &[String], seconds: u64) -> Result<bool> {
    let chosen = chosen(names)?;
    ensure(&[Need::Cxx])?;
    let program = build()?;
    let (mut good, mut total) = (true, 0);
    println!("{:<10} {:>12} {:>10} {:>12}", "target", "executions", "a second", "new inputs");
    for pair in chosen.chunks(AT_ONCE) {
        let started: Result<Vec<_>> =
            pair.iter().map(|&name| Ok((name, start(&program, name, seconds)?))).collect();
        for (name, (child, log)) in started? {
            let outcome = wait(name, child, log)?;
            let rate = outcome.executions / seconds.max(1);
            println!("{:<10} {:>12} {rate:>10} {:>12}", outcome.name, outcome.executions, outcome.new);
            good &= outcome.good;
            total += outcome.executions;
        }
    }
    println!("{:<10} {total:>12}", "all");
    Ok(good)
}

/// Reduces the corpora of the named targets, or of all, to inputs that each reach something no other reaches; what earlier
/// runs found is taken in.
pub fn minimise(names: &[String]) -> Result<()> {
    let chosen = chosen(names)?;
    ensure(&[Need::Cxx])?;
    let program = build()?;
    for name in chosen {
        let found = findings(name);
        let [corpus, inputs, merged] = ["corpus", "inputs", "merged"].map(|part| found.join(part));
        corpus::unpack(&corpus::archive(name), &corpus)?;
        if merged.exists() {
            fs::remove_dir_all(&merged)?;
        }
        fs::create_dir_all(&merged)?;
        fs::create_dir_all(&inputs)?;
        let mut command = target(&program, name);
        command.arg("-merge=1").arg(&merged).arg(corpus).arg(inputs);
        shell::run(command.stderr(fs::File::create(found.join("log"))?))?;
        say(format!("{name}: {} inputs", corpus::pack(&merged, &corpus::archive(name))?));
    }
    Ok(())
}

/// Adds files to a target's corpus.
pub fn keep(name: &str, files: &[PathBuf]) -> Result<()> {
    let [name] = chosen(&[name.to_owned()])?[..] else { bail!("name one target") };
    let corpus = findings(name).join("corpus");
    corpus::unpack(&corpus::archive(name), &corpus)?;
    for file in files {
        let name = file.file_name().with_context(|| format!("{} is not a file", file.display()))?;
        fs::copy(file, corpus.join(name)).with_context(|| format!("cannot read {}", file.display()))?;
    }
    say(format!("{name}: {} inputs", corpus::pack(&corpus, &corpus::archive(name))?));
    Ok(())
}

/// The targets of these names, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = names.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        bail!("there is no target {unknown}; there are {}", TARGETS.join(", "));
    }
    Ok(TARGETS.into_iter().filter(|name| names.is_empty() || names.iter().any(|n| n == name)).collect())
}

fn build() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--locked", "--profile", "fuzz", "--target", HOST, "--package", PACKAGE]);
    command.env("RUSTFLAGS", FLAGS);
    shell::run(&mut command)?;
    let metadata = workspace::metadata()?;
    let directory = workspace::text(&metadata["target_directory"]);
    Ok(PathBuf::from(directory).join(HOST).join("fuzz").join(PACKAGE))
}

/// Where new inputs, logs and inputs that do harm are put.
fn findings(name: &str) -> PathBuf {
    workspace::artefacts().join("fuzz").join(name)
}

/// libFuzzer's program for a target, within the bounds of one input.
fn target(program: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root()).env("DATUM_FUZZ", name).args(LIMITS);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn start(program: &Path, name: &'static str, seconds: u64) -> Result<(Child, PathBuf)> {
    let found = findings(name);
    let [corpus, inputs] = ["corpus", "inputs"].map(|part| found.join(part));
    fs::create_dir_all(&inputs)?;
    corpus::unpack(&corpus::archive(name), &corpus)?;
    let log = found.join("log");
    let output = fs::File::create(&log)?;
    let mut command = target(program, name);
    command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command.arg(inputs).arg(corpus);
    say(shell::describe(&command));
    command.stderr(output);
    Ok((command.spawn().with_context(|| format!("cannot start {}", program.display()))?, log))
}

fn wait(name: &'static str, mut child: Child, log: PathBuf) -> Result<Outcome> {
    let good = child.wait()?.success();
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !good {
        let tail: Vec<_> = text.lines().rev().take(40).collect();
        tail.iter().rev().for_each(|line| eprintln!("{line}"));
        eprintln!("error: {name}: the input is in {}", findings(name).display());
        eprintln!("       when it does no harm any more, add it: cargo xtask fuzz {name} --keep PATH");
    }
    let executions = statistic(&text, "number_of_executed_units");
    Ok(Outcome { name, executions, new: statistic(&text, "new_units_added"), good })
}

/// A number of libFuzzer's closing statistics.
fn statistic(log: &str, name: &str) -> u64 {
    let of = |line: &str| {
        line.strip_prefix("stat::")?.strip_prefix(name)?.trim_start_matches(':').trim().parse().ok()
    };
    log.lines().find_map(of).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus() {
        for name in TARGETS {
            assert!(corpus::archive(name).is_file(), "{name}");
        }
    }

    #[test]
    fn statistics_are_read() {
        let log = "Done\nstat::number_of_executed_units: 1662\nstat::new_units_added:           12\n";
        assert_eq!(statistic(log, "number_of_executed_units"), 1662);
        assert_eq!(statistic(log, "new_units_added"), 12);
        assert_eq!(statistic(log, "peak_rss_mb"), 0);
    }
}
