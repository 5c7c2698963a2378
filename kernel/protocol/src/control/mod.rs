//! The control protocol: JSON-RPC 2.0, one object a line.
//!
//! [`Lines`] cuts bytes into lines, [`decode`] turns a line into a typed [`Command`] or into the error that answers
//! it, [`encode`] writes what goes back. The table in `commands` is the only list of what the appliance can do: the
//! control port, the console and their help are all made from it, so nothing exists on one of them alone.

mod argument;
mod command;
mod commands;
pub mod encode;
mod error;
mod lines;
mod request;
mod value;

pub use argument::{Argument, Bytes, Count, JobId, Kind};
pub use command::{CommandSpec, ParameterSpec, find};
pub use commands::{COMMANDS, Command};
pub use error::{ErrorKind, ErrorObject};
pub use lines::{Frame, Lines};
pub use request::{BadRequest, Call, Id, decode};
pub use value::Value;

pub(crate) use command::{nearest, quoted};
