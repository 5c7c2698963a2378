//! Who calls: a digest of the return addresses on the stack, by the unwinder that the standard library links.

use std::ffi::{c_int, c_void};

/// Farther away than this lies no code of this program: libraries are mapped elsewhere each time.
const PROGRAM_BYTES_MAX: usize = 1 << 30;

/// Addresses that are told apart: of a recursion each counts once, however deep it is.
const ADDRESSES_MAX: usize = 100;

unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(frame: *mut c_void) -> usize;
}

/// The addresses met, from where this file lies in the program.
struct Way {
    addresses: [usize; ADDRESSES_MAX],
    count: usize,
}

/// The same for the same way through the same program, wherever that is loaded.
pub(crate) fn digest() -> u64 {
    let mut way = Way { addresses: [0; ADDRESSES_MAX], count: 0 };
    // SAFETY: `add` is what the unwinder wants to call, and gets its argument, which outlives the call.
    unsafe { _Unwind_Backtrace(add, (&raw mut way).cast()) };
    let mix = |sum: u64, address: &usize| {
        (sum.rotate_left(5) ^ *address as u64).wrapping_mul(0x517c_c1b7_2722_0a95)
    };
    way.addresses[..way.count].iter().fold(0, mix)
}

extern "C" fn add(frame: *mut c_void, way: *mut c_void) -> c_int {
    // SAFETY: the unwinder hands over the frame that it is at.
    let address = unsafe { _Unwind_GetIP(frame) };
    // SAFETY: `digest` has passed its own way, and looks at it no earlier than the unwinder returns.
    let way = unsafe { &mut *way.cast::<Way>() };
    let start = self::digest as *const () as usize;
    let known = way.addresses[..way.count].contains(&address.wrapping_sub(start));
    if address.abs_diff(start) < PROGRAM_BYTES_MAX && !known && way.count < ADDRESSES_MAX {
        way.addresses[way.count] = address.wrapping_sub(start);
        way.count += 1;
    }
    0
}
