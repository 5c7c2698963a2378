//! The root of a Linux guest: a cpio archive in the format `newc`, with programs, what they are linked with, kernel
//! modules in the order of their dependencies, and a script that runs first.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive in the making.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    present: BTreeSet<PathBuf>,
}

impl Archive {
    /// An empty directory, with those above it.
    pub(super) fn directory(&mut self, path: &Path) {
        if path.as_os_str().is_empty() || path == Path::new("/") || self.present.contains(path) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.entry(path, DIRECTORY, &[]);
    }

    /// A file that may be executed.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) {
        if self.present.contains(path) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.entry(path, PROGRAM, content);
    }

    /// A program or library of this system at the path that it has here, with every library it needs.
    pub(super) fn program(&mut self, path: &Path) -> Result<()> {
        self.file(path, &fs::read(path)?);
        for line in shell::output(Command::new("ldd").arg(path))?.lines() {
            let library = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(library) = library.map(Path::new) {
                self.file(library, &fs::read(library)?);
            }
        }
        Ok(())
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        self.present.insert(path.into());
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        let (number, size) = (self.present.len(), content.len());
        let fields = [number, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() + 1, 0]
            .map(|f| format!("{f:08X}"));
        // A Vec takes all that is written to it.
        let _ = write!(self.bytes, "070701{}{name}\0", fields.concat());
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Kernel modules by their names, each after those it depends on.
pub(super) fn modules(tree: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(tree, &mut files)?;
    let mut ordered = Vec::new();
    wanted.iter().try_for_each(|name| load(&files, name, &mut ordered))?;
    Ok(ordered)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if entry.path().extension().is_some_and(|extension| extension == "ko") {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn load(files: &[PathBuf], name: &str, ordered: &mut Vec<PathBuf>) -> Result<()> {
    let same = |file: &&PathBuf| {
        file.file_stem()
            .is_some_and(|stem| stem.to_string_lossy().replace('-', "_") == name.replace('-', "_"))
    };
    let file = files.iter().find(same).with_context(|| format!("there is no kernel module {name}"))?;
    if ordered.contains(file) {
        return Ok(());
    }
    let dependencies = dependencies(&fs::read(file)?);
    dependencies.iter().try_for_each(|dependency| load(files, dependency, ordered))?;
    ordered.push(file.clone());
    Ok(())
}

/// The names after `depends=` in a module's information.
fn dependencies(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(start) = module.windows(MARK.len()).position(|window| window == MARK) else { return Vec::new() };
    let text = module[start + MARK.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.split(',').filter(|name| !name.is_empty()).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_dependencies_are_read() {
        assert_eq!(dependencies(b"x\0depends=dm-mod,libcrc32c\0y"), ["dm-mod", "libcrc32c"]);
        assert!(dependencies(b"x\0depends=\0").is_empty());
    }

    #[test]
    fn an_archive_has_whole_words_and_each_directory_once() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b"), b"12345");
        archive.file(Path::new("/a/c"), b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        assert!(text.contains("00000005000000000000000000000000000000000000000400000000a/b\0"), "{text}");
    }
}
