//! Waiting for a condition on one core: whoever changes the state notifies, whoever waits looks again.
//! Nothing is counted and nothing is handed over, so a dropped waiter loses nothing.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::mem;
use core::task::{Poll, Waker};

/// Tasks that wait for some state to change.
#[derive(Default)]
pub(crate) struct Signal(RefCell<Vec<Waker>>);

impl Signal {
    /// Lets every waiter look again.
    pub(crate) fn notify(&self) {
        let waiters = mem::take(&mut *self.0.borrow_mut());
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Waits until `look` finds what it looks for.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            let mut waiters = self.0.borrow_mut();
            if !waiters.iter().any(|waker| waker.will_wake(context.waker())) {
                waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}
