//! Tasks that wait for something, kept without locks: everything runs on one thread.

use alloc::vec::Vec;
use core::task::{Context, Waker};

/// Tasks waiting for one event. Each waits in a loop: it looks, registers, and looks again when woken.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waker>);

impl Waiters {
    /// Remembers the task behind `context` until the next [`Waiters::wake_into`].
    pub(super) fn register(&mut self, context: &Context<'_>) {
        if !self.0.iter().any(|waker| waker.will_wake(context.waker())) {
            self.0.push(context.waker().clone());
        }
    }

    /// Moves all of them to `woken`, to be woken once nothing is borrowed any more.
    pub(super) fn wake_into(&mut self, woken: &mut Vec<Waker>) {
        woken.append(&mut self.0);
    }
}

/// Wakes what was collected while something was borrowed. The vector keeps its memory, to be used again.
pub(super) fn wake_all(woken: &mut Vec<Waker>) {
    woken.drain(..).for_each(Waker::wake);
}
