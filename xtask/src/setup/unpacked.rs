//! Debian packages that are fetched and unpacked, not installed: emulators and clients of other versions than this
//! system's, and what a guest is made of. They stay in the artefacts' directory and need no root.
//!
//! What always holds: a set's directory is there only when it is complete, because it gets its name last; a program of
//! a set runs with the libraries of its own release, and its process is that of the program. [`archive`] fetches.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::{self, Suite};
use crate::shell::{self, say};
use crate::workspace;

/// Packages of one release, with all that they depend on.
#[derive(Debug)]
pub struct Set {
    name: &'static str,
    suite: Suite,
    packages: &'static [&'static str],
    programs: &'static [&'static str],
}

/// Names what a set was made of, in its directory.
const CONTENTS: &str = "contents";

/// Where the packages' files are, in a set's directory.
const ROOT: &str = "root";

/// Where a release keeps its libraries, below a set's root; the newest keep nothing in the first.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const LOADER: &str = "ld-linux-x86-64.so.2";

const QEMU_PACKAGES: &[&str] = &["qemu-system-x86", "qemu-utils"];
const QEMU_PROGRAMS: &[&str] =
    &["qemu-system-x86_64", "qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon"];

/// The QEMU of this system's own release, which is the oldest that Datum is tested with.
pub static QEMU_OLDEST: Set =
    Set { name: "qemu-oldest", suite: Suite::Own, packages: QEMU_PACKAGES, programs: QEMU_PROGRAMS };

/// The newest QEMU that there is for this system.
pub static QEMU_NEWEST: Set =
    Set { name: "qemu-newest", suite: Suite::Backports, packages: QEMU_PACKAGES, programs: QEMU_PROGRAMS };

/// libnbd of Debian 13, the first with extended headers.
pub static LIBNBD_NEWEST: Set = Set {
    name: "libnbd-newest",
    suite: Suite::Release("trixie"),
    packages: &["libnbd-bin"],
    programs: &["nbdinfo", "nbdcopy"],
};

/// The versions that tests run beside those that are installed.
pub(super) static VERSIONS: [&Set; 3] = [&QEMU_OLDEST, &QEMU_NEWEST, &LIBNBD_NEWEST];

static LINUX_GUEST: Set = Set {
    name: "linux-guest",
    suite: Suite::Own,
    packages: &["linux-image-amd64", "busybox-static"],
    programs: &[],
};

/// Debian's kernel with its modules and a static busybox, in directories as in an installed system.
pub fn linux_guest() -> Result<PathBuf> {
    LINUX_GUEST.ensure()?;
    Ok(LINUX_GUEST.place().join(ROOT))
}

impl Set {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it has been fetched.
    pub fn is_there(&self) -> bool {
        self.place().is_dir()
    }

    /// One of its programs; `None` where the set is not there.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.place().join("bin").join(name)).filter(|program| program.is_file())
    }

    /// Fetches the set unless it is complete.
    pub(super) fn ensure(&self) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        fs::create_dir_all(workspace::packages())?;
        let lock = File::create(workspace::packages().join("lock"))?;
        lock.lock()?;
        // Somebody else may have fetched it meanwhile.
        if self.is_complete() { Ok(()) } else { self.fetch().with_context(|| format!("no {}", self.name)) }
    }

    fn place(&self) -> PathBuf {
        workspace::packages().join(self.name)
    }

    fn is_complete(&self) -> bool {
        fs::read_to_string(self.place().join(CONTENTS)).is_ok_and(|contents| contents == self.contents())
    }

    fn contents(&self) -> String {
        format!("{:?} {} {}\n", self.suite, self.packages.join(" "), self.programs.join(" "))
    }

    fn fetch(&self) -> Result<()> {
        let suites = self.suite.names()?;
        let place = self.place();
        say(format!(
            "unpacking {} of {} in {}; nothing is installed",
            self.packages.join(" and "),
            suites[0],
            place.display()
        ));
        let part = place.with_extension("part");
        remove(&part)?;
        let root = part.join(ROOT);
        fs::create_dir_all(&root)?;
        for package in archive::fetch(&part.join("apt"), &suites, self.packages)? {
            shell::run_quietly(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root))?;
        }
        fs::remove_dir_all(part.join("apt"))?;
        fs::create_dir(part.join("bin"))?;
        self.programs.iter().try_for_each(|program| write_wrapper(&part, program))?;
        fs::write(part.join(CONTENTS), self.contents())?;
        remove(&place)?;
        Ok(fs::rename(&part, &place)?)
    }
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

/// Writes the script that runs a program of the set in `place`. It finds the set by its own path, so the directory may
/// be moved.
fn write_wrapper(place: &Path, program: &str) -> Result<()> {
    let root = place.join(ROOT);
    let loader = LIBRARIES.iter().map(|directory| format!("{directory}/{LOADER}"));
    // By its real name: the link from lib64 is absolute in some releases, and leads to this system's own.
    let loader = loader.into_iter().find(|loader| root.join(loader).is_file());
    let loader = loader.with_context(|| format!("the packages of {program} bring no {LOADER}"))?;
    anyhow::ensure!(root.join("usr/bin").join(program).is_file(), "the packages bring no {program}");
    let script = place.join("bin").join(program);
    fs::write(&script, wrapper(program, &loader))?;
    Ok(fs::set_permissions(script, Permissions::from_mode(0o755))?)
}

fn wrapper(program: &str, loader: &str) -> String {
    let libraries = LIBRARIES.map(|directory| format!("$root/{directory}")).join(":");
    let data = if program.starts_with("qemu-system-") {
        r#" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu""#
    } else {
        ""
    };
    format!(
        "#!/bin/sh\n\
         # Written by xtask: runs an unpacked program with the libraries of its own release.\n\
         root=${{0%/*}}/../{ROOT}\n\
         export QEMU_MODULE_DIR=\"$root/usr/lib/x86_64-linux-gnu/qemu\"\n\
         exec \"$root/{loader}\" --library-path \"{libraries}\" \"$root/usr/bin/{program}\"{data} \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `echo` in the loader's place shows what the loader would run, and the shell runs the script, because a file that
    /// this process has only just written may still be open for writing in another one that it starts meanwhile.
    #[test]
    fn a_program_runs_with_its_own_libraries_wherever_its_set_lies() {
        let directory = tempfile::tempdir().unwrap();
        let part = directory.path().join("set.part");
        for place in ["root/usr/bin", "root/usr/lib/x86_64-linux-gnu", "bin"] {
            fs::create_dir_all(part.join(place)).unwrap();
        }
        fs::write(part.join("root/usr/bin/qemu-system-x86_64"), "").unwrap();
        let loader = part.join("root/usr/lib/x86_64-linux-gnu").join(LOADER);
        std::os::unix::fs::symlink("/bin/echo", loader).unwrap();
        write_wrapper(&part, "qemu-system-x86_64").unwrap();
        let place = directory.path().join("a place");
        fs::rename(&part, &place).unwrap();
        let script = place.join("bin/qemu-system-x86_64");
        assert!(
            fs::read_to_string(&script).unwrap().contains("\nexec "),
            "the process must be the program's"
        );
        let said = shell::output(Command::new("sh").arg(&script).args(["-M", "a  b"])).unwrap();
        let root = place.join("bin/../root").display().to_string();
        let libraries = format!("{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu");
        let start =
            format!("--library-path {libraries} {root}/usr/bin/qemu-system-x86_64 -L {root}/usr/share/qemu ");
        assert!(said.starts_with(&start), "{said}");
        assert!(said.ends_with("/ipxe/qemu -M a  b\n"), "{said}");
    }

    #[test]
    fn a_set_that_brings_no_such_program_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = write_wrapper(directory.path(), "nbdinfo").unwrap_err().to_string();
        assert!(error.contains(LOADER), "{error}");
    }
}
