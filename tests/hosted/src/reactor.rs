//! Waiting: an executor runs until everything waits, then one `poll` waits for sockets, disks and timers and wakes whoever
//! has something to do.

use anyhow::Result;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Time, sleep, and readiness of sockets and disks.
#[derive(Clone)]
pub(crate) struct Host(Rc<Reactor>);

struct Reactor {
    started: Instant,
    /// Written to by the disks' threads when they have done something.
    done: Arc<OwnedFd>,
    sockets: RefCell<Vec<Wait>>,
    timers: RefCell<Vec<(Instant, Waker)>>,
}

struct Wait {
    socket: Rc<dyn AsFd>,
    event: PollFlags,
    waker: Waker,
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        let done = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (sockets, timers) = (RefCell::default(), RefCell::default());
        Ok(Self(Rc::new(Reactor { started: Instant::now(), done, sockets, timers })))
    }

    /// Tries `operation` until the socket no longer asks to wait.
    pub(crate) async fn when<S: AsFd + 'static, T>(
        &self,
        socket: &Rc<S>,
        event: PollFlags,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        poll_fn(|context| match operation(socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.wait(socket.clone(), event, context.waker());
                Poll::Pending
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            result => Poll::Ready(result),
        })
        .await
    }

    /// Since the program started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// What a disk's thread writes to when it has done something.
    pub(crate) fn bell(&self) -> Arc<OwnedFd> {
        self.0.done.clone()
    }

    /// Wakes at that moment, unless it has come.
    pub(crate) fn sleep_until(&self, until: Instant) -> impl Future<Output = ()> {
        poll_fn(move |context| {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            let mut timers = self.0.timers.borrow_mut();
            if !timers.iter().any(|(at, waker)| *at == until && waker.will_wake(context.waker())) {
                timers.push((until, context.waker().clone()));
            }
            Poll::Pending
        })
    }

    fn wait(&self, socket: Rc<dyn AsFd>, event: PollFlags, waker: &Waker) {
        let mut waits = self.0.sockets.borrow_mut();
        let known = |wait: &Wait| {
            Rc::ptr_eq(&wait.socket, &socket) && wait.event == event && wait.waker.will_wake(waker)
        };
        if !waits.iter().any(known) {
            waits.push(Wait { socket, event, waker: waker.clone() });
        }
    }

    /// Sleeps until a socket is ready, a disk has done something or a timer has run out, and wakes who waits for it.
    pub(crate) fn park(&self) -> Result<()> {
        let waits = self.0.sockets.take();
        let next = self.0.timers.borrow().iter().map(|(at, _)| *at).min();
        let timeout =
            next.map(|at| Timespec::try_from(at.saturating_duration_since(Instant::now()))).transpose()?;
        let mut polled: Vec<PollFd<'_>> =
            waits.iter().map(|wait| PollFd::from_borrowed_fd(wait.socket.as_fd(), wait.event)).collect();
        polled.push(PollFd::new(&self.0.done, PollFlags::IN));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        drop(polled);
        // Who waits for a disk was woken by its thread; what counts here is that `poll` has returned.
        let _ = rustix::io::read(&self.0.done, &mut [0_u8; 8]);
        for (wait, ready) in waits.into_iter().zip(ready) {
            if ready {
                wait.waker.wake();
            } else {
                self.0.sockets.borrow_mut().push(wait);
            }
        }
        let now = Instant::now();
        let due: Vec<_> = self.0.timers.borrow_mut().extract_if(.., |(at, _)| *at <= now).collect();
        due.into_iter().for_each(|(_, waker)| waker.wake());
        Ok(())
    }
}
