//! `changes.query` and `allocated.query`: which bytes changed, or hold data.

use crate::answer::{Extents, Run};
use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::limits::{EXTENTS_DEFAULT, EXTENTS_MAX};
use alloc::format;
use alloc::vec::Vec;
use datum_store::device::{BLOCK_SIZE, BlockDevice};
use datum_store::{BlockIndex, Content, Error, ErrorKind, Extent, Image, Name, Result, Since, View};

/// Extents that the store is asked for at a time: unchanged runs lie between the changed ones.
const STORE_PAGE: usize = 1024;

/// Runs of a page that need no room found for them.
const RUNS_ALWAYS: usize = 4;

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
    ) -> Result<Extents> {
        let pool = self.pool().await?;
        let view = View::Changes(pool.resolve_since(volume, until, since).await?);
        query(&pool.open_image(volume, until).await?, view, page).await
    }

    pub(super) async fn allocated_query(
        &self,
        volume: &Name,
        checkpoint: Option<&Name>,
        page: Page,
    ) -> Result<Extents> {
        let pool = self.pool().await?;
        query(&pool.open_image(volume, checkpoint).await?, View::Allocation, page).await
    }
}

async fn query<D: BlockDevice>(image: &Image<D>, view: View, page: Page) -> Result<Extents> {
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
                return Ok(found.into_page());
            }
        }
    }
    Ok(found.into_page())
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
        let run = Run { offset, length: end.saturating_sub(offset), kind: extent.content.into() };
        let full = self.runs.len() == self.limit || !self.has_room();
        match self.runs.last_mut() {
            _ if run.length == 0 => {}
            Some(last) if last.kind == run.kind && last.offset + last.length == run.offset => {
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

    fn into_page(self) -> Extents {
        let changed_bytes = self.runs.iter().map(|run| run.length).sum();
        Extents { extents: self.runs, changed_bytes, next_offset: self.next_offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Kind;
    use alloc::vec;
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
        let run = |offset, kind| Run { offset, length: 8192, kind };
        let extents = vec![run(4096, Kind::Data), run(12288, Kind::Zero)];
        assert_eq!(found.into_page(), Extents { extents, changed_bytes: 16384, next_offset: Some(24576) });
    }

    #[test]
    fn an_offset_beyond_the_end_is_an_error_and_the_end_is_empty() {
        assert_eq!(Found::new(9, 8, 1).unwrap_err().kind(), ErrorKind::Invalid);
        let nothing = Extents { extents: Vec::new(), changed_bytes: 0, next_offset: None };
        assert_eq!(Found::new(8, 8, 1).unwrap().into_page(), nothing);
    }
}
