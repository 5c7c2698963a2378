//! Faults on demand, so that a test can see each protection work: `selftest=<name>` on the command line.

use crate::stacks::ExceptionStack;
use alloc::vec::Vec;
use core::hint::black_box;
use core::ptr;

const RETURN: u8 = 0xC3;

/// Commits the named offence, which never returns; returns only if there is none of that name.
pub fn selftest(name: &str) {
    match name {
        "write-text" => write_byte(selftest as *const () as *mut u8),
        "write-constant" => write_byte(black_box("a constant").as_ptr().cast_mut()),
        "exec-stack" => {
            let mut code = [0; 16];
            black_box(&mut code).fill(RETURN);
            execute(code.as_ptr());
        }
        "exec-heap" => execute(heap_page()),
        "read-null" => read_null(),
        "overflow-stack" => drop(black_box(overflow(0))),
        "overflow-double-fault-stack" => overflow_on(ExceptionStack::DoubleFault),
        "overflow-non-maskable-stack" => overflow_on(ExceptionStack::NonMaskable),
        "overflow-machine-check-stack" => overflow_on(ExceptionStack::MachineCheck),
        "overflow-page-fault-stack" => overflow_on(ExceptionStack::PageFault),
        "overflow-general-stack" => overflow_on(ExceptionStack::General),
        "undefined" => undefined(),
        "panic" => panic!("a panic was asked for"),
        "out-of-memory" => exhaust_heap(),
        _ => {}
    }
}

fn write_byte(address: *mut u8) {
    // SAFETY: none; the write must fault, which is what the test is about.
    unsafe { ptr::write_volatile(address, RETURN) }
}

fn execute(code: *const u8) {
    // SAFETY: none; the call must fault before the first instruction.
    unsafe { core::arch::asm!("call {}", in(reg) code, clobber_abi("C")) }
}

fn heap_page() -> *const u8 {
    match datum_drivers::memory::dma_allocate(1) {
        Some(page) => {
            write_byte(page.as_ptr());
            page.as_ptr()
        }
        None => ptr::null(),
    }
}

fn read_null() {
    // SAFETY: none; the read must fault.
    unsafe {
        core::arch::asm!("mov {0}, [{0}]", inout(reg) 0u64 => _, options(nostack, readonly, preserves_flags))
    }
}

#[allow(unconditional_recursion)] // The point of the test.
fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    overflow(depth + 1) + frame[0]
}

/// Overflows a stack of the exceptions', as a handler would that calls itself without end.
fn overflow_on(stack: ExceptionStack) -> ! {
    let top = stack.range().end;
    // SAFETY: no exception is being handled, so nothing lies on the stack, and this never comes back to the other one.
    unsafe {
        core::arch::asm!(
            "mov rsp, {top}", "xor ebp, ebp", "call {overflow}", "ud2",
            top = in(reg) top, overflow = sym overflow_from_the_top, options(noreturn)
        )
    }
}

extern "C" fn overflow_from_the_top() {
    black_box(overflow(0));
}

fn undefined() {
    // SAFETY: none; raises the exception.
    unsafe { core::arch::asm!("ud2") }
}

fn exhaust_heap() {
    loop {
        black_box(Vec::<u8>::with_capacity(1 << 20).leak());
    }
}
