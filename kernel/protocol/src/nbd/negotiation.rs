//! Fixed newstyle negotiation, the server's half.
//!
//! Options are read whole, up to [`NBD_OPTION_BYTES_MAX`]; longer ones are skipped and answered `TOO_BIG`. An
//! option that needs the service's knowledge becomes an [`Event`] and waits: no further input is taken until the
//! matching answer is given. Names are parsed here, so a name that cannot exist is answered `UNKNOWN` without
//! asking. Encryption is refused by policy: whoever opens a port has its full rights anyway.

use super::context::{ContextQuery, MetaContext, SelectedContext};
use super::options::{self, ContextsError, Description, InfoItems, Refusal, push_reply};
use super::wire::{self, Reader, export, handshake, option, reply};
use super::{Fault, Mode, Session};
use crate::limits::{NBD_CONTEXTS_MAX, NBD_OPTION_BYTES_MAX};
use crate::name::ExportName;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem;

/// What the negotiation asks or tells the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Name the exports: [`Negotiation::list_export`] for each, then [`Negotiation::list_end`].
    List,
    /// Describe this export: [`Negotiation::describe`].
    Describe(ExportName),
    /// Which contexts of this export do the queries select? [`Negotiation::contexts`].
    MetaContexts {
        /// The export.
        export: ExportName,
        /// What is asked for, in the client's order.
        queries: Vec<ContextQuery>,
    },
    /// Negotiation is over; input from here on belongs to the transmission.
    Ready(Session),
    /// The session is over; send what is left and discard input.
    Ended(Fault),
}

/// What an option is waiting for.
#[derive(Debug)]
enum Pending {
    List,
    Describe { option: u32, export: ExportName, items: InfoItems },
    Contexts { option: u32, export: ExportName },
}

#[derive(Debug)]
enum State {
    ClientFlags,
    OptionHeader,
    OptionData {
        option: u32,
        length: usize,
    },
    /// One that is too long, or for which there is no memory although it fits.
    Skip {
        option: u32,
        left: u32,
        fits: bool,
    },
    Waiting(Pending),
    Finished,
}

/// The negotiation of one session.
#[derive(Debug)]
pub struct Negotiation {
    state: State,
    buffer: Vec<u8>,
    output: Vec<u8>,
    no_zeroes: bool,
    mode: Mode,
    selected: Option<(ExportName, Vec<SelectedContext>)>,
}

impl Default for Negotiation {
    fn default() -> Self {
        Self::new()
    }
}

impl Negotiation {
    /// Begins a session; the greeting is ready in [`take_output`](Self::take_output).
    pub fn new() -> Self {
        let mut output = Vec::new();
        output.extend_from_slice(&wire::NBDMAGIC.to_be_bytes());
        output.extend_from_slice(&wire::IHAVEOPT.to_be_bytes());
        output.extend_from_slice(&(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
        let (state, buffer) = (State::ClientFlags, Vec::new());
        Self { state, buffer, output, no_zeroes: false, mode: Mode::Simple, selected: None }
    }

    /// The bytes to send now. Take them after each call and after each answer.
    pub fn take_output(&mut self) -> Vec<u8> {
        mem::take(&mut self.output)
    }

    /// Takes bytes up to the next event; says how many it took. While an event waits for its answer it takes none;
    /// after [`Event::Ended`] it takes and discards all.
    pub fn receive(&mut self, input: &[u8]) -> (usize, Option<Event>) {
        let mut taken = 0;
        loop {
            let rest = input.get(taken..).unwrap_or_default();
            match self.state {
                State::Waiting(_) => return (taken, None),
                State::Finished => return (input.len(), None),
                State::Skip { option, left, fits } => {
                    taken += self.skip(option, left, fits, rest);
                    if !matches!(self.state, State::OptionHeader) {
                        return (taken, None);
                    }
                }
                State::ClientFlags | State::OptionHeader | State::OptionData { .. } => {
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

    /// Gathers the bytes of the current message; its length is bounded by the state.
    fn fill(&mut self, input: &[u8]) -> (usize, bool) {
        let wanted = match self.state {
            State::ClientFlags => 4,
            State::OptionHeader => wire::OPTION_HEADER_BYTES,
            State::OptionData { length, .. } => length,
            State::Skip { .. } | State::Waiting(_) | State::Finished => 0,
        };
        let used = input.len().min(wanted.saturating_sub(self.buffer.len()));
        self.buffer.extend_from_slice(&input[..used]);
        (used, self.buffer.len() == wanted)
    }

    fn skip(&mut self, option: u32, left: u32, fits: bool, input: &[u8]) -> usize {
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let left = left.saturating_sub(options::length_u32(used));
        self.state = State::Skip { option, left, fits };
        if left == 0 {
            self.state = State::OptionHeader;
            let message = match fits {
                true => "there is no memory for the option now; send it again later".into(),
                false => format!("send at most {NBD_OPTION_BYTES_MAX} bytes with an option"),
            };
            self.refuse(option, reply::ERR_TOO_BIG, &message);
        }
        used
    }

    /// Handles the message that `fill` completed.
    fn advance(&mut self) -> Option<Event> {
        let message = mem::take(&mut self.buffer);
        match self.state {
            State::ClientFlags => self.client_flags(&message),
            State::OptionHeader => self.option_header(&message),
            State::OptionData { option, .. } => {
                self.state = State::OptionHeader;
                self.option(option, &message)
            }
            State::Skip { .. } | State::Waiting(_) | State::Finished => None,
        }
    }

    fn client_flags(&mut self, message: &[u8]) -> Option<Event> {
        let flags = Reader(message).u32()?;
        let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        if flags & u32::from(handshake::FIXED_NEWSTYLE) == 0 || flags & !known != 0 {
            return Some(self.end(Fault::ClientFlags(flags)));
        }
        self.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        self.state = State::OptionHeader;
        None
    }

    fn option_header(&mut self, message: &[u8]) -> Option<Event> {
        let mut reader = Reader(message);
        let (magic, option, length) = (reader.u64()?, reader.u32()?, reader.u32()?);
        if magic != wire::IHAVEOPT {
            return Some(self.end(Fault::OptionMagic(magic)));
        }
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let fits = bytes <= NBD_OPTION_BYTES_MAX;
        if fits && self.buffer.try_reserve_exact(bytes).is_ok() {
            self.state = State::OptionData { option, length: bytes };
            return None;
        }
        if option == option::EXPORT_NAME {
            return Some(self.end(Fault::ExportName));
        }
        self.state = State::Skip { option, left: length, fits };
        None
    }

    fn option(&mut self, option: u32, data: &[u8]) -> Option<Event> {
        match option {
            option::EXPORT_NAME => return Some(self.export_name(data)),
            option::ABORT => {
                self.acknowledge(option);
                return Some(self.end(Fault::Closed));
            }
            option::INFO | option::GO => return self.info(option, data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => return self.meta_contexts(option, data),
            option::LIST | option::STARTTLS | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS
                if !data.is_empty() =>
            {
                self.refuse(option, reply::ERR_INVALID, "this option carries no data; send it with length 0");
            }
            option::LIST => {
                self.state = State::Waiting(Pending::List);
                return Some(Event::List);
            }
            option::STARTTLS => {
                self.refuse(option, reply::ERR_POLICY, "a port is not encrypted; connect without TLS");
            }
            option::STRUCTURED_REPLY if self.mode == Mode::Extended => {
                self.refuse(
                    option,
                    reply::ERR_EXT_HEADER_REQD,
                    "extended headers are already in use and stay",
                );
            }
            option::STRUCTURED_REPLY if self.mode == Mode::Structured => {
                self.refuse(option, reply::ERR_INVALID, "structured replies are already in use");
            }
            option::STRUCTURED_REPLY => {
                self.mode = Mode::Structured;
                self.acknowledge(option);
            }
            option::EXTENDED_HEADERS if self.mode == Mode::Extended => {
                self.refuse(option, reply::ERR_INVALID, "extended headers are already in use");
            }
            option::EXTENDED_HEADERS => {
                self.mode = Mode::Extended;
                self.acknowledge(option);
            }
            _ => self.refuse(option, reply::ERR_UNSUP, "this server does not know the option"),
        }
        None
    }

    fn export_name(&mut self, data: &[u8]) -> Event {
        if self.mode == Mode::Extended {
            return self.end(Fault::ExportNameAfterExtended);
        }
        match options::text(data).and_then(|name| ExportName::parse(name).ok()) {
            Some(export) => self.ask_description(option::EXPORT_NAME, export, InfoItems::default()),
            None => self.end(Fault::ExportName),
        }
    }

    fn info(&mut self, option: u32, data: &[u8]) -> Option<Event> {
        let Some((name, items)) = options::parse_info(data) else {
            self.refuse(option, reply::ERR_INVALID, "the lengths in this option do not add up");
            return None;
        };
        let export = self.export(option, name)?;
        Some(self.ask_description(option, export, items))
    }

    fn meta_contexts(&mut self, option: u32, data: &[u8]) -> Option<Event> {
        if option == option::SET_META_CONTEXT {
            self.selected = None;
        }
        if self.mode == Mode::Simple {
            let message = "negotiate structured replies or extended headers first";
            self.refuse(option, reply::ERR_INVALID, message);
            return None;
        }
        match options::parse_contexts(data, option == option::LIST_META_CONTEXT) {
            Ok((name, queries)) => {
                let export = self.export(option, name)?;
                let pending = Pending::Contexts { option, export: export.clone() };
                self.state = State::Waiting(pending);
                Some(Event::MetaContexts { export, queries })
            }
            Err(ContextsError::Malformed) => {
                self.refuse(option, reply::ERR_INVALID, "the lengths in this option do not add up");
                None
            }
            Err(ContextsError::TooMany) => {
                self.refuse(option, reply::ERR_TOO_BIG, "ask for fewer contexts at once");
                None
            }
        }
    }

    /// Parses an export's name, or answers that there is none.
    fn export(&mut self, option: u32, name: &str) -> Option<ExportName> {
        match ExportName::parse(name) {
            Ok(export) => Some(export),
            Err(error) => {
                self.refuse(option, reply::ERR_UNKNOWN, &format!("no such export: {error}"));
                None
            }
        }
    }

    fn ask_description(&mut self, option: u32, export: ExportName, items: InfoItems) -> Event {
        self.state = State::Waiting(Pending::Describe { option, export: export.clone(), items });
        Event::Describe(export)
    }

    /// Adds one export to the answer of [`Event::List`]. Send the output in between where there are many.
    pub fn list_export(&mut self, name: &ExportName, description: &str) {
        if matches!(self.state, State::Waiting(Pending::List)) {
            let name = name.to_string();
            let length = options::length_u32(name.len()).to_be_bytes();
            let parts = [&length[..], name.as_bytes(), options::bounded(description).as_bytes()];
            push_reply(&mut self.output, option::LIST, reply::SERVER, &parts);
        }
    }

    /// Ends the answer of [`Event::List`].
    pub fn list_end(&mut self, outcome: Result<(), Refusal>) {
        if !matches!(self.state, State::Waiting(Pending::List)) {
            return;
        }
        self.state = State::OptionHeader;
        match outcome {
            Ok(()) => self.acknowledge(option::LIST),
            Err(refusal) => self.refuse_as(option::LIST, &refusal),
        }
    }

    /// Answers [`Event::Describe`]. Where that ends the negotiation, the event to act on is returned.
    pub fn describe(&mut self, answer: Result<Description, Refusal>) -> Option<Event> {
        let State::Waiting(Pending::Describe { option, export, items }) = &self.state else { return None };
        let (option, export, items) = (*option, export.clone(), *items);
        self.state = State::OptionHeader;
        match answer {
            Err(_) if option == option::EXPORT_NAME => Some(self.end(Fault::ExportName)),
            Err(refusal) => {
                self.refuse_as(option, &refusal);
                None
            }
            Ok(description) => self.described(option, export, items, &description),
        }
    }

    fn described(
        &mut self,
        option: u32,
        export: ExportName,
        items: InfoItems,
        description: &Description,
    ) -> Option<Event> {
        let flags = transmission_flags(self.mode, description.read_only);
        if option == option::EXPORT_NAME {
            self.output.extend_from_slice(&description.size.to_be_bytes());
            self.output.extend_from_slice(&flags.to_be_bytes());
            self.output.extend_from_slice(if self.no_zeroes { &[] } else { &[0; 124] });
        } else {
            let name = export.to_string();
            options::push_info(&mut self.output, option, items, &name, description, flags);
            self.acknowledge(option);
        }
        if option == option::INFO {
            return None;
        }
        self.state = State::Finished;
        // Contexts selected for another export do not count: the specification ties them to the name.
        let contexts = match self.selected.take() {
            Some((name, contexts)) if name == export => contexts,
            _ => Vec::new(),
        };
        let (size, read_only) = (description.size, description.read_only);
        Some(Event::Ready(Session { export, size, read_only, mode: self.mode, contexts }))
    }

    /// Answers [`Event::MetaContexts`] with the contexts selected or listed, in order and each once.
    pub fn contexts(&mut self, answer: Result<Vec<MetaContext>, Refusal>) {
        let State::Waiting(Pending::Contexts { option, export }) = &self.state else { return };
        let (option, export) = (*option, export.clone());
        self.state = State::OptionHeader;
        match answer {
            Err(refusal) => self.refuse_as(option, &refusal),
            Ok(contexts) if option == option::SET_META_CONTEXT => self.select(export, contexts),
            Ok(contexts) => {
                contexts.iter().for_each(|context| self.push_context(option, 0, context));
                self.acknowledge(option);
            }
        }
    }

    fn select(&mut self, export: ExportName, contexts: Vec<MetaContext>) {
        let mut selected: Vec<SelectedContext> = Vec::new();
        for (context, id) in contexts.into_iter().zip(1..) {
            if !selected.iter().any(|known| known.context == context) {
                selected.push(SelectedContext { id, context });
            }
        }
        if selected.len() > NBD_CONTEXTS_MAX {
            let message = format!("select at most {NBD_CONTEXTS_MAX} contexts");
            return self.refuse(option::SET_META_CONTEXT, reply::ERR_TOO_BIG, &message);
        }
        for entry in &selected {
            self.push_context(option::SET_META_CONTEXT, entry.id, &entry.context);
        }
        self.acknowledge(option::SET_META_CONTEXT);
        self.selected = Some((export, selected));
    }

    fn push_context(&mut self, option: u32, id: u32, context: &MetaContext) {
        let parts = [&id.to_be_bytes()[..], context.name().as_bytes()].map(<[u8]>::to_vec);
        push_reply(&mut self.output, option, reply::META_CONTEXT, &[&parts[0], &parts[1]]);
    }

    fn acknowledge(&mut self, option: u32) {
        push_reply(&mut self.output, option, reply::ACK, &[]);
    }

    fn refuse(&mut self, option: u32, kind: u32, message: &str) {
        push_reply(&mut self.output, option, kind, &[options::bounded(message).as_bytes()]);
    }

    fn refuse_as(&mut self, option: u32, refusal: &Refusal) {
        let (kind, message) = refusal.parts();
        self.refuse(option, kind, message);
    }

    fn end(&mut self, fault: Fault) -> Event {
        self.state = State::Finished;
        Event::Ended(fault)
    }
}

/// What an export can do. Never multi-connection: a port carries one client.
fn transmission_flags(mode: Mode, read_only: bool) -> u16 {
    let common = export::HAS_FLAGS | export::SEND_FLUSH | export::SEND_FUA | export::SEND_CACHE;
    let access = match read_only {
        true => export::READ_ONLY,
        false => export::SEND_TRIM | export::SEND_WRITE_ZEROES | export::SEND_FAST_ZERO,
    };
    let framing = match mode {
        Mode::Simple => 0,
        Mode::Structured => export::SEND_DF,
        Mode::Extended => export::SEND_DF | export::BLOCK_STATUS_PAYLOAD,
    };
    common | access | framing
}
