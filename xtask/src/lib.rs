//! Build, run, test and administer Datum from a host.
//!
//! The binary is one call into [`commands`]. What the tests share with it are the parts below: a QEMU
//! machine with a kernel in it ([`qemu`]), the control client ([`control`]) and backtraces ([`symbols`]).
//!
//! What always holds: nothing here installs, builds or deletes without saying so on stderr; standard output
//! carries results only.
#![forbid(unsafe_code)]

pub mod bench;
pub mod commands;
pub mod control;
pub mod defects;
pub mod demo;
pub mod fuzz;
pub mod greeting;
pub mod kernel;
pub mod nbd;
pub mod qemu;
pub mod qmp;
pub mod script;
pub mod setup;
pub mod shell;
pub mod size;
pub mod symbols;
pub mod terminal;
pub mod tidy;
pub mod workspace;
