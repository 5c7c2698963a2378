//! Interrupts: they set a bit, and nothing else.
//!
//! A device interrupt runs one stub that marks its vector as pending and tells the local APIC that it is
//! done. Handlers run later, when the executor calls [`dispatch`], as ordinary code: they may allocate, lock and
//! wake as they like. With one core and cooperative tasks nothing is lost by that (no task could run
//! earlier), and no lock in the appliance ever has to think about interrupts.
//!
//! [`wait`] closes the race between "nothing to do" and `hlt`: a vector that becomes pending in between ends
//! the wait at once. Neighbours: `boot` points the interrupt table at [`stub_address`]; `virtio`, [`crate::uart`],
//! [`crate::power`] and [`crate::clock`] register handlers.

mod apic;
mod stubs;

pub use stubs::{FIRST_VECTOR, SPURIOUS_VECTOR, stub_address};

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Mutex;
use x86_64::instructions::port::Port;

use crate::memory::MapError;
pub(crate) use apic::{let_timer_interrupt, start_timer, timer_count};

/// Device vectors that can be registered: sixteen disks, every port of a console, and room to spare.
pub const VECTORS_MAX: usize = 160;
/// The first vector that is registered. The 16 below it are those that a legacy controller would raise.
const FIRST_DEVICE_VECTOR: u8 = FIRST_VECTOR + 16;
/// Physical address that message-signalled interrupts are written to, for the processor with APIC id 0.
const MESSAGE_ADDRESS: u64 = 0xFEE0_0000;

/// One bit a vector: set by its interrupt, cleared by [`dispatch`].
static PENDING: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static HANDLERS: Mutex<Handlers> = Mutex::new(Handlers { count: 0, entries: [(ignore, 0); VECTORS_MAX] });
static READY: AtomicBool = AtomicBool::new(false);

/// What runs for a vector, and with which argument.
type Handler = (fn(usize), usize);

struct Handlers {
    count: usize,
    entries: [Handler; VECTORS_MAX],
}

fn ignore(_: usize) {}

/// All vectors are taken: the machine has more devices than the appliance has interrupts for. Remove some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfVectors;

/// A registered interrupt vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector(u8);

impl Vector {
    /// The number in the interrupt table.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Where a device writes its MSI or MSI-X message.
    pub fn message_address(self) -> u64 {
        MESSAGE_ADDRESS | u64::from(apic::identifier() & 0xFF) << 12
    }

    /// What a device writes there: fixed delivery, edge triggered.
    pub fn message_data(self) -> u32 {
        u32::from(self.0)
    }
}

/// Takes a free vector. Whenever it was signalled, [`dispatch`] calls `handler(argument)`; several signals may
/// be seen as one.
pub fn register(handler: fn(usize), argument: usize) -> Result<Vector, OutOfVectors> {
    let mut handlers = HANDLERS.lock();
    let index = handlers.count;
    *handlers.entries.get_mut(index).ok_or(OutOfVectors)? = (handler, argument);
    handlers.count += 1;
    Ok(Vector(FIRST_DEVICE_VECTOR + index as u8))
}

/// Registers `handler` for a legacy ISA interrupt (COM1's is 4, the power button's 9), routed through the I/O APIC.
pub fn register_isa(line: u8, handler: fn(usize), argument: usize) -> Result<Vector, OutOfVectors> {
    let vector = register(handler, argument)?;
    apic::route_isa(line, vector.0);
    Ok(vector)
}

/// Runs the handlers of all vectors signalled since the last call. Costs four loads when there are none.
pub fn dispatch() {
    for (word, pending) in PENDING.iter().enumerate() {
        if pending.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let mut signalled = pending.swap(0, Ordering::AcqRel);
        while signalled != 0 {
            let vector = word * 64 + signalled.trailing_zeros() as usize;
            signalled &= signalled - 1;
            run(vector);
        }
    }
}

fn run(vector: usize) {
    let Some(index) = vector.checked_sub(FIRST_DEVICE_VECTOR as usize) else { return };
    // Copied out, so that a handler may register another.
    let entry = HANDLERS.lock().entries.get(index).copied();
    if let Some((handler, argument)) = entry {
        handler(argument);
    }
}

/// Whether [`dispatch`] has something to do.
pub fn any_pending() -> bool {
    PENDING.iter().any(|pending| pending.load(Ordering::Relaxed) != 0)
}

/// Halts the processor until an interrupt comes. Returns at once if one is pending, or if `must_stay` says so, which is
/// asked with interrupts disabled: nothing can happen between its answer and the halt.
pub fn wait(must_stay: impl FnOnce() -> bool) {
    x86_64::instructions::interrupts::disable();
    if must_stay() || any_pending() {
        x86_64::instructions::interrupts::enable();
    } else {
        // `sti` takes effect after the following instruction: nothing can slip in before the `hlt`.
        x86_64::instructions::interrupts::enable_and_hlt();
    }
}

/// Called by the stub, with interrupts disabled.
extern "C" fn note(vector: u64) {
    PENDING[(vector / 64) as usize & 3].fetch_or(1 << (vector % 64), Ordering::Release);
    if vector != u64::from(SPURIOUS_VECTOR) {
        apic::end_of_interrupt();
    }
}

/// Masks the old interrupt controllers, starts the local APIC and enables interrupts. Only on the bare machine;
/// `boot` has loaded the interrupt table. Does nothing the second time.
pub fn initialise() -> Result<(), MapError> {
    if READY.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    mask_legacy_controllers();
    apic::initialise()?;
    x86_64::instructions::interrupts::enable();
    Ok(())
}

/// The two 8259s still raise vectors 8-15 and 112-119 after the firmware; masked, they are silent.
fn mask_legacy_controllers() {
    for port in [0x21, 0xA1] {
        // SAFETY: the mask registers of the interrupt controllers; masking touches no memory.
        unsafe { Port::<u8>::new(port).write(0xFF) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicUsize;

    #[test]
    fn a_signalled_vector_runs_its_handler_once_with_its_argument() {
        static SUM: AtomicUsize = AtomicUsize::new(0);
        fn add(argument: usize) {
            SUM.fetch_add(argument, Ordering::Relaxed);
        }
        let (one, ten) = (register(add, 1).unwrap(), register(add, 10).unwrap());
        assert_ne!(one, ten);
        for vector in [ten, ten, one] {
            PENDING[vector.0 as usize / 64].fetch_or(1 << (vector.0 % 64), Ordering::Release);
        }
        assert!(any_pending());
        dispatch();
        dispatch();
        assert_eq!(SUM.load(Ordering::Relaxed), 11);
        assert!(!any_pending());
    }
}
