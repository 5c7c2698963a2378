//! `changes.query` and `allocated.query`: which bytes changed, or hold data.

use crate::appliance::Appliance;
use crate::commands::Outcome;
use crate::environment::Environment;
use crate::limits::{EXTENTS_DEFAULT, EXTENTS_MAX};
use crate::memory::room_for;
use alloc::format;
use alloc::vec::Vec;
use datum_store::device::{BLOCK_SIZE, BlockDevice};
use datum_store::{BlockIndex, Content, Error, ErrorKind, Extent, Image, Name, Result, Since, View};
use serde_json::{Value, json};

/// Extents that the store is asked for at a time: unchanged runs lie between the changed ones.
const STORE_PAGE: usize = 1024;

/// Runs of a page that need no room found for them.
const RUNS_ALWAYS: usize = 4;

/// What one run takes as a JSON value, at most.
const JSON_BYTES: usize = 1024;

/// Which part of a long answer is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Page {
    /// First byte.
    pub(super) offset: Option<u64>,
    /// Most extents.
    pub(super) limit: Option<u64>,
}

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    pub(super) async fn changes_query(
        &self,
        volume: &Name,
        since: &Since,
        until: Option<&Name>,
        page: Page,
    ) -> Outcome {
        let pool = self.pool().await?;
        let view = View::Changes(pool.resolve_since(volume, until, since).await?);
        query(&pool.open_image(volume, until).await?, view, page).await
    }

    pub(super) async fn allocated_query(
        &self,
        volume: &Name,
        checkpoint: Option<&Name>,
        page: Page,
    ) -> Outcome {
        let pool = self.pool().await?;
        query(&pool.open_image(volume, checkpoint).await?, View::Allocation, page).await
    }
}

async fn query<D: BlockDevice>(image: &Image<D>, view: View, page: Page) -> Outcome {
    let limit = page.limit.map_or(EXTENTS_DEFAULT, |limit| usize::try_from(limit).unwrap_or(EXTENTS_MAX));
    let mut found = Found::new(page.offset.unwrap_or(0), image.size(), limit.clamp(1, EXTENTS_MAX))?;
    let end = BlockIndex(found.end.div_ceil(BLOCK_SIZE as u64));
    let mut next = Some(BlockIndex(found.start / BLOCK_SIZE as u64));
    while let Some(first) = next.filter(|first| *first < end) {
        let page = image.extents(first, end, view, STORE_PAGE).await?;
        next = page.next;
        let counts = |extent: &&Extent| match view {
            View::Allocation => extent.content == Content::Data,
            View::Changes(_) | View::ChangeIds => extent.changed,
        };
        for extent in page.extents.iter().filter(counts) {
            if !found.add(extent) {
                return found.into_answer();
            }
        }
    }
    found.into_answer()
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    offset: u64,
    length: u64,
    content: Content,
}

/// The answer as it grows.
#[derive(Debug)]
struct Found {
    start: u64,
    end: u64,
    limit: usize,
    runs: Vec<Run>,
    next_offset: Option<u64>,
}

impl Found {
    fn new(start: u64, end: u64, limit: usize) -> Result<Self> {
        if start > end {
            let message = format!("offset {start} lies beyond the end of the volume at {end}; ask for less");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self { start, end, limit, runs: Vec::new(), next_offset: None })
    }

    /// Whether there is memory for one more run. A first few come without asking, so that every page goes on.
    fn has_room(&mut self) -> bool {
        self.runs.len() < RUNS_ALWAYS || self.runs.try_reserve(1).is_ok()
    }

    /// Adds an extent; `false` where it begins the next page. Where memory is short a page ends early.
    fn add(&mut self, extent: &Extent) -> bool {
        let offset = (extent.first.0 * BLOCK_SIZE as u64).max(self.start);
        let end = ((extent.first.0 + extent.blocks) * BLOCK_SIZE as u64).min(self.end);
        let run = Run { offset, length: end.saturating_sub(offset), content: extent.content };
        let full = self.runs.len() == self.limit || !self.has_room();
        match self.runs.last_mut() {
            _ if run.length == 0 => {}
            Some(last) if last.content == run.content && last.offset + last.length == run.offset => {
                last.length += run.length;
            }
            _ if full => {
                self.next_offset = Some(offset);
                return false;
            }
            _ => self.runs.push(run),
        }
        true
    }

    /// The answer, if there is memory for it.
    fn into_answer(self) -> Result<Value> {
        room_for(self.runs.len() * JSON_BYTES)?;
        Ok(self.into_json())
    }

    fn into_json(self) -> Value {
        let changed_bytes: u64 = self.runs.iter().map(|run| run.length).sum();
        let kind = |content| if content == Content::Data { "data" } else { "zero" };
        let extents: Vec<Value> = self
            .runs
            .iter()
            .map(|run| json!({ "offset": run.offset, "length": run.length, "kind": kind(run.content) }))
            .collect();
        let mut value = json!({ "extents": extents, "changed_bytes": changed_bytes });
        if let Some(next) = self.next_offset {
            value["next_offset"] = json!(next);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datum_store::ChangeId;

    fn extent(first: u64, blocks: u64, content: Content) -> Extent {
        Extent { first: BlockIndex(first), blocks, content, changed: true, change: ChangeId(1) }
    }

    #[test]
    fn runs_are_merged_cut_and_paged() {
        let mut found = Found::new(4096, 10 * 4096, 2).unwrap();
        assert!(found.add(&extent(0, 2, Content::Data)), "cut at the start");
        assert!(found.add(&extent(2, 1, Content::Data)), "merged");
        assert!(found.add(&extent(3, 1, Content::Zero)), "another kind");
        assert!(found.add(&extent(4, 1, Content::Zero)), "merged although the page is full");
        assert!(!found.add(&extent(6, 4, Content::Zero)), "the next page begins here");
        assert_eq!(
            found.into_json(),
            json!({
                "extents": [
                    {"offset": 4096, "length": 8192, "kind": "data"},
                    {"offset": 12288, "length": 8192, "kind": "zero"},
                ],
                "changed_bytes": 16384,
                "next_offset": 24576,
            })
        );
    }

    #[test]
    fn an_offset_beyond_the_end_is_an_error_and_the_end_is_empty() {
        assert_eq!(Found::new(9, 8, 1).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(Found::new(8, 8, 1).unwrap().into_json(), json!({"extents": [], "changed_bytes": 0}));
    }
}
