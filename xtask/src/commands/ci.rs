//! `cargo xtask ci`: every check that is not a test. It runs them all and names the failed ones at the end.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::defects;
use crate::setup::{Need, ensure};
use crate::shell::{self, cargo, say};
use crate::tidy;
use crate::workspace::BARE_TARGET;

/// Run the lints: format, clippy for host and appliance, repository rules, dependencies, documentation.
#[derive(clap::Args)]
pub(super) struct Arguments {}

/// The packages that only build for the bare machine.
const BARE: [&str; 4] = ["--package", "datum-boot", "--package", "datum-kernel"];

/// A check, which says on stderr what it runs.
type Check = fn() -> Result<()>;

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        ensure(&[Need::BareTarget, Need::Lints])?;
        let checks: [(&str, Check); 7] = [
            ("format", format),
            ("rules", rules),
            ("clippy, host", clippy_host),
            ("clippy, appliance", clippy_bare),
            ("documentation", documentation),
            ("cargo-deny", cargo_deny),
            ("seeded defects", defects::check),
        ];
        let mut failed = Vec::new();
        for (name, check) in checks {
            if let Err(error) = check() {
                eprintln!("error: {error:#}");
                failed.push(name);
            }
        }
        if failed.is_empty() {
            say(format!("all {} checks passed", checks.len()));
            return Ok(ExitCode::SUCCESS);
        }
        say(format!("failed: {}", failed.join("; ")));
        Ok(ExitCode::FAILURE)
    }
}

fn format() -> Result<()> {
    shell::run(cargo().args(["fmt", "--all", "--check"]))
}

fn rules() -> Result<()> {
    say("cargo xtask tidy");
    let report = tidy::check()?;
    report.print();
    anyhow::ensure!(report.is_clean(), "the repository's rules are broken");
    Ok(())
}

fn clippy_host() -> Result<()> {
    shell::run(cargo().args([
        "clippy",
        "--locked",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]))
}

fn clippy_bare() -> Result<()> {
    let mut command = bare("clippy");
    shell::run(command.args(["--", "-D", "warnings"]))
}

/// The readers of these pages are the people who change the code, so private items are part of them and may be
/// linked to.
fn documentation() -> Result<()> {
    let flags = "-D warnings -A rustdoc::private_intra_doc_links";
    let document = |command: &mut Command| {
        command.args(["--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", flags);
        shell::run(command)
    };
    document(cargo().args(["doc", "--locked"]))?;
    document(&mut bare("doc"))
}

fn bare(subcommand: &str) -> Command {
    let mut command = cargo();
    command.args([subcommand, "--locked", "--target", BARE_TARGET]).args(BARE);
    command
}

/// The rules in deny.toml have already been checked by tidy, which needs nothing installed; where cargo-deny
/// is installed it looks at them too, with its larger knowledge of licence files.
fn cargo_deny() -> Result<()> {
    if shell::find_program("cargo-deny").is_none() {
        say("cargo-deny is not installed; its rules were checked by tidy");
        return Ok(());
    }
    shell::run(cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]))
}
