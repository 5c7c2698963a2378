//! Packages of Debian's archive, resolved and fetched by an apt whose state is private: it knows other suites than this
//! system's apt, takes nothing as installed, and so finds all that a program needs, the C library among it. It needs no
//! root and changes nothing of this system.
//!
//! Where the archive lies is this system's own configuration; that it is Debian's is proved by its signature.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::shell::{self, say};

/// A part of the archive.
#[derive(Debug)]
pub(super) enum Suite {
    /// This system's release.
    Own,
    /// What Debian rebuilds of newer releases for this system's one.
    Backports,
    /// The release of this name.
    Release(&'static str),
}

/// Whose signature the archive must have.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Who says which system this is.
const OS_RELEASE: &str = "/etc/os-release";

impl Suite {
    /// Its names in the archive, the wanted one first.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let own = codename(&fs::read_to_string(OS_RELEASE).unwrap_or_default());
        let own = own.context("this system is not a release of Debian")?;
        Ok(match self {
            Suite::Own => vec![own],
            Suite::Backports => vec![format!("{own}-backports"), own],
            Suite::Release(name) => vec![(*name).into()],
        })
    }
}

/// The name of Debian's release in the text of `os-release`.
fn codename(os_release: &str) -> Option<String> {
    let field = |name: &str| {
        let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.trim_matches('"').to_owned())
    };
    field("VERSION_CODENAME").filter(|_| field("ID").is_some_and(|id| id == "debian"))
}

/// Fetches packages of the first suite, and all that they depend on, also of the others. Returns their files, which are
/// below `state`.
pub(super) fn fetch(state: &Path, suites: &[String], packages: &[&str]) -> Result<Vec<PathBuf>> {
    let own = codename(&fs::read_to_string(OS_RELEASE)?).unwrap_or_default();
    let mirror = mirror(&targets()?, &own).context("apt names no archive of this system's release")?;
    for directory in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(state.join(directory))?;
    }
    let source = |suite: &String| format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n");
    fs::write(state.join("sources"), suites.iter().map(source).collect::<String>())?;
    fs::write(state.join("status"), "")?;
    if let Err(error) = download(state, suites, packages) {
        say(format!("{error:#}; once more"));
        download(state, suites, packages)?;
    }
    let files = fs::read_dir(state.join("archives"))?.map(|entry| Ok(entry?.path()));
    let is_package = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "deb");
    files.filter(|file| file.as_ref().map_or(true, is_package)).collect()
}

fn download(state: &Path, suites: &[String], packages: &[&str]) -> Result<()> {
    let run = |words: &[&str], what: &str| {
        let status = apt_get(state).args(words).stdout(std::io::stderr()).status()?;
        ensure!(status.success(), "apt-get could not fetch {what}");
        Ok(())
    };
    run(&["-o", "APT::Update::Error-Mode=any", "update"], &format!("the lists of {}", suites.join(" and ")))?;
    let install = ["install", "-y", "--download-only", "--no-install-recommends", "-t", &suites[0]];
    run(&[&install, packages].concat(), &packages.join(" and "))
}

/// apt-get with its state in that directory.
fn apt_get(state: &Path) -> Command {
    let at = |name: &str| state.join(name).display().to_string();
    let options = [
        format!("Dir::Etc::sourcelist={}", at("sources")),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::State::status={}", at("status")),
        format!("Dir::Cache::archives={}", at("archives")),
    ];
    let others = [
        "Dir::Etc::sourceparts=/dev/null",
        "Dir::Etc::preferences=/dev/null",
        "Dir::Etc::preferencesparts=/dev/null",
        "Dir::Cache::pkgcache=",
        "Dir::Cache::srcpkgcache=",
        "Acquire::Languages=none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
        "APT::Keep-Downloaded-Packages=true",
        // apt's own user may not write to a directory of ours.
        "APT::Sandbox::User=root",
        "Debug::NoLocking=true",
    ];
    let mut command = Command::new("apt-get");
    command.arg("-qq").env("LC_ALL", "C");
    for option in options.iter().map(String::as_str).chain(others) {
        command.args(["-o", option]);
    }
    command
}

/// What apt is told to fetch packages from, a line each: those whose release it has looked at with origin and code
/// name, then all with nothing in their place.
fn targets() -> Result<String> {
    for program in ["apt-get", "dpkg-deb"] {
        if shell::find_program(program).is_none() {
            bail!("there is no {program}");
        }
    }
    let list = |more: &[&str]| {
        let format = "$(COMPONENT) $(RELEASE) $(REPO_URI) $(ORIGIN) $(CODENAME)";
        let mut command = Command::new("apt-get");
        shell::output(command.args(["indextargets", "--format", format, "Created-By: Packages"]).args(more))
    };
    Ok(list(&[])? + &list(&["--no-release-info"])?)
}

/// The archive of that release. What only calls its release by the same name is refused later, by its signature.
fn mirror(targets: &str, codename: &str) -> Option<String> {
    let main = || {
        let lines = targets.lines().filter_map(|line| line.strip_prefix("main "));
        lines.filter_map(|line| line.split_once(' ')).filter_map(|(release, rest)| {
            let (address, origin) = rest.split_once(' ')?;
            (!address.starts_with("cdrom:")).then_some((release, address, origin))
        })
    };
    let known = main().find(|(_, _, origin)| *origin == format!("Debian {codename}"));
    let named = || main().find(|(release, ..)| *release == codename);
    known.or_else(named).map(|(_, address, _)| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_known_only_where_it_is_debians() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm".into()));
        assert_eq!(codename("ID=\"debian\"\nVERSION_CODENAME=\"trixie\"\n"), Some("trixie".into()));
        assert_eq!(codename("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n"), None);
        assert_eq!(codename("ID=debian\n"), None);
    }

    #[test]
    fn the_archive_is_that_of_the_systems_own_release() {
        let targets = "main bookworm file:/foreign/ Somebody bookworm\n\
                       main bookworm-updates file:/debian/ Debian bookworm-updates\n\
                       main stable file:/debian/ Debian bookworm\n\
                       main bookworm-security file:/security/ Debian bookworm-security\n";
        assert_eq!(mirror(targets, "bookworm").as_deref(), Some("file:/debian/"));
        assert_eq!(mirror(targets, "trixie"), None);
    }

    #[test]
    fn before_the_first_update_the_release_is_known_by_name_alone() {
        let targets = "main bookworm cdrom:[disc]/ $(ORIGIN) $(CODENAME)\n\
                       contrib bookworm file:/other/ $(ORIGIN) $(CODENAME)\n\
                       main bookworm-security file:/security/ $(ORIGIN) $(CODENAME)\n\
                       main bookworm file:/debian/ $(ORIGIN) $(CODENAME)\n";
        assert_eq!(mirror(targets, "bookworm").as_deref(), Some("file:/debian/"));
    }
}
