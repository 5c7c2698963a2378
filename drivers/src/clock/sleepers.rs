//! Who sleeps until when. The timer is always set for the earliest.
//!
//! It may well fire early: its rate and the clock's were measured apart, and its count ends after a minute or so. So its
//! handler sets it anew for whatever is left.

use super::{CLOCK, monotonic_nanoseconds};
use crate::interrupts::{self, OutOfVectors, start_timer};
use alloc::collections::BTreeMap;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use spin::Mutex;

static SLEEPERS: Mutex<Sleepers> = Mutex::new(Sleepers { waiting: BTreeMap::new(), next_number: 0 });

struct Sleepers {
    /// By deadline in nanoseconds since boot, then by number, for several may share a deadline.
    waiting: BTreeMap<(u64, u64), Waker>,
    next_number: u64,
}

impl Sleepers {
    fn set_timer(&self) {
        let (Some(((deadline, _), _)), Some(clock)) = (self.waiting.first_key_value(), CLOCK.get()) else {
            return;
        };
        start_timer(clock.rates.timer_count(deadline.saturating_sub(monotonic_nanoseconds())));
    }
}

/// Completes once `nanoseconds` have passed.
pub fn sleep(nanoseconds: u64) -> Sleep {
    Sleep { deadline: monotonic_nanoseconds().saturating_add(nanoseconds), number: None }
}

/// The future of [`sleep`].
#[derive(Debug)]
pub struct Sleep {
    deadline: u64,
    /// Set while registered.
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if monotonic_nanoseconds() >= self.deadline {
            return Poll::Ready(());
        }
        let mut sleepers = SLEEPERS.lock();
        let number = self.number.unwrap_or(sleepers.next_number);
        if self.number.is_none() {
            sleepers.next_number += 1;
            self.number = Some(number);
        }
        let key = (self.deadline, number);
        sleepers.waiting.insert(key, context.waker().clone());
        if sleepers.waiting.first_key_value().is_some_and(|(first, _)| *first == key) {
            sleepers.set_timer();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // A timer set for this sleeper alone fires once for nothing; that is cheaper than setting it anew.
        if let Some(number) = self.number {
            SLEEPERS.lock().waiting.remove(&(self.deadline, number));
        }
    }
}

/// Lets the timer wake sleepers.
pub(super) fn start() -> Result<(), OutOfVectors> {
    interrupts::let_timer_interrupt(interrupts::register(|_| wake_due(), 0)?);
    Ok(())
}

/// Wakes everyone whose time has come, and sets the timer for the next.
fn wake_due() {
    while let Some(waker) = take_due() {
        waker.wake();
    }
    SLEEPERS.lock().set_timer();
}

fn take_due() -> Option<Waker> {
    let mut sleepers = SLEEPERS.lock();
    let first = sleepers.waiting.first_entry()?;
    (first.key().0 <= monotonic_nanoseconds()).then(|| first.remove())
}
