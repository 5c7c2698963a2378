#![cfg_attr(target_os = "none", no_std)]
//! From QEMU's 32-bit PVH entry to `bootloader_api`'s entry point.
//!
//! When the kernel's entry function runs, this holds:
//! - Long mode; all RAM above 1 MiB is identity mapped; code can be executed but not written, constants neither,
//!   everything else is writable but never executable; the first MiB with the null page, and a guard page under
//!   each stack, are not mapped. Supervisor writes honour read-only pages.
//! - Every exception is reported on COM1 with registers and a backtrace, on a stack of its own, and then the machine
//!   does what [`set_panic_action`] says. Interrupts are off.
//! - The heap owns the memory that `BootInfo` calls usable.
//!
//! Neighbours: `datum_drivers` supplies page mapping, the heap, COM1 and the interrupt stubs; the `kernel` binary
//! calls `bootloader_api::entry_point!`, whose `_start` this crate jumps to.

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod descriptors;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod exceptions;
#[cfg(target_os = "none")]
mod image;
mod memory_map;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod selftest;
#[cfg(target_os = "none")]
mod stacks;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod start_info;

#[cfg(target_os = "none")]
pub use report::{PanicAction, report_panic, set_panic_action};
#[cfg(target_os = "none")]
pub use selftest::selftest;
#[cfg(target_os = "none")]
pub use start::command_line;
