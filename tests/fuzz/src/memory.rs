//! What targets use of memory is counted, and hostile devices are tried in an arena of one run, in which nothing is used
//! twice.
//!
//! Drivers keep on purpose what a device may still touch, so every run would leak. While a [`Run`] lasts, all that its
//! thread allocates comes from the arena, and the next run begins at the arena's start again. Memory is counted
//! meanwhile, and memory that is freed although a device holds it is noticed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Bytes of the arena; a run that allocates more in all goes on in ordinary memory.
const ARENA_BYTES: usize = 64 << 20;
/// Ranges that devices may hold at once.
const HELD_MAX: usize = 1 << 15;

static ARENA: AtomicUsize = AtomicUsize::new(0);
/// There is one arena, so there is one run at a time.
static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static NEXT: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    /// Never dropped: memory is freed until the very end of a thread.
    static HELD: RefCell<ManuallyDrop<Vec<Range<usize>>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
    static FREED_WHILE_HELD: Cell<bool> = const { Cell::new(false) };
}

struct Memory;

#[global_allocator]
static MEMORY: Memory = Memory;

// SAFETY: memory is the system's, or a piece of the arena that nobody else has: pieces are handed out upwards, on the
// one thread that has a run, and the arena is begun again only when what came from it is out of use.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match take(layout) {
            Some(start) => ptr::with_exposed_provenance_mut(start),
            None => {
                count(layout);
                // SAFETY: the caller's own promise.
                unsafe { System.alloc(layout) }
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match take(layout) {
            Some(start) => {
                let memory = ptr::with_exposed_provenance_mut(start);
                // SAFETY: the piece has this size and is the caller's alone.
                unsafe { ptr::write_bytes(memory, 0, layout.size()) };
                memory
            }
            None => {
                count(layout);
                // SAFETY: the caller's own promise.
                unsafe { System.alloc_zeroed(layout) }
            }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if !give_back(pointer.addr(), layout.size()) {
            if COUNTING.get() {
                subtract(layout.size());
            }
            // SAFETY: it is not the arena's, so it is the system's, of the same layout.
            unsafe { System.dealloc(pointer, layout) }
        }
    }
}

/// Ordinary memory is asked for.
fn count(layout: Layout) {
    if COUNTING.get() {
        add(layout.size());
    }
}

fn add(bytes: usize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

fn subtract(bytes: usize) {
    LIVE.set(LIVE.get().saturating_sub(bytes));
}

/// Runs a target on the calling thread, in ordinary memory, and returns the most that it had in use at once, in bytes.
pub(crate) fn peak_of(target: impl FnOnce()) -> usize {
    LIVE.set(0);
    PEAK.set(0);
    COUNTING.set(true);
    target();
    COUNTING.set(false);
    PEAK.get()
}

/// A piece of the arena, during a run and while there is room.
fn take(layout: Layout) -> Option<usize> {
    if !RUNNING.get() {
        return None;
    }
    let start = NEXT.get().checked_next_multiple_of(layout.align())?;
    let end = start.checked_add(layout.size())?;
    if end > ARENA.load(Ordering::Relaxed) + ARENA_BYTES {
        return None;
    }
    NEXT.set(end);
    add(layout.size());
    Some(start)
}

/// Whether the memory was the arena's.
fn give_back(start: usize, bytes: usize) -> bool {
    let arena = ARENA.load(Ordering::Relaxed);
    if arena == 0 || !(arena..arena + ARENA_BYTES).contains(&start) {
        return false;
    }
    if RUNNING.get() {
        subtract(bytes);
        let is_held = |held: &Range<usize>| held.start < start + bytes && start < held.end;
        // The list is borrowed only where nothing is freed.
        if HELD.with(|held| held.try_borrow().is_ok_and(|held| held.iter().any(is_held))) {
            FREED_WHILE_HELD.set(true);
        }
    }
    true
}

/// The device holds nothing any more.
pub(crate) fn let_go() {
    HELD.with_borrow_mut(|held| held.clear());
}

/// While it lasts, its thread allocates from the arena. What was allocated meanwhile must go before it.
pub(crate) struct Run {
    _turn: MutexGuard<'static, ()>,
}

impl Run {
    /// Begins with the arena as new.
    pub(crate) fn begin() -> Self {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if ARENA.load(Ordering::Relaxed) == 0 {
            let arena: &'static mut [u8] = Vec::leak(vec![0; ARENA_BYTES]);
            ARENA.store(arena.as_mut_ptr().expose_provenance(), Ordering::Relaxed);
        }
        HELD.with_borrow_mut(|held| {
            held.clear();
            held.reserve_exact(HELD_MAX);
        });
        NEXT.set(ARENA.load(Ordering::Relaxed));
        LIVE.set(0);
        PEAK.set(0);
        FREED_WHILE_HELD.set(false);
        RUNNING.set(true);
        Self { _turn: turn }
    }

    /// The most that was in use at once, in bytes.
    pub(crate) fn peak(&self) -> usize {
        PEAK.get()
    }

    /// Whether anything was freed while a device held it.
    pub(crate) fn freed_while_held(&self) -> bool {
        FREED_WHILE_HELD.get()
    }

    /// Says what the devices hold from now on.
    pub(crate) fn hold(&self, ranges: impl Iterator<Item = Range<usize>>) {
        HELD.with_borrow_mut(|held| {
            held.clear();
            held.extend(ranges.take(HELD_MAX));
        });
    }

    /// Whether memory was handed out in this run.
    pub(crate) fn has_given(&self, range: &Range<usize>) -> bool {
        let arena = ARENA.load(Ordering::Relaxed);
        range.start >= arena && range.start < range.end && range.end <= NEXT.get()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        RUNNING.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_while_it_is_held_is_noticed() {
        let run = Run::begin();
        let (first, second) = (vec![1u8; 100], vec![2u8; 100]);
        let range = |bytes: &[u8]| bytes.as_ptr().addr()..bytes.as_ptr().addr() + bytes.len();
        assert!(run.has_given(&range(&second)));
        run.hold(std::iter::once(range(&second)));
        drop(first);
        assert!(!run.freed_while_held());
        drop(second);
        assert!(run.freed_while_held() && run.peak() >= 200);
    }
}
