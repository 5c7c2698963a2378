//! Blocks scattered over a volume, through our own pipelining client.

use anyhow::{Context, Result};

use super::BLOCK;
use crate::nbd::{Client, Command};

/// Requests under way at once.
const DEPTH: usize = 32;

/// Writes blocks `range` of the sequence that scatters `count` blocks evenly over `size` bytes, and flushes.
pub(super) fn scatter(client: &mut Client, size: u64, count: u64, range: std::ops::Range<u64>) -> Result<()> {
    let stride = size / BLOCK / count;
    let mut under_way = 0;
    for number in range {
        let mut block = vec![0; BLOCK as usize];
        block[..8].copy_from_slice(&number.to_le_bytes());
        client.send(Command::Write(false), place(number, stride), BLOCK, &block)?;
        under_way += 1;
        if under_way == DEPTH {
            finish(client)?;
            under_way -= 1;
        }
    }
    (0..under_way).try_for_each(|_| finish(client))?;
    Ok(client.flush()?)
}

/// Writes block `number` of the same sequence once more, without a flush.
pub(super) fn scatter_one(client: &mut Client, size: u64, count: u64, number: u64) -> Result<()> {
    Ok(client.write(place(number, size / BLOCK / count), &[0xa5; BLOCK as usize])?)
}

/// Where block `number` of the sequence lies: off the grid by a little, so that no power of two is special.
fn place(number: u64, stride: u64) -> u64 {
    (number * stride + number % stride.min(61)) * BLOCK
}

fn finish(client: &mut Client) -> Result<()> {
    client.receive(0, 0)?.into_result().context("a write failed")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_different_and_inside() {
        let (size, count) = (10 << 30, 1000);
        let stride = size / BLOCK / count;
        let places: Vec<_> = (0..count).map(|number| place(number, stride)).collect();
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(places[999] + BLOCK <= size);
    }
}
