//! A disk in memory whose flushes can be held back, and futures polled by hand: for stories in which one
//! flush must still be under way when something else happens.

use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    visible: BTreeMap<u64, Block>,
    durable: BTreeMap<u64, Block>,
    held: Cell<bool>,
}

/// The disk; clones are the same disk.
#[derive(Clone)]
pub struct HeldDisk {
    name: &'static str,
    blocks: u64,
    state: Rc<RefCell<State>>,
}

impl HeldDisk {
    /// A blank disk.
    pub fn new(name: &'static str, blocks: u64) -> Self {
        Self { name, blocks, state: Rc::default() }
    }

    /// From now on flushes wait.
    pub fn hold_flushes(&self) {
        self.state.borrow().held.set(true);
    }

    /// The disk as a power loss leaves it: nothing that was not flushed.
    pub fn after_power_loss(&self) -> Self {
        let durable = self.state.borrow().durable.clone();
        let state = State { visible: durable.clone(), durable, held: Cell::new(false) };
        Self { state: Rc::new(RefCell::new(state)), ..self.clone() }
    }
}

impl BlockDevice for HeldDisk {
    fn name(&self) -> &str {
        self.name
    }

    fn geometry(&self) -> Geometry {
        Geometry { blocks: self.blocks, read_only: false, discard: false }
    }

    async fn read(&self, start: u64, mut into: Vec<Block>) -> Transfer {
        pause(2).await;
        let state = self.state.borrow();
        for (at, block) in (start..).zip(&mut into) {
            match state.visible.get(&at) {
                Some(bytes) => block.copy_from_slice(&bytes[..]),
                None => block.fill(0),
            }
        }
        (into, Ok(()))
    }

    async fn write(&self, start: u64, from: Vec<Block>) -> Transfer {
        pause(2).await;
        self.state.borrow_mut().visible.extend((start..).zip(from.iter().cloned()));
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        let submitted = self.state.borrow().visible.clone();
        pause(2).await;
        while self.state.borrow().held.get() {
            pause(1).await;
        }
        self.state.borrow_mut().durable.extend(submitted);
        Ok(())
    }

    async fn discard(&self, _start: u64, _count: u64) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Is ready after so many polls.
pub(crate) async fn pause(mut polls: u32) {
    poll_fn(move |context| {
        context.waker().wake_by_ref();
        let ready = polls == 0;
        polls = polls.saturating_sub(1);
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Polls a future up to so many times.
pub fn poll_for<T>(mut future: Pin<&mut impl Future<Output = T>>, polls: usize) -> Option<T> {
    let mut context = Context::from_waker(Waker::noop());
    (0..polls).find_map(|_| match future.as_mut().poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}

/// Polls a future to its end.
pub fn finish<T>(future: impl Future<Output = T>) -> T {
    poll_for(pin!(future), 2_000_000).expect("the future gets nowhere")
}
