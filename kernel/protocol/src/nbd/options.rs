//! The data of options and their replies: pure parsing and encoding, no state.

use super::context::{ContextQuery, Namespace};
use super::wire::{self, Reader, info, reply};
use crate::limits::{
    NBD_BLOCK_BYTES_PREFERRED, NBD_INFO_ITEMS_MAX, NBD_PAYLOAD_BYTES_MAX, NBD_QUERIES_MAX,
    NBD_STRING_BYTES_MAX,
};
use alloc::string::String;
use alloc::vec::Vec;

/// What the service tells of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Size in bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// One line for people.
    pub description: String,
}

/// Why the service refuses an option. The text says what to do and reaches the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such export.
    Unknown(String),
    /// The export exists but may not be opened now.
    Policy(String),
    /// The appliance is going down.
    Shutdown(String),
}

impl Refusal {
    pub(super) fn parts(&self) -> (u32, &str) {
        match self {
            Self::Unknown(text) => (reply::ERR_UNKNOWN, text),
            Self::Policy(text) => (reply::ERR_POLICY, text),
            Self::Shutdown(text) => (reply::ERR_SHUTDOWN, text),
        }
    }
}

/// Which optional items an `INFO` or `GO` asked for. `EXPORT` is always sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InfoItems {
    pub(super) name: bool,
    pub(super) description: bool,
    pub(super) block_size: bool,
}

/// The data of `INFO` and `GO`: the export's name and the items asked for. `None` if malformed.
pub(super) fn parse_info(data: &[u8]) -> Option<(&str, InfoItems)> {
    let mut reader = Reader(data);
    let name = text(reader.string()?)?;
    let count = reader.u16()?;
    let mut items = InfoItems::default();
    for index in 0..usize::from(count) {
        let item = reader.u16()?;
        match item {
            _ if index >= NBD_INFO_ITEMS_MAX => {}
            info::NAME => items.name = true,
            info::DESCRIPTION => items.description = true,
            info::BLOCK_SIZE => items.block_size = true,
            _ => {}
        }
    }
    reader.is_empty().then_some((name, items))
}

/// Why the data of a metadata context option was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContextsError {
    Malformed,
    TooMany,
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`: export name and queries. A list without queries
/// asks for everything.
pub(super) fn parse_contexts(data: &[u8], listing: bool) -> Result<(&str, Vec<ContextQuery>), ContextsError> {
    let mut reader = Reader(data);
    let name = reader.string().and_then(text).ok_or(ContextsError::Malformed)?;
    let count = reader.u32().ok_or(ContextsError::Malformed)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut queries = Vec::new();
    for index in 0..count {
        let query = reader.string().and_then(text).ok_or(ContextsError::Malformed)?;
        if index >= NBD_QUERIES_MAX {
            return Err(ContextsError::TooMany);
        }
        queries.extend(ContextQuery::parse(query, listing));
    }
    if !reader.is_empty() {
        return Err(ContextsError::Malformed);
    }
    if listing && count == 0 {
        queries.extend(Namespace::ALL.map(ContextQuery::All));
    }
    Ok((name, queries))
}

/// A string of the protocol: UTF-8 of bounded length, without NUL.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    let fits = bytes.len() <= NBD_STRING_BYTES_MAX && !bytes.contains(&0);
    fits.then(|| core::str::from_utf8(bytes).ok()).flatten()
}

/// Cuts a message to what the protocol allows, at a character's border.
pub(super) fn bounded(message: &str) -> &str {
    &message[..message.floor_char_boundary(NBD_STRING_BYTES_MAX)]
}

/// Appends one option reply.
pub(super) fn push_reply(output: &mut Vec<u8>, option: u32, kind: u32, data: &[&[u8]]) {
    let length: usize = data.iter().map(|part| part.len()).sum();
    output.extend_from_slice(&wire::OPTION_REPLY_MAGIC.to_be_bytes());
    output.extend_from_slice(&option.to_be_bytes());
    output.extend_from_slice(&kind.to_be_bytes());
    output.extend_from_slice(&length_u32(length).to_be_bytes());
    data.iter().for_each(|part| output.extend_from_slice(part));
}

/// Appends the information items of an `INFO` or `GO` that succeeds.
pub(super) fn push_info(
    output: &mut Vec<u8>,
    option: u32,
    items: InfoItems,
    name: &str,
    export: &Description,
    flags: u16,
) {
    let (size, flags) = (export.size.to_be_bytes(), flags.to_be_bytes());
    push_reply(output, option, reply::INFO, &[&info::EXPORT.to_be_bytes(), &size, &flags]);
    if items.name {
        push_reply(output, option, reply::INFO, &[&info::NAME.to_be_bytes(), bounded(name).as_bytes()]);
    }
    if items.description {
        let text = bounded(&export.description).as_bytes();
        push_reply(output, option, reply::INFO, &[&info::DESCRIPTION.to_be_bytes(), text]);
    }
    if items.block_size {
        let (preferred, most) =
            (NBD_BLOCK_BYTES_PREFERRED.to_be_bytes(), NBD_PAYLOAD_BYTES_MAX.to_be_bytes());
        let sizes = [&info::BLOCK_SIZE.to_be_bytes()[..], &1u32.to_be_bytes(), &preferred, &most];
        push_reply(output, option, reply::INFO, &sizes);
    }
}

/// Lengths here are sums of bounded strings.
pub(super) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
