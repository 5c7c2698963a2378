//! Debian packages that are fetched and unpacked, not installed: what they bring is for a guest, not for this
//! system. They stay in the artefacts' directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{shell, workspace};

/// What depends on the newest kernel there is.
const KERNEL: &str = "linux-image-amd64";
const BUSYBOX: &str = "busybox-static";

/// Written when everything is in its place.
const COMPLETE: &str = "complete";

/// Debian's kernel with its modules and a static busybox, in directories as in an installed system.
pub fn linux_guest() -> Result<PathBuf> {
    let place = workspace::artefacts().join("linux");
    if place.join(COMPLETE).is_file() {
        return Ok(place);
    }
    if shell::find_program("apt-get").is_none() || shell::find_program("dpkg-deb").is_none() {
        bail!("the Linux guest is made of Debian's packages: it needs apt-get and dpkg-deb");
    }
    fs::create_dir_all(&place)?;
    let depends = shell::output(Command::new("apt-cache").args(["depends", "--important", KERNEL]))?;
    let image = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let image = image.with_context(|| format!("apt knows no kernel by {KERNEL}: run `apt-get update`"))?;
    for package in [image, BUSYBOX] {
        unpack(package, &place)?;
    }
    fs::write(place.join(COMPLETE), image)?;
    Ok(place)
}

fn unpack(package: &str, place: &Path) -> Result<()> {
    shell::run(Command::new("apt-get").args(["download", "-q", package]).current_dir(place))?;
    for entry in fs::read_dir(place)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(place))?;
            fs::remove_file(file)?;
        }
    }
    Ok(())
}
