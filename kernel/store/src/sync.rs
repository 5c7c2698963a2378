//! The few asynchronous tools the store needs. What gives others a turn serves whoever runs it, too.

use core::future::poll_fn;
use core::task::Poll;
use event_listener::Event;

/// Lets every other task have a turn.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Something that tasks wait for to change.
#[derive(Debug, Default)]
pub(crate) struct Changed(Event);

impl Changed {
    pub(crate) fn new() -> Self {
        Self(Event::new())
    }

    /// Wakes all who wait.
    pub(crate) fn notify(&self) {
        self.0.notify(usize::MAX);
    }

    /// Waits until the condition holds; it is looked at after each change.
    pub(crate) async fn until(&self, mut condition: impl FnMut() -> bool) {
        while !condition() {
            self.0.listen().await;
        }
    }
}

/// Runs what it holds when dropped: a count given back, a flag taken down.
pub(crate) struct Deferred<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Deferred<F> {
    pub(crate) fn new(run: F) -> Self {
        Self(Some(run))
    }
}

impl<F: FnOnce()> Deferred<F> {
    /// Drops it without running it.
    pub(crate) fn defuse(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Deferred<F> {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run();
        }
    }
}
