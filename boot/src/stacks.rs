//! The stacks: one for everything, and one for each kind of exception that must not depend on it.
//!
//! Under each lies a page that `paging` leaves unmapped, so that an overflow is a page fault and not silent damage.

use core::cell::UnsafeCell;
use core::ops::Range;

/// Bytes of the main stack, guard page not counted.
pub(crate) const MAIN_STACK_BYTES: usize = 512 << 10;
const EXCEPTION_STACK_BYTES: usize = 16 << 10;
/// Bytes of the unmapped page under each stack.
pub(crate) const GUARD_BYTES: usize = 4096;

/// A guard page and the stack above it.
#[repr(C, align(4096))]
pub(crate) struct Stack<const BYTES: usize> {
    guard: [u8; GUARD_BYTES],
    memory: UnsafeCell<[u8; BYTES]>,
}

// SAFETY: Rust code never refers to the memory; the processor uses each stack by itself.
unsafe impl<const BYTES: usize> Sync for Stack<BYTES> {}

impl<const BYTES: usize> Stack<BYTES> {
    const fn new() -> Self {
        Self { guard: [0; GUARD_BYTES], memory: UnsafeCell::new([0; BYTES]) }
    }

    fn start(&self) -> u64 {
        &raw const self.guard as u64
    }

    /// The addresses that may be used.
    pub(crate) fn range(&self) -> Range<u64> {
        self.start() + GUARD_BYTES as u64..self.start() + size_of::<Self>() as u64
    }
}

pub(crate) static MAIN_STACK: Stack<MAIN_STACK_BYTES> = Stack::new();
static EXCEPTION_STACKS: [Stack<EXCEPTION_STACK_BYTES>; ExceptionStack::COUNT] =
    [const { Stack::new() }; ExceptionStack::COUNT];

/// Places in the interrupt stack table. A page fault has its own because the usual reason is that the main stack is
/// full; the others because they can strike in the middle of anything.
#[derive(Clone, Copy)]
pub(crate) enum ExceptionStack {
    DoubleFault,
    NonMaskable,
    MachineCheck,
    PageFault,
    General,
}

impl ExceptionStack {
    pub(crate) const COUNT: usize = 5;
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::DoubleFault, Self::NonMaskable, Self::MachineCheck, Self::PageFault, Self::General];

    pub(crate) fn range(self) -> Range<u64> {
        EXCEPTION_STACKS[self as usize].range()
    }

    /// What lies on it, as a report says it.
    fn overflow(self) -> &'static str {
        match self {
            Self::DoubleFault => "stack overflow (double faults)",
            Self::NonMaskable => "stack overflow (non-maskable interrupts)",
            Self::MachineCheck => "stack overflow (machine checks)",
            Self::PageFault => "stack overflow (page faults)",
            Self::General => "stack overflow (other exceptions)",
        }
    }
}

/// All stacks' usable ranges.
pub(crate) fn all() -> impl Iterator<Item = Range<u64>> {
    core::iter::once(MAIN_STACK.range()).chain(ExceptionStack::ALL.map(ExceptionStack::range))
}

/// Which stack has overflown, if the address lies in the page under one.
pub(crate) fn overflow(address: u64) -> Option<&'static str> {
    let has = |range: Range<u64>| (range.start - GUARD_BYTES as u64..range.start).contains(&address);
    let exceptions = ExceptionStack::ALL.into_iter().find(|stack| has(stack.range()));
    exceptions.map(ExceptionStack::overflow).or(has(MAIN_STACK.range()).then_some("stack overflow"))
}
