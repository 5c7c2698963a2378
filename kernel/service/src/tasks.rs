//! The service's own tasks: requests, commands and jobs that must come to their end even when the client that
//! asked for them has left. One future, [`Tasks::run`], drives them all; the kernel's executor sees only that.

use crate::signal::Signal;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The set of tasks. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Rc<Inbox>);

#[derive(Default)]
struct Inbox {
    spawned: RefCell<Vec<Task>>,
    signal: Signal,
}

impl Tasks {
    /// Runs `task` to its end, whatever becomes of the caller.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawned.borrow_mut().push(Box::pin(task));
        self.0.signal.notify();
    }

    /// As [`Tasks::spawn`]; the returned future gives the task's result. Dropping it does not stop the task.
    pub(crate) fn call<T: 'static>(
        &self,
        task: impl Future<Output = T> + 'static,
    ) -> impl Future<Output = T> {
        let reply = Rc::new((Signal::default(), RefCell::new(None)));
        let sender = reply.clone();
        self.spawn(async move {
            let result = task.await;
            *sender.1.borrow_mut() = Some(result);
            sender.0.notify();
        });
        async move { reply.0.until(|| reply.1.borrow_mut().take()).await }
    }

    /// Drives all tasks; never returns.
    pub(crate) async fn run(&self) {
        let mut running = FuturesUnordered::new();
        loop {
            running.extend(self.0.spawned.take());
            let arrived = self.0.signal.until(|| (!self.0.spawned.borrow().is_empty()).then_some(()));
            if running.is_empty() {
                arrived.await;
                continue;
            }
            if let Either::Left(_) = select(core::pin::pin!(arrived), running.next()).await {
                // New tasks are picked up at the top of the loop.
            }
        }
    }
}
