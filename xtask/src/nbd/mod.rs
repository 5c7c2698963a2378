//! A small NBD client of our own, for tests and measurements: it pipelines, it speaks extended headers, and it
//! tells what was acknowledged from what was only sent. Users' data goes through unmodified clients instead.
//!
//! What always holds: nothing that the server sends is believed before its magic and cookie have been checked;
//! every wait ends after [`PATIENCE`].
//!
//! [`handshake`] negotiates, [`reply`] reads what comes back; the numbers are in [`wire`].

mod handshake;
mod reply;
pub(crate) mod wire;

use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub use reply::{Extent, Reply};

/// How long any single wait for the server may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Why a conversation with an NBD server failed.
#[derive(Debug)]
pub enum NbdError {
    /// The socket failed or closed, or nothing came in time.
    Socket(io::Error),
    /// The server sent what the protocol does not allow.
    Protocol(String),
    /// The server refused an option during negotiation.
    Option(u32, String),
    /// The server answered a request with an error number, and perhaps a sentence.
    Request(u32, String),
}

impl fmt::Display for NbdError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdError::Socket(error) => write!(out, "the NBD connection ended: {error}"),
            NbdError::Protocol(what) => write!(out, "the server broke the NBD protocol: {what}"),
            NbdError::Option(code, text) => write!(out, "the server refused the export ({code:#x}): {text}"),
            NbdError::Request(code, text) => write!(out, "the server refused the request ({code}): {text}"),
        }
    }
}

impl std::error::Error for NbdError {}

impl From<io::Error> for NbdError {
    fn from(error: io::Error) -> NbdError {
        NbdError::Socket(error)
    }
}

/// The result of anything said to a server.
pub type Result<T, E = NbdError> = std::result::Result<T, E>;

/// How to open an export.
#[derive(Clone, Debug, Default)]
pub struct Open<'a> {
    /// The export's name.
    pub export: &'a str,
    /// Metadata contexts to select, in this order.
    pub contexts: &'a [&'a str],
    /// Ask for extended headers; else for structured replies.
    pub extended: bool,
}

/// A request without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bytes come back.
    Read,
    /// Bytes go out; `true` asks for them to be durable before the answer.
    Write(bool),
    /// Ends the session.
    Disconnect,
    /// Makes everything acknowledged durable.
    Flush,
    /// Makes a hole.
    Trim,
    /// Makes zeroes.
    WriteZeroes,
    /// Asks for extents of the selected contexts.
    BlockStatus,
}

/// An open export.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    extended: bool,
    /// Turned over in each write.
    odd_flags: u16,
    next_cookie: u64,
    answered: u64,
    size: u64,
    flags: u16,
    contexts: Vec<(u32, String)>,
}

impl Client {
    /// Opens an export plainly: structured replies, no contexts.
    pub fn connect(socket: &Path, export: &str) -> Result<Client> {
        Client::open(UnixStream::connect(socket)?, &Open { export, ..Open::default() })
    }

    /// Negotiates on a fresh connection.
    pub fn open(stream: UnixStream, open: &Open<'_>) -> Result<Client> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        handshake::negotiate(stream, open)
    }

    /// Sends each write without `PAYLOAD_LEN` where extended headers ask for it, as QEMU does, and with it where they are
    /// not in use, as nobody should.
    pub fn mistake_payload_len(&mut self) {
        self.odd_flags = wire::FLAG_PAYLOAD;
    }

    /// Bytes of the export.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The transmission flags of the export.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Whether the export takes writes.
    pub fn is_read_only(&self) -> bool {
        self.flags & wire::FLAG_READ_ONLY != 0
    }

    /// The selected contexts, with the server's numbers.
    pub fn contexts(&self) -> &[(u32, String)] {
        &self.contexts
    }

    /// Reads `length` bytes.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>> {
        Ok(self.call(Command::Read, offset, length.into(), &[])?.data)
    }

    /// Writes bytes; they are durable after the next flush.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.call(Command::Write(false), offset, data.len() as u64, data).map(drop)
    }

    /// Makes everything acknowledged so far durable.
    pub fn flush(&mut self) -> Result<()> {
        self.call(Command::Flush, 0, 0, &[]).map(drop)
    }

    /// Makes a hole.
    pub fn trim(&mut self, offset: u64, length: u64) -> Result<()> {
        self.call(Command::Trim, offset, length, &[]).map(drop)
    }

    /// Makes zeroes.
    pub fn write_zeroes(&mut self, offset: u64, length: u64) -> Result<()> {
        self.call(Command::WriteZeroes, offset, length, &[]).map(drop)
    }

    /// The extents of every selected context from `offset` on: at least one each, and perhaps not all of `length`.
    pub fn block_status(&mut self, offset: u64, length: u64) -> Result<Vec<(u32, Vec<Extent>)>> {
        Ok(self.call(Command::BlockStatus, offset, length, &[])?.extents)
    }

    /// One request, waited for.
    pub fn call(&mut self, command: Command, offset: u64, length: u64, payload: &[u8]) -> Result<Reply> {
        let cookie = self.send(command, offset, length, payload)?;
        let reply = self.receive(offset, length)?;
        if reply.cookie != cookie {
            return Err(NbdError::Protocol(format!("an answer to {} instead of {cookie}", reply.cookie)));
        }
        reply.into_result()
    }

    /// Sends a request without waiting; its cookie will name the answer.
    pub fn send(&mut self, command: Command, offset: u64, length: u64, payload: &[u8]) -> Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut message = wire::request(self.extended, command, cookie, offset, length)
            .ok_or_else(|| NbdError::Protocol("the length needs extended headers".into()))?;
        if let Command::Write(_) = command {
            wire::turn_flags(&mut message, self.odd_flags);
        }
        message.extend_from_slice(payload);
        self.stream.write_all(&message)?;
        Ok(cookie)
    }

    /// The next answer, whichever request it belongs to. Data of a read is laid out from `offset` on; where
    /// requests of several kinds are under way, the caller keeps them to one kind of read at a time.
    pub fn receive(&mut self, offset: u64, length: u64) -> Result<Reply> {
        let reply = reply::receive(&self.stream, self.extended, offset, length)?;
        self.answered += 1;
        Ok(reply)
    }

    /// Requests that were sent and not yet answered.
    pub fn under_way(&self) -> u64 {
        self.next_cookie - self.answered
    }

    /// Sends bytes as they are: for tests of bad input.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The connection alone, with nothing under way: for a load that packs its own requests.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Leaves as the protocol asks.
    pub fn disconnect(mut self) -> Result<()> {
        self.send(Command::Disconnect, 0, 0, &[]).map(drop)
    }
}
