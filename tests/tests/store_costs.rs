//! What a client's request costs, as counts that mean the same on every machine: device requests, bytes written, flushes
//! and allocations. Each has a budget; what is below it today may not rise above it unnoticed.
//!
//! One test in this file, because the counting allocator is the process's. The device is memory and answers at once, so
//! that nothing but the store is counted.

use std::alloc::System;

use datum_store::device::BLOCK_SIZE;
use datum_store::{BlockIndex, Config, Image, Name, NewPool, Pool, TimelineId};
use datum_tests::disk::memory::{Counts, Memory, blocks};
use datum_tests::rng::Rng;
use futures_executor::block_on;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const DISK_BLOCKS: u64 = 64 << 10;
const VOLUME_BLOCKS: u64 = 32 << 10;
const ROUNDS: u64 = 256;

/// A pool with one volume, written once and committed.
struct World {
    disk: Memory,
    pool: Pool<Memory>,
    image: Image<Memory>,
    rng: Rng,
}

impl World {
    fn new() -> Self {
        let disk = Memory::new(DISK_BLOCKS);
        let name = Name::new("v").expect("a name");
        let new = NewPool { name: name.clone(), id: 1, incarnation: 1, time: 0 };
        let pool = block_on(Pool::create(vec![disk.clone()], new, Config::new(8192))).expect("a pool");
        let size = VOLUME_BLOCKS * BLOCK_SIZE as u64;
        block_on(pool.create_volume(&name, size, TimelineId(1), 0)).expect("a volume");
        let image = block_on(pool.open_image(&name, None)).expect("an image");
        for first in (0..VOLUME_BLOCKS).step_by(256) {
            block_on(image.write(BlockIndex(first), blocks(256))).expect("written");
        }
        block_on(pool.commit()).expect("committed");
        Self { disk, pool, image, rng: Rng::new(1) }
    }

    fn place(&mut self, length: u64) -> BlockIndex {
        BlockIndex(self.rng.below(VOLUME_BLOCKS / length) * length)
    }

    /// What `ROUNDS` rounds of something cost in all, and how many allocations.
    fn cost(&mut self, mut round: impl FnMut(&mut Self)) -> (Counts, u64) {
        self.disk.take_counts();
        let mut allocations = 0;
        for _ in 0..ROUNDS {
            let region = Region::new(ALLOCATOR);
            round(self);
            allocations += region.change().allocations as u64;
        }
        (self.disk.take_counts(), allocations)
    }
}

/// The most that one of something may cost; the payload's own buffers are among the allocations.
struct Budget {
    reads: f64,
    writes: f64,
    written_blocks: f64,
    flushes: f64,
    allocations: f64,
}

const NOTHING: Budget =
    Budget { reads: 0.0, writes: 0.0, written_blocks: 0.0, flushes: 0.0, allocations: 0.0 };

/// Tells what something costs now, and notes where that is more than its budget.
fn keep_within(over: &mut Vec<String>, what: &str, (counts, allocations): (Counts, u64), most: Budget) {
    for (name, count, most) in [
        ("device reads", counts.reads, most.reads),
        ("device writes", counts.writes, most.writes),
        ("blocks written", counts.written_blocks, most.written_blocks),
        ("flushes", counts.flushes, most.flushes),
        ("allocations", allocations, most.allocations),
    ] {
        let each = count as f64 / ROUNDS as f64;
        println!("{what}: {each:.3} {name} each, at most {most}");
        if each > most {
            over.push(format!("{what} costs {each:.3} {name}, {most} are allowed"));
        }
    }
}

#[test]
fn requests_stay_within_their_budgets() {
    let (mut world, mut over) = (World::new(), Vec::new());
    let cost = world.cost(|world| {
        let first = world.place(1);
        block_on(world.image.read(first, 1)).expect("read");
    });
    keep_within(&mut over, "a read of 4 KiB", cost, Budget { reads: 1.0, allocations: 3.0, ..NOTHING });

    let cost = world.cost(|world| {
        let first = world.place(32);
        block_on(world.image.read(first, 32)).expect("read");
    });
    keep_within(&mut over, "a read of 128 KiB", cost, Budget { reads: 1.0, allocations: 34.0, ..NOTHING });

    let cost = world.cost(|world| {
        let (first, data) = (world.place(1), blocks(1));
        block_on(world.image.write(first, data)).expect("written");
        block_on(world.image.flush()).expect("flushed");
    });
    let most = Budget { writes: 2.0, written_blocks: 2.0, flushes: 1.0, allocations: 25.0, ..NOTHING };
    keep_within(&mut over, "a write of 4 KiB and a flush", cost, most);
    block_on(world.pool.commit()).expect("committed");

    let cost = world.cost(|world| {
        let (first, data) = (world.place(1), blocks(1));
        block_on(world.image.write(first, data)).expect("written");
    });
    keep_within(
        &mut over,
        "a write of 4 KiB",
        cost,
        Budget { writes: 1.0, written_blocks: 1.0, allocations: 15.0, ..NOTHING },
    );
    block_on(world.pool.commit()).expect("committed");

    // One in a while lies across the end of a window of free space.
    let mut next = 0;
    let cost = world.cost(|world| {
        let data = blocks(32);
        block_on(world.image.write(BlockIndex(next), data)).expect("written");
        next += 32;
    });
    keep_within(
        &mut over,
        "a write of 128 KiB",
        cost,
        Budget { writes: 1.1, written_blocks: 32.0, allocations: 46.0, ..NOTHING },
    );
    assert!(over.is_empty(), "{}", over.join("; "));
}
