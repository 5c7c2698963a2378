//! `cargo xtask`: the one command-line tool of the repository. Everything lives in the library, so that
//! the tests can use it too.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::commands::main()
}
