//! The repository's rules as code: what a reviewer would otherwise have to say again and again.
//!
//! [`rooms`] holds the table of packages and who may import whom; [`source`] reads a file the way the rules
//! need it; [`rules`] are the rules on single files; [`modules`] follows the module tree, so that no file is
//! dead; [`dependencies`] reads deny.toml; [`documents`] sees that the pages are there and lead somewhere.

mod dependencies;
mod documents;
mod modules;
mod rooms;
mod rules;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::{self, members};
use source::Source;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    files: usize,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

/// One broken rule.
#[derive(Debug)]
struct Finding {
    path: PathBuf,
    /// Counted from 1; 0 for the whole file.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.strip_prefix(workspace::root()).unwrap_or(&self.path).display();
        match self.line {
            0 => write!(out, "{path}: {}", self.message),
            line => write!(out, "{path}:{line}: {}", self.message),
        }
    }
}

impl Report {
    /// Whether no rule is broken; warnings are to think about.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Prints the findings, and a closing line.
    pub fn print(&self) {
        self.warnings.iter().for_each(|warning| println!("warning: {warning}"));
        self.errors.iter().for_each(|error| println!("error: {error}"));
        println!(
            "tidy: {} files, {} errors, {} warnings",
            self.files,
            self.errors.len(),
            self.warnings.len()
        );
    }

    fn error(&mut self, path: &Path, line: usize, message: impl Into<String>) {
        self.errors.push(Finding { path: path.to_owned(), line, message: message.into() });
    }

    fn warn(&mut self, path: &Path, line: usize, message: impl Into<String>) {
        self.warnings.push(Finding { path: path.to_owned(), line, message: message.into() });
    }
}

/// Checks every rule on the whole repository.
pub fn check() -> Result<Report> {
    let metadata = workspace::metadata()?;
    let mut report = Report::default();
    for package in members(&metadata) {
        check_package(package, &mut report)?;
    }
    let policy = workspace::root().join("deny.toml");
    dependencies::check(&metadata, &policy, &mut report)
        .with_context(|| format!("in {}", policy.display()))?;
    documents::check(workspace::root(), &mut report)?;
    Ok(report)
}

fn check_package(package: &serde_json::Value, report: &mut Report) -> Result<()> {
    let manifest = Path::new(workspace::text(&package["manifest_path"]));
    let Some(room) = rooms::room(workspace::text(&package["name"])) else {
        report.error(
            manifest,
            0,
            "this package is not in the table of rooms: add it in xtask/src/tidy/rooms.rs",
        );
        return Ok(());
    };
    rooms::check_imports(room, package, report);
    let tree = modules::Tree::of(package)?;
    for (path, in_tests) in &tree.files {
        let source = Source::read(path, *in_tests)?;
        rules::check(room, &source, report);
        report.files += 1;
    }
    for root in &tree.roots {
        rules::check_root(room, &Source::read(root, false)?, report);
    }
    for dead in tree.dead_files()? {
        report.error(&dead, 0, "no `mod` line reaches this file: add one, or delete the file");
    }
    Ok(())
}
