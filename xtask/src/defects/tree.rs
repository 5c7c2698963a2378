//! A copy of the source tree in which some files differ.
//!
//! Only files that are not yet as they should be are written, so that Cargo builds again only what has changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::patch::Changed;

/// What is no source.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// The copy.
pub(crate) struct Tree {
    pub(super) copy: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Brings the copy, in the directory `place`, to what the source is now, but for what is changed.
    pub(crate) fn copy(source: &Path, place: &Path, changed: &Changed) -> Result<Self> {
        let (copy, target) = (place.join("tree"), place.join("target"));
        let elsewhere = changed.keys().map(|path| copy.join(path)).collect();
        mirror(source, &copy, &elsewhere)
            .with_context(|| format!("copying the tree to {}", copy.display()))?;
        for (path, text) in changed {
            write(&copy.join(path), text.as_bytes())?;
        }
        Ok(Self { copy, target })
    }

    /// Cargo at work in the copy, with a target directory of its own: what it builds is not to be used.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = crate::shell::cargo();
        cargo.current_dir(&self.copy).args(arguments).env("CARGO_TARGET_DIR", &self.target);
        // Those of the package that this program was built from.
        cargo.env_remove("CARGO_MANIFEST_DIR").env_remove("RUSTFLAGS");
        cargo
    }
}

/// Makes `to` a copy of `from`, except for what is left alone in it.
fn mirror(from: &Path, to: &Path, left_alone: &BTreeSet<PathBuf>) -> Result<()> {
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
            mirror(&source, &target, left_alone)?;
        } else if source.is_file() && !left_alone.contains(&target) {
            write(&target, &fs::read(&source)?)?;
        }
        names.insert(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        let path = entry.path();
        if !names.contains(&entry.file_name()) && !left_alone.contains(&path) {
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).ok().as_deref() != Some(bytes) {
        fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_its_source_and_leaves_the_target_out() {
        let directory = tempfile::tempdir().unwrap();
        let (from, place) = (directory.path().join("from"), directory.path().join("place"));
        let to = place.join("tree");
        fs::create_dir_all(from.join("a")).unwrap();
        fs::create_dir_all(from.join("target")).unwrap();
        fs::write(from.join("a/x"), "1").unwrap();
        fs::write(from.join("y"), "1").unwrap();
        Tree::copy(&from, &place, &Changed::new()).unwrap();
        fs::write(from.join("a/x"), "2").unwrap();
        fs::remove_file(from.join("y")).unwrap();
        Tree::copy(&from, &place, &Changed::new()).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/x")).unwrap(), "2");
        assert!(!to.join("y").exists() && !to.join("target").exists());
    }

    #[test]
    fn what_is_changed_is_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let (from, place) = (directory.path().join("from"), directory.path().join("place"));
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("x"), "1").unwrap();
        let changed = Changed::from([("x".into(), "2".into()), ("new".into(), "3".into())]);
        let written = || fs::metadata(place.join("tree/x")).unwrap().modified().unwrap();
        Tree::copy(&from, &place, &changed).unwrap();
        let first = written();
        Tree::copy(&from, &place, &changed).unwrap();
        assert_eq!(first, written());
        assert_eq!(fs::read_to_string(place.join("tree/new")).unwrap(), "3");
        Tree::copy(&from, &place, &Changed::new()).unwrap();
        assert_eq!(fs::read_to_string(place.join("tree/x")).unwrap(), "1");
        assert!(!place.join("tree/new").exists());
    }
}
