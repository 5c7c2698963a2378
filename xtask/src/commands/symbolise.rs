//! `cargo xtask symbolise`: a serial log with functions and lines.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::kernel;
use crate::symbols::Symbols;

/// Write functions and lines below each backtrace of a serial log.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The log; standard input where none is named.
    log: Option<PathBuf>,
    /// The kernel with line tables that wrote it [default: target/datum/datum.debug].
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut log = Vec::new();
        match &self.log {
            Some(path) => log = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => drop(io::stdin().read_to_end(&mut log)?),
        }
        let symbols = Symbols::open(&self.kernel.unwrap_or_else(kernel::debug_path))?;
        print!("{}", symbols.annotate(&String::from_utf8_lossy(&log)));
        Ok(ExitCode::SUCCESS)
    }
}
