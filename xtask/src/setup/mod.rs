//! What a command needs of the machine it runs on, and how it gets there.
//!
//! Every command names its needs and calls [`ensure`]. What is present is only looked at, so the second run
//! does nothing; what is missing is announced, then installed. Nothing beyond the named needs is installed, and
//! nothing that is installed is removed or goes back to an older version.
//!
//! [`debian`] installs programs, [`rust`] what belongs to the toolchain; [`unpacked`] keeps what is not installed but
//! unpacked, from what [`archive`] fetches.

mod archive;
mod debian;
mod rust;
mod unpacked;

use anyhow::Result;

pub use rust::nightly;
pub use unpacked::{LIBNBD_NEWEST, QEMU_NEWEST, QEMU_OLDEST, Set, linux_guest};

use crate::shell::say;

/// Something a command cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The standard library for the bare machine.
    BareTarget,
    /// rustfmt and clippy.
    Lints,
    /// cargo-llvm-cov, and the LLVM tools of the toolchain.
    Coverage,
    /// The same of a nightly toolchain.
    BranchCoverage,
    /// The C++ compiler that builds libFuzzer.
    Cxx,
    /// The emulator.
    Qemu,
    /// What Datum is compared with.
    Peers,
    /// The NBD clients, load generators and file-system tools that the tests drive.
    Clients,
    /// The oldest and the newest emulators and clients, beside what is installed. Where one cannot be had, this is
    /// said, and the tests that want it say that they are skipped.
    Versions,
}

/// Makes sure of every need. Says on stderr what it does, and nothing where nothing is to do.
pub fn ensure(needs: &[Need]) -> Result<()> {
    if needs.contains(&Need::BareTarget) {
        rust::ensure_target()?;
    }
    if needs.contains(&Need::Lints) {
        rust::ensure_lints()?;
    }
    if needs.contains(&Need::Coverage) {
        rust::ensure_coverage(None)?;
    }
    if needs.contains(&Need::BranchCoverage) {
        rust::ensure_coverage(Some(&nightly()?))?;
    }
    let programs = debian::PROGRAMS.iter().filter(|program| needs.contains(&program.need));
    debian::ensure(programs)?;
    if needs.contains(&Need::Versions) {
        for set in unpacked::VERSIONS {
            if let Err(error) = set.ensure() {
                say(format!("{error:#}"));
            }
        }
    }
    Ok(())
}
