//! The inputs that a target begins with: one archive a target in the tree, a directory for libFuzzer.
//!
//! An archive depends on nothing but its inputs: each is named by what it holds (or as it was given), and they are sorted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// The archive of a target.
pub(super) fn archive(name: &str) -> PathBuf {
    workspace::root().join("tests/fuzz/corpus").join(name).with_extension("tar")
}

/// Puts the archive's inputs into `directory`, which holds nothing else afterwards.
pub(super) fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    Ok(tar::Archive::new(file).unpack(directory)?)
}

/// Makes the archive of the files in `directory`.
pub(super) fn pack(directory: &Path, archive: &Path) -> Result<usize> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name());
    }
    names.sort();
    let mut builder = tar::Builder::new(File::create(archive)?);
    builder.mode(tar::HeaderMode::Deterministic);
    for name in &names {
        builder.append_path_with_name(directory.join(name), name)?;
    }
    builder.finish()?;
    Ok(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_the_inputs_and_nothing_of_the_day() {
        let place = tempfile::tempdir().unwrap();
        let [inputs, unpacked] = ["inputs", "unpacked"].map(|name| place.path().join(name));
        let [first, second] = ["first.tar", "second.tar"].map(|name| place.path().join(name));
        fs::create_dir(&inputs).unwrap();
        fs::write(inputs.join("b"), [0xff; 700]).unwrap();
        fs::write(inputs.join("a"), "").unwrap();
        assert_eq!(pack(&inputs, &first).unwrap(), 2);
        fs::create_dir(&unpacked).unwrap();
        fs::write(unpacked.join("stale"), "of before").unwrap();
        unpack(&first, &unpacked).unwrap();
        assert_eq!(fs::read(unpacked.join("b")).unwrap(), [0xff; 700]);
        assert!(!unpacked.join("stale").exists());
        assert_eq!(pack(&unpacked, &second).unwrap(), 2);
        assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap());
    }
}
