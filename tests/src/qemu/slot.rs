//! At most two machines at a time, whatever number of threads the test runner has: more would only wait for
//! the processors, and time limits would mean nothing.

use std::sync::{Condvar, Mutex, MutexGuard};

const MACHINES_MAX: u32 = 2;

static RUNNING: Mutex<u32> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run a machine, given back when dropped.
pub(super) struct Slot;

impl Slot {
    pub(super) fn wait() -> Slot {
        let mut running = running();
        while *running >= MACHINES_MAX {
            running = ENDED.wait(running).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *running += 1;
        Slot
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *running() -= 1;
        ENDED.notify_one();
    }
}

/// A test that failed while it held the number has not left it half-changed.
fn running() -> MutexGuard<'static, u32> {
    RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
