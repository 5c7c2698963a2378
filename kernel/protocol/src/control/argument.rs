//! The types of parameters: how each is read from a value, and how the console's words become values.

use super::value::Value;
use crate::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
use crate::name::{Name, Since};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A size or an offset in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A number of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// The number of a job; a text of digits on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a parameter is, for help and for reading words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name.
    Name,
    /// A name or a token.
    Since,
    /// Bytes; on the console with a unit.
    Bytes,
    /// A number.
    Count,
    /// The number of a job.
    Job,
    /// Any short text.
    Text,
    /// Texts; on the console separated by commas or spaces.
    List,
    /// A switch.
    Flag,
}

impl Kind {
    /// What stands for it in a synopsis.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Since => "NAME|TOKEN",
            Self::Bytes => "SIZE",
            Self::Count => "NUMBER",
            Self::Job => "JOB",
            Self::Text => "TEXT",
            Self::List => "LIST",
            Self::Flag => "",
        }
    }

    /// What the control port expects, for messages and documents.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Name => "a name of 1 to 64 letters, digits, '.', '_' and '-'",
            Self::Since => "the name of a reference point or checkpoint, or a token",
            Self::Bytes => "an integer of bytes such as 21474836480, without quotes or a unit",
            Self::Count => "an integer from 0 on",
            Self::Job => "the text of a job's number, such as \"7\"",
            Self::Text => "a text of at most 512 bytes",
            Self::List => "an array of texts",
            Self::Flag => "true or false",
        }
    }

    /// The value of a word, as people write it: sizes with units, lists with commas.
    pub fn value_from_word(self, word: &str) -> Result<Value, String> {
        match self {
            Self::Bytes => parse_size(word).map(Value::Unsigned),
            Self::Count => word
                .parse()
                .map(Value::Unsigned)
                .map_err(|_| format!("{} is not a number; write digits only", super::quoted(word))),
            Self::List => {
                Ok(Value::List(word.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect()))
            }
            Self::Flag => match word {
                "true" | "yes" | "on" => Ok(Value::Bool(true)),
                "false" | "no" | "off" => Ok(Value::Bool(false)),
                _ => Err(format!("{} is neither yes nor no", super::quoted(word))),
            },
            Self::Name | Self::Since | Self::Job | Self::Text => Ok(Value::Text(word.to_owned())),
        }
    }
}

/// Bytes with an optional binary unit: `4096`, `4K`, `4KiB`, `20G`, `1T`.
fn parse_size(word: &str) -> Result<u64, String> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let shift = match unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit) {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        "P" => Some(50),
        _ => None,
    };
    match (number.parse::<u64>(), shift) {
        (Ok(number), Some(shift)) => number.checked_mul(1 << shift).ok_or_else(|| {
            format!("{} is more than 64 bits hold; write a smaller size", super::quoted(word))
        }),
        _ => Err(format!("{} is not a size as 4096, 64K, 4KiB, 20G and 1T are", super::quoted(word))),
    }
}

/// A type that a parameter can have.
pub trait Argument: Sized {
    /// What it is called in help.
    const KIND: Kind;
    /// Whether it must be given.
    const REQUIRED: bool = true;
    /// Reads it, or says what is wrong.
    fn from_value(value: Value) -> Result<Self, String>;
    /// What it is when it is not given; nothing where it must be.
    fn absent() -> Option<Self> {
        None
    }
}

/// Says that a value has the wrong type.
fn wrong<T: Argument>(value: &Value) -> String {
    format!("must be {}, not {}", T::KIND.expected(), value.described())
}

impl Argument for Name {
    const KIND: Kind = Kind::Name;

    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Name::parse(&text).map_err(|error| format!("is not a name: {error}")),
            other => Err(wrong::<Self>(&other)),
        }
    }
}

impl Argument for Since {
    const KIND: Kind = Kind::Since;

    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => {
                Since::parse(&text).map_err(|error| format!("is neither name nor token: {error}"))
            }
            other => Err(wrong::<Self>(&other)),
        }
    }
}

impl Argument for Bytes {
    const KIND: Kind = Kind::Bytes;

    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Unsigned(bytes) => Ok(Self(bytes)),
            other => Err(wrong::<Self>(&other)),
        }
    }
}

impl Argument for Count {
    const KIND: Kind = Kind::Count;

    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Unsigned(count) => Ok(Self(count)),
            other => Err(wrong::<Self>(&other)),
        }
    }
}

impl Argument for JobId {
    const KIND: Kind = Kind::Job;

    fn from_value(value: Value) -> Result<Self, String> {
        match &value {
            Value::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map(Self).map_err(|_| wrong::<Self>(&value))
            }
            _ => Err(wrong::<Self>(&value)),
        }
    }
}

impl Argument for String {
    const KIND: Kind = Kind::Text;

    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.len() <= TEXT_BYTES_MAX => Ok(text),
            other => Err(wrong::<Self>(&other)),
        }
    }
}

impl Argument for bool {
    const KIND: Kind = Kind::Flag;
    const REQUIRED: bool = false;

    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Bool(flag) => Ok(flag),
            other => Err(wrong::<Self>(&other)),
        }
    }

    fn absent() -> Option<Self> {
        Some(false)
    }
}

/// Lists are never empty and name nothing twice.
impl<T: Argument + PartialEq> Argument for Vec<T> {
    const KIND: Kind = Kind::List;

    fn from_value(value: Value) -> Result<Self, String> {
        let Value::List(texts) = value else { return Err(wrong::<Self>(&value)) };
        if texts.is_empty() {
            return Err("must not be empty".into());
        }
        let mut entries: Self = Vec::with_capacity(texts.len());
        for text in texts {
            let shown = super::quoted(&text);
            let entry =
                T::from_value(Value::Text(text)).map_err(|error| format!("has {shown}, which {error}"))?;
            if entries.contains(&entry) {
                return Err(format!("names {shown} twice"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

impl<T: Argument> Argument for Option<T> {
    const KIND: Kind = T::KIND;
    const REQUIRED: bool = false;

    fn from_value(value: Value) -> Result<Self, String> {
        if value == Value::Null { Ok(None) } else { T::from_value(value).map(Some) }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

const _: () = assert!(NAME_BYTES_MAX == 64 && TEXT_BYTES_MAX == 512, "messages here name these limits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (word, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4K", 4096),
            ("4KiB", 4096),
            ("4kb", 4096),
            ("20G", 20 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(word), Ok(bytes), "{word}");
        }
        for word in ["", "G", "1.5G", "-1", "4 K", "4X", "99999999999T", "18446744073709551616", "1KK"] {
            assert!(parse_size(word).is_err(), "{word}");
        }
    }
}
