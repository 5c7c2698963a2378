//! Programs from Debian packages. A program that is in `PATH` counts as installed, whoever put it there; on
//! a system without apt-get the missing ones are named, with what they belong to.
//!
//! What always holds: what is installed stays, at its version or a newer one. An emulator that cannot be had that way,
//! or without root, is unpacked in the artefacts' directory.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::{Need, unpacked};
use crate::shell;

/// A program that some command runs.
pub(super) struct Program {
    name: &'static str,
    package: &'static str,
    /// Who asks for it.
    pub(super) need: Need,
}

/// Every program that is not part of a bare Debian system with gcc.
pub(super) const PROGRAMS: [Program; 19] = [
    Program { name: "g++", package: "g++", need: Need::Cxx },
    Program { name: "qemu-system-x86_64", package: EMULATOR, need: Need::Qemu },
    Program { name: "qemu-img", package: IMAGE_TOOLS, need: Need::Clients },
    Program { name: "qemu-io", package: IMAGE_TOOLS, need: Need::Clients },
    Program { name: "qemu-storage-daemon", package: IMAGE_TOOLS, need: Need::Clients },
    Program { name: "nbdinfo", package: "libnbd-bin", need: Need::Clients },
    Program { name: "nbdcopy", package: "libnbd-bin", need: Need::Clients },
    Program { name: "nbdfuse", package: "libnbd-bin", need: Need::Clients },
    Program { name: "nbdkit", package: "nbdkit", need: Need::Clients },
    Program { name: "nbdkit", package: "nbdkit", need: Need::Peers },
    Program { name: "qemu-img", package: IMAGE_TOOLS, need: Need::Peers },
    Program { name: "qemu-nbd", package: IMAGE_TOOLS, need: Need::Peers },
    Program { name: "qemu-storage-daemon", package: IMAGE_TOOLS, need: Need::Peers },
    Program { name: "dmsetup", package: "dmsetup", need: Need::Peers },
    Program { name: "fio", package: "fio", need: Need::Clients },
    Program { name: "fuse2fs", package: "fuse2fs", need: Need::Clients },
    Program { name: "fusermount3", package: "fuse3", need: Need::Clients },
    Program { name: "mke2fs", package: "e2fsprogs", need: Need::Clients },
    Program { name: "e2fsck", package: "e2fsprogs", need: Need::Clients },
];

const EMULATOR: &str = "qemu-system-x86";
const IMAGE_TOOLS: &str = "qemu-utils";

/// Installs what is missing of `programs`, beside what is there.
pub(super) fn ensure<'a>(programs: impl Iterator<Item = &'a Program>) -> Result<()> {
    let mut missing = absent(programs);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|program| program.name).collect();
    if shell::find_program("apt-get").is_none() {
        bail!(
            "install {} with this system's package manager (in Debian they belong to the packages {})",
            names.join(", "),
            packages(&missing).join(", ")
        );
    }
    shell::say(format!("not found: {}", names.join(", ")));
    let root = as_root();
    if let Some(root) = &root {
        apt_get(root, &["update", "-q"])?;
    }
    let mut plan = root.as_ref().and_then(|_| plan(&packages(&missing), fits));
    if plan.is_none() && missing.iter().any(|program| program.package == EMULATOR) {
        shell::say(match root {
            Some(_) => format!("{EMULATOR} cannot be installed beside what is installed here"),
            None => format!("{EMULATOR} cannot be installed without root"),
        });
        if let Err(error) = unpacked::QEMU_OLDEST.ensure() {
            shell::say(format!("{error:#}"));
        }
        missing = absent(missing.into_iter());
        plan = None;
    }
    if missing.is_empty() {
        return Ok(());
    }
    // Where nothing fits, apt says why.
    let plan = plan.unwrap_or_else(|| install(&packages(&missing), &[]));
    let words: Vec<_> = plan.iter().map(String::as_str).collect();
    let Some(root) = root else { bail!("as root, run: apt-get {}", words.join(" ")) };
    apt_get(&root, &words)?;
    match absent(missing.into_iter()).first() {
        Some(program) => {
            bail!("the package {} was installed but brought no {}", program.package, program.name)
        }
        None => Ok(()),
    }
}

fn absent<'a>(programs: impl Iterator<Item = &'a Program>) -> Vec<&'a Program> {
    programs.filter(|program| shell::find_program(program.name).is_none()).collect()
}

fn packages(programs: &[&Program]) -> Vec<&'static str> {
    let mut packages: Vec<_> = programs.iter().map(|program| program.package).collect();
    packages.dedup();
    packages
}

/// The arguments of an `apt-get` that removes nothing and takes nothing back to an older version: it fails instead.
/// Recommended packages stay away.
fn install(packages: &[&str], more: &[&str]) -> Vec<String> {
    let words = ["install", "-q", "-y", "--no-remove", "--no-install-recommends"];
    words.iter().chain(more).chain(packages).map(|word| (*word).to_owned()).collect()
}

/// The first way to install the packages that `fits`. Programs and firmware of QEMU go together at exactly one version,
/// so beside image tools from backports only the emulator from there fits.
fn plan(packages: &[&str], fits: impl Fn(&[String]) -> bool) -> Option<Vec<String>> {
    let plain = install(packages, &[]);
    let backports = backports().map(|suite| install(packages, &["-t", &suite]));
    [Some(plain), backports].into_iter().flatten().find(|plan| fits(plan))
}

/// Whether apt would carry the plan out.
fn fits(plan: &[String]) -> bool {
    let mut simulation = Command::new("apt-get");
    simulation.arg("--simulate").args(plan).stdout(Stdio::null()).stderr(Stdio::null());
    simulation.status().is_ok_and(|status| status.success())
}

/// The suite of backports, where this system is set up for it.
fn backports() -> Option<String> {
    let mut list = Command::new("apt-get");
    list.args([
        "indextargets",
        "--format",
        "$(CODENAME)",
        "Created-By: Packages",
        "Origin: Debian Backports",
    ]);
    let suites = shell::output(&mut list).ok()?;
    suites.lines().find(|suite| suite.ends_with("-backports")).map(str::to_owned)
}

/// What makes a command root's: nothing, or sudo. `None` where there is neither.
fn as_root() -> Option<Vec<&'static str>> {
    if rustix::process::geteuid().is_root() {
        return Some(Vec::new());
    }
    shell::find_program("sudo").map(|_| vec!["sudo"])
}

/// Runs apt-get without questions.
fn apt_get(as_root: &[&'static str], arguments: &[&str]) -> Result<()> {
    let words = [as_root, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], arguments].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdout(std::io::stderr());
    shell::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine had qemu-utils 10.0.2 from backports while 7.2 was the only qemu-system-x86, and the set-up took the
    /// tools back to 7.2. Whatever is installed now goes through an apt that would rather fail.
    #[test]
    fn no_plan_removes_anything_or_takes_it_back() {
        let plan = plan(&[EMULATOR, "fio"], |_| true).unwrap();
        assert!(plan.iter().any(|word| word == "--no-remove"), "{plan:?}");
        assert!(!plan.iter().any(|word| word.starts_with("--allow")), "{plan:?}");
        assert!(plan.ends_with(&[EMULATOR.to_owned(), "fio".to_owned()]), "{plan:?}");
    }

    #[test]
    fn what_fits_nowhere_has_no_plan() {
        assert_eq!(plan(&[EMULATOR], |_| false), None);
    }
}
