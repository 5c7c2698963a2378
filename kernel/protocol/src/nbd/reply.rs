//! Replies: simple, structured and extended, by what was negotiated.
//!
//! Once chunks are negotiated a READ never gets a simple reply, not even for an error. Other commands keep simple
//! replies for success in structured mode (every client knows them) and use error chunks for failure, which carry
//! text. With extended headers everything is a chunk. Data itself is not copied here: a header is encoded, the
//! service sends the bytes after it.

use super::Mode;
use super::error::ErrorNumber;
use super::options::{bounded, length_u32};
use super::request::RequestId;
use super::wire::{self, chunk};
use crate::limits::NBD_EXTENTS_MAX;
use alloc::vec::Vec;

/// One extent of a metadata context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes; not zero.
    pub length: u64,
    /// The context's flags; compact replies carry the low 32 bits.
    pub flags: u64,
}

/// Encodes the replies of a session.
#[derive(Clone, Copy, Debug)]
pub struct Replies {
    mode: Mode,
}

impl Replies {
    /// Encodes as negotiated.
    pub fn new(mode: Mode) -> Self {
        Self { mode }
    }

    /// The framing in use.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Success without data. Also ends a READ or BLOCK_STATUS whose chunks were all sent with `last` false.
    pub fn done(&self, id: RequestId) -> Vec<u8> {
        match self.mode {
            Mode::Extended => self.chunk(id, chunk::NONE, true, 0),
            Mode::Structured if id.answered_in_chunks => self.chunk(id, chunk::NONE, true, 0),
            Mode::Structured | Mode::Simple => simple(id, 0),
        }
    }

    /// Failure of the whole request. `message` says what to do; simple replies cannot carry it.
    pub fn error(&self, id: RequestId, error: ErrorNumber, message: &str) -> Vec<u8> {
        if self.mode == Mode::Simple {
            return simple(id, error as u32);
        }
        let message = bounded(message).as_bytes();
        let mut output = self.chunk(id, chunk::ERROR, true, 6 + message.len() as u64);
        push_error(&mut output, error, message);
        output
    }

    /// Failure of a READ at one byte, after or before chunks of other ranges. Ends the reply if `last`.
    ///
    /// Simple replies have no such form: there a READ must be known good before its header is sent.
    pub fn error_at(
        &self,
        id: RequestId,
        error: ErrorNumber,
        message: &str,
        offset: u64,
        last: bool,
    ) -> Vec<u8> {
        if self.mode == Mode::Simple {
            return simple(id, error as u32);
        }
        let message = bounded(message).as_bytes();
        let mut output = self.chunk(id, chunk::ERROR_OFFSET, last, 14 + message.len() as u64);
        push_error(&mut output, error, message);
        output.extend_from_slice(&offset.to_be_bytes());
        output
    }

    /// Header of read data: `length` bytes at `offset` must follow. In simple mode the one header of a READ, so call it
    /// once there, for the whole range; holes are then sent as zeroes.
    pub fn data(&self, id: RequestId, offset: u64, length: u32, last: bool) -> Vec<u8> {
        if self.mode == Mode::Simple {
            return simple(id, 0);
        }
        let mut output = self.chunk(id, chunk::OFFSET_DATA, last, 8 + u64::from(length));
        output.extend_from_slice(&offset.to_be_bytes());
        output
    }

    /// A range of a READ that is all zeroes; nothing follows. Simple mode has no such reply: asking is a program error.
    pub fn hole(&self, id: RequestId, offset: u64, length: u32, last: bool) -> Vec<u8> {
        assert!(self.mode != Mode::Simple, "simple replies carry no holes");
        let mut output = self.chunk(id, chunk::OFFSET_HOLE, last, 12);
        output.extend_from_slice(&offset.to_be_bytes());
        output.extend_from_slice(&length.to_be_bytes());
        output
    }

    /// The extents of one context, from the request's offset on: at least one, at most [`NBD_EXTENTS_MAX`] (what is
    /// beyond is left out, which the protocol allows). A compact extent is cut to the last 4 KiB multiple below 2^32,
    /// and the list ends there.
    pub fn block_status(&self, id: RequestId, context: u32, extents: &[Extent], last: bool) -> Vec<u8> {
        let extents = &extents[..extents.len().min(NBD_EXTENTS_MAX)];
        match self.mode {
            Mode::Extended => self.extended_status(id, context, extents, last),
            Mode::Structured | Mode::Simple => self.compact_status(id, context, extents, last),
        }
    }

    fn extended_status(&self, id: RequestId, context: u32, extents: &[Extent], last: bool) -> Vec<u8> {
        let payload = 8 + 16 * extents.len() as u64;
        let mut output = self.chunk(id, chunk::BLOCK_STATUS_EXT, last, payload);
        output.extend_from_slice(&context.to_be_bytes());
        output.extend_from_slice(&length_u32(extents.len()).to_be_bytes());
        for extent in extents {
            output.extend_from_slice(&extent.length.to_be_bytes());
            output.extend_from_slice(&extent.flags.to_be_bytes());
        }
        output
    }

    fn compact_status(&self, id: RequestId, context: u32, extents: &[Extent], last: bool) -> Vec<u8> {
        const LONGEST: u32 = u32::MAX - 4095;
        let fitting = extents.iter().position(|extent| extent.length > u64::from(LONGEST));
        let extents = &extents[..fitting.map_or(extents.len(), |cut| cut + 1)];
        let mut output = self.chunk(id, chunk::BLOCK_STATUS, last, 4 + 8 * extents.len() as u64);
        output.extend_from_slice(&context.to_be_bytes());
        for extent in extents {
            let length = u32::try_from(extent.length).unwrap_or(LONGEST).min(LONGEST);
            output.extend_from_slice(&length.to_be_bytes());
            output.extend_from_slice(&(extent.flags as u32).to_be_bytes());
        }
        output
    }

    /// A chunk's header for `length` bytes of payload.
    fn chunk(&self, id: RequestId, kind: u16, last: bool, length: u64) -> Vec<u8> {
        let flags = if last { chunk::FLAG_DONE } else { 0 };
        let extended = self.mode == Mode::Extended;
        let magic = if extended { wire::EXTENDED_REPLY_MAGIC } else { wire::STRUCTURED_REPLY_MAGIC };
        let mut output = Vec::with_capacity(64);
        output.extend_from_slice(&magic.to_be_bytes());
        output.extend_from_slice(&flags.to_be_bytes());
        output.extend_from_slice(&kind.to_be_bytes());
        output.extend_from_slice(&id.cookie.to_be_bytes());
        if extended {
            output.extend_from_slice(&id.offset.to_be_bytes());
            output.extend_from_slice(&length.to_be_bytes());
        } else {
            // Payloads are bounded by `limits`, far below 2^32.
            output.extend_from_slice(&(length as u32).to_be_bytes());
        }
        output
    }
}

fn simple(id: RequestId, error: u32) -> Vec<u8> {
    let mut output = Vec::with_capacity(16);
    output.extend_from_slice(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
    output.extend_from_slice(&error.to_be_bytes());
    output.extend_from_slice(&id.cookie.to_be_bytes());
    output
}

fn push_error(output: &mut Vec<u8>, error: ErrorNumber, message: &[u8]) {
    output.extend_from_slice(&(error as u32).to_be_bytes());
    output.extend_from_slice(&(message.len() as u16).to_be_bytes());
    output.extend_from_slice(message);
}
