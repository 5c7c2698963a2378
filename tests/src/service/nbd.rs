//! What an NBD client says and hears, byte by byte, in all three forms of replies.

use super::wire::Wire;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const LIST: u32 = 3;
const INFO: u32 = 6;
const GO: u32 = 7;
const LIST_META_CONTEXT: u32 = 9;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const EXTENDED_HEADERS: u32 = 11;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISCONNECT: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const DONT_FRAGMENT: u16 = 4;
pub(crate) const ONE: u16 = 8;
const PAYLOAD: u16 = 32;

const READ_ONLY: u16 = 2;

/// The forms that replies take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Simple,
    Structured,
    Extended,
}

/// A chunk of a reply, but for the data of a simple one.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) cookie: u64,
    pub(crate) done: bool,
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
    /// A simple reply without error: data follow, if it answers a READ.
    pub(crate) simple: bool,
}

/// What became of an attempt to open an export.
pub(crate) enum Opened {
    Open(Export),
    /// Refused, with the reply's number.
    Refused(u32),
}

/// An open export.
pub(crate) struct Export {
    pub(crate) mode: Mode,
    pub(crate) size: u64,
    pub(crate) read_only: bool,
    pub(crate) contexts: Vec<(u32, String)>,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// Sends an option and hears all replies, the last one final.
async fn option(wire: &Wire, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    wire.say(&bytes);
    let mut replies = Vec::new();
    loop {
        let header = wire.hear(20).await;
        assert_eq!(number(&header[..8]), OPTION_REPLY_MAGIC, "an option's reply has its magic number");
        assert_eq!(number(&header[8..12]), u64::from(option), "it names its option");
        let kind = number(&header[12..16]) as u32;
        let data = wire.hear(number(&header[16..20]) as usize).await;
        replies.push((kind, data));
        if kind == 1 || kind & 0x8000_0000 != 0 {
            return replies;
        }
    }
}

async fn greeted(wire: &Wire) {
    let greeting = wire.hear(18).await;
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT", "whoever connects is greeted");
    wire.say(&3u32.to_be_bytes());
}

/// What replies say, if the last one is no refusal; otherwise its number.
fn accepted(mut replies: Vec<(u32, Vec<u8>)>) -> Result<Vec<Vec<u8>>, u32> {
    match replies.pop() {
        Some((1, _)) => Ok(replies.into_iter().map(|(_, data)| data).collect()),
        last => Err(last.map_or(0, |(kind, _)| kind)),
    }
}

fn texts(replies: Vec<Vec<u8>>) -> Vec<String> {
    replies.iter().map(|data| String::from_utf8_lossy(data).into_owned()).collect()
}

/// From the greeting to the names of all exports, or the number of the refusal.
pub(crate) async fn list(wire: &Wire) -> Result<Vec<String>, u32> {
    greeted(wire).await;
    accepted(option(wire, LIST, &[]).await).map(texts)
}

/// From the greeting to what INFO and LIST_META_CONTEXT say of an export, or the number of a refusal.
pub(crate) async fn describe(wire: &Wire, export: &str) -> Result<Vec<String>, u32> {
    greeted(wire).await;
    let mut data = string(export);
    data.extend([0, 2, 0, 1, 0, 3]);
    let mut said = accepted(option(wire, INFO, &data).await)?;
    accepted(option(wire, STRUCTURED_REPLY, &[]).await)?;
    let mut data = string(export);
    data.extend([0; 4]);
    said.extend(accepted(option(wire, LIST_META_CONTEXT, &data).await)?);
    Ok(texts(said))
}

/// From the greeting to an open export.
pub(crate) async fn open(wire: &Wire, mode: Mode, export: &str, contexts: &[String]) -> Opened {
    greeted(wire).await;
    let form = match mode {
        Mode::Simple => None,
        Mode::Structured => Some(STRUCTURED_REPLY),
        Mode::Extended => Some(EXTENDED_HEADERS),
    };
    if let Some(form) = form {
        assert_eq!(option(wire, form, &[]).await[0].0, 1, "both forms are served");
    }
    let mut selected = Vec::new();
    if mode != Mode::Simple && !contexts.is_empty() {
        let mut data = string(export);
        data.extend((contexts.len() as u32).to_be_bytes());
        contexts.iter().for_each(|query| data.extend(string(query)));
        let mut replies = option(wire, SET_META_CONTEXT, &data).await;
        let last = replies.pop().map_or(0, |(kind, _)| kind);
        if last != 1 {
            return Opened::Refused(last);
        }
        for (_, data) in replies {
            selected.push((number(&data[..4]) as u32, String::from_utf8_lossy(&data[4..]).into_owned()));
        }
    }
    let mut data = string(export);
    data.extend([0, 1, 0, 3]);
    let replies = option(wire, GO, &data).await;
    let last = replies.last().map_or(0, |(kind, _)| *kind);
    if last != 1 {
        return Opened::Refused(last);
    }
    let information = replies.iter().find(|(kind, data)| *kind == 3 && data[..2] == [0, 0]);
    let (_, information) = information.expect("GO tells the export's size");
    let read_only = number(&information[10..12]) as u16 & READ_ONLY != 0;
    Opened::Open(Export { mode, size: number(&information[2..10]), read_only, contexts: selected })
}

/// A request's bytes, without the payload of a WRITE.
pub(crate) fn request(mode: Mode, kind: u16, flags: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let extended = mode == Mode::Extended;
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let flags = if extended && kind == WRITE { flags | PAYLOAD } else { flags };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    match extended {
        true => bytes.extend(length.to_be_bytes()),
        false => bytes.extend((length as u32).to_be_bytes()),
    }
    bytes
}

/// The next chunk.
pub(crate) async fn chunk(wire: &Wire, mode: Mode) -> Chunk {
    let magic = number(&wire.hear(4).await) as u32;
    match (mode, magic) {
        (Mode::Simple | Mode::Structured, 0x6744_6698) => {
            let rest = wire.hear(12).await;
            let failed = rest[..4] != [0; 4];
            assert!(!failed || mode == Mode::Simple, "errors are chunks once replies are structured");
            let kind = if failed { 0x8001 } else { 0 };
            let (cookie, payload) = (number(&rest[4..]), rest[..4].to_vec());
            Chunk { cookie, done: true, kind, payload, simple: !failed }
        }
        (Mode::Structured, 0x668e_33ef) => {
            let rest = wire.hear(16).await;
            let payload = wire.hear(number(&rest[12..16]) as usize).await;
            chunk_of(&rest, payload)
        }
        (Mode::Extended, 0x6e8a_278c) => {
            let rest = wire.hear(28).await;
            let payload = wire.hear(number(&rest[20..28]) as usize).await;
            chunk_of(&rest, payload)
        }
        _ => panic!("a reply with the magic number {magic:#x} in mode {mode:?}"),
    }
}

fn chunk_of(header: &[u8], payload: Vec<u8>) -> Chunk {
    let (flags, kind) = (number(&header[..2]), number(&header[2..4]) as u16);
    Chunk { cookie: number(&header[4..12]), done: flags & 1 != 0, kind, payload, simple: false }
}

/// What a chunk tells.
pub(crate) enum Told {
    Nothing,
    Data(u64, Vec<u8>),
    Hole(u64),
    Extents(u32, Vec<(u64, u64)>),
    Error(u32),
}

impl Chunk {
    pub(crate) fn told(self) -> Told {
        let at = |start: usize, end: usize| number(&self.payload[start..end]);
        match self.kind {
            0 => Told::Nothing,
            1 => Told::Data(at(0, 8), self.payload[8..].to_vec()),
            2 => Told::Hole(at(8, 12)),
            5 => {
                let extents = self.payload[4..].chunks_exact(8);
                Told::Extents(at(0, 4) as u32, extents.map(|e| (number(&e[..4]), number(&e[4..]))).collect())
            }
            6 => {
                let extents = self.payload[8..].chunks_exact(16);
                Told::Extents(at(0, 4) as u32, extents.map(|e| (number(&e[..8]), number(&e[8..]))).collect())
            }
            kind if kind & 0x8000 != 0 => Told::Error(at(0, 4) as u32),
            kind => panic!("a chunk of the unknown kind {kind}"),
        }
    }
}
