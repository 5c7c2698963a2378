//! `cargo xtask coverage`: which lines, regions and branches of recovery and of the parsers the host's tests run, the
//! corpora of the fuzzer among them. Not a part of any other command: it takes a build of its own and some minutes.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::setup::{Need, ensure, nightly};
use crate::shell::{self, cargo, cargo_of, say};
use crate::workspace::{self, items, text};

/// Measure what the host's tests run of recovery and of the parsers.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Every file of the product instead.
    #[arg(long)]
    all: bool,
    /// Branches too, with the nightly compiler that is installed.
    #[arg(long)]
    branch: bool,
}

/// What is counted. The stable compiler leaves branches out.
const KINDS: [&str; 3] = ["lines", "regions", "branches"];

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
        ensure(&[if self.branch { Need::BranchCoverage } else { Need::Coverage }])?;
        let nightly = if self.branch { Some(nightly()?) } else { None };
        let directory = workspace::artefacts().join("coverage");
        fs::create_dir_all(&directory)?;
        let (figures, lines) = (directory.join("figures.json"), directory.join("lines.txt"));
        let measure = |what: &[&str]| {
            let mut command = nightly.as_deref().map_or_else(cargo, cargo_of);
            command.arg("llvm-cov").args(what);
            // What one compiler has built and counted means nothing to the other.
            command.envs(nightly.as_ref().map(|_| ("CARGO_LLVM_COV_TARGET_DIR", directory.join("branches"))));
            command
        };
        let branch: &[&str] = if self.branch { &["--branch"] } else { &[] };
        shell::run(&mut measure(&["clean", "--profraw-only"]))?;
        let mut tests = measure(&["test", "--locked", "--no-report", "--no-fail-fast"]);
        tests.args(branch).args(PACKAGES.iter().flat_map(|package| ["--package", package]));
        shell::run(&mut tests)?;
        let report = |form: &[&str], to: &Path| {
            shell::run(measure(&["report"]).args(branch).args(form).arg("--output-path").arg(to))
        };
        report(&["--json", "--summary-only"], &figures)?;
        report(&["--text"], &lines)?;
        let read = fs::read(&figures).with_context(|| format!("cannot read {}", figures.display()))?;
        let chosen: &[&str] = if self.all { &PRODUCT } else { &CHOSEN };
        let kinds = if self.branch { &KINDS[..] } else { &KINDS[..2] };
        print(&serde_json::from_slice(&read)?, chosen, kinds);
        say(format!("every line with its count is in {}", lines.display()));
        Ok(ExitCode::SUCCESS)
    }
}

/// A row for each file whose path starts with one of `chosen`, and one for all of them.
fn print(report: &Value, chosen: &[&str], kinds: &[&str]) {
    let root = format!("{}/", workspace::root().display());
    let mut sum = Share::default();
    let heads: String = kinds.iter().map(|kind| format!(" {kind} | of |")).collect();
    println!("| file |{heads}\n|---|{}", "---:|".repeat(2 * kinds.len()));
    for file in items(&report["data"][0]["files"]) {
        let path = text(&file["filename"]).strip_prefix(&root).unwrap_or_default();
        if chosen.iter().any(|start| path.starts_with(start)) && !path.contains("/tests") {
            let share = Share::read(&file["summary"]);
            println!("{}", share.row(&format!("`{path}`"), kinds.len()));
            sum.add(&share);
        }
    }
    println!("{}", sum.row("all of these", kinds.len()));
}

/// How much of a file runs: of each of [`KINDS`] what runs and what there is.
#[derive(Default)]
struct Share([[u64; 2]; KINDS.len()]);

impl Share {
    fn read(summary: &Value) -> Share {
        let number = |kind: &str, field: &str| summary[kind][field].as_u64().unwrap_or(0);
        Share(KINDS.map(|kind| ["covered", "count"].map(|field| number(kind, field))))
    }

    fn add(&mut self, other: &Share) {
        for (sum, number) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *sum += number;
        }
    }

    fn row(&self, name: &str, kinds: usize) -> String {
        let cells = self.0.iter().take(kinds).map(|[covered, count]| match count {
            0 => " | 0 |".to_owned(),
            _ => format!(" {:.1} % | {count} |", 100.0 * *covered as f64 / *count as f64),
        });
        format!("| {name} |{}", cells.collect::<String>())
    }
}
