//! `cargo xtask console`: the terminal on a running appliance.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Location;
use crate::qemu::Port;
use crate::terminal::{self, AtEnd, Left};

/// Attach this terminal to a running appliance's console; Ctrl-] leaves.
///
/// Standard input that is no terminal is sent line by line:
/// `echo 'volume list' | cargo xtask console`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    location: Location,
    /// After the end of a script, leave when the console has been quiet for so many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    quiet: u64,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        let socket = self.location.socket(Port::Console);
        let console = UnixStream::connect(&socket).with_context(|| {
            format!("no appliance offers {}: start one with `cargo xtask run`", socket.display())
        })?;
        let left = terminal::attach(&console, AtEnd::LeaveWhenQuiet(Duration::from_millis(self.quiet)))?;
        if left == Left::Closed {
            eprintln!("\nThe appliance has gone.");
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}
