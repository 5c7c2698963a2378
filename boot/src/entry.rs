//! The first instructions: from PVH's 32-bit protected mode without paging to Rust in long mode.
//!
//! PVH (Xen's `docs/misc/pvh.pandoc`): a note in the ELF names a 32-bit entry point; there EBX holds the
//! physical address of the start info, paging is off, segments are flat, and there is no stack.

use crate::stacks::{MAIN_STACK, MAIN_STACK_BYTES, Stack};
use core::arch::{global_asm, naked_asm};

// The note that makes QEMU take the PVH path: XEN_ELFNOTE_PHYS32_ENTRY (18). The value has 8 bytes because QEMU reads
// as many from a 64-bit ELF.
global_asm!(
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad {entry}",
    ".popsection",
    entry = sym pvh_entry,
);

// The first page tables, complete in the file: 1 GiB in 2 MiB pages. And the first segments: null and 64-bit code.
global_asm!(
    ".pushsection .data.early, \"aw\"",
    ".balign 4096",
    "datum_early_root: .quad datum_early_directories + 3",
    ".fill 511, 8, 0",
    "datum_early_directories: .quad datum_early_pages + 3",
    ".fill 511, 8, 0",
    "datum_early_pages:",
    ".set datum_page, 0x83",
    ".rept 512",
    ".quad datum_page",
    ".set datum_page, datum_page + 0x200000",
    ".endr",
    "datum_early_segments: .quad 0, 0x00af9a000000ffff",
    "datum_early_segments_pointer: .short 15",
    ".long datum_early_segments",
    ".popsection",
);

/// Where QEMU jumps to. Switches on PAE, long mode with no-execute, paging with write protection, and calls
/// [`crate::start::start`] with the address of the start info.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.entry")]
pub(crate) extern "C" fn pvh_entry() -> ! {
    naked_asm!(
        ".code32",
        "cli",
        "cld",
        "lea esp, [{stack} + {stack_bytes}]",
        "mov eax, cr4",
        "or eax, 0x20",
        "mov cr4, eax",
        "lea eax, [datum_early_root]",
        "mov cr3, eax",
        "mov ecx, 0xC0000080",
        "rdmsr",
        "or eax, 0x900",
        "wrmsr",
        "mov eax, cr0",
        "or eax, 0x80010000",
        "mov cr0, eax",
        "lgdt [datum_early_segments_pointer]",
        "push 8",
        "lea eax, [2f]",
        "push eax",
        "retf",
        ".code64",
        "2:",
        "xor eax, eax",
        "mov ds, eax",
        "mov es, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov ss, eax",
        "mov edi, ebx",
        "xor ebp, ebp",
        "call {start}",
        "ud2",
        stack = sym MAIN_STACK,
        stack_bytes = const size_of::<Stack<MAIN_STACK_BYTES>>(),
        start = sym crate::start::start,
    )
}
