//! An allocator for tests that fails where it is told to.
//!
//! Only what a thread allocates inside [`watched`] counts, and of that nothing inside [`exempt`]: a simulation so tells
//! the product's allocations from its own. What asks for room by taking memory and giving it back has that memory
//! until its step ends: nobody else can have taken it. A test program installs it with
//! `#[global_allocator] static ALLOCATOR: Scarce = Scarce;`; in any other program nothing counts and nothing fails.

mod stack;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{process, ptr};

/// Which allocations fail.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// So many that count succeed first; with [`NEVER`] all do, and call sites are noted.
    pub after: u64,
    /// All that count fail from then on, not one alone.
    pub lasting: bool,
    /// Only those of so many bytes or more count.
    pub bytes_min: usize,
    /// Called before the first that fails, with its bytes. What it allocates does not count. If it panics, the process
    /// ends.
    pub before: fn(usize),
}

/// The number of no allocation.
pub const NEVER: u64 = u64::MAX;

/// Of allocations of so many bytes or more each call site is noted: the sizes that requests decide are among these.
pub const SITE_BYTES_MIN: usize = 512;

/// More bytes than this, given back in one piece, are room for what follows in that step.
pub const ASKED_BYTES_MIN: usize = 16 << 10;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Bytes that were given back in this step and not used since.
    static ROOM: Cell<usize> = const { Cell::new(0) };
    static COUNTED: Cell<u64> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static LARGE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    /// The first that counted from each call site.
    static SITES: RefCell<BTreeMap<u64, u64>> = const { RefCell::new(BTreeMap::new()) };
    static FAILURE: Cell<Option<Failure>> = const { Cell::new(None) };
}

/// Counts what this thread allocates meanwhile.
pub fn watched<T>(work: impl FnOnce() -> T) -> T {
    during(true, work)
}

/// Counts nothing of what this thread allocates meanwhile.
pub fn exempt<T>(work: impl FnOnce() -> T) -> T {
    during(false, work)
}

fn during<T>(watched: bool, work: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            WATCHED.set(self.0);
        }
    }
    let _before = Before(WATCHED.replace(watched));
    if watched {
        ROOM.set(0);
    }
    work()
}

/// Begins to count from nought, for this thread, and fails what it is told to.
pub fn begin(failure: Option<Failure>) {
    COUNTED.set(0);
    LARGEST.set(0);
    LARGE.take();
    SITES.take();
    FAILURE.set(failure);
}

/// Ends all failing of this thread. Returns how many allocations counted.
pub fn end() -> u64 {
    FAILURE.set(None);
    COUNTED.get()
}

/// The largest allocation that counted, in bytes.
pub fn largest() -> usize {
    LARGEST.get()
}

/// The numbers of those that counted and were larger than [`ASKED_BYTES_MIN`].
pub fn large() -> Vec<u64> {
    LARGE.with_borrow(Vec::clone)
}

/// The number of the first large enough that counted from each call site, and what names that site in every run of this program: the
/// product's whole way to it.
pub fn sites() -> Vec<(u64, u64)> {
    SITES.with_borrow(|sites| sites.iter().map(|(site, number)| (*number, *site)).collect())
}

/// Whether there is room for it that was given back before. `moved` bytes are given back once it is there.
fn has_room(bytes: usize, moved: usize) -> bool {
    let room = ROOM.get();
    let fits = bytes <= room;
    if fits {
        ROOM.set(room - bytes + moved);
    }
    fits
}

/// Notes what was given back.
fn given_back(bytes: usize) {
    if WATCHED.get() && bytes > ASKED_BYTES_MIN {
        ROOM.set(ROOM.get().max(bytes));
    }
}

/// Whether the one that is asked for fails, into which `moved` bytes go from where they are.
fn fails(bytes: usize, moved: usize) -> bool {
    if !WATCHED.get() || has_room(bytes, moved) {
        return false;
    }
    let failure = FAILURE.get();
    if failure.is_some_and(|failure| bytes < failure.bytes_min) {
        return false;
    }
    LARGEST.set(LARGEST.get().max(bytes));
    let number = COUNTED.replace(COUNTED.get() + 1);
    if bytes > ASKED_BYTES_MIN {
        exempt(|| LARGE.with_borrow_mut(|large| large.push(number)));
    }
    let Some(failure) = failure else { return false };
    if failure.after == NEVER && bytes >= SITE_BYTES_MIN {
        exempt(|| {
            let site = stack::digest();
            SITES.with_borrow_mut(|sites| {
                sites.entry(site).or_insert(number);
            });
        });
    }
    if number == failure.after {
        // Nothing fails meanwhile, and nothing may unwind out of an allocator.
        FAILURE.set(None);
        let called = catch_unwind(AssertUnwindSafe(|| exempt(|| (failure.before)(bytes))));
        if called.is_err() {
            process::exit(1);
        }
        FAILURE.set(Some(failure));
        COUNTED.set(number + 1);
    }
    number == failure.after || (failure.lasting && number > failure.after)
}

/// The allocator.
pub struct Scarce;

// SAFETY: memory is the system's, or there is none, which an allocator may always say. Nothing unwinds: the one call
// that may panic is caught.
unsafe impl GlobalAlloc for Scarce {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size(), 0) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size(), 0) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's own promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if fails(new_size, layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's own promise; all memory is the system's.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: the caller's own promise; all memory is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Scarce = Scarce;

    thread_local! {
        static SEEN: Cell<usize> = const { Cell::new(0) };
    }

    fn failure(after: u64, lasting: bool, bytes_min: usize) -> Option<Failure> {
        let before = |bytes| {
            drop(vec![0u8; 1000]);
            SEEN.set(bytes);
        };
        Some(Failure { after, lasting, bytes_min, before })
    }

    fn there_is_room(bytes: usize) -> bool {
        Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
    }

    #[test]
    fn the_one_that_was_chosen_fails_and_the_next_does_not() {
        begin(failure(1, false, 0));
        assert!(there_is_room(10), "nobody watches");
        assert_eq!(
            watched(|| [there_is_room(11), there_is_room(12), there_is_room(13)]),
            [true, false, true]
        );
        assert_eq!((SEEN.get(), largest(), end()), (12, 13, 3));
    }

    #[test]
    fn what_was_given_back_is_there_until_the_step_ends() {
        const ROOM: usize = 3 * ASKED_BYTES_MIN;
        begin(failure(1, true, 0));
        let kept: Vec<u8> = watched(|| Vec::with_capacity(ROOM));
        watched(|| {
            drop(kept);
            let taken: Vec<u8> = Vec::with_capacity(2 * ASKED_BYTES_MIN);
            let rest: Vec<u8> = Vec::with_capacity(ASKED_BYTES_MIN);
            assert!(!there_is_room(ASKED_BYTES_MIN + 1), "it is used up");
            drop((taken, rest));
            assert!(there_is_room(2 * ASKED_BYTES_MIN), "the larger piece is there again");
            assert!(!there_is_room(ROOM), "and both are two");
        });
        assert!(!watched(|| there_is_room(1)), "the step has ended");
        assert_eq!((large(), end()), (vec![0, 1, 2], 4));
    }

    #[test]
    fn a_call_site_is_noted_once() {
        // A loop that the compiler unrolls is as many places.
        #[inline(never)]
        fn twice() -> [bool; 3] {
            [there_is_room(SITE_BYTES_MIN), there_is_room(SITE_BYTES_MIN + 1), there_is_room(1)]
        }
        begin(failure(NEVER, false, 0));
        watched(|| (0..std::hint::black_box(3)).for_each(|_| assert_eq!(twice(), [true; 3])));
        let mut numbers: Vec<u64> = sites().into_iter().map(|(number, _)| number).collect();
        numbers.sort_unstable();
        assert_eq!((numbers, end()), (vec![0, 1], 9));
        begin(failure(7, false, 0));
        watched(twice);
        assert_eq!((sites().len(), end()), (0, 3));
    }

    #[test]
    fn what_is_exempt_or_small_does_not_count() {
        begin(failure(1, true, 100));
        let outcome = watched(|| {
            let first = there_is_room(100);
            assert!(there_is_room(99) && exempt(|| there_is_room(1000)));
            [first, there_is_room(101), there_is_room(100), there_is_room(5)]
        });
        assert_eq!(outcome, [true, false, false, true]);
        assert_eq!(end(), 3);
        assert!(watched(|| there_is_room(100)), "it has ended");
    }
}
