//! The pinned toolchain's target and components. rustup installs them by itself only where its automatic
//! installation is switched on, so they are looked for in the toolchain's own directory.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{self, TOOLCHAIN};
use crate::workspace::{self, BARE_TARGET, HOST};

/// The standard library for the bare machine.
pub(super) fn ensure_target() -> Result<()> {
    if sysroot(None)?.join("lib/rustlib").join(BARE_TARGET).is_dir() {
        return Ok(());
    }
    rustup(&["target", "add", BARE_TARGET], "its standard library for x86_64-unknown-none")
}

/// rustfmt and clippy.
pub(super) fn ensure_lints() -> Result<()> {
    let programs = sysroot(None)?.join("bin");
    if ["rustfmt", "cargo-fmt", "cargo-clippy"].iter().all(|name| programs.join(name).is_file()) {
        return Ok(());
    }
    rustup(&["component", "add", "rustfmt", "clippy"], "rustfmt and clippy")
}

/// What measures coverage with a toolchain: the pinned one, or that of this name.
pub(super) fn ensure_coverage(toolchain: Option<&str>) -> Result<()> {
    if !sysroot(toolchain)?.join("lib/rustlib").join(HOST).join("bin/llvm-cov").is_file() {
        let mut add = vec!["component", "add", "llvm-tools"];
        add.extend(toolchain.iter().flat_map(|name| ["--toolchain", name]));
        rustup(&add, "LLVM's tools")?;
    }
    if shell::find_program("cargo-llvm-cov").is_none() {
        shell::run(shell::cargo().args(["install", "--locked", "cargo-llvm-cov"]))?;
    }
    Ok(())
}

/// The nightly toolchain that is installed. None is by itself: nothing of the product is built with it.
pub fn nightly() -> Result<String> {
    let missing = "branches are counted by a nightly compiler alone, and none is installed: \
                   rustup toolchain install nightly --profile minimal";
    if shell::find_program("rustup").is_none() {
        bail!("{missing}");
    }
    let installed = shell::output(Command::new("rustup").args(["toolchain", "list"]))?;
    let name = installed.lines().filter_map(|line| line.split_whitespace().next());
    name.map(str::to_owned).find(|name| name.starts_with("nightly")).context(missing)
}

/// The directory of the toolchain that builds this workspace, or of that of this name.
fn sysroot(toolchain: Option<&str>) -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace::root()).args(["--print", "sysroot"]);
    rustc.envs(toolchain.map(|name| (TOOLCHAIN, name)));
    Ok(PathBuf::from(shell::output(&mut rustc)?.trim_end()))
}

fn rustup(arguments: &[&str], what: &str) -> Result<()> {
    if shell::find_program("rustup").is_none() {
        bail!(
            "this Rust toolchain lacks {what}, and rustup is not there to add it: install rustup, or add it by hand"
        );
    }
    shell::run(Command::new("rustup").current_dir(workspace::root()).args(arguments))
}
