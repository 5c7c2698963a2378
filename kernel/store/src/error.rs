//! What can go wrong in the store, each as a sentence that tells the operator what to do.

use crate::device::DeviceError;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// Stable classification of an [`Error`], the `data.kind` of the control protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The name is taken.
    Exists,
    /// Something still uses the thing.
    InUse,
    /// The pool is full.
    NoSpace,
    /// The pool takes no writes.
    ReadOnly,
    /// What was read is not what was written.
    Corrupt,
    /// A device failed.
    Io,
    /// A documented limit would be exceeded.
    Limit,
    /// The request itself makes no sense.
    Invalid,
    /// The reference point belongs to another line of history.
    RefpointForeign,
    /// The reference point is newer than what it is compared with.
    RefpointNewer,
    /// The token is damaged or not a token.
    TokenInvalid,
    /// A disk cannot be used for what was asked.
    Device,
    /// The work was given up on request.
    Cancelled,
    /// There is no memory for what was asked, now.
    NoMemory,
}

impl ErrorKind {
    /// The stable word of the control protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Exists => "exists",
            Self::InUse => "in_use",
            Self::NoSpace => "no_space",
            Self::ReadOnly => "read_only",
            Self::Corrupt => "corrupt",
            Self::Io => "io",
            Self::Limit => "limit",
            Self::Invalid => "invalid",
            Self::RefpointForeign => "refpoint_foreign",
            Self::RefpointNewer => "refpoint_newer",
            Self::TokenInvalid => "token_invalid",
            Self::Device => "device",
            Self::Cancelled => "cancelled",
            Self::NoMemory => "no_memory",
        }
    }
}

/// An operating error: a stable kind, a sentence, and the chain of what led to it, cause first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Details>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Details {
    kind: ErrorKind,
    message: String,
    observations: Vec<String>,
}

/// The store's usual result.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a sentence that says what to do.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self(Box::new(Details { kind, message: message.to_string(), observations: Vec::new() }))
    }

    /// The same error, with what was being done when it came up. Call it on the way up, innermost first.
    #[must_use]
    pub fn observed(mut self, while_doing: impl fmt::Display) -> Self {
        self.0.observations.push(while_doing.to_string());
        self
    }

    /// Its classification.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The sentence for the operator.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What led to it, cause first.
    pub fn observations(&self) -> &[String] {
        &self.0.observations
    }

    /// There is no memory for what a request asks for.
    pub fn no_memory() -> Self {
        Self::new(ErrorKind::NoMemory, "there is no memory for this now; ask for less, or again later")
    }

    pub(crate) fn device(name: &str, doing: &str, error: DeviceError) -> Self {
        let kind = if error == DeviceError::ReadOnly { ErrorKind::ReadOnly } else { ErrorKind::Io };
        Self::new(kind, format_args!("disk {name} failed; check the disk and its host"))
            .observed(error)
            .observed(format_args!("{doing} on disk {name}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl core::error::Error for Error {}
