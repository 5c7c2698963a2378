//! The sound images that inputs change. They are made by the store itself, once, and are the same in every run:
//! volumes with checkpoints, clones and reference points, half-done releases, a queue of freed extents and a
//! log to be replayed.

use super::{DISK_BLOCKS, layout};
use crate::disk::{Blocks, MemoryDisk};
use crate::drive::{drive, turn};
use datum_store::device::{BLOCK_SIZE, Block};
use datum_store::{BlockIndex, Config, Name, NewPool, Pool, TimelineId};
use std::cell::OnceCell;
use std::rc::Rc;

/// How many there are.
pub(super) const COUNT: usize = 3;

/// What lies on the disk, and which of it is metadata.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) contents: Blocks,
    pub(super) metadata: Rc<[u64]>,
}

impl Image {
    pub(super) fn block(&self, at: u64) -> Rc<[u8; BLOCK_SIZE]> {
        self.contents.get(&at).cloned().unwrap_or_else(|| Rc::new([0; BLOCK_SIZE]))
    }
}

/// One of the images.
pub(super) fn image(which: usize) -> Image {
    thread_local! {
        static IMAGES: [OnceCell<Image>; COUNT] = const { [const { OnceCell::new() }; COUNT] };
    }
    let which = which % COUNT;
    IMAGES.with(|images| images[which].get_or_init(|| make(which)).clone())
}

/// A valid name.
pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|| panic!("{text} is no name"))
}

/// The memory of every pool here; steps are short, so that background work pauses everywhere.
pub(super) fn config() -> Config {
    Config { cache_blocks: 256, step_pointers: 7, sweep_bitmaps: 16 }
}

/// Blocks of data.
pub(super) fn data(byte: u8, count: usize) -> Vec<Block> {
    vec![Box::new([byte; BLOCK_SIZE]); count]
}

fn make(which: usize) -> Image {
    let disk = MemoryDisk::new(DISK_BLOCKS, Blocks::new());
    let new = NewPool { name: name("tank"), id: 7 << 100, incarnation: 11, time: 1 };
    let pool = drive(Pool::create(vec![disk.clone()], new, config()), std::future::pending::<()>())
        .unwrap_or_else(|error| panic!("{error:?}"));
    let story = async {
        tell(&pool, which).await.unwrap_or_else(|error| panic!("{error:?}"));
        disk.image()
    };
    let mut contents = drive(story, pool.background(turn));
    let kinds = layout::kinds(&mut contents);
    let metadata = kinds.into_iter().filter(|(_, kind)| *kind != layout::Kind::Data).map(|(at, _)| at);
    let metadata: Rc<[u64]> = metadata.collect();
    Image { contents, metadata }
}

async fn tell(pool: &Pool<MemoryDisk>, which: usize) -> datum_store::Result<()> {
    let (a, b, c) = (name("a"), name("b"), name("c"));
    pool.create_volume(&a, 64 << 12, TimelineId(1), 2).await?;
    pool.create_volume(&b, 1 << 40, TimelineId(2), 3).await?;
    let (first, second) = (pool.open_image(&a, None).await?, pool.open_image(&b, None).await?);
    first.write(BlockIndex(0), data(1, 9)).await?;
    second.write(BlockIndex(1 << 20), data(2, 3)).await?;
    pool.create_checkpoint(&[a.clone(), b.clone()], &name("one"), 4).await?;
    first.write(BlockIndex(3), data(3, 3)).await?;
    pool.create_refpoint(&a, &name("mark"), 5).await?;
    first.trim(BlockIndex(7), 30).await?;
    pool.commit().await?;
    pool.clone_volume(&a, &name("one"), &c, TimelineId(3), 6).await?;
    pool.create_checkpoint(std::slice::from_ref(&a), &name("two"), 7).await?;
    first.write(BlockIndex(4), data(4, 2)).await?;
    pool.commit().await?;
    if which > 0 {
        pool.convert_checkpoint(&a, &name("two"), &name("two")).await?;
        second.write(BlockIndex(5), data(5, 40)).await?;
        second.trim(BlockIndex(6), 1 << 21).await?;
        pool.commit().await?;
        pool.delete_volume(&c).await?;
        if which > 1 {
            for _ in 0..500 {
                turn().await;
            }
        }
        pool.commit().await?;
    }
    // What only the log knows.
    first.write(BlockIndex(60), data(6, 2)).await?;
    pool.create_volume(&name("d"), 8 << 12, TimelineId(4), 8).await?;
    first.trim(BlockIndex(1), 2).await?;
    pool.create_checkpoint(&[a.clone(), b], &name("three"), 9).await?;
    pool.rename_volume(&name("d"), &name("e")).await?;
    pool.resize_volume(&name("e"), 16 << 12).await?;
    pool.delete_checkpoint(&a, &name("one")).await?;
    first.write(BlockIndex(2), data(7, 1)).await?;
    pool.flush().await
}
