//! Where things lie: the repository, the artefacts and the default run directory, and what Cargo knows of
//! the packages.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::shell;

/// The target that the appliance is built for.
pub const BARE_TARGET: &str = "x86_64-unknown-none";

/// The host that fuzzing and coverage are measured on.
pub const HOST: &str = "x86_64-unknown-linux-gnu";

/// The repository's root: the nearest directory above the running package (or above the current directory)
/// whose Cargo.toml declares a workspace.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let start = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).or_else(|| env::current_dir().ok());
        let start = start.unwrap_or_else(|| PathBuf::from("."));
        start.ancestors().find(|directory| declares_workspace(directory)).unwrap_or(&start).to_owned()
    })
}

fn declares_workspace(directory: &Path) -> bool {
    fs::read_to_string(directory.join("Cargo.toml")).is_ok_and(|manifest| manifest.contains("[workspace]"))
}

/// Where the kernel and everything else that a run leaves behind is put. Part of the contract, so it does
/// not follow `CARGO_TARGET_DIR`.
pub fn artefacts() -> PathBuf {
    root().join("target/datum")
}

/// The default directory of sockets, logs and the default disk.
pub fn run_directory() -> PathBuf {
    artefacts().join("run")
}

/// Where packages are unpacked that are not installed.
pub fn packages() -> PathBuf {
    artefacts().join("packages")
}

/// The platform that the host's tools are built for.
const HOST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// What `cargo metadata` says. Its dependency graph is that of the appliance and of a Linux host.
pub fn metadata() -> Result<Value> {
    let platforms = ["--filter-platform", BARE_TARGET, "--filter-platform", HOST_TARGET];
    let mut cargo = shell::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked"]).args(platforms);
    let text = shell::output(&mut cargo)
        .context("Cargo.lock may not match the manifests: run `cargo check` and commit Cargo.lock")?;
    Ok(serde_json::from_str(&text)?)
}

/// The workspace's own packages in [`metadata`].
pub fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    items(&metadata["packages"]).filter(|package| package["source"].is_null())
}

/// The elements of a JSON array; nothing for anything else.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// The text of a JSON string; empty for anything else.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
