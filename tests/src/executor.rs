//! A deterministic executor: one thread, one seed, every interleaving chosen by the seed.
//!
//! At each step it either polls one runnable task, picked at random, or lets the simulated hardware finish
//! one request. Nothing else makes progress, so a seed names one run exactly. When nothing can move and the
//! awaited work is not done, that is a deadlock and the executor says so; when too many steps pass, a livelock.
//! Neighbours: `disk` is the hardware; `world` drives the store through here.

use crate::rng::Rng;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Steps after which awaited work counts as stuck.
const STEPS_MAX: u64 = 20_000_000;

/// How often a slow piece of hardware is passed over while others have work, in percent.
const SLOWNESS: u64 = 97;

/// Steps after which what is slow comes to its end, also where nothing else uses that hardware meanwhile.
const SLOWEST: u64 = 100_000;

/// What finishes requests when the executor lets it.
pub trait Hardware {
    /// Requests under way.
    fn pending(&self) -> usize;
    /// Finishes one of them.
    fn advance(&self, rng: &mut Rng);
    /// Nothing else is left to do, or it has been long enough: time passes until the first of what is slow is under way.
    /// False if there is none.
    fn hurry(&self) -> bool {
        false
    }
}

/// A future that the executor owns or borrows for the length of a call.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Lets every other task have a turn.
pub async fn turn() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Why a set of futures did not all finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The given number of steps is used up.
    Budget,
    /// Nothing is runnable and no request is under way.
    Deadlock,
}

/// What becomes of slow requests when nothing else moves, or after long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slow {
    /// The first of them ends.
    Ends,
    /// They stay under way: nobody waits for them.
    Stays,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task<'a, T> {
    future: Option<BoxFuture<'a, T>>,
    flag: Arc<Flag>,
    waker: Waker,
}

impl<'a, T> Task<'a, T> {
    fn new(future: BoxFuture<'a, T>) -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(flag.clone());
        Self { future: Some(future), flag, waker }
    }

    fn runnable(&self) -> bool {
        self.future.is_some() && self.flag.0.load(Ordering::Relaxed)
    }

    fn poll(&mut self) -> Option<T> {
        self.flag.0.store(false, Ordering::Relaxed);
        let future = self.future.as_mut()?;
        match future.as_mut().poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(value) => {
                self.future = None;
                Some(value)
            }
            Poll::Pending => None,
        }
    }
}

/// What may happen next.
enum Move {
    Background(usize),
    Awaited(usize),
    Hardware,
}

/// Runs futures in an order chosen by a seed.
pub struct Executor {
    background: Vec<Task<'static, ()>>,
    hardware: Vec<Rc<dyn Hardware>>,
    rng: Rng,
    /// How much likelier a finished request is than the poll of a task, in percent.
    hardware_bias: u64,
    /// How often background tasks get a turn while something is awaited that can move, in percent.
    background_share: u64,
    /// Hardware whose requests end last, most of the time.
    slow: Option<usize>,
    /// Called after every step.
    watcher: Option<Rc<dyn Fn()>>,
    /// Ends a drive, as if its steps were used up.
    halt: Option<Box<dyn FnMut() -> bool>>,
    steps: u64,
}

impl Executor {
    /// An executor without tasks or hardware.
    pub fn new(seed: u64) -> Self {
        let mut executor = Self {
            background: Vec::new(),
            hardware: Vec::new(),
            rng: Rng::new(0),
            hardware_bias: 0,
            background_share: 100,
            slow: None,
            watcher: None,
            halt: None,
            steps: 0,
        };
        executor.reseed(seed);
        executor
    }

    /// Starts a new stream of choices. Each step of a long run does so, so that leaving one step out
    /// disturbs the others as little as possible.
    pub fn reseed(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
        self.hardware_bias = *self.rng.pick(&[5, 50, 95]);
        self.slow = *self.rng.pick(&[None, None, Some(0), Some(1)]);
    }

    /// Lets background tasks have a turn only this often, in percent, while awaited work can go on. What they
    /// are at then pauses over many requests, until [`Executor::step`] or [`Executor::idle`] gives them time.
    pub fn set_background_share(&mut self, percent: u64) {
        self.background_share = percent;
    }

    /// Lets `hardware` take part.
    pub fn attach(&mut self, hardware: Rc<dyn Hardware>) {
        self.hardware.push(hardware);
    }

    /// Adds a task that runs beside whatever is awaited.
    pub fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        self.background.push(Task::new(Box::pin(future)));
    }

    /// Calls `watcher` after every step from now on. Returns whom it called until now.
    pub fn watch(&mut self, watcher: Option<Rc<dyn Fn()>>) -> Option<Rc<dyn Fn()>> {
        std::mem::replace(&mut self.watcher, watcher)
    }

    /// Ends whatever is driven as soon as `halt` says so after a step, as if no more steps were left to it.
    pub fn halt_when(&mut self, halt: Option<Box<dyn FnMut() -> bool>>) {
        self.halt = halt;
    }

    /// Power off: drops every task where it stands, and forgets the hardware.
    pub fn power_off(&mut self) {
        self.background.clear();
        self.hardware.clear();
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Runs until `future` is done.
    pub fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut done = self.run_all(vec![Box::pin(future)]);
        done.remove(0)
    }

    /// Runs until all of `futures` are done, interleaved.
    pub fn run_all<T>(&mut self, futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
        let (results, stopped) = self.drive(futures, STEPS_MAX);
        match stopped {
            Some(Stopped::Deadlock) => panic!("deadlock: nothing can run, and the awaited work is not done"),
            Some(Stopped::Budget) => panic!("livelock: the awaited work is not done after {STEPS_MAX} steps"),
            None => results.into_iter().flatten().collect(),
        }
    }

    /// Runs `future` for at most `steps` steps; `None` if it was not done by then (it is dropped).
    pub fn run_for<T>(&mut self, future: impl Future<Output = T>, steps: u64) -> Option<T> {
        let (mut results, stopped) = self.drive(vec![Box::pin(future)], steps);
        assert_ne!(
            stopped,
            Some(Stopped::Deadlock),
            "deadlock: nothing can run, the awaited work is not done"
        );
        results.remove(0)
    }

    /// Lets background tasks and hardware take up to `steps` steps. What is slow stays slow, also where nothing else moves.
    pub fn step(&mut self, steps: u64) {
        self.unawaited(steps, Slow::Stays);
    }

    /// The same; false if nothing moves any more.
    pub fn goes_on(&mut self, steps: u64) -> bool {
        self.unawaited(steps, Slow::Ends) != Some(Stopped::Deadlock)
    }

    /// Runs until nothing moves any more.
    pub fn idle(&mut self) {
        let stopped = self.unawaited(STEPS_MAX, Slow::Ends);
        assert_eq!(stopped, Some(Stopped::Deadlock), "livelock: background work never comes to rest");
    }

    fn unawaited(&mut self, steps: u64, slow: Slow) -> Option<Stopped> {
        let share = std::mem::replace(&mut self.background_share, 100);
        let never: BoxFuture<'_, ()> = Box::pin(std::future::pending());
        let (_, stopped) = self.drive_while(vec![never], 1, steps, slow);
        self.background_share = share;
        stopped
    }

    /// Runs `futures` until all are done, nothing moves, or `budget` steps have passed.
    pub fn drive<T>(
        &mut self,
        futures: Vec<BoxFuture<'_, T>>,
        budget: u64,
    ) -> (Vec<Option<T>>, Option<Stopped>) {
        let all = futures.len();
        self.drive_until(futures, all, budget)
    }

    /// As [`Executor::drive`], and stops as soon as `enough` of them are done.
    pub fn drive_until<T>(
        &mut self,
        futures: Vec<BoxFuture<'_, T>>,
        enough: usize,
        budget: u64,
    ) -> (Vec<Option<T>>, Option<Stopped>) {
        self.drive_while(futures, enough, budget, Slow::Ends)
    }

    fn drive_while<T>(
        &mut self,
        futures: Vec<BoxFuture<'_, T>>,
        enough: usize,
        budget: u64,
        slow: Slow,
    ) -> (Vec<Option<T>>, Option<Stopped>) {
        let mut tasks: Vec<Task<'_, T>> = futures.into_iter().map(Task::new).collect();
        let mut results: Vec<Option<T>> = tasks.iter().map(|_| None).collect();
        for step in 1..=budget {
            if step % SLOWEST == 0 && slow == Slow::Ends {
                while self.hurry() {}
            }
            let Some(next) = self.choose(&tasks) else {
                if slow == Slow::Ends && self.hurry() {
                    continue;
                }
                return (results, Some(Stopped::Deadlock));
            };
            self.steps += 1;
            match next {
                Move::Hardware => self.advance_hardware(),
                Move::Background(i) => {
                    self.background[i].poll();
                }
                Move::Awaited(i) => results[i] = tasks[i].poll(),
            }
            if let Some(watcher) = &self.watcher {
                watcher();
            }
            if matches!(next, Move::Awaited(_)) && results.iter().flatten().count() >= enough {
                return (results, None);
            }
            if self.halt.as_mut().is_some_and(|halt| halt()) {
                break;
            }
        }
        (results, Some(Stopped::Budget))
    }

    /// Has all hardware go on with what is slow; false if nothing is.
    fn hurry(&self) -> bool {
        let mut hurried = false;
        for hardware in &self.hardware {
            hurried |= hardware.hurry();
        }
        hurried
    }

    fn choose<T>(&mut self, tasks: &[Task<'_, T>]) -> Option<Move> {
        let background = self.background.iter().filter(|t| t.runnable()).count();
        let awaited = tasks.iter().filter(|t| t.runnable()).count();
        let pending = self.hardware.iter().any(|h| h.pending() > 0);
        let passed_over = background > 0
            && (awaited > 0 || pending)
            && self.background_share < 100
            && !self.rng.chance(self.background_share);
        let background = if passed_over { 0 } else { background };
        let runnable = (background + awaited) as u64;
        if pending && (runnable == 0 || self.rng.chance(self.hardware_bias)) {
            return Some(Move::Hardware);
        }
        if runnable == 0 {
            return None;
        }
        let nth = self.rng.below(runnable) as usize;
        let indices =
            |runnable: Vec<bool>| runnable.into_iter().enumerate().filter(|(_, r)| *r).map(|(i, _)| i);
        if nth < background {
            indices(self.background.iter().map(Task::runnable).collect()).nth(nth).map(Move::Background)
        } else {
            indices(tasks.iter().map(Task::runnable).collect()).nth(nth - background).map(Move::Awaited)
        }
    }

    fn advance_hardware(&mut self) {
        let mut pending: Vec<usize> = self.hardware.iter().map(|h| h.pending()).collect();
        let others: usize =
            pending.iter().enumerate().filter(|(i, _)| Some(*i) != self.slow).map(|p| p.1).sum();
        if let Some(slow) = self.slow.and_then(|slow| pending.get_mut(slow))
            && others > 0
            && self.rng.chance(SLOWNESS)
        {
            *slow = 0;
        }
        let total: usize = pending.iter().sum();
        let mut nth = self.rng.below(total as u64) as usize;
        for (hardware, pending) in self.hardware.iter().zip(pending) {
            if nth < pending {
                return hardware.advance(&mut self.rng);
            }
            nth -= pending;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// Gives way once.
    async fn pause() {
        let mut paused = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut paused, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn order_of_three(seed: u64) -> Vec<u32> {
        let order = RefCell::new(Vec::new());
        let mut executor = Executor::new(seed);
        let futures = (0..3).map(|i| {
            let order = &order;
            Box::pin(async move {
                for _ in 0..3 {
                    pause().await;
                    order.borrow_mut().push(i);
                }
            }) as BoxFuture<'_, ()>
        });
        executor.run_all(futures.collect());
        order.into_inner()
    }

    #[test]
    fn a_seed_names_one_interleaving() {
        assert_eq!(order_of_three(3), order_of_three(3));
        assert!((0..20).any(|seed| order_of_three(seed) != order_of_three(3)));
    }

    #[test]
    fn background_tasks_run_beside_the_awaited_one() {
        let count = Rc::new(Cell::new(0));
        let seen = count.clone();
        let mut executor = Executor::new(1);
        executor.spawn(async move {
            loop {
                seen.set(seen.get() + 1);
                pause().await;
            }
        });
        executor.run(async {
            for _ in 0..100 {
                pause().await;
            }
        });
        assert!(count.get() > 10);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_future_that_nobody_wakes_is_a_deadlock() {
        Executor::new(1).run(std::future::pending::<()>());
    }

    #[test]
    fn a_budget_ends_a_run() {
        let endless = async {
            loop {
                pause().await;
            }
        };
        assert_eq!(Executor::new(1).run_for::<()>(endless, 10), None);
    }
}
