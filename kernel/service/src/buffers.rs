//! Memory for payloads under way. All sessions share one budget; beside it each session owns one chunk for
//! what it receives and one for what it sends. So a session always goes on, whatever other clients do: one
//! that stops reading, sends half a request or waits for a suspended volume holds up only itself.

use crate::limits::{CHUNK_BLOCKS, SHARED_BLOCKS_MIN};
use crate::signal::Signal;
use alloc::rc::Rc;
use core::cell::Cell;

/// Which way a payload goes. The two never wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Receive,
    Send,
}

/// What all sessions share, in blocks.
pub(crate) struct Buffers {
    blocks: usize,
    free: Cell<usize>,
    session_max: usize,
    signal: Signal,
}

impl Buffers {
    pub(crate) fn new(shared_bytes: u64) -> Rc<Self> {
        let blocks = usize::try_from(shared_bytes / 4096).unwrap_or(usize::MAX).max(SHARED_BLOCKS_MIN);
        Rc::new(Self { blocks, free: Cell::new(blocks), session_max: blocks / 2, signal: Signal::default() })
    }

    /// Blocks of payloads under way.
    pub(crate) fn in_use(&self) -> usize {
        self.blocks - self.free.get()
    }
}

/// One session's part.
pub(crate) struct SessionBuffers {
    shared: Rc<Buffers>,
    taken: Cell<usize>,
    own: [Cell<bool>; 2],
}

impl SessionBuffers {
    pub(crate) fn new(shared: &Rc<Buffers>) -> Rc<Self> {
        Rc::new(Self { shared: shared.clone(), taken: Cell::new(0), own: [Cell::new(true), Cell::new(true)] })
    }

    /// Waits for room for `blocks` blocks, at most a chunk.
    pub(crate) async fn acquire(self: &Rc<Self>, direction: Direction, blocks: usize) -> Permit {
        assert!(blocks <= CHUNK_BLOCKS, "payloads pass in chunks");
        let source = self.shared.signal.until(|| self.take(direction, blocks)).await;
        Permit { session: self.clone(), source }
    }

    fn take(&self, direction: Direction, blocks: usize) -> Option<Source> {
        let free = self.shared.free.get();
        if free >= blocks && self.taken.get() + blocks <= self.shared.session_max {
            self.shared.free.set(free - blocks);
            self.taken.set(self.taken.get() + blocks);
            return Some(Source::Shared(blocks));
        }
        self.own[direction as usize].replace(false).then_some(Source::Own(direction))
    }
}

enum Source {
    Shared(usize),
    Own(Direction),
}

/// Room for a payload; given back when dropped.
pub(crate) struct Permit {
    session: Rc<SessionBuffers>,
    source: Source,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let shared = &self.session.shared;
        match self.source {
            Source::Shared(blocks) => {
                shared.free.set(shared.free.get() + blocks);
                self.session.taken.set(self.session.taken.get() - blocks);
            }
            Source::Own(direction) => self.session.own[direction as usize].set(true),
        }
        shared.signal.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn one_session_cannot_starve_another() {
        let shared = Buffers::new(0);
        let (greedy, modest) = (SessionBuffers::new(&shared), SessionBuffers::new(&shared));
        let mut held = alloc::vec::Vec::new();
        while let Some(permit) = greedy.acquire(Direction::Receive, CHUNK_BLOCKS).now_or_never() {
            held.push(permit);
        }
        assert_eq!(
            held.len(),
            SHARED_BLOCKS_MIN / 2 / CHUNK_BLOCKS + 1,
            "half of the shared room and its own"
        );
        assert!(modest.acquire(Direction::Receive, CHUNK_BLOCKS).now_or_never().is_some());
        assert!(
            greedy.acquire(Direction::Send, CHUNK_BLOCKS).now_or_never().is_some(),
            "directions are apart"
        );
        held.clear();
        assert!(greedy.acquire(Direction::Receive, CHUNK_BLOCKS).now_or_never().is_some());
        assert_eq!(shared.free.get(), SHARED_BLOCKS_MIN);
    }
}
