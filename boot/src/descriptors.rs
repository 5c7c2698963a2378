//! Segments, the task state with the exception stacks, and the interrupt table.

use crate::exceptions;
use crate::stacks::ExceptionStack;
use datum_drivers::interrupts::{FIRST_VECTOR, stub_address};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

static TASK_STATE: Once<TaskStateSegment> = Once::new();
static SEGMENTS: Once<GlobalDescriptorTable> = Once::new();
static INTERRUPT_TABLE: Once<InterruptDescriptorTable> = Once::new();

/// Loads all three. From here on every exception is reported.
pub(crate) fn load() {
    let task_state = TASK_STATE.call_once(|| {
        let mut state = TaskStateSegment::new();
        for stack in ExceptionStack::ALL {
            state.interrupt_stack_table[stack as usize] = VirtAddr::new(stack.range().end);
        }
        state
    });
    let mut table = GlobalDescriptorTable::new();
    let code = table.append(Descriptor::kernel_code_segment());
    let data = table.append(Descriptor::kernel_data_segment());
    let task = table.append(Descriptor::tss_segment(task_state));
    SEGMENTS.call_once(|| table).load();
    // SAFETY: the selectors were made for the table that was just loaded, and each is of the kind its register wants.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        load_tss(task);
    }
    INTERRUPT_TABLE.call_once(interrupt_table).load();
}

fn interrupt_table() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    exceptions::fill(&mut table);
    for vector in FIRST_VECTOR..=u8::MAX {
        if let Some(address) = stub_address(vector) {
            // SAFETY: the stub saves and restores everything and returns with `iretq`.
            unsafe { table[vector].set_handler_addr(VirtAddr::new(address)) };
        }
    }
    table
}
