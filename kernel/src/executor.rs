//! Runs the tasks: one core, one thread, cooperative, and asleep when there is nothing to do.
//!
//! A round polls the devices, runs due interrupt handlers (the timer's among them), then every task that is ready. When a round finds
//! nothing the executor looks on for a moment, for a disk often answers sooner than a halted processor wakes, and
//! then halts. No wake-up is lost: devices are told to interrupt with interrupts disabled, and what they completed
//! before that keeps the processor from halting (see `Polled` and `interrupts::wait`). There is no periodic tick.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Waker};
use datum_drivers::virtio::Polled;
use datum_drivers::{clock, interrupts};
use spin::Mutex;

/// How long to look on before halting. Longer than most disk requests take, and far below what would show as load.
const LOOK_ON_NANOSECONDS: u64 = 50_000;

/// The tasks and devices. Clones share them; any task may hold one to spawn others.
#[derive(Clone, Default)]
pub(crate) struct Executor(Rc<Shared>);

#[derive(Default)]
struct Shared {
    /// By task number. A place is empty while its task is being polled, or free for another.
    tasks: RefCell<Vec<Option<Task>>>,
    free: RefCell<Vec<usize>>,
    ready: Arc<ReadyQueue>,
    devices: RefCell<Vec<Rc<dyn Polled>>>,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    wakeup: Arc<Wakeup>,
    waker: Waker,
}

/// Numbers of the tasks to run, in the order they were woken.
#[derive(Default)]
struct ReadyQueue(Mutex<VecDeque<usize>>);

/// What a waker leads to: the task's number, put into the queue at most once at a time.
struct Wakeup {
    number: usize,
    queued: AtomicBool,
    queue: Arc<ReadyQueue>,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.queue.0.lock().push_back(self.number);
        }
    }
}

impl Executor {
    /// Polls `device` in every round.
    pub(crate) fn add_device(&self, device: Rc<dyn Polled>) {
        self.0.devices.borrow_mut().push(device);
    }

    /// Runs `future` as a task of its own.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.0.tasks.borrow_mut();
        let number = self.0.free.borrow_mut().pop().unwrap_or(tasks.len());
        if number == tasks.len() {
            tasks.push(None);
        }
        let queue = self.0.ready.clone();
        let wakeup = Arc::new(Wakeup { number, queued: AtomicBool::new(false), queue });
        wakeup.wake_by_ref();
        let waker = Waker::from(wakeup.clone());
        tasks[number] = Some(Task { future: Box::pin(future), wakeup, waker });
    }

    /// Runs tasks for ever.
    pub(crate) fn run(&self) -> ! {
        let mut quiet_since = None;
        loop {
            if self.round() {
                quiet_since = None;
                continue;
            }
            let now = clock::monotonic_nanoseconds();
            let since = *quiet_since.get_or_insert(now);
            if now - since >= LOOK_ON_NANOSECONDS {
                self.halt();
                quiet_since = None;
            }
        }
    }

    /// One look at everything; true if anything happened.
    fn round(&self) -> bool {
        let completed = self.each_device(|device| device.poll());
        interrupts::dispatch();
        self.run_ready() || completed
    }

    /// Runs the tasks that are ready now; those they wake come in the next round, after the devices.
    fn run_ready(&self) -> bool {
        let count = self.0.ready.0.lock().len();
        for _ in 0..count {
            let Some(number) = self.0.ready.0.lock().pop_front() else { break };
            self.run_task(number);
        }
        count > 0
    }

    /// Polls one task. It may have ended since it was woken: then there is nothing to do.
    fn run_task(&self, number: usize) {
        let Some(mut task) = self.0.tasks.borrow_mut().get_mut(number).and_then(Option::take) else { return };
        task.wakeup.queued.store(false, Ordering::Relaxed);
        let poll = task.future.as_mut().poll(&mut Context::from_waker(&task.waker));
        if poll.is_pending() {
            self.0.tasks.borrow_mut()[number] = Some(task);
        } else {
            self.0.free.borrow_mut().push(number);
        }
    }

    fn halt(&self) {
        interrupts::wait(|| self.each_device(|device| device.arm()));
        self.each_device(|device| {
            device.disarm();
            false
        });
    }

    /// Calls `visit` for every device, and says whether any call was true.
    fn each_device(&self, visit: impl Fn(&dyn Polled) -> bool) -> bool {
        let devices = self.0.devices.borrow();
        devices.iter().fold(false, |any, device| visit(device.as_ref()) | any)
    }
}
