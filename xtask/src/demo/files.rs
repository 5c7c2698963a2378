//! The demonstration's real data: files of this machine in an ext4 image, changes to them, and the proofs at
//! the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::mount::e2fsck;
use crate::shell;

/// Bytes of files that go into the file system.
const FILES_BYTES: u64 = 256 << 20;

/// No file larger than this is taken: many files say more than one.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Where every Debian machine with a compiler has files, in this order.
const SOURCES: [&str; 3] = ["/usr/share", "/usr/lib", "/usr/bin"];

/// Files and bytes copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Copies files of this machine below `staging` until there are enough.
pub(super) fn collect(staging: &Path) -> Result<Copied> {
    let mut copied = Copied::default();
    for source in SOURCES {
        collect_from(Path::new(source), &staging.join(source.trim_start_matches('/')), &mut copied)?;
    }
    ensure!(
        copied.bytes >= FILES_BYTES,
        "{} hold less than {FILES_BYTES} bytes of files",
        SOURCES.join(", ")
    );
    Ok(copied)
}

/// One directory, in the order of names so that every run takes the same files. What cannot be read is left out.
fn collect_from(from: &Path, to: &Path, copied: &mut Copied) -> Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    let mut entries: Vec<_> = entries.filter_map(io::Result::ok).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    fs::create_dir_all(to)?;
    for entry in entries {
        if copied.bytes >= FILES_BYTES {
            break;
        }
        let (kind, place) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            collect_from(&entry.path(), &place, copied)?;
        } else if kind.is_file()
            && entry.metadata()?.len() <= FILE_BYTES_MAX
            && let Ok(bytes) = fs::copy(entry.path(), &place)
        {
            copied.files += 1;
            copied.bytes += bytes;
        }
    }
    Ok(())
}

/// Makes an ext4 file system of `size` bytes from a directory.
pub(super) fn make_file_system(image: &Path, size: u64, content: &Path) -> Result<()> {
    let mke2fs = shell::find_program("mke2fs").context("there is no mke2fs")?;
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-t", "ext4", "-b", "4096", "-E", "root_owner=0:0", "-d"]).arg(content).arg(image);
    command.arg(format!("{}k", size >> 10));
    shell::run(command.stdout(Stdio::null()))
}

/// Every `step`th regular file below `root`, in the order of names.
pub(super) fn every(root: &Path, step: usize) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    list(root, &mut found)?;
    found.sort();
    Ok(found.into_iter().step_by(step).collect())
}

fn list(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Rewrites the first `bytes` of a file in place with every byte inverted. Returns how many it wrote.
pub(super) fn invert(path: &Path, bytes: usize) -> Result<u64> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut content = vec![0; bytes];
    let length = file.read(&mut content)?;
    content[..length].iter_mut().for_each(|byte| *byte = !*byte);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&content[..length])?;
    Ok(length as u64)
}

/// The first difference between two files, in bytes from the start.
pub(super) fn first_difference(a: &Path, b: &Path) -> Result<Option<u64>> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(Some(a.metadata()?.len().min(b.metadata()?.len())));
    }
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let length = a.read(&mut ours)?;
        if length == 0 {
            return Ok(None);
        }
        b.read_exact(&mut theirs[..length])?;
        if ours[..length] != theirs[..length] {
            let equal = ours[..length].iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            return Ok(Some(offset + equal as u64));
        }
        offset += length as u64;
    }
}

/// Has e2fsck prove that a file system is sound, without repairing anything.
pub(super) fn check_file_system(image: &Path) -> Result<()> {
    let output = e2fsck().args(["-f", "-n"]).arg(image).output()?;
    if !output.status.success() {
        bail!("e2fsck found errors in {}:\n{}", image.display(), String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&a, vec![7; 3 << 20]).unwrap();
        fs::copy(&a, &b).unwrap();
        assert_eq!(first_difference(&a, &b).unwrap(), None);
        invert(&b, 10).unwrap();
        assert_eq!(first_difference(&a, &b).unwrap(), Some(0));
        fs::write(&b, vec![7; 2 << 20]).unwrap();
        assert_eq!(first_difference(&a, &b).unwrap(), Some(2 << 20));
    }

    #[test]
    fn inverting_twice_gives_the_file_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "content").unwrap();
        assert_eq!(invert(&file, 4).unwrap(), 4);
        assert_ne!(fs::read(&file).unwrap(), b"content");
        invert(&file, 4).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"content");
    }
}
