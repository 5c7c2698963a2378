//! A little parser of what an NBD server sends after the handshake, written from the protocol and knowing
//! nothing of the codec.

use super::rig::nbd::Mode;
use std::collections::BTreeMap;

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_MAGIC: u32 = 0x6e8a_278c;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DONE: u16 = 1;
const ERROR: u16 = 1 << 15;

/// What was asked with a cookie: kind and length, several where a client repeats itself.
type Asked = BTreeMap<u64, Vec<(u16, u64)>>;

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn number(&mut self, size: usize) -> Option<u64> {
        let (head, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(head.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(count).ok()?..)?;
        Some(())
    }
}

/// Holds all that came against what was sent.
pub(super) fn check(came: &[u8], sent: &[u8], mode: Mode) {
    let asked = asked(sent, mode);
    let mut bytes = Bytes(came);
    while !bytes.0.is_empty() {
        let (left, reply) = (bytes.0.len(), reply(&mut bytes, &asked, mode));
        assert!(reply.is_some(), "a reply is cut off or makes no sense, {left} bytes before the end");
        if reply == Some(false) {
            return;
        }
    }
}

/// Every request that a server can understand in these bytes.
fn asked(sent: &[u8], mode: Mode) -> Asked {
    let (mut bytes, mut asked) = (Bytes(sent), Asked::new());
    while let Some(magic) = bytes.number(4) {
        let expected = if mode == Mode::Extended { 0x21e4_1c71 } else { 0x2560_9513 };
        if magic != expected {
            break;
        }
        let mut fields = || {
            let (_flags, kind, cookie) = (bytes.number(2)?, bytes.number(2)?, bytes.number(8)?);
            bytes.number(8)?;
            let length = bytes.number(if mode == Mode::Extended { 8 } else { 4 })?;
            Some((kind as u16, cookie, length))
        };
        let Some((kind, cookie, length)) = fields() else { break };
        asked.entry(cookie).or_default().push((kind, length));
        if kind == WRITE && bytes.skip(length).is_none() {
            break;
        }
        // Others with a payload are for the server to understand; cookies behind one are not known here.
    }
    asked
}

/// One reply. False where the rest cannot be told apart any more.
fn reply(bytes: &mut Bytes<'_>, asked: &Asked, mode: Mode) -> Option<bool> {
    let magic = bytes.number(4)? as u32;
    // With structured replies only a READ must have one.
    if mode == Mode::Simple || mode == Mode::Structured && magic == SIMPLE_MAGIC {
        assert_eq!(magic, SIMPLE_MAGIC);
        let (error, cookie) = (bytes.number(4)?, bytes.number(8)?);
        let Some([(kind, length)]) = asked.get(&cookie).map(Vec::as_slice) else {
            return asked.contains_key(&cookie).then_some(false);
        };
        assert!(mode == Mode::Simple || *kind != READ, "a READ was answered with a simple reply");
        if *kind == READ && error == 0 {
            bytes.skip(*length)?;
        }
        return Some(true);
    }
    let (flags, kind, cookie) = (bytes.number(2)? as u16, bytes.number(2)? as u16, bytes.number(8)?);
    let length = match mode {
        Mode::Extended => {
            assert_eq!(magic, EXTENDED_MAGIC);
            bytes.number(8)?;
            bytes.number(8)?
        }
        _ => {
            assert_eq!(magic, STRUCTURED_MAGIC);
            bytes.number(4)?
        }
    };
    assert!(asked.contains_key(&cookie), "nobody asked with cookie {cookie:#x}");
    assert_eq!(flags & !DONE, 0, "unknown flags");
    let payload = Bytes(bytes.0.get(..usize::try_from(length).ok()?)?);
    bytes.skip(length)?;
    assert!(well_formed(kind, payload, length), "kind {kind:#x} with {length} bytes");
    assert!(flags & DONE != 0 || kind != 0, "an empty chunk is the last");
    Some(true)
}

fn well_formed(kind: u16, mut payload: Bytes<'_>, length: u64) -> bool {
    match kind {
        0 => length == 0,
        1 => length > 8,
        2 => length == 12,
        5 => length > 4 && (length - 4).is_multiple_of(8),
        6 => length > 8 && (length - 8).is_multiple_of(16),
        _ if kind & ERROR != 0 => {
            let (error, text) = (payload.number(4), payload.number(2));
            let rest = if kind == ERROR + 2 { 8 } else { 0 };
            error.is_some_and(|error| error != 0) && text.is_some_and(|text| length == 6 + text + rest)
        }
        _ => false,
    }
}
