//! Errors as clients see them: a stable number and word, a sentence that says what to do, and the chain of causes.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

macro_rules! kinds {
    ($( $(#[$doc:meta])* $variant:ident $code:literal $word:literal )*) => {
        /// The stable kinds of errors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorKind { $( $(#[$doc])* $variant, )* }

        impl ErrorKind {
            /// Every kind.
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];

            /// The number in `error.code`.
            pub fn code(self) -> i32 {
                match self { $( Self::$variant => $code, )* }
            }

            /// The word in `error.data.kind`.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }
    };
}

kinds! {
    /// The line is not JSON, not UTF-8 or too long.
    ParseError -32700 "parse_error"
    /// The line is JSON but no JSON-RPC request.
    InvalidRequest -32600 "invalid_request"
    /// There is no such method.
    UnknownMethod -32601 "unknown_method"
    /// A parameter is missing, unknown or of the wrong type.
    InvalidParams -32602 "invalid_params"
    /// A defect of the appliance.
    Internal -32603 "internal"
    /// The named thing does not exist.
    NotFound 1 "not_found"
    /// The name is taken.
    Exists 2 "exists"
    /// Something still uses the thing.
    InUse 3 "in_use"
    /// The pool is full.
    NoSpace 4 "no_space"
    /// The pool or a disk takes no writes.
    ReadOnly 5 "read_only"
    /// What was read is not what was written.
    Corrupt 6 "corrupt"
    /// A device failed.
    Io 7 "io"
    /// A documented limit would be exceeded.
    Limit 8 "limit"
    /// The parameters are well-formed, but make no sense together or here.
    Invalid 9 "invalid"
    /// The reference point belongs to another line of history.
    RefpointForeign 10 "refpoint_foreign"
    /// The reference point is newer than what it is compared with.
    RefpointNewer 11 "refpoint_newer"
    /// The token is damaged or not a token.
    TokenInvalid 12 "token_invalid"
    /// A disk cannot be used for what was asked.
    Device 13 "device"
    /// The work was given up on request.
    Cancelled 14 "cancelled"
    /// No pool is open.
    NoPool 15 "no_pool"
    /// The appliance is going down.
    Stopping 16 "stopping"
    /// There is no memory for what was asked, now.
    NoMemory 17 "no_memory"
}

impl ErrorKind {
    /// The kind of a word, for clients and for errors that come from elsewhere.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

/// One error, ready to be sent on control or shown on the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorObject {
    /// What sort it is.
    pub kind: ErrorKind,
    /// A sentence that names the thing and the way out.
    pub message: String,
    /// From the cause to the failed request.
    pub observations: Vec<String>,
}

impl ErrorObject {
    /// An error without observations.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), observations: Vec::new() }
    }

    /// Adds the next observation towards the request.
    pub fn observed(mut self, observation: impl fmt::Display) -> Self {
        self.observations.push(observation.to_string());
        self
    }
}

impl fmt::Display for ErrorObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for ErrorObject {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_are_unique_and_in_range() {
        for (index, kind) in ErrorKind::ALL.iter().enumerate() {
            assert!((1..=99).contains(&kind.code()) || (-32768..=-32000).contains(&kind.code()));
            assert_eq!(ErrorKind::from_word(kind.as_str()), Some(*kind));
            let others = &ErrorKind::ALL[index + 1..];
            assert!(others.iter().all(|o| o.code() != kind.code() && o.as_str() != kind.as_str()));
        }
    }
}
