//! `cargo xtask console`: the terminal on a running appliance, or a script.

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Location;
use crate::greeting;
use crate::qemu::Port;
use crate::script::{self, Ended};
use crate::terminal::{self, Left};

/// How long to wait for a console to be free.
const PATIENCE: Duration = Duration::from_secs(60);

/// Attach this terminal to a running appliance's console; Ctrl-] leaves.
///
/// Standard input that is no terminal is a script, as in `echo 'volume list' | cargo xtask console`: each line is carried
/// out, and only the answers are printed. The first error ends it with exit code 1 and the number of the line.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    location: Location,
    /// Carry out the rest of a script after an error; the exit code is 1 all the same.
    #[arg(long)]
    keep_going: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        let console = greeting::first(&self.location.sockets(Port::Console), PATIENCE)
            .context("no console is free (`cargo xtask run` starts an appliance)")?;
        let ended = match terminal::is_interactive() {
            true => match terminal::attach(&console)? {
                Left::Closed => Ended::Closed,
                Left::ByUser | Left::Signalled => Ended::Done,
            },
            false => script::run(&console, io::stdin().as_fd(), self.keep_going)?,
        };
        if ended == Ended::Closed {
            eprintln!("\nThe appliance closed the console.");
        }
        Ok(if ended == Ended::Done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
