//! Programs from Debian packages. A program that is in `PATH` counts as installed, whoever put it there; on
//! a system without apt-get the missing ones are named, with what they belong to.

use std::process::Command;

use anyhow::{Result, bail};

use super::Need;
use crate::shell;

/// A program that some command runs.
pub(super) struct Program {
    name: &'static str,
    package: &'static str,
    /// Who asks for it.
    pub(super) need: Need,
}

/// Every program that is not part of a bare Debian system with gcc.
pub(super) const PROGRAMS: [Program; 18] = [
    Program { name: "g++", package: "g++", need: Need::Cxx },
    Program { name: "qemu-system-x86_64", package: EMULATOR, need: Need::Qemu },
    Program { name: "qemu-img", package: IMAGE_TOOLS, need: Need::Clients },
    Program { name: "qemu-io", package: IMAGE_TOOLS, need: Need::Clients },
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

/// Installs what is missing of `programs`.
pub(super) fn ensure<'a>(programs: impl Iterator<Item = &'a Program>) -> Result<()> {
    let missing: Vec<_> = programs.filter(|program| shell::find_program(program.name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|program| program.name).collect();
    let mut packages: Vec<_> = missing.iter().map(|program| program.package).collect();
    packages.dedup();
    if shell::find_program("apt-get").is_none() {
        bail!(
            "install {} with this system's package manager (in Debian they belong to the packages {})",
            names.join(", "),
            packages.join(", ")
        );
    }
    shell::say(format!(
        "not found: {}; installing the Debian packages {}",
        names.join(", "),
        packages.join(", ")
    ));
    apt_get(&["update", "-q"])?;
    let versions = QemuVersions::read();
    let plan = plan(&packages, &versions);
    apt_get(&plan.iter().map(String::as_str).collect::<Vec<_>>())?;
    match missing.iter().find(|program| shell::find_program(program.name).is_none()) {
        Some(program) => {
            bail!("the package {} was installed but brought no {}", program.package, program.name)
        }
        None => Ok(()),
    }
}

/// Versions that decide whether apt will agree to install the emulator.
#[derive(Default)]
struct QemuVersions {
    emulator_candidate: String,
    /// Empty where the image tools are not installed.
    image_tools_installed: String,
    image_tools_newer: bool,
}

impl QemuVersions {
    fn read() -> QemuVersions {
        let emulator_candidate = policy(EMULATOR, "Candidate:");
        let image_tools_installed = policy(IMAGE_TOOLS, "Installed:");
        let image_tools_newer = !image_tools_installed.is_empty()
            && Command::new("dpkg")
                .args(["--compare-versions", &image_tools_installed, "gt", &emulator_candidate])
                .status()
                .is_ok_and(|status| status.success());
        QemuVersions { emulator_candidate, image_tools_installed, image_tools_newer }
    }
}

/// One line of `apt-cache policy`, empty for `(none)`.
fn policy(package: &str, field: &str) -> String {
    let text = shell::output(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    let value = text.lines().find_map(|line| line.trim().strip_prefix(field)).unwrap_or_default().trim();
    if value == "(none)" { String::new() } else { value.to_owned() }
}

/// The arguments of `apt-get`. The emulator and the image tools share a package of common files at exactly
/// their own version, so apt refuses the emulator beside newer image tools (from backports, say): the tools
/// then go back to the emulator's version.
fn plan(packages: &[&str], versions: &QemuVersions) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["install", "-q", "-y", "--no-install-recommends"].map(String::from).to_vec();
    let step_back = packages.contains(&EMULATOR) && versions.image_tools_newer;
    if step_back {
        shell::say(format!(
            "{IMAGE_TOOLS} {} is newer than the only {EMULATOR} there is; taking it back to {}",
            versions.image_tools_installed, versions.emulator_candidate
        ));
        arguments.push("--allow-downgrades".into());
        arguments.push(format!("{IMAGE_TOOLS}={}", versions.emulator_candidate));
    }
    let rest = packages.iter().filter(|package| !(step_back && **package == IMAGE_TOOLS));
    arguments.extend(rest.map(|package| (*package).to_owned()));
    arguments
}

/// Runs apt-get without questions, as root.
fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut words = Vec::new();
    if !rustix::process::geteuid().is_root() {
        if shell::find_program("sudo").is_none() {
            bail!("as root, run: apt-get {}", arguments.join(" "));
        }
        words.push("sudo");
    }
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend(arguments);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdout(std::io::stderr());
    shell::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_installed_plainly_where_versions_agree() {
        let plan = plan(&[EMULATOR, "fio"], &QemuVersions::default());
        assert_eq!(plan, ["install", "-q", "-y", "--no-install-recommends", EMULATOR, "fio"]);
    }

    /// A machine had qemu-utils 10.0.2 from backports while 7.2 was the only qemu-system-x86: apt refused
    /// the emulator because both depend on qemu-system-common or qemu-block-extra of their own version.
    #[test]
    fn newer_image_tools_go_back_to_the_emulators_version() {
        let versions = QemuVersions {
            emulator_candidate: "1:7.2".into(),
            image_tools_installed: "1:10.0.2~bpo12".into(),
            image_tools_newer: true,
        };
        let with_tools = plan(&[EMULATOR, IMAGE_TOOLS], &versions);
        assert_eq!(with_tools[4..], ["--allow-downgrades", "qemu-utils=1:7.2", EMULATOR]);
        assert_eq!(plan(&["fio"], &versions)[4..], ["fio"]);
    }
}
