//! The numbers of the NBD protocol that this client uses, and the layout of its requests
//! (`doc/proto.md` of the NetworkBlockDevice project).

use super::Command;

pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

pub(super) const CLIENT_FLAGS: u32 = 0b11; // fixed newstyle, no zeroes

pub(super) const OPTION_GO: u32 = 7;
pub(super) const OPTION_STRUCTURED_REPLY: u32 = 8;
pub(super) const OPTION_SET_META_CONTEXT: u32 = 10;
pub(super) const OPTION_EXTENDED_HEADERS: u32 = 11;

pub(super) const REPLY_ACK: u32 = 1;
pub(super) const REPLY_INFO: u32 = 3;
pub(super) const REPLY_META_CONTEXT: u32 = 4;
pub(super) const REPLY_ERROR_BIT: u32 = 1 << 31;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const FLAG_READ_ONLY: u16 = 1 << 1;

pub(crate) const SIMPLE_REPLY: u32 = 0x6744_6698;
pub(crate) const CHUNK: u32 = 0x668e_33ef;
pub(super) const EXTENDED_CHUNK: u32 = 0x6e8a_278c;

pub(crate) const CHUNK_FLAG_DONE: u16 = 1;
pub(super) const CHUNK_NONE: u16 = 0;
pub(crate) const CHUNK_DATA: u16 = 1;
pub(crate) const CHUNK_HOLE: u16 = 2;
pub(super) const CHUNK_STATUS: u16 = 5;
pub(super) const CHUNK_STATUS_EXTENDED: u16 = 6;
pub(crate) const CHUNK_ERROR_BIT: u16 = 1 << 15;

/// The longest payload a server may send in one chunk or option reply: 32 MiB and its header.
pub(super) const PAYLOAD_BYTES_MAX: u64 = (32 << 20) + 64;

const REQUEST: u32 = 0x2560_9513;
const EXTENDED_REQUEST: u32 = 0x21e4_1c71;

const FLAG_FUA: u16 = 1 << 0;
pub(super) const FLAG_PAYLOAD: u16 = 1 << 5;

impl Command {
    fn number(self) -> u16 {
        match self {
            Command::Read => 0,
            Command::Write(_) => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::WriteZeroes => 6,
            Command::BlockStatus => 7,
        }
    }

    fn flags(self, extended: bool) -> u16 {
        match self {
            Command::Write(durable) => {
                (if durable { FLAG_FUA } else { 0 }) | (if extended { FLAG_PAYLOAD } else { 0 })
            }
            _ => 0,
        }
    }
}

/// A request's header; `None` where the length does not fit in it.
pub(crate) fn request(
    extended: bool,
    command: Command,
    cookie: u64,
    offset: u64,
    length: u64,
) -> Option<Vec<u8>> {
    let magic = if extended { EXTENDED_REQUEST } else { REQUEST };
    let mut header = Vec::with_capacity(32);
    header.extend_from_slice(&magic.to_be_bytes());
    header.extend_from_slice(&command.flags(extended).to_be_bytes());
    header.extend_from_slice(&command.number().to_be_bytes());
    header.extend_from_slice(&cookie.to_be_bytes());
    header.extend_from_slice(&offset.to_be_bytes());
    match extended {
        true => header.extend_from_slice(&length.to_be_bytes()),
        false => header.extend_from_slice(&u32::try_from(length).ok()?.to_be_bytes()),
    }
    Some(header)
}

/// Turns these flags of a request's header over.
pub(super) fn turn_flags(header: &mut [u8], flags: u16) {
    header[4..6].iter_mut().zip(flags.to_be_bytes()).for_each(|(byte, turned)| *byte ^= turned);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_their_golden_bytes() {
        let plain = request(false, Command::Write(true), 7, 4096, 512).unwrap();
        assert_eq!(plain[..8], [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1]);
        assert_eq!(plain.len(), 28);
        let extended = request(true, Command::Write(false), 7, 4096, 512).unwrap();
        assert_eq!(extended[..8], [0x21, 0xe4, 0x1c, 0x71, 0, 0x20, 0, 1]);
        assert_eq!(extended.len(), 32);
        let mut odd = extended;
        turn_flags(&mut odd, FLAG_PAYLOAD);
        assert_eq!(odd[..8], [0x21, 0xe4, 0x1c, 0x71, 0, 0, 0, 1]);
    }

    #[test]
    fn a_length_beyond_32_bits_needs_extended_headers() {
        assert!(request(false, Command::Trim, 0, 0, 1 << 32).is_none());
        assert!(request(true, Command::Trim, 0, 0, 1 << 32).is_some());
    }
}
