//! The programs of others, in several versions: those that are installed, and the oldest and newest that the set-up
//! unpacks. A test that is to run with some of them takes a [`Tools`] and stands in [`with_tools`](crate::with_tools).
//!
//! What always holds: a test whose version is not there says so on standard output, past the test runner, which would
//! keep it to itself; in CI it fails.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use xtask::setup::{LIBNBD_NEWEST, QEMU_NEWEST, QEMU_OLDEST, Set};
use xtask::shell;

/// Seconds that an unmodified client may take.
const CLIENT_SECONDS: &str = "60";

/// What a line of a test that is skipped begins with; `cargo xtask test` counts them.
const SKIPPED: &str = "skipped: ";

/// Where unmodified programs come from.
#[derive(Clone, Copy, Debug)]
pub struct Tools(Option<&'static Set>);

/// The programs that are installed.
pub const INSTALLED: Tools = Tools(None);

impl Tools {
    /// The programs that are installed.
    pub fn installed() -> Option<Tools> {
        Some(INSTALLED)
    }

    /// The oldest QEMU.
    pub fn qemu_oldest() -> Option<Tools> {
        Tools::unpacked(&QEMU_OLDEST)
    }

    /// The newest QEMU. Its clients ask for extended headers and write without `PAYLOAD_LEN`.
    pub fn qemu_newest() -> Option<Tools> {
        Tools::unpacked(&QEMU_NEWEST)
    }

    /// The newest libnbd. Its clients ask for extended headers.
    pub fn libnbd_newest() -> Option<Tools> {
        Tools::unpacked(&LIBNBD_NEWEST)
    }

    fn unpacked(set: &'static Set) -> Option<Tools> {
        if set.is_there() {
            return Some(Tools(Some(set)));
        }
        let missing = format!("{} is not there: see what `cargo xtask setup` says", set.name());
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
        let test = thread::current().name().unwrap_or_default().to_owned();
        io::stdout().write_all(format!("{SKIPPED}{test}: {missing}\n").as_bytes()).unwrap();
        None
    }

    /// Whether they are the newest QEMU.
    pub fn are_qemu_newest(self) -> bool {
        self.0.is_some_and(|set| set.name() == QEMU_NEWEST.name())
    }

    /// One of the programs; whatever their version does not bring is the installed one.
    pub fn program(self, name: &str) -> PathBuf {
        let unpacked = self.0.and_then(|set| set.program(name));
        unpacked.or_else(|| shell::find_program(name)).unwrap_or_else(|| name.into())
    }

    /// Runs a client within its time; it must succeed. Returns what it printed.
    pub fn run(self, program: &str, arguments: &[&str]) -> String {
        let output = self.attempt(program, arguments);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{program} {arguments:?} of {self:?} ended with {}\n{}{}",
            output.status,
            said(&output.stdout),
            said(&output.stderr)
        );
        said(&output.stdout)
    }

    /// Runs a client within its time, however it ends.
    pub fn attempt(self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", CLIENT_SECONDS]).arg(self.program(program)).args(arguments);
        command.output().unwrap()
    }
}

/// Makes tests of functions, one for each of the named versions: that of `[qemu_oldest] [copies]` is
/// `copies::qemu_oldest`, which calls `copies(Tools)`.
#[macro_export]
macro_rules! with_tools {
    ($versions:tt [$($test:ident),+ $(,)?]) => {
        $($crate::with_tools! { $test: $versions })+
    };
    ($test:ident: [$($version:ident),+]) => {
        mod $test {
            $(#[test]
            fn $version() {
                if let Some(tools) = $crate::qemu::Tools::$version() {
                    super::$test(tools);
                }
            })+
        }
    };
}
