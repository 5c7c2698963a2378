//! The machine code that runs at an interrupt: save, note the vector, restore.

use core::arch::naked_asm;

/// The first vector that is not an exception.
pub const FIRST_VECTOR: u8 = 32;
/// The vector of the local APIC's spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 255;
/// Bytes from one stub to the next.
const STUB_BYTES: usize = 16;

/// The address of `vector`'s stub, for the interrupt table; none for the vectors of exceptions.
pub fn stub_address(vector: u8) -> Option<u64> {
    let index = vector.checked_sub(FIRST_VECTOR)? as usize;
    Some((stubs as *const () as usize + index * STUB_BYTES) as u64)
}

/// One stub a vector, 16 bytes each: push the vector, go to the common part. `push` sign-extends, so vectors
/// are pushed as they are and kept to 32 bits there.
#[unsafe(naked)]
extern "C" fn stubs() {
    naked_asm!(
        ".p2align 4",
        ".set datum_vector, 32",
        ".rept 224",
        ".p2align 4",
        "push datum_vector",
        "jmp {common}",
        ".set datum_vector, datum_vector + 1",
        ".endr",
        common = sym common,
    )
}

/// Saves what a C function may change (the target is soft-float: no vector registers), calls
/// [`super::note`], and returns to what was interrupted. The processor aligned the stack to 16 and pushed
/// five words, the stub one, this ten: aligned again for the call.
#[unsafe(naked)]
extern "C" fn common() {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "sub rsp, 8",
        "mov edi, [rbp + 8]",
        "cld",
        "call {note}",
        "add rsp, 8",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "pop rbp",
        "add rsp, 8",
        "iretq",
        note = sym super::note,
    )
}
