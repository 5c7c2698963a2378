//! Reads everything a client can see of a pool, in the model's terms.
//!
//! Every extent query is paged with a small limit and held to its contract on the way: ascending, without gap or
//! overlap, neighbours that differ. Data is read back and recognised by its number.

use crate::model::blockmap::{BlockMap, Cell};
use crate::model::content::Contents;
use crate::store::perform::Disk;
use datum_store::{
    BlockIndex, CheckpointInfo, Content, Extent, Image, Name, Pool, RefpointInfo, View, VolumeInfo,
};
use std::collections::BTreeMap;

/// A volume as the store shows it. Changes in the maps are the store's change ids.
#[derive(Clone, Debug)]
pub struct VolumeView {
    /// As listed.
    pub info: VolumeInfo,
    /// The live contents.
    pub head: BlockMap,
    /// Checkpoints and what they hold.
    pub checkpoints: BTreeMap<String, (CheckpointInfo, BlockMap)>,
    /// Reference points.
    pub refpoints: BTreeMap<String, RefpointInfo>,
}

/// A pool as the store shows it, by volume name.
pub type PoolView = BTreeMap<String, VolumeView>;

/// Reads the whole pool. `page` bounds every list.
pub async fn observe(pool: &Pool<Disk>, contents: &Contents, page: usize) -> PoolView {
    let mut view = PoolView::new();
    for info in all_volumes(pool, page).await {
        let image = pool.open_image(&info.name, None).await.expect("a listed volume opens");
        assert_eq!(image.size(), info.size, "image and list agree on the size of {}", info.name);
        assert_eq!(
            image.read_only(),
            pool.status().read_only.is_some(),
            "a live volume is writable if the pool is"
        );
        let head = image_map(&image, contents, page).await;
        let mut checkpoints = BTreeMap::new();
        for checkpoint in all_checkpoints(pool, &info.name, page).await {
            let shown =
                pool.checkpoint(&info.name, &checkpoint.name).await.expect("a listed checkpoint shows");
            // What holds it may have ended in between.
            let shown = CheckpointInfo { held_by: checkpoint.held_by.clone(), ..shown };
            assert_eq!(shown, checkpoint, "list and show agree");
            let image =
                pool.open_image(&info.name, Some(&checkpoint.name)).await.expect("a checkpoint opens");
            assert_eq!(image.size(), checkpoint.size, "image and list agree on {}", checkpoint.name);
            assert!(image.read_only(), "a checkpoint is read-only");
            let map = image_map(&image, contents, page).await;
            checkpoints.insert(checkpoint.name.as_str().into(), (checkpoint, map));
        }
        let mut refpoints = BTreeMap::new();
        for refpoint in all_refpoints(pool, &info.name, page).await {
            let shown = pool.refpoint(&info.name, &refpoint.name).await.expect("a listed refpoint shows");
            assert_eq!(shown, refpoint, "list and show agree");
            refpoints.insert(refpoint.name.as_str().into(), refpoint);
        }
        view.insert(info.name.as_str().into(), VolumeView { info, head, checkpoints, refpoints });
    }
    view
}

/// Cuts every creation time to whole `grain`s.
pub fn cut_times(view: &mut PoolView, grain: u64) {
    for volume in view.values_mut() {
        let checkpoints = volume.checkpoints.values_mut().map(|(info, _)| &mut info.created);
        let refpoints = volume.refpoints.values_mut().map(|info| &mut info.created);
        for created in checkpoints.chain(refpoints).chain([&mut volume.info.created]) {
            *created -= *created % grain;
        }
    }
}

macro_rules! pages {
    ($items:ident, $page:ident, |$after:ident| $call:expr) => {{
        let mut $items = Vec::new();
        loop {
            let $after = $items.last().map(|item| named(item)).cloned();
            let $after = $after.as_ref();
            let page = $call.await.expect("a list is answered");
            assert!(page.len() <= $page, "a page keeps its limit");
            if page.is_empty() {
                break;
            }
            $items.extend(page);
        }
        let mut names: Vec<&Name> = $items.iter().map(named).collect();
        names.sort();
        assert!(names.is_sorted_by(|a, b| a < b), "no page repeats what another one listed: {names:?}");
        $items
    }};
}

trait Named {
    fn named(&self) -> &Name;
}

macro_rules! named {
    ($($type:ty),*) => { $(impl Named for $type { fn named(&self) -> &Name { &self.name } })* };
}

named!(VolumeInfo, CheckpointInfo, RefpointInfo);

fn named(item: &impl Named) -> &Name {
    item.named()
}

/// All volumes, by pages.
pub async fn all_volumes(pool: &Pool<Disk>, page: usize) -> Vec<VolumeInfo> {
    pages!(items, page, |after| pool.volumes(after, page))
}

/// All checkpoints of a volume, by pages.
pub async fn all_checkpoints(pool: &Pool<Disk>, volume: &Name, page: usize) -> Vec<CheckpointInfo> {
    pages!(items, page, |after| pool.checkpoints(volume, after, page))
}

/// All reference points of a volume, by pages.
pub async fn all_refpoints(pool: &Pool<Disk>, volume: &Name, page: usize) -> Vec<RefpointInfo> {
    pages!(items, page, |after| pool.refpoints(volume, after, page))
}

/// All extents of an image under a view, by pages, joined where a page cut one.
pub async fn all_extents(image: &Image<Disk>, view: View, page: usize) -> Vec<Extent> {
    let end = image.size() / 4096;
    let mut all: Vec<Extent> = Vec::new();
    let mut next = 0;
    loop {
        let answer = image.extents(BlockIndex(next), BlockIndex(end), view, page).await;
        let answer =
            answer.unwrap_or_else(|error| panic!("extents from {next}: {error} {:?}", error.observations()));
        assert!(answer.extents.len() <= page, "{} extents on a page of {page}", answer.extents.len());
        for (i, extent) in answer.extents.iter().enumerate() {
            assert_eq!(extent.first.0, next, "extents are adjacent");
            assert!(extent.blocks > 0, "no extent is empty");
            next += extent.blocks;
            match all.last_mut() {
                Some(last) if alike(last, extent, view) => {
                    assert!(i == 0, "neighbours on a page differ: {last:?}, {extent:?} under {view:?}");
                    last.blocks += extent.blocks;
                }
                _ => all.push(*extent),
            }
        }
        match answer.next {
            Some(at) => {
                assert_eq!(at.0, next, "the next page starts where this one ends");
                assert!(!answer.extents.is_empty(), "a page makes progress");
            }
            None => {
                assert_eq!(next, end, "the pages cover the whole range under {view:?}");
                return all;
            }
        }
    }
}

fn alike(a: &Extent, b: &Extent, view: View) -> bool {
    match view {
        View::Allocation => a.content == b.content,
        View::Changes(_) => a.changed == b.changed && (!a.changed || a.content == b.content),
        View::ChangeIds => a.content == b.content && a.change == b.change,
    }
}

/// Reads a whole image.
pub async fn image_map(image: &Image<Disk>, contents: &Contents, page: usize) -> BlockMap {
    let mut map = BlockMap::new(image.size() / 4096, 0);
    for extent in all_extents(image, View::ChangeIds, page).await {
        let change = extent.change.0;
        let first = extent.first.0;
        map.set(first, extent.blocks, Cell { content: None, change });
        if extent.content == Content::Data {
            for at in (first..first + extent.blocks).step_by(256) {
                let count = (first + extent.blocks - at).min(256);
                for (block, content) in (at..).zip(read(image, contents, at, count).await) {
                    assert!(content.is_some(), "block {block} is data in the extents and a hole when read");
                    map.set(block, 1, Cell { content, change });
                }
            }
        }
    }
    map
}

/// Reads a few blocks and names what they hold.
pub async fn read(image: &Image<Disk>, contents: &Contents, first: u64, count: u64) -> Vec<Option<u64>> {
    let blocks = image.read(BlockIndex(first), count).await;
    let blocks =
        blocks.unwrap_or_else(|error| panic!("read {first}+{count}: {error} {:?}", error.observations()));
    assert_eq!(blocks.len() as u64, count, "one entry a block");
    let identify = |(at, block): (u64, Option<datum_store::device::Block>)| {
        block.map(|bytes| {
            contents
                .identify(&bytes)
                .unwrap_or_else(|| panic!("block {at} holds bytes that nobody ever wrote"))
        })
    };
    (first..).zip(blocks).map(identify).collect()
}
