//! Exceptions. None is expected, so each is the end: its stub saves the registers, the report prints them.

use crate::report;
use crate::stacks::ExceptionStack;
use core::arch::naked_asm;
use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;

const STUB_BYTES: u64 = 16;
/// Exceptions for which the processor pushes an error code, one bit each: 8, 10-14, 17, 21, 29, 30.
const WITH_ERROR_CODE: u32 = 0x6022_7D00;

/// Points every exception at its stub, on its stack.
pub(crate) fn fill(table: &mut InterruptDescriptorTable) {
    macro_rules! point {
        ($($field:ident = $vector:literal on $stack:ident,)*) => {$(
            // SAFETY: the stub for this vector never returns, and knows whether an error code was pushed. The stack
            // belongs to exceptions alone.
            unsafe {
                let stub = VirtAddr::new(stubs as *const () as u64 + $vector * STUB_BYTES);
                table.$field.set_handler_addr(stub).set_stack_index(ExceptionStack::$stack as u16);
            }
        )*};
    }
    point! {
        divide_error = 0 on General,
        debug = 1 on General,
        non_maskable_interrupt = 2 on NonMaskable,
        breakpoint = 3 on General,
        overflow = 4 on General,
        bound_range_exceeded = 5 on General,
        invalid_opcode = 6 on General,
        device_not_available = 7 on General,
        double_fault = 8 on DoubleFault,
        invalid_tss = 10 on General,
        segment_not_present = 11 on General,
        stack_segment_fault = 12 on General,
        general_protection_fault = 13 on General,
        page_fault = 14 on PageFault,
        x87_floating_point = 16 on General,
        alignment_check = 17 on General,
        machine_check = 18 on MachineCheck,
        simd_floating_point = 19 on General,
        virtualization = 20 on General,
        cp_protection_exception = 21 on General,
        hv_injection_exception = 28 on General,
        vmm_communication_exception = 29 on General,
        security_exception = 30 on General,
    }
}

/// One stub a vector, 16 bytes each: a zero where the processor pushes no error code, the vector, the common part.
#[unsafe(naked)]
extern "C" fn stubs() {
    naked_asm!(
        ".p2align 4",
        ".set datum_exception, 0",
        ".rept 32",
        ".p2align 4",
        ".if (({with_error_code} >> datum_exception) & 1) == 0",
        "push 0",
        ".endif",
        "push datum_exception",
        "jmp {common}",
        ".set datum_exception, datum_exception + 1",
        ".endr",
        with_error_code = const WITH_ERROR_CODE,
        common = sym common,
    )
}

/// Saves the registers and reports. The stack was aligned by the processor; seven words and fifteen keep it so.
#[unsafe(naked)]
extern "C" fn common() -> ! {
    naked_asm!(
        "push rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rbp",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "call {report}",
        "ud2",
        report = sym report::report_exception,
    )
}
