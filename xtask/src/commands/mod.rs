//! The commands, each in a file of its own: its arguments as a clap `Args` struct named `Arguments` whose
//! first doc line is the help, and a `run` that does it.
//!
//! A new command is a file here, its `mod` line and its line in `commands!`. (The macro does not declare the
//! modules: rustfmt would not find them.)

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::qemu::{COMMAND_PORTS_MAX, Port};
use crate::workspace;

mod bench;
mod build;
mod ci;
mod console;
mod coverage;
mod ctl;
mod demo;
mod fuzz;
mod run;
mod setup;
mod sim;
mod symbolise;
mod test;
mod tidy;

/// Declares the dispatcher: `module => Name`, in the order of the help.
macro_rules! commands {
    ($($module:ident => $name:ident,)*) => {
        #[derive(Subcommand)]
        enum Command {
            $($name($module::Arguments),)*
        }

        impl Command {
            fn run(self) -> anyhow::Result<ExitCode> {
                match self {
                    $(Command::$name(arguments) => arguments.run(),)*
                }
            }
        }
    };
}

commands! {
    run => Run,
    demo => Demo,
    console => Console,
    ctl => Ctl,
    build => Build,
    test => Test,
    sim => Sim,
    fuzz => Fuzz,
    coverage => Coverage,
    bench => Bench,
    ci => Ci,
    tidy => Tidy,
    symbolise => Symbolise,
    setup => Setup,
}

/// Build, run, test and administer Datum.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where a running appliance's sockets are.
#[derive(Args)]
struct Location {
    /// The directory that `cargo xtask run` printed.
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    /// The socket itself, wherever it is.
    #[arg(long, value_name = "PATH", conflicts_with = "directory")]
    socket: Option<PathBuf>,
}

impl Location {
    /// The sockets of all ports of a kind: those that are there, else the first.
    fn sockets(self, kind: fn(u32) -> Port) -> Vec<PathBuf> {
        if let Some(socket) = self.socket {
            return vec![socket];
        }
        let directory = self.directory.unwrap_or_else(workspace::run_directory);
        let numbered = (0..COMMAND_PORTS_MAX).map(|number| directory.join(kind(number).socket_name()));
        numbered
            .enumerate()
            .filter(|(number, path)| *number == 0 || path.exists())
            .map(|(_, path)| path)
            .collect()
    }
}

/// Runs the command that the arguments name. Errors go to stderr with their causes.
pub fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sockets_are_found_by_directory_or_one_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let location = || Location { directory: Some(directory.path().into()), socket: None };
        assert_eq!(location().sockets(Port::Control), [path("control.sock")]);
        std::fs::write(path("control2.sock"), "").unwrap();
        assert_eq!(location().sockets(Port::Control), [path("control.sock"), path("control2.sock")]);
        let socket = Location { directory: None, socket: Some("/s".into()) };
        assert_eq!(socket.sockets(Port::Console), [PathBuf::from("/s")]);
    }
}
