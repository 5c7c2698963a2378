//! Data writes that wait together go out together: those that lie side by side become one request.
//!
//! - The first that waits gives the others one turn to join, and then waits while as many batches are under way as the
//!   disk gets; a slow disk so gets fewer and larger requests, and a fast one is never waited for.
//! - Whoever finds that a batch may leave carries all that waits. A writer that is dropped takes nobody along.
//! - A request that fails is tried again piece by piece, so that a bad place costs only who wanted it.
//!
//! Order does not matter: nothing refers to a data block before its write has completed.

use crate::device::{Block, BlockDevice, DeviceError};
use crate::format::Address;
use crate::shell::Shell;
use crate::sync::{Deferred, yield_now};
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::mem;
use core::task::{Poll, Waker};
use futures_util::future::join_all;

/// Batches of one member under way before further writes wait for more of their kind.
const BATCHES: usize = 2;
/// Blocks that wait for nobody.
const BATCH_BLOCKS: usize = 64;
/// Blocks of a request at most.
const REQUEST_BLOCKS: usize = 256;

/// The data writes of one member that wait.
#[derive(Default)]
pub(crate) struct Gather {
    waiting: RefCell<VecDeque<Rc<Part>>>,
    waiting_blocks: Cell<usize>,
    batches: Cell<usize>,
}

/// One write, and what became of it.
struct Part {
    address: Address,
    count: usize,
    blocks: RefCell<Vec<Block>>,
    /// It has left; its outcome comes by itself.
    carried: Cell<bool>,
    outcome: Cell<Option<Result<(), DeviceError>>>,
    waker: RefCell<Option<Waker>>,
}

impl Part {
    fn end(&self, blocks: Vec<Block>, outcome: Result<(), DeviceError>) {
        *self.blocks.borrow_mut() = blocks;
        self.outcome.set(Some(outcome));
        self.wake();
    }

    fn wake(&self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    fn end_address(&self) -> u64 {
        self.address.0 + self.count as u64
    }
}

impl Gather {
    fn may_leave(&self) -> bool {
        self.batches.get() < BATCHES || self.is_full()
    }

    fn is_full(&self) -> bool {
        self.waiting_blocks.get() >= BATCH_BLOCKS
    }

    /// Lets the first that waits look whether it may leave.
    fn wake_next(&self) {
        if let Some(first) = self.waiting.borrow().front() {
            first.wake();
        }
    }

    /// Adds a part that waits; tells whether it is the first.
    fn put(&self, part: &Rc<Part>) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(part.clone());
        self.waiting_blocks.set(self.waiting_blocks.get() + part.count);
        waiting.len() == 1
    }

    /// Everything that waits, by address.
    fn take(&self) -> Vec<Rc<Part>> {
        self.waiting_blocks.set(0);
        let mut parts: Vec<Rc<Part>> = self.waiting.take().into();
        parts.iter().for_each(|part| part.carried.set(true));
        parts.sort_unstable_by_key(|part| part.address);
        parts
    }

    fn remove(&self, part: &Rc<Part>) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(position) = waiting.iter().position(|other| Rc::ptr_eq(other, part)) {
            waiting.remove(position);
            self.waiting_blocks.set(self.waiting_blocks.get() - part.count);
        }
    }
}

impl<D: BlockDevice> Shell<D> {
    /// Writes adjacent blocks of data, with what others write beside them; hands them back either way.
    pub(crate) async fn write_data(
        &self,
        address: Address,
        blocks: Vec<Block>,
    ) -> (Vec<Block>, Result<(), DeviceError>) {
        let Some(gather) = self.gathers.get(address.member()) else {
            return (blocks, Err(DeviceError::OutOfRange));
        };
        let part = Rc::new(Part {
            address,
            count: blocks.len(),
            blocks: RefCell::new(blocks),
            carried: Cell::new(false),
            outcome: Cell::new(None),
            waker: RefCell::new(None),
        });
        let is_first = gather.put(&part);
        let dropped = Deferred::new(|| {
            gather.remove(&part);
            gather.wake_next();
        });
        if is_first && gather.may_leave() {
            yield_now().await;
        }
        // Who is not the first will be carried by it, or looks again when it is.
        let mut looks = is_first || gather.is_full();
        let leaves = poll_fn(|context| match part.outcome.get() {
            Some(_) => Poll::Ready(false),
            None if looks && !part.carried.get() && gather.may_leave() => Poll::Ready(true),
            None => {
                looks = true;
                *part.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        });
        if leaves.await {
            self.carry(gather).await;
        }
        dropped.defuse();
        let outcome = part.outcome.get().unwrap_or(Err(DeviceError::Io));
        (part.blocks.take(), outcome)
    }

    /// Writes all that waits.
    async fn carry(&self, gather: &Gather) {
        let parts = gather.take();
        gather.batches.set(gather.batches.get() + 1);
        let done = Deferred::new(|| {
            gather.batches.set(gather.batches.get() - 1);
            // Those whose carrier was dropped: what they wrote may be there or not.
            parts.iter().filter(|part| part.outcome.get().is_none()).for_each(|part| {
                part.end(Vec::new(), Err(DeviceError::Io));
            });
            gather.wake_next();
        });
        let requests = requests(&parts).into_iter().map(|request| self.write_together(request));
        join_all(requests).await;
        drop(done);
    }

    /// Writes parts that lie side by side.
    async fn write_together(&self, parts: &[Rc<Part>]) {
        let Some(first) = parts.first() else { return };
        let blocks = parts.iter().flat_map(|part| mem::take(&mut *part.blocks.borrow_mut())).collect();
        let (blocks, outcome) = self.write_blocks(first.address, blocks).await;
        let mut blocks = blocks.into_iter();
        for part in parts {
            let own: Vec<Block> = blocks.by_ref().take(part.count).collect();
            if outcome.is_ok() || parts.len() == 1 || own.len() < part.count {
                part.end(own, outcome);
            } else {
                let (own, outcome) = self.write_blocks(part.address, own).await;
                part.end(own, outcome);
            }
        }
    }
}

/// Cuts parts in the order of their addresses into those that make a request each.
fn requests(parts: &[Rc<Part>]) -> Vec<&[Rc<Part>]> {
    let mut requests = Vec::new();
    let mut rest = parts;
    while let Some(first) = rest.first() {
        let mut count = first.count;
        let joins = rest.windows(2).take_while(|pair| {
            count += pair[1].count;
            pair[0].end_address() == pair[1].address.0 && count <= REQUEST_BLOCKS
        });
        let (request, others) = rest.split_at(1 + joins.count());
        requests.push(request);
        rest = others;
    }
    requests
}
