//! Requests: their typed form and the rules each command must meet.

use super::error::ErrorNumber;
use super::wire::{Reader, command, flag};
use super::{Mode, Session};
use crate::limits::NBD_PAYLOAD_BYTES_MAX;
use alloc::vec::Vec;

/// What ties a reply to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The client's own number for the request.
    pub cookie: u64,
    /// The request's offset, which extended replies repeat.
    pub offset: u64,
    /// Success of a READ or BLOCK_STATUS may not be a simple reply once chunks were negotiated.
    pub(super) answered_in_chunks: bool,
}

/// A request that met every rule of framing, flags and range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// For the reply.
    pub id: RequestId,
    /// First byte concerned.
    pub offset: u64,
    /// Bytes concerned; for a WRITE also the payload that follows in the input.
    pub length: u64,
    /// The effect must be durable before the reply.
    pub fua: bool,
    /// What to do.
    pub command: Command,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read; at most 32 MiB.
    Read {
        /// At most one content chunk may answer.
        dont_fragment: bool,
    },
    /// Write the payload that follows; at most 32 MiB.
    Write,
    /// Make every acknowledged write durable.
    Flush,
    /// Turn the range into a hole.
    Trim,
    /// Read ahead.
    Cache,
    /// Make the range read as zeroes.
    WriteZeroes {
        /// The range should stay allocated.
        no_hole: bool,
        /// Fail with `ENOTSUP` rather than be slower than a write.
        fast: bool,
    },
    /// Report metadata contexts.
    BlockStatus {
        /// One extent a context, not longer than the request.
        one: bool,
        /// Numbers of the contexts asked for, each selected in the session and listed once.
        contexts: Vec<u32>,
    },
    /// End the session; there is no reply.
    Disconnect,
}

/// A header as read, before any rule but its magic number was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u16,
    pub(super) kind: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Header {
    /// Reads what follows the magic number.
    pub(super) fn parse(bytes: &[u8], extended: bool) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (flags, kind) = (reader.u16()?, reader.u16()?);
        let (cookie, offset) = (reader.u64()?, reader.u64()?);
        let length = if extended { reader.u64()? } else { u64::from(reader.u32()?) };
        Some(Self { flags, kind, cookie, offset, length })
    }

    pub(super) fn id(&self) -> RequestId {
        let answered_in_chunks = matches!(self.kind, command::READ | command::BLOCK_STATUS);
        RequestId { cookie: self.cookie, offset: self.offset, answered_in_chunks }
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of payload behind the header.
    ///
    /// By the letter an extended WRITE without `PAYLOAD_LEN` has none. Clients that everybody runs (QEMU since 8.2) leave
    /// the flag out and send their data, and no client sends a WRITE that has none: so the length of a WRITE is always
    /// that of its payload. The servers of QEMU and libnbd do the same.
    pub(super) fn payload_bytes(&self, mode: Mode) -> u64 {
        let carries = self.kind == command::WRITE || mode == Mode::Extended && self.has(flag::PAYLOAD_LEN);
        if carries { self.length } else { 0 }
    }

    /// Checks flags, lengths, rights and range. A BLOCK_STATUS comes out with every context of the session; its
    /// payload, where it has one, narrows that later.
    pub(super) fn check(&self, session: &Session) -> Result<Request, Refused> {
        let command = self.command(session)?;
        self.check_flags(session.mode)?;
        self.check_length()?;
        self.check_rights(session)?;
        if self.kind != command::FLUSH && !(self.kind == command::BLOCK_STATUS && self.has(flag::PAYLOAD_LEN))
        {
            check_range(self.kind, self.offset, self.length, session.size)?;
        }
        let (offset, length) = (self.offset, self.length);
        Ok(Request { id: self.id(), offset, length, fua: self.has(flag::FUA), command })
    }

    fn command(&self, session: &Session) -> Result<Command, Refused> {
        Ok(match self.kind {
            command::READ => Command::Read { dont_fragment: self.has(flag::DF) },
            command::WRITE => Command::Write,
            command::FLUSH => Command::Flush,
            command::TRIM => Command::Trim,
            command::CACHE => Command::Cache,
            command::WRITE_ZEROES => {
                Command::WriteZeroes { no_hole: self.has(flag::NO_HOLE), fast: self.has(flag::FAST_ZERO) }
            }
            command::BLOCK_STATUS if session.contexts.is_empty() => return Err(Refused::NO_CONTEXT),
            command::BLOCK_STATUS => Command::BlockStatus {
                one: self.has(flag::REQ_ONE),
                contexts: session.contexts.iter().map(|context| context.id).collect(),
            },
            _ => return Err(Refused::COMMAND),
        })
    }

    fn check_flags(&self, mode: Mode) -> Result<(), Refused> {
        let payload = if mode == Mode::Extended { flag::PAYLOAD_LEN } else { 0 };
        let own = match self.kind {
            command::READ if mode != Mode::Simple => flag::DF,
            command::WRITE => payload,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS => flag::REQ_ONE | payload,
            _ => 0,
        };
        // FUA is advertised, so it is accepted on every command, with or without effect.
        if self.flags & !(own | flag::FUA) == 0 { Ok(()) } else { Err(Refused::FLAGS) }
    }

    fn check_length(&self) -> Result<(), Refused> {
        let too_long = self.length > u64::from(NBD_PAYLOAD_BYTES_MAX);
        match self.kind {
            command::READ if too_long && self.has(flag::DF) => Err(Refused::FRAGMENT),
            command::READ | command::WRITE if too_long => Err(Refused::PAYLOAD),
            command::FLUSH if self.length != 0 || self.offset != 0 => Err(Refused::FLUSH),
            command::BLOCK_STATUS if self.length == 0 => Err(Refused::EMPTY_STATUS),
            _ => Ok(()),
        }
    }

    fn check_rights(&self, session: &Session) -> Result<(), Refused> {
        let writes = matches!(self.kind, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if writes && session.read_only { Err(Refused::READ_ONLY) } else { Ok(()) }
    }
}

/// Checks that a range lies inside the export.
pub(super) fn check_range(kind: u16, offset: u64, length: u64, size: u64) -> Result<(), Refused> {
    if offset.checked_add(length).is_some_and(|end| end <= size) {
        return Ok(());
    }
    match kind {
        command::WRITE | command::WRITE_ZEROES => Err(Refused::WRITE_RANGE),
        _ => Err(Refused::RANGE),
    }
}

/// The contexts that a BLOCK_STATUS payload asks for: each known, each once, at least one.
pub(super) fn filter(payload: &[u8], session: &Session) -> Option<(u64, Vec<u32>)> {
    let mut reader = Reader(payload);
    let length = reader.u64()?;
    let mut contexts = Vec::new();
    while !reader.is_empty() {
        let id = reader.u32()?;
        if contexts.contains(&id) || !session.contexts.iter().any(|known| known.id == id) {
            return None;
        }
        contexts.push(id);
    }
    (!contexts.is_empty()).then_some((length, contexts))
}

/// An error with the text that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) ErrorNumber, pub(super) &'static str);

impl Refused {
    pub(super) const COMMAND: Self = Self(ErrorNumber::Invalid, "this server does not know the command");
    pub(super) const FLAGS: Self = Self(ErrorNumber::Invalid, "the command does not take one of its flags");
    pub(super) const PAYLOAD: Self = Self(ErrorNumber::Invalid, "transfer at most 32 MiB with one request");
    pub(super) const FRAGMENT: Self =
        Self(ErrorNumber::Overflow, "too long for one chunk; ask for at most 32 MiB");
    pub(super) const FLUSH: Self = Self(ErrorNumber::Invalid, "a FLUSH carries offset 0 and length 0");
    pub(super) const EMPTY_STATUS: Self =
        Self(ErrorNumber::Invalid, "ask for the status of at least one byte");
    pub(super) const READ_ONLY: Self =
        Self(ErrorNumber::NotPermitted, "the export is read-only; open the volume by its plain name");
    pub(super) const RANGE: Self = Self(ErrorNumber::Invalid, "the range ends beyond the export");
    pub(super) const WRITE_RANGE: Self = Self(ErrorNumber::NoSpace, "the range ends beyond the export");
    pub(super) const NO_CONTEXT: Self =
        Self(ErrorNumber::Invalid, "select a metadata context in the negotiation first");
    pub(super) const FILTER: Self = Self(
        ErrorNumber::Invalid,
        "the payload must be a length and the numbers of selected contexts, each once",
    );
}
