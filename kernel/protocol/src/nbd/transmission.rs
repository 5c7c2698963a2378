//! The transmission phase: bytes into checked requests.
//!
//! The payload of a WRITE is never gathered here. After the request's event, [`Transmission::payload_left`] says how
//! many bytes of input belong to it; the service takes them and reports each piece, or has them discarded. A refused
//! request is reported after its payload has passed, so the reply never overtakes the data.

use super::request::{Command, Header, Refused, Request, RequestId, check_range, filter};
use super::wire::{self, command, flag};
use super::{ErrorNumber, Fault, Mode, Session};
use crate::limits::NBD_CONTEXTS_MAX;

/// Effect length and context numbers of a BLOCK_STATUS payload.
const FILTER_BYTES_MAX: usize = 8 + 4 * NBD_CONTEXTS_MAX;

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Do this and reply. For a WRITE take the payload first.
    Request(Request),
    /// The request broke a rule; send this error with [`Replies::error`](super::Replies::error).
    Refused {
        /// For the reply.
        id: RequestId,
        /// The error.
        error: ErrorNumber,
        /// What to do about it.
        message: &'static str,
    },
    /// The session is over; input is discarded from here on. [`Fault::Closed`] is the orderly end.
    Ended(Fault),
}

#[derive(Debug)]
enum State {
    Header,
    /// The service takes the payload.
    Payload(u64),
    /// A BLOCK_STATUS payload is gathered.
    Filter {
        request: Request,
        length: usize,
    },
    /// Payload is dropped, then the refusal is reported.
    Discard {
        left: u64,
        refusal: Option<(RequestId, Refused)>,
    },
    Ended,
}

/// The receiving half of a session in transmission.
#[derive(Debug)]
pub struct Transmission {
    session: Session,
    state: State,
    omits_payload_len: bool,
    buffer: [u8; FILTER_BYTES_MAX],
    filled: usize,
}

impl Transmission {
    /// Starts where the negotiation ended.
    pub fn new(session: Session) -> Self {
        Self {
            session,
            state: State::Header,
            omits_payload_len: false,
            buffer: [0; FILTER_BYTES_MAX],
            filled: 0,
        }
    }

    /// The client sent an extended WRITE without `PAYLOAD_LEN`, as QEMU 8.2 and later do. It is served all the same.
    pub fn omits_payload_len(&self) -> bool {
        self.omits_payload_len
    }

    /// What was negotiated.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Bytes of the current WRITE's payload still to be taken from the input.
    pub fn payload_left(&self) -> u64 {
        match self.state {
            State::Payload(left) => left,
            _ => 0,
        }
    }

    /// The service took `count` bytes of payload from the input. Counts beyond the payload are a program error.
    pub fn payload_taken(&mut self, count: u64) {
        assert!(count <= self.payload_left(), "more payload taken than the request has");
        if let State::Payload(left) = &mut self.state {
            *left -= count;
            if *left == 0 {
                self.state = State::Header;
            }
        }
    }

    /// The service wants no more of the payload: what is left is dropped by [`receive`](Self::receive). Reply when
    /// [`is_between_requests`](Self::is_between_requests) holds, or at once.
    pub fn discard_payload(&mut self) {
        if let State::Payload(left) = self.state {
            self.state = State::Discard { left, refusal: None };
        }
    }

    /// The next byte of input begins a header: nothing of a payload is left.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Header) && self.filled == 0
    }

    /// Takes bytes up to the next event; says how many it took. While payload waits for the service it takes none;
    /// after [`Incoming::Ended`] it takes and discards all.
    pub fn receive(&mut self, input: &[u8]) -> (usize, Option<Incoming>) {
        let mut taken = 0;
        loop {
            let rest = input.get(taken..).unwrap_or_default();
            match &self.state {
                State::Ended => return (input.len(), None),
                State::Payload(_) => return (taken, None),
                State::Discard { left, refusal } => {
                    let (left, refusal) = (*left, *refusal);
                    let used = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    taken += used;
                    let left = left - used as u64;
                    if left > 0 {
                        self.state = State::Discard { left, refusal };
                        return (taken, None);
                    }
                    self.state = State::Header;
                    if let Some((id, Refused(error, message))) = refusal {
                        return (taken, Some(Incoming::Refused { id, error, message }));
                    }
                }
                State::Header | State::Filter { .. } => {
                    let (used, complete) = self.fill(rest);
                    taken += used;
                    if !complete {
                        return (taken, None);
                    }
                    if let Some(event) = self.advance() {
                        return (taken, Some(event));
                    }
                }
            }
        }
    }

    fn fill(&mut self, input: &[u8]) -> (usize, bool) {
        let wanted = match self.state {
            State::Header if self.session.mode == Mode::Extended => wire::EXTENDED_REQUEST_BYTES,
            State::Header => wire::REQUEST_BYTES,
            State::Filter { length, .. } => length,
            _ => 0,
        };
        let used = input.len().min(wanted.saturating_sub(self.filled));
        if let Some(space) = self.buffer.get_mut(self.filled..self.filled + used) {
            space.copy_from_slice(&input[..used]);
            self.filled += used;
        }
        (used, self.filled == wanted)
    }

    /// Handles what `fill` completed.
    fn advance(&mut self) -> Option<Incoming> {
        let (buffer, filled) = (self.buffer, self.filled);
        let message = &buffer[..filled];
        self.filled = 0;
        match core::mem::replace(&mut self.state, State::Header) {
            State::Filter { request, .. } => Some(self.filtered(request, message)),
            _ => self.header(message),
        }
    }

    fn header(&mut self, message: &[u8]) -> Option<Incoming> {
        let extended = self.session.mode == Mode::Extended;
        let (magic, rest) = message.split_first_chunk()?;
        let magic = u32::from_be_bytes(*magic);
        if magic != if extended { wire::EXTENDED_REQUEST_MAGIC } else { wire::REQUEST_MAGIC } {
            return Some(self.end(Fault::RequestMagic(magic)));
        }
        let header = Header::parse(rest, extended)?;
        if header.kind == command::DISC {
            return Some(self.end(Fault::Closed));
        }
        self.omits_payload_len |= extended && header.kind == command::WRITE && !header.has(flag::PAYLOAD_LEN);
        self.request(header)
    }

    fn request(&mut self, header: Header) -> Option<Incoming> {
        let payload = header.payload_bytes(self.session.mode);
        let request = match header.check(&self.session) {
            Ok(request) => request,
            Err(refused) => {
                self.state = State::Discard { left: payload, refusal: Some((header.id(), refused)) };
                return None;
            }
        };
        match request.command {
            Command::BlockStatus { .. } if payload > 0 => {
                self.state = match usize::try_from(payload) {
                    Ok(length) if length <= FILTER_BYTES_MAX => State::Filter { request, length },
                    _ => State::Discard { left: payload, refusal: Some((request.id, Refused::FILTER)) },
                };
                None
            }
            _ => {
                if payload > 0 {
                    self.state = State::Payload(payload);
                }
                Some(Incoming::Request(request))
            }
        }
    }

    fn filtered(&mut self, mut request: Request, payload: &[u8]) -> Incoming {
        match self.narrow(&mut request, payload) {
            Ok(()) => Incoming::Request(request),
            Err(Refused(error, message)) => Incoming::Refused { id: request.id, error, message },
        }
    }

    /// Replaces the contexts and the length of a BLOCK_STATUS by those of its payload.
    fn narrow(&self, request: &mut Request, payload: &[u8]) -> Result<(), Refused> {
        let (length, ids) = filter(payload, &self.session).ok_or(Refused::FILTER)?;
        if length == 0 {
            return Err(Refused::EMPTY_STATUS);
        }
        check_range(command::BLOCK_STATUS, request.offset, length, self.session.size)?;
        request.length = length;
        if let Command::BlockStatus { contexts, .. } = &mut request.command {
            *contexts = ids;
        }
        Ok(())
    }

    fn end(&mut self, fault: Fault) -> Incoming {
        self.state = State::Ended;
        Incoming::Ended(fault)
    }
}
