//! The commands, each in a file of its own: its arguments as a clap `Args` struct named `Arguments` whose
//! first doc line is the help, and a `run` that does it.
//!
//! A new command is a file here, its `mod` line and its line in `commands!`. (The macro does not declare the
//! modules: rustfmt would not find them.)

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::qemu::Port;
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
    fn socket(self, port: Port) -> PathBuf {
        let directory = self.directory.unwrap_or_else(workspace::run_directory);
        self.socket.unwrap_or_else(|| directory.join(port.socket_name()))
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
    fn a_socket_is_found_by_directory_or_by_itself() {
        let directory = Location { directory: Some("/d".into()), socket: None };
        assert_eq!(directory.socket(Port::Nbd(2)), PathBuf::from("/d/nbd2.sock"));
        let socket = Location { directory: None, socket: Some("/s".into()) };
        assert_eq!(socket.socket(Port::Control), PathBuf::from("/s"));
    }
}
