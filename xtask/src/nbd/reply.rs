//! Replies: simple ones, and chunks with either header.

use std::io::Read;
use std::os::unix::net::UnixStream;

use super::{NbdError, Result, wire};

/// A run of bytes of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub length: u64,
    /// What the context says of them.
    pub flags: u64,
}

/// The whole answer to a request.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The request it answers.
    pub cookie: u64,
    /// What a read brought.
    pub data: Vec<u8>,
    /// What a block status brought, by context number.
    pub extents: Vec<(u32, Vec<Extent>)>,
    /// The error, where there was one.
    pub error: Option<(u32, String)>,
}

impl Reply {
    /// Itself, or the error it carries.
    pub fn into_result(mut self) -> Result<Reply> {
        match self.error.take() {
            Some((code, text)) => Err(NbdError::Request(code, text)),
            None => Ok(self),
        }
    }
}

/// A chunk's header.
struct Chunk {
    flags: u16,
    kind: u16,
    cookie: u64,
    length: u64,
}

/// Takes one answer. Data is laid out from `offset` on, in `length` bytes at most.
pub(super) fn receive(stream: &UnixStream, extended: bool, offset: u64, length: u64) -> Result<Reply> {
    let mut reply = Reply::default();
    let mut first = true;
    loop {
        let Some(chunk) = header(stream, extended, &mut reply)? else { return Ok(reply) };
        if !first && chunk.cookie != reply.cookie {
            return Err(NbdError::Protocol("chunks of two replies, interleaved".into()));
        }
        (reply.cookie, first) = (chunk.cookie, false);
        let payload = take(stream, chunk.length)?;
        apply(&mut reply, chunk.kind, &payload, (offset, length))?;
        if chunk.flags & wire::CHUNK_FLAG_DONE != 0 {
            return Ok(reply);
        }
    }
}

/// A chunk's header; `None` for a simple reply, which is complete with its header.
fn header(stream: &UnixStream, extended: bool, reply: &mut Reply) -> Result<Option<Chunk>> {
    let start = take(stream, 16)?;
    let mut at = Fields(&start);
    let magic = at.int()?;
    if !extended && magic == wire::SIMPLE_REPLY {
        let code = at.int()?;
        reply.cookie = at.long()?;
        reply.error = (code != 0).then(|| (code, String::new()));
        return Ok(None);
    }
    let expected = if extended { wire::EXTENDED_CHUNK } else { wire::CHUNK };
    if magic != expected {
        return Err(NbdError::Protocol(format!("a reply with the magic {magic:#x}")));
    }
    let (flags, kind, cookie) = (at.short()?, at.short()?, at.long()?);
    let rest = take(stream, if extended { 16 } else { 4 })?;
    let mut at = Fields(&rest);
    let length = match extended {
        true => (at.long()?, at.long()?).1,
        false => at.int()?.into(),
    };
    Ok(Some(Chunk { flags, kind, cookie, length }))
}

fn apply(reply: &mut Reply, kind: u16, payload: &[u8], window: (u64, u64)) -> Result<()> {
    let mut at = Fields(payload);
    match kind {
        wire::CHUNK_NONE => {}
        wire::CHUNK_DATA => {
            let start = at.long()?;
            place(reply, start, at.0.len() as u64, window)?.copy_from_slice(at.0);
        }
        wire::CHUNK_HOLE => {
            let (start, length) = (at.long()?, at.int()?);
            place(reply, start, length.into(), window)?.fill(0);
        }
        wire::CHUNK_STATUS => {
            let context = at.int()?;
            reply.extents.push((context, extents(at, |at| Ok((at.int()?.into(), at.int()?.into())))?));
        }
        wire::CHUNK_STATUS_EXTENDED => {
            let (context, _count) = (at.int()?, at.int()?);
            reply.extents.push((context, extents(at, |at| Ok((at.long()?, at.long()?)))?));
        }
        kind if kind & wire::CHUNK_ERROR_BIT != 0 => {
            let (code, length) = (at.int()?, at.short()?);
            let text = at.0.get(..length.into()).unwrap_or_default();
            reply.error = Some((code, String::from_utf8_lossy(text).into_owned()));
        }
        kind => return Err(NbdError::Protocol(format!("a chunk of the unknown kind {kind}"))),
    }
    Ok(())
}

/// Where bytes of a read belong.
fn place(reply: &mut Reply, start: u64, length: u64, window: (u64, u64)) -> Result<&mut [u8]> {
    let (offset, total) = window;
    let from = start.checked_sub(offset).filter(|from| from + length <= total);
    let from = from.ok_or_else(|| NbdError::Protocol(format!("data at {start} that nobody asked for")))?;
    reply.data.resize(total as usize, 0);
    Ok(&mut reply.data[from as usize..(from + length) as usize])
}

fn extents<'a>(
    mut at: Fields<'a>,
    one: impl Fn(&mut Fields<'a>) -> Result<(u64, u64)>,
) -> Result<Vec<Extent>> {
    let mut found = Vec::new();
    while !at.0.is_empty() {
        let (length, flags) = one(&mut at)?;
        found.push(Extent { length, flags });
    }
    Ok(found)
}

fn take(mut stream: &UnixStream, length: u64) -> Result<Vec<u8>> {
    if length > wire::PAYLOAD_BYTES_MAX {
        return Err(NbdError::Protocol(format!("a chunk of {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Big-endian fields, taken from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH]> {
        let (field, rest) = self
            .0
            .split_first_chunk::<LENGTH>()
            .ok_or_else(|| NbdError::Protocol("a reply that ends too early".into()))?;
        self.0 = rest;
        Ok(*field)
    }

    fn short(&mut self) -> Result<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn int(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn long(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_be_bytes)
    }
}
