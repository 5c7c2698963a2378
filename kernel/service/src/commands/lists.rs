//! Lists in pages: `after` and `limit` come in, `items` and `next` go out.

use crate::limits::{LIST_DEFAULT, LIST_MAX};
use crate::memory::room_for;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use datum_protocol::control::Count;
use datum_store::{Error, ErrorKind, Name, Result};
use serde_json::{Value, json};

/// What one item takes as a JSON value, at most.
pub(super) const ITEM_BYTES: usize = 4096;

/// Which part of a list is wanted.
#[derive(Debug)]
pub(super) struct Window {
    after: Option<String>,
    pub(super) limit: usize,
}

impl Window {
    pub(super) fn new(after: Option<String>, limit: Option<Count>) -> Self {
        let limit = limit.map_or(LIST_DEFAULT, |limit| usize::try_from(limit.0).unwrap_or(LIST_MAX));
        Self { after, limit: limit.clamp(1, LIST_MAX) }
    }

    /// The text to begin after.
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The name to begin after.
    pub(super) fn after_name(&self) -> Result<Option<Name>> {
        self.after().map(|text| Name::new(text).ok_or_else(|| self.unusable())).transpose()
    }

    /// The number to begin after; 0 for the whole list.
    pub(super) fn after_number(&self) -> Result<u64> {
        self.after().map_or(Ok(0), |text| text.parse().map_err(|_| self.unusable()))
    }

    /// One more than asked for, which tells whether there is a next page.
    pub(super) fn probe(&self) -> usize {
        self.limit + 1
    }

    /// The answer, if there is memory for it, from up to [`Window::probe`] entries. `key` is what the next page
    /// begins after.
    pub(super) fn page<T>(
        &self,
        mut entries: Vec<T>,
        key: impl Fn(&T) -> String,
        show: impl Fn(&T) -> Value,
    ) -> Result<Value> {
        let more = entries.len() > self.limit;
        entries.truncate(self.limit);
        room_for(entries.len() * ITEM_BYTES)?;
        let mut page = json!({ "items": entries.iter().map(show).collect::<Vec<_>>() });
        if let Some(last) = entries.last().filter(|_| more) {
            page["next"] = json!(key(last));
        }
        Ok(page)
    }

    fn unusable(&self) -> Error {
        let after = self.after().unwrap_or_default();
        Error::new(
            ErrorKind::Invalid,
            format!("after={after:?} is no place in this list; give `next` of the page before"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn pages_link_up_and_the_last_has_no_next() {
        let window = Window::new(None, Some(Count(2)));
        let show = |n: &u64| json!(n);
        assert_eq!(window.probe(), 3);
        let page = window.page(alloc::vec![1, 2, 3], |n| n.to_string(), show).unwrap();
        assert_eq!(page, json!({"items": [1, 2], "next": "2"}));
        let page = window.page(alloc::vec![3, 4], |n| n.to_string(), show).unwrap();
        assert_eq!(page, json!({"items": [3, 4]}));
    }

    #[test]
    fn limits_and_places_are_checked() {
        assert_eq!(Window::new(None, None).limit, LIST_DEFAULT);
        assert_eq!(Window::new(None, Some(Count(0))).limit, 1);
        assert_eq!(Window::new(None, Some(Count(u64::MAX))).limit, LIST_MAX);
        let window = Window::new(Some("a b".into()), None);
        assert_eq!(window.after_name().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(window.after_number().unwrap_err().kind(), ErrorKind::Invalid);
    }
}
