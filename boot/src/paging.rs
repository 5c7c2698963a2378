//! The page tables that stay: write or execute, never both, and nothing mapped that need not be.
//!
//! RAM in the largest pages that fit, the image in 4 KiB pages so that each part gets its own rights and each guard
//! page its gap. The first MiB is left out: it holds the null page and what the firmware left. Device registers
//! come later, on demand (`datum_drivers::memory::map_mmio`).

use crate::memory_map::Ranges;
use crate::{image, stacks};
use core::ops::Range;
use datum_drivers::memory::mapping::{MapError, identity_map};
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{
    FrameAllocator, OffsetPageTable, PageTable, PageTableFlags, PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

/// Bytes that the first page tables map, those of `entry`: whatever is touched before [`switch`] must lie below.
pub(crate) const EARLY_MAPPED_BYTES: u64 = 1 << 30;
const FRAME_BYTES: u64 = 4096;
const READ: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE);
const READ_WRITE: PageTableFlags = READ.union(PageTableFlags::WRITABLE);
const READ_EXECUTE: PageTableFlags = PageTableFlags::PRESENT;

/// Maps the image and `usable`, switches to the new tables, and returns the memory they take, which follows the image.
///
/// # Safety
/// Called once, on the early page tables, with RAM that nobody uses.
pub(crate) unsafe fn switch(usable: &Ranges) -> Result<Range<u64>, MapError> {
    let first = image::all().end;
    let room = usable.iter().find(|range| range.contains(&first)).ok_or(MapError::NoFrame)?;
    let mut frames = Frames { next: first, end: room.end.min(EARLY_MAPPED_BYTES) };
    let root = frames.allocate_frame().ok_or(MapError::NoFrame)?;
    // SAFETY: a fresh, zeroed frame, mapped by the early tables: an empty page table that is ours alone.
    let table = unsafe { &mut *(root.start_address().as_u64() as *mut PageTable) };
    // SAFETY: frames of tables are early-mapped, at offset 0.
    let mut tables = unsafe { OffsetPageTable::new(table, VirtAddr::new(0)) };
    // SAFETY: the ranges are the image and RAM, each mapped once and as it is used.
    unsafe {
        map_image(&mut tables, &mut frames)?;
        for range in usable.iter() {
            identity_map(&mut tables, (range.start, range.end), READ_WRITE, largest_page(), &mut frames)?;
        }
        Cr3::write(root, Cr3Flags::empty());
    }
    Ok(first..frames.next)
}

/// # Safety
/// As for [`switch`].
unsafe fn map_image(tables: &mut OffsetPageTable<'_>, frames: &mut Frames) -> Result<(), MapError> {
    let mut map = |range: Range<u64>, flags| {
        range.step_by(FRAME_BYTES as usize).try_for_each(|page| {
            // SAFETY: a page of the image, with the rights of its part.
            unsafe { identity_map(tables, (page, page + FRAME_BYTES), flags, FRAME_BYTES, frames) }
        })
    };
    map(image::text(), READ_EXECUTE)?;
    map(image::constants(), READ)?;
    let is_guard = |page: u64| stacks::all().any(|stack| page + stacks::GUARD_BYTES as u64 == stack.start);
    image::data()
        .step_by(FRAME_BYTES as usize)
        .filter(|&page| !is_guard(page))
        .try_for_each(|page| map(page..page + FRAME_BYTES, READ_WRITE))
}

/// Frames one after another, zeroed.
struct Frames {
    next: u64,
    end: u64,
}

// SAFETY: hands out each frame once, from memory that nobody uses.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        if self.next + FRAME_BYTES > self.end {
            return None;
        }
        let frame = self.next;
        self.next += FRAME_BYTES;
        // SAFETY: early-mapped RAM beyond the image.
        unsafe { (frame as *mut u8).write_bytes(0, FRAME_BYTES as usize) };
        Some(PhysFrame::containing_address(PhysAddr::new(frame)))
    }
}

/// Bytes of the largest page the processor knows: 1 GiB, or 2 MiB.
fn largest_page() -> u64 {
    const EXTENDED_FEATURES: u32 = 0x8000_0001;
    const GIBIBYTE_PAGES: u32 = 1 << 26;
    let last = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    let known =
        last >= EXTENDED_FEATURES && core::arch::x86_64::__cpuid(EXTENDED_FEATURES).edx & GIBIBYTE_PAGES != 0;
    if known { 1 << 30 } else { 2 << 20 }
}
