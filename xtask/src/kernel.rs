//! Building the appliance's kernel.
//!
//! Two files come of it: `datum.elf`, stripped, which QEMU loads; and `datum.debug`, the same code at the same
//! addresses with its line tables, for backtraces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::{self, BARE_TARGET};
use crate::{shell, size};

/// The most the stripped kernel should take.
pub const SIZE_GOAL: u64 = 2 << 20;

/// The package it is built from.
pub(crate) const PACKAGE: &str = "datum-kernel";

/// A kernel that was built.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What QEMU loads.
    pub elf: PathBuf,
    /// The same with line tables.
    pub debug: PathBuf,
    /// Bytes of [`Kernel::elf`].
    pub size: u64,
}

/// Where the kernel for QEMU is put.
pub fn elf_path() -> PathBuf {
    workspace::artefacts().join("datum.elf")
}

/// Where the kernel with its line tables is put.
pub fn debug_path() -> PathBuf {
    workspace::artefacts().join("datum.debug")
}

/// Builds the kernel, optimised unless `debug`, and puts both files in their places.
pub fn build(debug: bool) -> Result<Kernel> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", PACKAGE, "--target", BARE_TARGET]);
    if !debug {
        cargo.arg("--release");
    }
    shell::say(shell::describe(&cargo));
    let messages = shell::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    let built = executable(&messages).context("the kernel package built no program")?;
    let kernel = Kernel { elf: elf_path(), debug: debug_path(), size: 0 };
    fs::create_dir_all(workspace::artefacts())?;
    install(&kernel.debug, |new| Ok(fs::copy(&built, new).map(drop)?))?;
    install(&kernel.elf, |new| strip(&built, new))?;
    let size = fs::metadata(&kernel.elf)?.len();
    shell::say(format!("kernel: {} ({})", kernel.elf.display(), size::format(size)));
    if size > SIZE_GOAL {
        shell::say(format!("warning: the kernel is larger than its goal of {}", size::format(SIZE_GOAL)));
    }
    Ok(Kernel { size, ..kernel })
}

/// The program that Cargo's messages name for the kernel package.
pub(crate) fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| workspace::text(&message["package_id"]).contains(PACKAGE))
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
}

/// Writes a file beside its place and moves it there whole: a machine may be starting from the old one.
fn install(place: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let new = place.with_extension("new");
    write(&new)?;
    Ok(fs::rename(new, place)?)
}

/// Copies a program without symbols and line tables. `strip` comes with the linker that Rust needs anyway;
/// where it is absent the kernel is only larger.
fn strip(from: &Path, to: &Path) -> Result<()> {
    if shell::find_program("strip").is_none() {
        shell::say("no `strip` (Debian package binutils): the kernel keeps its symbols");
        return Ok(fs::copy(from, to).map(drop)?);
    }
    let status = Command::new("strip").arg("-o").arg(to).arg(from).stdin(Stdio::null()).status()?;
    if !status.success() {
        bail!("strip failed on {}", from.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","package_id":"x#datum-store@0.1.0","executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"x#datum-kernel@0.1.0","executable":"/t/datum"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#
        );
        assert_eq!(executable(messages), Some(PathBuf::from("/t/datum")));
        assert_eq!(executable("not json\n{}"), None);
    }
}
