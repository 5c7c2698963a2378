//! Uses a pool of which nothing is known: opens it, reads all it shows, changes it, and opens it again.

use super::sound::{config, data, name};
use crate::disk::MemoryDisk;
use crate::drive::{drive, turn};
use datum_store::{BlockIndex, Name, Pool, Progress, Since, TimelineId, View, probe};

/// Volumes, and points of each, that are looked at.
const SEEN_MAX: usize = 8;
/// Blocks of a volume that are read.
const READ_BLOCKS: u64 = 64;
/// Turns that background work gets by itself.
const TURNS: usize = 60;

/// `deeds` chooses what is done between the openings.
pub(super) fn all(disk: &MemoryDisk, deeds: u16) {
    let _any = drive(probe(disk), std::future::pending::<()>());
    for opening in 0..2 {
        let open = Pool::open(vec![disk.clone()], 20 + opening, config());
        let Ok(pool) = drive(open, std::future::pending::<()>()) else { return };
        let work = async {
            look(&pool).await;
            if opening == 0 {
                change(&pool, deeds).await;
                for _ in 0..TURNS {
                    turn().await;
                }
                look(&pool).await;
                let _closed = pool.close().await;
            }
        };
        drive(work, pool.background(turn));
    }
}

/// Reads everything that a client could.
async fn look(pool: &Pool<MemoryDisk>) {
    let _status = (pool.status(), pool.counters(), pool.is_dirty());
    for volume in volumes(pool).await {
        let _shown = pool.volume(&volume).await;
        look_at(pool, &volume, None).await;
        for checkpoint in checkpoints(pool, &volume).await {
            look_at(pool, &volume, Some(&checkpoint)).await;
            let _bytes = pool.unique_bytes(&volume, &checkpoint).await;
            let _change = pool.resolve_since(&volume, None, &Since::Point(checkpoint)).await;
        }
        for refpoint in refpoints(pool, &volume).await {
            let _shown = pool.refpoint(&volume, &refpoint).await;
            let Ok(token) = pool.token(&volume, &refpoint).await else { continue };
            let Ok(change) = pool.resolve_since(&volume, None, &Since::Token(token)).await else { continue };
            let Ok(image) = pool.open_image(&volume, None).await else { continue };
            let _page = image.extents(BlockIndex(0), BlockIndex(1 << 28), View::Changes(change), 50).await;
        }
    }
}

async fn look_at(pool: &Pool<MemoryDisk>, volume: &Name, checkpoint: Option<&Name>) {
    let Ok(image) = pool.open_image(volume, checkpoint).await else { return };
    let end = BlockIndex(image.size() / 4096);
    let _blocks = image.read(BlockIndex(0), READ_BLOCKS.min(end.0)).await;
    for view in [View::Allocation, View::ChangeIds] {
        let Ok(page) = image.extents(BlockIndex(0), end, view, 20).await else { continue };
        let Some(next) = page.next else { continue };
        let _blocks = image.read(next, 1).await;
    }
}

async fn volumes(pool: &Pool<MemoryDisk>) -> Vec<Name> {
    pool.volumes(None, SEEN_MAX)
        .await
        .map(|list| list.into_iter().map(|v| v.name).collect())
        .unwrap_or_default()
}

async fn checkpoints(pool: &Pool<MemoryDisk>, volume: &Name) -> Vec<Name> {
    let list = pool.checkpoints(volume, None, SEEN_MAX).await;
    list.map(|list| list.into_iter().map(|point| point.name).collect()).unwrap_or_default()
}

async fn refpoints(pool: &Pool<MemoryDisk>, volume: &Name) -> Vec<Name> {
    let list = pool.refpoints(volume, None, SEEN_MAX).await;
    list.map(|list| list.into_iter().map(|point| point.name).collect()).unwrap_or_default()
}

/// Does what each bit of `deeds` stands for.
async fn change(pool: &Pool<MemoryDisk>, deeds: u16) {
    let wanted = |bit: u16| deeds >> bit & 1 == 0;
    for (at, volume) in volumes(pool).await.into_iter().enumerate() {
        if let Ok(image) = pool.open_image(&volume, None).await {
            if wanted(0) {
                let _written = image.write(BlockIndex(1), data(9, 5)).await;
                let _written = image.write_partial(BlockIndex(3), 100, b"fuzz").await;
            }
            if wanted(1) {
                let _trimmed = image.trim(BlockIndex(2), 1 << 22).await;
            }
            if wanted(2) {
                let _flushed = image.flush().await;
            }
        }
        let points = checkpoints(pool, &volume).await;
        if let Some(first) = points.first() {
            if wanted(3) {
                let clone = name(&format!("clone{at}"));
                let _cloned = pool.clone_volume(&volume, first, &clone, TimelineId(40), 20).await;
            }
            if wanted(4) {
                let _reverted = pool.revert_volume(&volume, first, &Progress::new()).await;
            }
            if wanted(5) {
                let _converted = pool.convert_checkpoint(&volume, first, &name("was")).await;
            }
        }
        if let Some(last) = points.last().filter(|_| wanted(6)) {
            let _deleted = pool.delete_checkpoint(&volume, last).await;
        }
        if wanted(7) {
            let _made = pool.create_checkpoint(std::slice::from_ref(&volume), &name("new"), 21).await;
        }
        if let Some(point) = refpoints(pool, &volume).await.first().filter(|_| wanted(8)) {
            let _deleted = pool.delete_refpoint(&volume, point).await;
        }
        if wanted(9) {
            let _resized = pool.resize_volume(&volume, 5 << 12).await;
        }
        if wanted(10) {
            let _renamed = pool.rename_volume(&volume, &name(&format!("renamed{at}"))).await;
        }
        if !wanted(11) {
            let _deleted = pool.delete_volume(&volume).await;
        }
    }
    if wanted(12) {
        let _committed = pool.commit().await;
    }
    if wanted(13) {
        pool.drop_cache();
    }
    if wanted(14) {
        let _report = pool.check(&Progress::new()).await;
    }
    if !wanted(15) {
        let _report = pool.scrub(&Progress::new()).await;
    }
}
