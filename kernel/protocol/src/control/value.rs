//! JSON as far as requests need it: scalars, lists of texts and objects two levels deep.
//!
//! A general value tree can take four hundred times the memory of its text. Here whatever no parameter can be is
//! skipped while reading and remembered only by what it was, so a line of 64 KiB never becomes more than a small
//! multiple of itself.

use crate::limits::{LIST_ENTRIES_MAX, PARAMETERS_MAX, TEXT_BYTES_MAX};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of a parameter, or what stood in its place.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer from 0 to 2^64 - 1.
    Unsigned(u64),
    /// A negative integer.
    Signed(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// An array of texts.
    List(Vec<String>),
    /// An object.
    Map(Vec<(String, Value)>),
    /// Something no parameter takes, by its description.
    Other(&'static str),
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn described(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Unsigned(_) => "an integer",
            Self::Signed(_) => "a negative integer",
            Self::Float(_) => "a number that is no 64-bit integer",
            Self::Text(_) => "a text",
            Self::List(_) => "an array of texts",
            Self::Map(_) => "an object",
            Self::Other(what) => what,
        }
    }
}

/// Reads a whole message: an object whose members may be objects.
pub(super) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Reading { maps: 2, lists: true }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// How much structure is still kept.
#[derive(Clone, Copy)]
struct Reading {
    maps: u8,
    lists: bool,
}

impl<'de> DeserializeSeed<'de> for Reading {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Signed(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        if value.len() > TEXT_BYTES_MAX {
            return Ok(Value::Other("a text of more than 512 bytes"));
        }
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let (mut texts, mut other) = (Vec::new(), None);
        if !self.lists {
            other = Some(Value::Other("an array"));
        }
        while other.is_none() {
            match sequence.next_element_seed(Reading { maps: 0, lists: false })? {
                None => return Ok(Value::List(texts)),
                Some(_) if texts.len() == LIST_ENTRIES_MAX => {
                    other = Some(Value::Other("an array of more than 1024 entries"));
                }
                Some(Value::Text(text)) => texts.push(text),
                Some(_) => other = Some(Value::Other("an array of other things than short texts")),
            }
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(other.unwrap_or(Value::List(texts)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        let inner = Reading { maps: self.maps.saturating_sub(1), lists: true };
        while self.maps > 0 && members.len() < PARAMETERS_MAX {
            match map.next_key::<String>()? {
                Some(key) => members.push((key, map.next_value_seed(inner)?)),
                None => return Ok(Value::Map(members)),
            }
        }
        let mut rest = 0usize;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            rest += 1;
        }
        match (self.maps, rest) {
            (0, _) => Ok(Value::Other("an object")),
            (_, 0) => Ok(Value::Map(members)),
            _ => Ok(Value::Other("an object with more than 16 members")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, vec};

    fn params(text: &str) -> Value {
        let Ok(Value::Map(mut members)) = parse(&format!("{{\"params\":{{\"x\":{text}}}}}")) else {
            panic!()
        };
        let Some((_, Value::Map(mut inner))) = members.pop() else { panic!() };
        inner.pop().unwrap().1
    }

    #[test]
    fn scalars_and_lists() {
        assert_eq!(params("null"), Value::Null);
        assert_eq!(params("18446744073709551615"), Value::Unsigned(u64::MAX));
        assert_eq!(params("9007199254740993"), Value::Unsigned((1 << 53) + 1));
        assert_eq!(params("-1"), Value::Signed(-1));
        assert_eq!(params("1e3"), Value::Float(1000.0));
        assert_eq!(params("[\"a\",\"b\"]"), Value::List(vec!["a".into(), "b".into()]));
        assert_eq!(params("[1]"), Value::Other("an array of other things than short texts"));
        assert_eq!(params("{\"a\":{}}"), Value::Other("an object"));
        assert_eq!(
            params(&format!("\"{}\"", "x".repeat(513))),
            Value::Other("a text of more than 512 bytes")
        );
    }

    #[test]
    fn bombs_are_skipped() {
        let zeroes = format!("[{}0]", "0,".repeat(30_000));
        assert!(matches!(params(&zeroes), Value::Other(_)));
        let texts = format!("[{}\"\"]", "\"\",".repeat(20_000));
        assert_eq!(params(&texts), Value::Other("an array of more than 1024 entries"));
        let deep = "[".repeat(30_000);
        assert!(parse(&deep).is_err());
        assert!(parse(&"{\"a\":".repeat(10_000)).is_err());
        let many: Vec<_> = (0..17).map(|i| format!("\"k{i}\":1")).collect();
        assert_eq!(
            parse(&format!("{{{}}}", many.join(","))).unwrap(),
            Value::Other("an object with more than 16 members")
        );
        assert!(matches!(parse(&format!("{{{}}}", many[..16].join(","))), Ok(Value::Map(_))));
    }
}
