//! A terminal's bytes into keys: UTF-8, control characters and VT100 escape sequences, one byte at a time.

use core::mem;

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Character(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    KillToEnd,
    KillToStart,
    KillWord,
    Clear,
    Interrupt,
    EndOrDelete,
    /// No key: the terminal tells in which column its cursor is.
    Column(u16),
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// In a control sequence; its first parameter, and the last where there are more.
    Sequence { first: u16, last: Option<u16> },
    /// After ESC O.
    Single,
    /// Inside a character of several bytes: how many are there and how many it has.
    Utf8 { bytes: [u8; 4], filled: u8, length: u8 },
}

/// The decoder of one terminal.
#[derive(Debug, Default)]
pub(super) struct Keys {
    state: State,
    after_return: bool,
}

impl Keys {
    /// Takes one byte; gives the key that it completes.
    pub(super) fn receive(&mut self, byte: u8) -> Option<Key> {
        // Terminals end a line with CR, LF or both; both are one key.
        let after_return = mem::replace(&mut self.after_return, byte == b'\r');
        match mem::take(&mut self.state) {
            State::Ground if byte == b'\n' && after_return => None,
            State::Ground => self.ground(byte),
            State::Escape => {
                self.state = match byte {
                    b'[' => State::Sequence { first: 0, last: None },
                    b'O' => State::Single,
                    _ => State::Ground,
                };
                None
            }
            State::Single => cursor(byte),
            State::Sequence { first, last } => self.sequence(first, last, byte),
            State::Utf8 { bytes, filled, length } => self.continuation(bytes, filled, length, byte),
        }
    }

    fn ground(&mut self, byte: u8) -> Option<Key> {
        Some(match byte {
            b'\r' | b'\n' => Key::Enter,
            b'\t' => Key::Tab,
            0x08 | 0x7f => Key::Backspace,
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => Key::Interrupt,
            0x04 => Key::EndOrDelete,
            0x05 => Key::End,
            0x06 => Key::Right,
            0x0b => Key::KillToEnd,
            0x0c => Key::Clear,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::KillToStart,
            0x17 => Key::KillWord,
            0x20..=0x7e => Key::Character(char::from(byte)),
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            0xc2..=0xf4 => {
                let length = if byte < 0xe0 { 2 } else { 3 + u8::from(byte >= 0xf0) };
                self.state = State::Utf8 { bytes: [byte, 0, 0, 0], filled: 1, length };
                return None;
            }
            _ => return None,
        })
    }

    fn sequence(&mut self, first: u16, last: Option<u16>, byte: u8) -> Option<Key> {
        match (byte, last) {
            (b'0'..=b'9', None) => self.state = State::Sequence { first: longer(first, byte), last },
            (b'0'..=b'9', Some(number)) => {
                self.state = State::Sequence { first, last: Some(longer(number, byte)) };
            }
            // Further parameters of a key are modifiers; the key is the same without them.
            (b';', _) => self.state = State::Sequence { first, last: Some(0) },
            (b'R', Some(column)) => return Some(Key::Column(column)),
            (b'~', _) => {
                return match first {
                    1 | 7 => Some(Key::Home),
                    3 => Some(Key::Delete),
                    4 | 8 => Some(Key::End),
                    _ => None,
                };
            }
            (0x20..=0x3f, _) => self.state = State::Sequence { first, last },
            _ => return cursor(byte),
        }
        None
    }

    fn continuation(&mut self, mut bytes: [u8; 4], filled: u8, length: u8, byte: u8) -> Option<Key> {
        if byte & 0xc0 != 0x80 {
            // The character was cut short; the byte begins something new.
            return self.ground(byte);
        }
        if let Some(place) = bytes.get_mut(usize::from(filled)) {
            *place = byte;
        }
        if filled + 1 < length {
            self.state = State::Utf8 { bytes, filled: filled + 1, length };
            return None;
        }
        let text = core::str::from_utf8(bytes.get(..usize::from(length))?).ok()?;
        text.chars().next().filter(|character| !character.is_control()).map(Key::Character)
    }
}

/// A number with one more digit.
fn longer(number: u16, digit: u8) -> u16 {
    number.saturating_mul(10).saturating_add(u16::from(digit - b'0'))
}

/// The final byte of a cursor key.
fn cursor(byte: u8) -> Option<Key> {
    Some(match byte {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        b'F' => Key::End,
        _ => return None,
    })
}
