//! `cargo xtask coverage`: which lines and regions of recovery and of the parsers the host's tests run, the corpora of
//! the fuzzer among them. Not a part of any other command: it takes a build of its own and some minutes.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::setup::{Need, ensure};
use crate::shell::{self, cargo, say};
use crate::workspace::{self, items, text};

/// Measure what the host's tests run of recovery and of the parsers.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Every file of the product instead.
    #[arg(long)]
    all: bool,
}

/// Whose tests run: all of the host's but those of this program.
const PACKAGES: [&str; 6] =
    ["datum-drivers", "datum-store", "datum-protocol", "datum-service", "datum-tests", "datum-fuzz"];

/// What reads disks after whatever happened, and what reads clients.
const CHOSEN: [&str; 7] = [
    "kernel/store/src/probe.rs",
    "kernel/store/src/open.rs",
    "kernel/store/src/replay.rs",
    "kernel/store/src/format/",
    "kernel/store/src/journal.rs",
    "kernel/store/src/owner.rs",
    "kernel/protocol/src/",
];
const PRODUCT: [&str; 2] = ["kernel/", "drivers/src/"];

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        ensure(&[Need::Coverage])?;
        let directory = workspace::artefacts().join("coverage");
        fs::create_dir_all(&directory)?;
        let (figures, lines) = (directory.join("figures.json"), directory.join("lines.txt"));
        let mut tests = cargo();
        tests.args(["llvm-cov", "test", "--locked", "--no-report", "--no-fail-fast"]);
        for package in PACKAGES {
            tests.args(["--package", package]);
        }
        shell::run(&mut tests)?;
        shell::run(
            cargo().args(["llvm-cov", "report", "--json", "--summary-only", "--output-path"]).arg(&figures),
        )?;
        shell::run(cargo().args(["llvm-cov", "report", "--text", "--output-path"]).arg(&lines))?;
        let read = fs::read(&figures).with_context(|| format!("cannot read {}", figures.display()))?;
        let chosen: &[&str] = if self.all { &PRODUCT } else { &CHOSEN };
        print(&serde_json::from_slice(&read)?, chosen);
        say(format!("every line with its count is in {}", lines.display()));
        Ok(ExitCode::SUCCESS)
    }
}

/// A row for each file whose path starts with one of `chosen`, and one for all of them.
fn print(report: &Value, chosen: &[&str]) {
    let root = format!("{}/", workspace::root().display());
    let mut sum = Share::default();
    println!("| file | lines | of | regions | of |\n|---|---:|---:|---:|---:|");
    for file in items(&report["data"][0]["files"]) {
        let path = text(&file["filename"]).strip_prefix(&root).unwrap_or_default();
        if chosen.iter().any(|start| path.starts_with(start)) && !path.contains("/tests") {
            let share = Share::read(&file["summary"]);
            share.print(&format!("`{path}`"));
            sum.add(&share);
        }
    }
    sum.print("all of these");
}

/// How much of a file runs: what runs and what there is.
#[derive(Default)]
struct Share {
    lines: [u64; 2],
    regions: [u64; 2],
}

impl Share {
    fn read(summary: &Value) -> Share {
        let both = |kind: &str| ["covered", "count"].map(|field| summary[kind][field].as_u64().unwrap_or(0));
        Share { lines: both("lines"), regions: both("regions") }
    }

    fn add(&mut self, other: &Share) {
        for at in 0..2 {
            self.lines[at] += other.lines[at];
            self.regions[at] += other.regions[at];
        }
    }

    fn print(&self, name: &str) {
        let percent = |[covered, count]: [u64; 2]| 100.0 * covered as f64 / count.max(1) as f64;
        println!(
            "| {name} | {:.1} % | {} | {:.1} % | {} |",
            percent(self.lines),
            self.lines[1],
            percent(self.regions),
            self.regions[1]
        );
    }
}
