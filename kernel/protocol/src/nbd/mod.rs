//! The NBD server side: fixed newstyle negotiation, then transmission with compact or extended headers.
//!
//! A session is a [`Negotiation`] until that yields a [`Session`], then a [`Transmission`] with a [`Replies`]
//! encoder. Both machines are fed by `receive(input)`, which says how many bytes it took and at most one event;
//! call it again with the rest. Neither holds payload: after a WRITE the data follow in the input, and the
//! service takes them from there.
//!
//! What always holds: the stream never falls out of step. Whatever cannot be framed for certain ends the session
//! ([`Fault`]), and from then on input is discarded until the client reconnects, because a port cannot hang up.
//! Multi-connection use is never advertised: a port carries one client.

mod context;
mod error;
mod negotiation;
mod options;
mod reply;
mod request;
mod transmission;
pub mod wire;

pub use context::{ContextQuery, MetaContext, Namespace, SelectedContext};
pub use error::ErrorNumber;
pub use negotiation::{Event, Negotiation};
pub use options::{Description, Refusal};
pub use reply::{Extent, Replies};
pub use request::{Command, Request, RequestId};
pub use transmission::{Incoming, Transmission};

use crate::name::ExportName;
use alloc::vec::Vec;
use core::fmt;

/// How replies are framed, by what was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, structured chunks.
    Structured,
    /// Extended requests, extended chunks.
    Extended,
}

/// What a finished negotiation settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The export chosen.
    pub export: ExportName,
    /// Its size in bytes, fixed for the session.
    pub size: u64,
    /// Writes are refused with `EPERM`.
    pub read_only: bool,
    /// The framing.
    pub mode: Mode,
    /// The metadata contexts selected for this export.
    pub contexts: Vec<SelectedContext>,
}

/// Why a session ended. The port discards input until the client reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's flags lack fixed newstyle or hold unknown bits.
    ClientFlags(u32),
    /// An option did not begin with `IHAVEOPT`.
    OptionMagic(u64),
    /// The first export request of the old form failed, and that form has no error reply.
    ExportName,
    /// `EXPORT_NAME` after extended headers were negotiated.
    ExportNameAfterExtended,
    /// A request did not begin with the magic number of the negotiated header.
    RequestMagic(u32),
    /// The client ended the session in order.
    Closed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientFlags(flags) => {
                write!(f, "the client sent flags {flags:#x}; use a client that speaks fixed newstyle NBD")
            }
            Self::OptionMagic(magic) => {
                write!(f, "an option began with {magic:#018x}; the client is out of step and must reconnect")
            }
            Self::ExportName => f.write_str(
                "the export asked for by EXPORT_NAME is not served; list the exports with `nbdinfo --list`",
            ),
            Self::ExportNameAfterExtended => {
                f.write_str("EXPORT_NAME may not follow EXTENDED_HEADERS; the client must use GO")
            }
            Self::RequestMagic(magic) => {
                write!(f, "a request began with {magic:#010x}; the client is out of step and must reconnect")
            }
            Self::Closed => f.write_str("the client ended the session"),
        }
    }
}

impl core::error::Error for Fault {}
