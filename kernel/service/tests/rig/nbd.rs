//! A small NBD client that speaks every form of the protocol and checks every magic number.

use super::Rig;
use super::port::Client;

pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;

pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

pub const FUA: u16 = 1;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const PAYLOAD_LEN: u16 = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Simple,
    Structured,
    Extended,
}

/// One chunk of a reply; simple replies count as one of kind 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub cookie: u64,
    pub done: bool,
    pub kind: u16,
    pub payload: Vec<u8>,
}

impl Chunk {
    /// The number of an error chunk.
    pub fn error(&self) -> Option<u32> {
        (self.kind & 0x8000 != 0).then(|| u32::from_be_bytes(self.payload[..4].try_into().unwrap()))
    }
}

pub struct Nbd {
    pub client: Client,
    pub mode: Mode,
    pub size: u64,
    pub flags: u16,
    pub contexts: Vec<(u32, String)>,
    /// Extended WRITEs go without `PAYLOAD_LEN`, as QEMU's do.
    pub omits_payload_len: bool,
    cookie: u64,
}

impl Nbd {
    /// Connects and negotiates up to the options.
    pub fn connect(rig: &mut Rig, client: &Client, mode: Mode) -> Self {
        client.connect();
        let mut nbd = Self {
            client: client.clone(),
            mode,
            size: 0,
            flags: 0,
            contexts: Vec::new(),
            omits_payload_len: false,
            cookie: 100,
        };
        let greeting = nbd.bytes(rig, 18);
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        client.send(&3u32.to_be_bytes());
        match mode {
            Mode::Simple => {}
            Mode::Structured => assert_eq!(nbd.option(rig, option::STRUCTURED_REPLY, &[])[0].0, 1),
            Mode::Extended => assert_eq!(nbd.option(rig, option::EXTENDED_HEADERS, &[])[0].0, 1),
        }
        nbd
    }

    /// Connects to an export; the error reply where that fails.
    pub fn open(
        rig: &mut Rig,
        client: &Client,
        mode: Mode,
        export: &str,
        contexts: &[&str],
    ) -> Result<Self, u32> {
        let mut nbd = Self::connect(rig, client, mode);
        if !contexts.is_empty() {
            nbd.contexts = nbd.meta(rig, option::SET_META_CONTEXT, export, contexts)?;
        }
        let replies = nbd.option(rig, option::GO, &info_data(export));
        let (kind, _) = replies.last().unwrap();
        if *kind != 1 {
            return Err(*kind);
        }
        let (_, info) = replies.iter().find(|(kind, data)| *kind == 3 && data[..2] == [0, 0]).unwrap();
        nbd.size = u64::from_be_bytes(info[2..10].try_into().unwrap());
        nbd.flags = u16::from_be_bytes(info[10..12].try_into().unwrap());
        Ok(nbd)
    }

    pub fn bytes(&self, rig: &mut Rig, count: usize) -> Vec<u8> {
        let client = self.client.clone();
        rig.run(async move { client.receive(count).await })
    }

    /// Sends an option and returns all replies, the last one final.
    pub fn option(&mut self, rig: &mut Rig, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.client.send(&OPTION_MAGIC.to_be_bytes());
        self.client.send(&option.to_be_bytes());
        self.client.send(&(data.len() as u32).to_be_bytes());
        self.client.send(data);
        let mut replies = Vec::new();
        loop {
            let header = self.bytes(rig, 20);
            assert_eq!(header[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
            assert_eq!(header[8..12], option.to_be_bytes());
            let kind = u32::from_be_bytes(header[12..16].try_into().unwrap());
            let length = u32::from_be_bytes(header[16..20].try_into().unwrap());
            let data = self.bytes(rig, length as usize);
            replies.push((kind, data));
            if kind == 1 || kind & 0x8000_0000 != 0 {
                return replies;
            }
        }
    }

    /// Lists or sets contexts: number and name of each.
    pub fn meta(
        &mut self,
        rig: &mut Rig,
        option: u32,
        export: &str,
        queries: &[&str],
    ) -> Result<Vec<(u32, String)>, u32> {
        let mut data = string(export);
        data.extend((queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|query| data.extend(string(query)));
        let mut replies = self.option(rig, option, &data);
        let (last, _) = replies.pop().unwrap();
        if last != 1 {
            return Err(last);
        }
        let context = |data: &[u8]| {
            let id = u32::from_be_bytes(data[..4].try_into().unwrap());
            (id, String::from_utf8(data[4..].to_vec()).unwrap())
        };
        Ok(replies.iter().map(|(_, data)| context(data)).collect())
    }

    /// Sends a request and returns its cookie. `length` of a WRITE is that of the payload.
    pub fn send(&mut self, kind: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> u64 {
        self.cookie += 1;
        let extended = self.mode == Mode::Extended;
        let marked = extended && kind == WRITE && !self.omits_payload_len;
        let flags = if marked { flags | PAYLOAD_LEN } else { flags };
        let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        if extended {
            bytes.extend(length.to_be_bytes());
        } else {
            bytes.extend((length as u32).to_be_bytes());
        }
        bytes.extend(payload);
        self.client.send(&bytes);
        self.cookie
    }

    /// Receives one chunk. In simple mode the data of a READ are left where they are.
    pub fn chunk(&mut self, rig: &mut Rig) -> Chunk {
        match self.mode {
            Mode::Simple => {
                let header = self.bytes(rig, 16);
                assert_eq!(header[..4], 0x6744_6698_u32.to_be_bytes());
                let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
                let kind = if error == 0 { 0 } else { 0x8001 };
                Chunk { cookie: be(&header[8..16]), done: true, kind, payload: header[4..8].to_vec() }
            }
            Mode::Structured => {
                let magic = self.bytes(rig, 4);
                if magic == 0x6744_6698_u32.to_be_bytes() {
                    let rest = self.bytes(rig, 12);
                    assert_eq!(rest[..4], [0; 4], "errors are chunks once replies are structured");
                    return Chunk { cookie: be(&rest[4..12]), done: true, kind: 0, payload: Vec::new() };
                }
                assert_eq!(magic, 0x668e_33ef_u32.to_be_bytes());
                let header = self.bytes(rig, 16);
                let length = u32::from_be_bytes(header[12..16].try_into().unwrap());
                self.structured(rig, &header, u64::from(length), 4)
            }
            Mode::Extended => {
                let header = self.bytes(rig, 32);
                assert_eq!(header[..4], 0x6e8a_278c_u32.to_be_bytes());
                self.structured(rig, &header[4..], be(&header[24..32]), 4)
            }
        }
    }

    fn structured(&mut self, rig: &mut Rig, header: &[u8], length: u64, cookie_at: usize) -> Chunk {
        let flags = u16::from_be_bytes(header[..2].try_into().unwrap());
        let kind = u16::from_be_bytes(header[2..4].try_into().unwrap());
        let payload = self.bytes(rig, length as usize);
        Chunk { cookie: be(&header[cookie_at..cookie_at + 8]), done: flags & 1 != 0, kind, payload }
    }

    /// All chunks of the next reply.
    pub fn reply(&mut self, rig: &mut Rig, cookie: u64) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            let chunk = self.chunk(rig);
            assert_eq!(chunk.cookie, cookie);
            chunks.push(chunk);
            if chunks.last().unwrap().done {
                return chunks;
            }
        }
    }

    /// A request without data in its reply: 0, or the error's number.
    pub fn simple(&mut self, rig: &mut Rig, kind: u16, flags: u16, offset: u64, length: u64) -> u32 {
        let cookie = self.send(kind, flags, offset, length, &[]);
        self.reply(rig, cookie).iter().find_map(Chunk::error).unwrap_or(0)
    }

    pub fn write(&mut self, rig: &mut Rig, offset: u64, bytes: &[u8]) -> u32 {
        let cookie = self.send(WRITE, 0, offset, bytes.len() as u64, bytes);
        self.reply(rig, cookie).iter().find_map(Chunk::error).unwrap_or(0)
    }

    pub fn flush(&mut self, rig: &mut Rig) -> u32 {
        self.simple(rig, FLUSH, 0, 0, 0)
    }

    /// Reads, whatever chunks it comes in; the error's number where it fails.
    pub fn read(&mut self, rig: &mut Rig, offset: u64, length: usize) -> Result<Vec<u8>, u32> {
        self.read_with(rig, 0, offset, length)
    }

    pub fn read_with(
        &mut self,
        rig: &mut Rig,
        flags: u16,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, u32> {
        let cookie = self.send(READ, flags, offset, length as u64, &[]);
        if self.mode == Mode::Simple {
            let header = self.chunk(rig);
            assert_eq!(header.cookie, cookie);
            return match header.error() {
                Some(error) => Err(error),
                None => Ok(self.bytes(rig, length)),
            };
        }
        let mut data = vec![0xaa; length];
        let mut covered = 0;
        for chunk in self.reply(rig, cookie) {
            if let Some(error) = chunk.error() {
                return Err(error);
            }
            let at = if chunk.payload.is_empty() { 0 } else { (be(&chunk.payload[..8]) - offset) as usize };
            match chunk.kind {
                0 => {}
                1 => {
                    data[at..at + chunk.payload.len() - 8].copy_from_slice(&chunk.payload[8..]);
                    covered += chunk.payload.len() - 8;
                }
                2 => {
                    let hole = u32::from_be_bytes(chunk.payload[8..12].try_into().unwrap()) as usize;
                    data[at..at + hole].fill(0);
                    covered += hole;
                }
                other => panic!("chunk type {other} in a READ"),
            }
        }
        assert_eq!(covered, length, "each byte comes exactly once");
        Ok(data)
    }

    /// The extents of each context: length and flags.
    pub fn status(&mut self, rig: &mut Rig, flags: u16, offset: u64, length: u64) -> Result<Statuses, u32> {
        let cookie = self.send(BLOCK_STATUS, flags, offset, length, &[]);
        let mut contexts = Vec::new();
        for chunk in self.reply(rig, cookie) {
            if let Some(error) = chunk.error() {
                return Err(error);
            }
            let id = u32::from_be_bytes(chunk.payload[..4].try_into().unwrap());
            let short = |entry: &[u8]| (be(&entry[..4]), be(&entry[4..8]));
            let long = |entry: &[u8]| (be(&entry[..8]), be(&entry[8..16]));
            contexts.push(match chunk.kind {
                5 => (id, chunk.payload[4..].chunks_exact(8).map(short).collect()),
                6 => (id, chunk.payload[8..].chunks_exact(16).map(long).collect()),
                other => panic!("chunk type {other} in a BLOCK_STATUS"),
            });
        }
        Ok(contexts)
    }
}

/// For each context its number, and the length and flags of its extents.
pub type Statuses = Vec<(u32, Vec<(u64, u64)>)>;

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// The data of INFO and GO, asking for block sizes.
pub fn info_data(export: &str) -> Vec<u8> {
    let mut data = string(export);
    data.extend(1u16.to_be_bytes());
    data.extend(3u16.to_be_bytes());
    data
}
