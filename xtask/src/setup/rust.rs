//! The pinned toolchain's target and components. rustup installs them by itself only where its automatic
//! installation is switched on, so they are looked for in the toolchain's own directory.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;
use crate::workspace::{self, BARE_TARGET, HOST};

/// The standard library for the bare machine.
pub(super) fn ensure_target() -> Result<()> {
    if sysroot()?.join("lib/rustlib").join(BARE_TARGET).is_dir() {
        return Ok(());
    }
    rustup(&["target", "add", BARE_TARGET], "its standard library for x86_64-unknown-none")
}

/// rustfmt and clippy.
pub(super) fn ensure_lints() -> Result<()> {
    let programs = sysroot()?.join("bin");
    if ["rustfmt", "cargo-fmt", "cargo-clippy"].iter().all(|name| programs.join(name).is_file()) {
        return Ok(());
    }
    rustup(&["component", "add", "rustfmt", "clippy"], "rustfmt and clippy")
}

/// What measures coverage.
pub(super) fn ensure_coverage() -> Result<()> {
    if !sysroot()?.join("lib/rustlib").join(HOST).join("bin/llvm-cov").is_file() {
        rustup(&["component", "add", "llvm-tools"], "LLVM's tools")?;
    }
    if shell::find_program("cargo-llvm-cov").is_none() {
        shell::run(shell::cargo().args(["install", "--locked", "cargo-llvm-cov"]))?;
    }
    Ok(())
}

/// The directory of the toolchain that builds this workspace.
fn sysroot() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace::root()).args(["--print", "sysroot"]);
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
