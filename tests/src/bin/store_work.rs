//! The store at work without anything around it, for who counts its instructions: one request after the other on a disk in
//! memory, and a commit every so often, by number and not by time. So a count is the same each time, and the difference of
//! two runs, the second with twice the requests, is what the requests took: `cargo xtask bench instructions-store`.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use datum_store::device::BLOCK_SIZE;
use datum_store::{BlockIndex, Config, Image, Name, NewPool, Pool, TimelineId};
use datum_tests::disk::memory::{Memory, blocks};
use datum_tests::rng::Rng;
use futures_executor::block_on;

const VOLUME_BLOCKS: u64 = 16 << 10;
/// Room for what 10,000 checkpoints keep, four times.
const DISK_BLOCKS: u64 = 256 << 10;
/// Requests between two commits.
const INTERVAL: u64 = 1024;
/// Blocks of a request in order.
const LENGTH: u64 = 32;

#[derive(Clone, Copy, ValueEnum)]
enum Load {
    /// Reads of a block at random.
    Read,
    /// Writes of a block at random.
    Write,
    /// Writes of 128 KiB, one behind the other.
    WriteInOrder,
}

#[derive(Parser)]
struct Arguments {
    load: Load,
    /// Requests, a multiple of those between two commits.
    requests: u64,
    /// Checkpoints of the volume, each after one more write.
    #[arg(long, default_value_t = 0)]
    points: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    block_on(work(&arguments))
}

async fn work(arguments: &Arguments) -> Result<()> {
    let volume = Name::new("v").context("a name")?;
    let new = NewPool { name: volume.clone(), id: 1, incarnation: 1, time: 0 };
    let pool = Pool::create(vec![Memory::new(DISK_BLOCKS)], new, Config::new(8192)).await?;
    pool.create_volume(&volume, VOLUME_BLOCKS * BLOCK_SIZE as u64, TimelineId(1), 0).await?;
    let image = pool.open_image(&volume, None).await?;
    for first in (0..VOLUME_BLOCKS).step_by(LENGTH as usize) {
        image.write(BlockIndex(first), blocks(LENGTH as usize)).await?;
    }
    let mut rng = Rng::new(1);
    for point in 0..arguments.points {
        image.write(BlockIndex(rng.below(VOLUME_BLOCKS)), blocks(1)).await?;
        let name = Name::new(&format!("point-{point}")).context("a name")?;
        pool.create_checkpoint(std::slice::from_ref(&volume), &name, point).await?;
        if point % INTERVAL == 0 {
            pool.commit().await?;
        }
    }
    pool.commit().await?;
    for n in 1..=arguments.requests {
        request(&image, arguments.load, n, &mut rng).await?;
        if n % INTERVAL == 0 {
            pool.commit().await?;
        }
    }
    Ok(())
}

async fn request(image: &Image<Memory>, load: Load, n: u64, rng: &mut Rng) -> Result<()> {
    match load {
        Load::Read => drop(image.read(BlockIndex(rng.below(VOLUME_BLOCKS)), 1).await?),
        Load::Write => image.write(BlockIndex(rng.below(VOLUME_BLOCKS)), blocks(1)).await?,
        Load::WriteInOrder => {
            image.write(BlockIndex(n * LENGTH % VOLUME_BLOCKS), blocks(LENGTH as usize)).await?
        }
    }
    Ok(())
}
