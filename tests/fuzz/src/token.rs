//! Any text as a token: what decodes, encodes to the same text.

use crate::input::Input;
use datum_store::{ChangeId, TimelineId, Token};

/// A whole token with one byte changed, or the input as it is.
pub(crate) fn token(bytes: &[u8]) {
    let mut input = Input(bytes);
    if input.u8() & 1 == 0 {
        let incarnation = u64::from(input.u16()) << 40;
        let token =
            Token { timeline: TimelineId(u128::from(input.u16()) << 90), incarnation, change: ChangeId(3) };
        let mut text = token.encode().into_bytes();
        let at = usize::from(input.u8()) % text.len();
        text[at] ^= input.u8();
        check(&text);
    }
    check(input.0);
}

fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = Token::decode(text) {
        assert_eq!(token.encode(), text);
    }
}
