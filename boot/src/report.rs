//! The end: what happened, the registers, and a backtrace on COM1; then what the operator asked for.
//!
//! The format is for people and for `cargo xtask`, which adds function names and lines to each
//! `datum: backtrace 0x…` line from the unstripped ELF. The first address of an exception is the faulting
//! instruction; every other one is a return address, so the call lies before it.
//! Nothing here allocates, takes a lock for good, or trusts a pointer it has not checked against the stacks.

use crate::{image, stacks};
use core::fmt::Arguments;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use datum_drivers::power::{self, ExitCode};
use datum_drivers::uart;
use x86_64::registers::control::{Cr2, Cr3};

/// Deepest backtrace printed.
const FRAMES_MAX: usize = 64;
const PAGE_FAULT: u64 = 14;

static ACTION: AtomicU8 = AtomicU8::new(PanicAction::Reset as u8);
static REPORTING: AtomicBool = AtomicBool::new(false);

/// What the machine does after a panic or a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicAction {
    /// Start again from the firmware.
    Reset,
    /// Stop, and stay for inspection.
    Halt,
    /// End QEMU with a failure status, for tests.
    Exit,
}

/// Chooses what happens after a panic or a fault; a reset unless told otherwise.
pub fn set_panic_action(action: PanicAction) {
    ACTION.store(action as u8, Ordering::Relaxed);
}

/// Reports a panic and ends the machine: the body of the panic handler.
pub fn report_panic(info: &PanicInfo<'_>) -> ! {
    begin();
    match info.location() {
        Some(location) => print(format_args!("datum: panic at {location}: {}\r\n", info.message())),
        None => print(format_args!("datum: panic: {}\r\n", info.message())),
    }
    print_backtrace(frame_pointer());
    end()
}

/// What the stubs of `exceptions` leave on the stack, lowest address first.
#[repr(C)]
pub(crate) struct Registers {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rbp: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rbx: u64,
    pub(crate) rax: u64,
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// Reports an exception and ends the machine; called by the stubs.
pub(crate) extern "C" fn report_exception(registers: &Registers) -> ! {
    begin();
    let name = NAMES.get(registers.vector as usize).copied().unwrap_or("unknown exception");
    let (vector, error_code) = (registers.vector, registers.error_code);
    print(format_args!(
        "datum: fault {vector} ({name}), error code {error_code:#x}, at {:#x}\r\n",
        registers.rip
    ));
    if vector == PAGE_FAULT {
        explain_page_fault(registers);
    }
    print_registers(registers);
    print(format_args!("datum: backtrace {:#x}\r\n", registers.rip));
    print_backtrace(registers.rbp);
    end()
}

/// A second fault while reporting the first ends at once: the report itself must be at fault.
fn begin() {
    x86_64::instructions::interrupts::disable();
    if REPORTING.swap(true, Ordering::Relaxed) {
        print(format_args!("datum: a fault struck while another was being reported\r\n"));
        end();
    }
}

fn end() -> ! {
    let action = ACTION.load(Ordering::Relaxed);
    if action == PanicAction::Exit as u8 {
        print(format_args!("datum: exit\r\n"));
        power::exit(ExitCode::Failure)
    } else if action == PanicAction::Halt as u8 {
        print(format_args!("datum: halted\r\n"));
        power::halt()
    }
    print(format_args!("datum: reset\r\n"));
    power::reset()
}

fn print(text: Arguments<'_>) {
    uart::write_report(text);
}

fn explain_page_fault(registers: &Registers) {
    let address = Cr2::read_raw();
    let access = match registers.error_code {
        code if code & 0x10 != 0 => "execute",
        code if code & 0x02 != 0 => "write",
        _ => "read",
    };
    print(format_args!("datum: cannot {access} {address:#x}: {}\r\n", place(address)));
}

/// What lies at an address, in the operator's words.
fn place(address: u64) -> &'static str {
    if let Some(overflow) = stacks::overflow(address) {
        return overflow;
    }
    match address {
        0..4096 => "null pointer",
        _ if stacks::all().any(|stack| stack.contains(&address)) => "a stack",
        _ if image::text().contains(&address) => "code",
        _ if image::constants().contains(&address) => "a constant",
        _ if image::data().contains(&address) => "a variable",
        _ => "heap, device or unmapped memory",
    }
}

fn print_registers(r: &Registers) {
    print(format_args!(
        "datum: rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}\r\n",
        r.rax, r.rbx, r.rcx, r.rdx
    ));
    print(format_args!(
        "datum: rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}\r\n",
        r.rsi, r.rdi, r.rbp, r.rsp
    ));
    print(format_args!(
        "datum: r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}\r\n",
        r.r8, r.r9, r.r10, r.r11
    ));
    print(format_args!(
        "datum: r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}\r\n",
        r.r12, r.r13, r.r14, r.r15
    ));
    let root = Cr3::read().0.start_address().as_u64();
    print(format_args!(
        "datum: rip {:016x} rflags {:x} cs {:x} ss {:x} cr3 {root:x}\r\n",
        r.rip, r.rflags, r.cs, r.ss
    ));
}

fn frame_pointer() -> u64 {
    let value: u64;
    // SAFETY: copies a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Follows the chain of frame pointers: upwards only, and within one stack.
fn print_backtrace(mut frame: u64) {
    for _ in 0..FRAMES_MAX {
        let inside = |stack: core::ops::Range<u64>| stack.contains(&frame) && stack.contains(&(frame + 15));
        if !frame.is_multiple_of(8) || !stacks::all().any(inside) {
            return;
        }
        // SAFETY: both words lie within a mapped stack, as was just checked.
        let (next, return_address) = unsafe { (*(frame as *const u64), *((frame + 8) as *const u64)) };
        if !image::text().contains(&return_address) {
            return;
        }
        print(format_args!("datum: backtrace {return_address:#x}\r\n"));
        if next <= frame {
            return;
        }
        frame = next;
    }
}

const NAMES: [&str; 32] = [
    "divide error",
    "debug",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "reserved",
    "invalid task state",
    "segment not present",
    "stack segment fault",
    "general protection fault",
    "page fault",
    "reserved",
    "x87 floating point",
    "alignment check",
    "machine check",
    "simd floating point",
    "virtualization",
    "control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "hypervisor injection",
    "hypervisor communication",
    "security",
    "reserved",
];
