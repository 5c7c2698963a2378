//! Bringing metadata into the cache: what a step misses, many blocks at a time.
//!
//! Nodes that were made together lie together, so those that are missed together are read with few requests. Every block is
//! verified by its own pointer; what lies between two that are wanted is read and thrown away.

use crate::device::{Block, BlockDevice};
use crate::error::Result;
use crate::format::Pointer;
use crate::shell::Shell;
use crate::sync::Deferred;
use alloc::vec::Vec;
use core::slice;
use futures_util::stream::{self, StreamExt, TryStreamExt};

/// Reads under way at the same time for one step.
const READS: usize = 16;
/// Blocks that a read covers at most.
const SPAN_BLOCKS: u64 = 32;
/// How far the next block may be for the same read: a request of its own costs more than what lies between.
const STRIDE_BLOCKS: u64 = 8;

impl<D: BlockDevice> Shell<D> {
    /// Brings blocks of metadata into the cache. To be called in the stretch that looked them up, and guards all of them: the
    /// last is read only when the first have been.
    pub(crate) async fn load_all(&self, pointers: &[Pointer]) -> Result<()> {
        let _guard = self.read_guard();
        if pointers.len() == 1 {
            return self.load_near(pointers).await;
        }
        let mut pointers = pointers.to_vec();
        pointers.sort_unstable_by_key(|pointer| pointer.address);
        let loads = neighbours(&pointers).into_iter().map(|near| self.load_near(near));
        stream::iter(loads).buffer_unordered(READS).try_collect().await
    }

    /// Brings blocks that one read covers into the cache, in the order of their addresses.
    async fn load_near(&self, pointers: &[Pointer]) -> Result<()> {
        let begin = |pointer: &Pointer| self.loading.borrow_mut().insert(pointer.address);
        let (own, others): (Vec<Pointer>, Vec<Pointer>) = pointers.iter().partition(|pointer| begin(pointer));
        let done = Deferred::new(|| {
            let mut loading = self.loading.borrow_mut();
            own.iter().for_each(|pointer| assert!(loading.remove(&pointer.address)));
            drop(loading);
            self.changed.notify();
        });
        self.fetch(&own).await.map_err(|error| error.observed("reading metadata"))?;
        drop(done);
        let loading = || others.iter().any(|pointer| self.loading.borrow().contains(&pointer.address));
        self.changed.until(|| !loading()).await;
        Ok(())
    }

    async fn fetch(&self, pointers: &[Pointer]) -> Result<()> {
        let ([first, ..], [.., last]) = (pointers, pointers) else { return Ok(()) };
        let count = last.address.0 - first.address.0 + 1;
        self.engine.borrow_mut().counters.node_reads += pointers.len() as u64;
        match self.read_blocks(first.address, count).await {
            // The bad block may be one that nobody asked for.
            Err(_) if count > 1 => {
                for pointer in pointers {
                    self.take_in(slice::from_ref(pointer), self.read_blocks(pointer.address, 1).await?)?;
                }
                Ok(())
            }
            read => self.take_in(pointers, read?),
        }
    }

    /// Puts those of adjacent blocks that are wanted into the cache. The first of them is.
    fn take_in(&self, pointers: &[Pointer], blocks: Vec<Block>) -> Result<()> {
        let mut wanted = pointers.iter().peekable();
        let first = pointers.first().map_or(0, |pointer| pointer.address.0);
        for (address, block) in (first..).zip(blocks) {
            let Some(pointer) = wanted.next_if(|pointer| pointer.address.0 == address) else { continue };
            if !self.verifies(pointer, &block) {
                return Err(self.corrupt(pointer));
            }
            self.engine.borrow_mut().forest.cache.insert_clean(pointer, block);
        }
        wanted.next().map_or(Ok(()), |pointer| Err(self.corrupt(pointer)))
    }
}

/// Cuts pointers in the order of their addresses into those that a read covers each.
fn neighbours(pointers: &[Pointer]) -> Vec<&[Pointer]> {
    let mut reads = Vec::new();
    let mut rest = pointers;
    while let Some(first) = rest.first() {
        let first = first.address.0;
        let joins = rest.windows(2).take_while(|pair| {
            let next = pair[1].address.0;
            next - pair[0].address.0 <= STRIDE_BLOCKS && next - first < SPAN_BLOCKS
        });
        let (read, others) = rest.split_at(1 + joins.count());
        reads.push(read);
        rest = others;
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Address;
    use alloc::vec;

    fn lengths(addresses: &[u64]) -> Vec<usize> {
        let pointer = |&at: &u64| Pointer { address: Address(at), ..Pointer::default() };
        let pointers: Vec<Pointer> = addresses.iter().map(pointer).collect();
        neighbours(&pointers).into_iter().map(<[Pointer]>::len).collect()
    }

    #[test]
    fn what_lies_near_is_read_together() {
        assert_eq!(lengths(&[]), vec![]);
        assert_eq!(lengths(&[5, 6, 14, 23, 24]), vec![3, 2]);
        // Members are far apart.
        assert_eq!(lengths(&[Address::new(0, 9).0, Address::new(1, 9).0]), vec![1, 1]);
        // The same block twice is one.
        assert_eq!(lengths(&[7, 7, 8]), vec![3]);
    }

    #[test]
    fn no_read_covers_too_much() {
        let addresses: Vec<u64> = (0..100).collect();
        assert_eq!(lengths(&addresses), vec![32, 32, 32, 4]);
    }
}
