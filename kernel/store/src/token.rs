//! A reference point as a text that a client holds by itself.

use crate::error::{Error, ErrorKind, Result};
use crate::types::{ChangeId, TimelineId};
use alloc::format;
use alloc::string::String;
use twox_hash::XxHash64;

const PREFIX: &str = "datum:1:";
const CHECK_SEED: u64 = 0x7265_6670_6f69_6e74;

/// What a reference point says, without its name: `datum:1:` and 72 hexadecimal digits, the last eight of
/// which check the others against accidents. A token proves nothing about who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The line of history the point lies on.
    pub timeline: TimelineId,
    /// The opening of the pool in which it was made.
    pub incarnation: u64,
    /// Changes with a higher id came later.
    pub change: ChangeId,
}

impl Token {
    /// The token as text.
    pub fn encode(&self) -> String {
        let body = format!("{:032x}{:016x}{:016x}", self.timeline.0, self.incarnation, self.change.0);
        let check = check(&body);
        format!("{PREFIX}{body}{check:08x}")
    }

    /// Reads a token.
    ///
    /// # Errors
    /// `TokenInvalid` where the text is cut, altered or of another format.
    pub fn decode(text: &str) -> Result<Self> {
        let invalid = || {
            let message =
                "this is no reference point token, or it was altered; ask refpoint.token for it again";
            Error::new(ErrorKind::TokenInvalid, message)
        };
        let digits = text.strip_prefix(PREFIX).ok_or_else(invalid)?;
        let plain = digits.len() == 72 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !plain {
            return Err(invalid());
        }
        let (body, sum) = digits.split_at(64);
        let number = |text: &str| u64::from_str_radix(text, 16).map_err(|_| invalid());
        if number(sum)? != u64::from(check(body)) {
            return Err(invalid());
        }
        let timeline = u128::from_str_radix(&body[..32], 16).map_err(|_| invalid())?;
        Ok(Self {
            timeline: TimelineId(timeline),
            incarnation: number(&body[32..48])?,
            change: ChangeId(number(&body[48..])?),
        })
    }
}

fn check(body: &str) -> u32 {
    XxHash64::oneshot(CHECK_SEED, body.as_bytes()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_altered_byte_noticed() {
        let token = Token { timeline: TimelineId(77 << 90), incarnation: u64::MAX, change: ChangeId(5) };
        let text = token.encode();
        assert_eq!(Token::decode(&text), Ok(token));
        for at in 0..text.len() {
            for byte in 0..128u8 {
                let mut bad = text.clone().into_bytes();
                if bad[at] == byte {
                    continue;
                }
                bad[at] = byte;
                assert!(Token::decode(core::str::from_utf8(&bad).unwrap()).is_err());
            }
        }
        assert!(Token::decode(&text[..text.len() - 1]).is_err());
    }
}
