//! A copy of the source tree in which a defect may live for a while.
//!
//! Only files that differ are written, so that Cargo builds again only what has changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::patch::Defect;

/// What is no source.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// The copy.
pub(crate) struct Tree {
    source: PathBuf,
    pub(super) copy: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Brings the copy, in the directory `place`, to what the source is now.
    pub(crate) fn copy(source: &Path, place: &Path) -> Result<Self> {
        let (copy, target) = (place.join("tree"), place.join("target"));
        mirror(source, &copy).with_context(|| format!("copying the tree to {}", copy.display()))?;
        Ok(Self { source: source.to_owned(), copy, target })
    }

    /// Does something while the defect is in the copy.
    pub(super) fn with<T>(&self, defect: &Defect, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let changed = self.put(defect)?;
        let outcome = work();
        self.restore(&changed)?;
        outcome
    }

    /// Sees that store and service compile with each of the defects, as many at a time as leave each other's lines
    /// alone.
    pub(super) fn compile(&self, defects: &[Defect]) -> Result<()> {
        let mut left: Vec<&Defect> = defects.iter().collect();
        while !left.is_empty() {
            let (mut changed, mut later) = (Vec::new(), Vec::new());
            for defect in left {
                match self.put(defect) {
                    Ok(paths) => changed.extend(paths),
                    Err(error) if changed.is_empty() => return Err(error),
                    Err(_) => later.push(defect),
                }
            }
            let mut check = self.cargo(&[
                "check",
                "--locked",
                "--quiet",
                "--package",
                "datum-store",
                "--package",
                "datum-service",
            ]);
            let output = check.stdin(Stdio::null()).output()?;
            self.restore(&changed)?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "a defect does not compile: {errors}");
            left = later;
        }
        Ok(())
    }

    /// Puts a defect into the copy. Returns the files it changed.
    pub(crate) fn put(&self, defect: &Defect) -> Result<Vec<String>> {
        let changed = defect.apply(&self.copy)?;
        for (path, text) in &changed {
            fs::write(self.copy.join(path), text)?;
        }
        Ok(changed.into_iter().map(|(path, _)| path).collect())
    }

    fn restore(&self, paths: &[String]) -> Result<()> {
        for path in paths {
            fs::copy(self.source.join(path), self.copy.join(path))?;
        }
        Ok(())
    }

    /// Cargo at work in the copy, with a target directory of its own: what it builds is not to be used.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = crate::shell::cargo();
        cargo.current_dir(&self.copy).args(arguments).env("CARGO_TARGET_DIR", &self.target);
        // Built much oftener than debugged.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "false");
        // Those of the package that this program was built from.
        cargo.env_remove("CARGO_MANIFEST_DIR").env_remove("RUSTFLAGS");
        cargo
    }
}

fn mirror(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if source.is_dir() {
            mirror(&source, &target)?;
        } else if source.is_file() {
            let bytes = fs::read(&source)?;
            if fs::read(&target).ok().as_ref() != Some(&bytes) {
                fs::write(&target, bytes)?;
            }
        }
        names.insert(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !names.contains(&entry.file_name()) {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_its_source_and_leaves_the_target_out() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("a")).unwrap();
        fs::create_dir_all(from.join("target")).unwrap();
        fs::write(from.join("a/x"), "1").unwrap();
        fs::write(from.join("y"), "1").unwrap();
        mirror(&from, &to).unwrap();
        fs::write(from.join("a/x"), "2").unwrap();
        fs::remove_file(from.join("y")).unwrap();
        mirror(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/x")).unwrap(), "2");
        assert!(!to.join("y").exists() && !to.join("target").exists());
    }
}
