//! The console: the command table for people.
//!
//! [`Editor`] turns a terminal's bytes into lines, [`parse`] a line into the same
//! [`Command`](crate::control::Command) the control port has, [`complete`](fn@complete) helps typing it, and
//! [`render`](fn@render) shows results and errors. All of it works on a raw serial line: nothing is assumed of the
//! terminal but cursor movement of the VT100, and that what does not say how wide it is has 80 columns.

mod complete;
mod editor;
mod fold;
mod grammar;
mod help;
mod human;
mod keys;
mod render;
mod words;

pub use complete::{Completion, Objects, complete};
pub use editor::{Editor, Entered};
pub use fold::fold;
pub use grammar::{Entry, parse};
pub use help::synopsis;
pub use human::size_text;
pub use render::{for_terminal, render, render_bytes_max, render_error, render_event};
