//! What a command answers with. Most build a JSON value. A page of extents may be long, and is text a client waits for:
//! it is written from what was found, with no value in between.

use crate::memory::room_for;
use alloc::string::ToString;
use alloc::vec::Vec;
use datum_protocol::size::text_bytes;
use datum_store::Content;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// What one run of a page takes as text, at most.
const RUN_TEXT_BYTES: usize = 96;

/// What one run of a page takes as a JSON value, at most.
const RUN_VALUE_BYTES: usize = 1024;

/// What a page takes as text beside its runs, at most.
const PAGE_TEXT_BYTES: usize = 128;

/// The result of a command.
#[derive(Debug)]
pub(crate) enum Answer {
    Value(Value),
    /// What was done, and room for its text: nobody may say that it was refused.
    Done(Value, Vec<u8>),
    Extents(Extents),
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) | Self::Done(value, _) => value.serialize(serializer),
            Self::Extents(page) => page.serialize(serializer),
        }
    }
}

/// A page of extents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Extents {
    pub(crate) extents: Vec<Run>,
    pub(crate) changed_bytes: u64,
    /// Where the next page begins, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_offset: Option<u64>,
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Run {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) kind: Kind,
}

/// What a run holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Data,
    Zero,
}

impl From<Content> for Kind {
    fn from(content: Content) -> Self {
        match content {
            Content::Data => Self::Data,
            Content::Zero => Self::Zero,
        }
    }
}

impl Answer {
    /// Bytes of its text, or more.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::Value(value) | Self::Done(value, _) => text_bytes(value),
            Self::Extents(page) => PAGE_TEXT_BYTES + RUN_TEXT_BYTES * page.extents.len(),
        }
    }

    /// Gives back the room for its text, which is written next.
    pub(crate) fn give_room(&mut self) {
        if let Self::Done(_, room) = self {
            *room = Vec::new();
        }
    }

    /// As a JSON value, for people.
    ///
    /// # Errors
    /// `NoMemory`.
    pub(crate) fn into_value(self) -> datum_store::Result<Value> {
        match self {
            Self::Value(value) | Self::Done(value, _) => Ok(value),
            Self::Extents(page) => page.into_value(),
        }
    }
}

impl Extents {
    fn into_value(self) -> datum_store::Result<Value> {
        room_for(self.extents.len() * RUN_VALUE_BYTES)?;
        Ok(serde_json::to_value(&self).unwrap_or_else(|error| json!(error.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn page(runs: usize, next_offset: Option<u64>) -> Answer {
        let run = Run { offset: u64::MAX, length: u64::MAX, kind: Kind::Zero };
        Answer::Extents(Extents { extents: vec![run; runs], changed_bytes: u64::MAX, next_offset })
    }

    #[test]
    fn a_page_is_the_same_as_text_and_as_a_value() {
        for answer in [page(0, None), page(2, Some(7))] {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), answer.into_value().unwrap());
        }
    }

    #[test]
    fn no_page_is_longer_than_it_says() {
        for answer in [page(0, Some(u64::MAX)), page(1, None), page(1000, Some(u64::MAX))] {
            assert!(serde_json::to_string(&answer).unwrap().len() <= answer.text_bytes());
        }
    }
}
