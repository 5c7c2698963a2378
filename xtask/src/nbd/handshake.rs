//! Fixed newstyle negotiation, up to an open export.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::{Client, NbdError, Open, Result, wire};

/// One reply to an option.
struct OptionReply {
    kind: u32,
    payload: Vec<u8>,
}

pub(super) fn negotiate(mut stream: UnixStream, open: &Open<'_>) -> Result<Client> {
    greet(&mut stream)?;
    let header = if open.extended { wire::OPTION_EXTENDED_HEADERS } else { wire::OPTION_STRUCTURED_REPLY };
    collect(&mut stream, header, &[])?;
    let contexts = select(&mut stream, open)?;
    let mut go = named(open.export);
    go.extend_from_slice(&0u16.to_be_bytes());
    let (size, flags) = collect(&mut stream, wire::OPTION_GO, &go)?
        .iter()
        .find_map(export_of)
        .ok_or_else(|| NbdError::Protocol("GO without the export's size".into()))?;
    let extended = open.extended;
    Ok(Client { stream, extended, odd_flags: 0, next_cookie: 1, answered: 1, size, flags, contexts })
}

fn greet(stream: &mut UnixStream) -> Result<()> {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    let (magic, option_magic) = (long(&greeting, 0), long(&greeting, 8));
    if (magic, option_magic) != (Some(wire::GREETING), Some(wire::OPTION_MAGIC)) {
        return Err(NbdError::Protocol(format!("a greeting that is none: {greeting:02x?}")));
    }
    Ok(stream.write_all(&wire::CLIENT_FLAGS.to_be_bytes())?)
}

/// Selects the contexts; the server names each that it has.
fn select(stream: &mut UnixStream, open: &Open<'_>) -> Result<Vec<(u32, String)>> {
    if open.contexts.is_empty() {
        return Ok(Vec::new());
    }
    let mut payload = named(open.export);
    payload.extend_from_slice(&(open.contexts.len() as u32).to_be_bytes());
    open.contexts.iter().for_each(|context| payload.extend(named(context)));
    let replies = collect(stream, wire::OPTION_SET_META_CONTEXT, &payload)?;
    let contexts = replies.iter().filter(|reply| reply.kind == wire::REPLY_META_CONTEXT);
    contexts
        .map(|reply| {
            let number = int(&reply.payload, 0).ok_or_else(short)?;
            Ok((number, String::from_utf8_lossy(&reply.payload[4..]).into_owned()))
        })
        .collect()
}

/// Sends an option and takes its replies up to the acknowledgement.
fn collect(stream: &mut UnixStream, option: u32, payload: &[u8]) -> Result<Vec<OptionReply>> {
    let mut message = wire::OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend_from_slice(&option.to_be_bytes());
    message.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    message.extend_from_slice(payload);
    stream.write_all(&message)?;
    let mut replies = Vec::new();
    loop {
        let reply = option_reply(stream, option)?;
        match reply.kind {
            wire::REPLY_ACK => return Ok(replies),
            kind if kind & wire::REPLY_ERROR_BIT != 0 => {
                return Err(NbdError::Option(kind, String::from_utf8_lossy(&reply.payload).into_owned()));
            }
            _ => replies.push(reply),
        }
    }
}

fn option_reply(stream: &mut UnixStream, option: u32) -> Result<OptionReply> {
    let mut header = [0; 20];
    stream.read_exact(&mut header)?;
    if long(&header, 0) != Some(wire::OPTION_REPLY_MAGIC) || int(&header, 8) != Some(option) {
        return Err(NbdError::Protocol(format!("no reply to option {option}: {header:02x?}")));
    }
    let (kind, length) = (int(&header, 12).ok_or_else(short)?, int(&header, 16).ok_or_else(short)?);
    if u64::from(length) > wire::PAYLOAD_BYTES_MAX {
        return Err(NbdError::Protocol(format!("an option reply of {length} bytes")));
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    Ok(OptionReply { kind, payload })
}

/// Size and flags, from the information that carries them.
fn export_of(reply: &OptionReply) -> Option<(u64, u16)> {
    let kind = reply.payload.get(..2)?.try_into().map(u16::from_be_bytes).ok()?;
    let flags = reply.payload.get(10..12)?.try_into().map(u16::from_be_bytes).ok()?;
    (reply.kind == wire::REPLY_INFO && kind == wire::INFO_EXPORT).then_some((long(&reply.payload, 2)?, flags))
}

/// A text with its length before it.
fn named(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn short() -> NbdError {
    NbdError::Protocol("an option reply that ends too early".into())
}
