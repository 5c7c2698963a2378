//! Memory: the heap, memory for devices, and mappings of device registers.
//!
//! What always holds:
//! - All RAM is identity mapped by `boot`, so an address is the same to the processor and to a device, and any
//!   object on the heap is contiguous for a device.
//! - `boot` gives the heap its memory before any other code runs; nothing ever takes memory back from it.
//! - Interrupts allocate nothing (they run no code of ours, see [`crate::interrupts`]), so a lock without
//!   disabling interrupts is enough.

mod heap;
pub mod mapping;
mod size_class;

pub use heap::{Heap, REGIONS_MAX, Usage};
pub use mapping::MapError;

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use spin::Mutex;
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::{
    FrameAllocator, OffsetPageTable, PageTable, PageTableFlags, PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;

static HEAP: Mutex<Heap> = Mutex::new(Heap::empty());

/// The heap as Rust's allocator. Tests on the host keep the host's.
#[cfg_attr(target_os = "none", global_allocator)]
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
static ALLOCATOR: Allocator = Allocator;

struct Allocator;

// SAFETY: the heap hands out memory that is disjoint, large enough and aligned, and owns it until released.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.lock().allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if let Some(memory) = NonNull::new(memory) {
            // SAFETY: the caller's promise is that of `GlobalAlloc::dealloc`, which is the same.
            unsafe { HEAP.lock().release(memory, layout) }
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if Heap::fits_in_place(layout, new_size) {
            return memory;
        }
        // SAFETY: the caller promises that `new_size` is valid for this alignment, and that `memory` has
        // `layout`; the new memory is disjoint from the old.
        unsafe {
            let fresh = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !fresh.is_null() {
                ptr::copy_nonoverlapping(memory, fresh, layout.size().min(new_size));
                self.dealloc(memory, layout);
            }
            fresh
        }
    }
}

/// Gives the heap the memory from `start` to `end`; false if it cannot use it.
///
/// # Safety
/// As for [`Heap::add_region`].
pub unsafe fn add_heap_region(start: usize, end: usize) -> bool {
    // SAFETY: passed on from the caller.
    unsafe { HEAP.lock().add_region(start, end) }
}

/// Heap figures.
pub fn usage() -> Usage {
    HEAP.lock().usage()
}

/// Zeroed, page-aligned, physically contiguous memory for a device, or none. Give it back with [`dma_release`].
pub fn dma_allocate(pages: usize) -> Option<NonNull<u8>> {
    let layout = dma_layout(pages)?;
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { alloc_zeroed(layout) })
}

/// Gives memory of [`dma_allocate`] back.
///
/// # Safety
/// `memory` came from [`dma_allocate`] with the same number of pages; neither the device nor the driver uses it
/// any more.
pub unsafe fn dma_release(memory: NonNull<u8>, pages: usize) {
    if let Some(layout) = dma_layout(pages) {
        // SAFETY: the same layout as when it was allocated, by the caller's promise.
        unsafe { dealloc(memory.as_ptr(), layout) }
    }
}

fn dma_layout(pages: usize) -> Option<Layout> {
    let bytes = pages.max(1).checked_mul(PAGE_BYTES)?;
    Layout::from_size_align(bytes, PAGE_BYTES).ok()
}

/// The address by which a device reaches `memory`. All RAM is identity mapped, so it is the same number.
pub fn physical_address<T: ?Sized>(memory: NonNull<T>) -> u64 {
    memory.cast::<u8>().as_ptr() as u64
}

/// Maps a device's registers, uncached, writable and never executable, and returns where they are. Mapping the
/// same registers again is allowed; mapping RAM this way is a [`MapError::Conflict`]. Works at any physical
/// address, above 4 GiB too. Only on the bare machine.
///
/// # Safety
/// `physical..physical + size` are registers of a device.
pub unsafe fn map_mmio(physical: u64, size: usize) -> Result<NonNull<u8>, MapError> {
    let flags = PageTableFlags::PRESENT
        | PageTableFlags::WRITABLE
        | PageTableFlags::NO_EXECUTE
        | PageTableFlags::NO_CACHE
        | PageTableFlags::WRITE_THROUGH;
    // SAFETY: passed on from the caller: registers, mapped uncached.
    unsafe { map_here(physical, size, flags) }
}

/// Maps memory that firmware left for us to read (its tables), read-only. Only on the bare machine.
///
/// # Safety
/// `physical..physical + size` is memory outside the heap that nobody writes.
pub(crate) unsafe fn map_firmware(physical: u64, size: usize) -> Result<NonNull<u8>, MapError> {
    // SAFETY: passed on from the caller: constant memory, mapped read-only.
    unsafe { map_here(physical, size, PageTableFlags::PRESENT | PageTableFlags::NO_EXECUTE) }
}

/// # Safety
/// As for [`mapping::identity_map`], into the tables in use.
unsafe fn map_here(physical: u64, size: usize, flags: PageTableFlags) -> Result<NonNull<u8>, MapError> {
    let end = physical.checked_add(size as u64).ok_or(MapError::OutOfRange)?;
    let range = (physical & !0xFFF, end.next_multiple_of(PAGE_BYTES as u64));
    let root = Cr3::read().0.start_address().as_u64();
    // SAFETY: the tables in use are identity mapped and writable, and only this function touches them, one
    // call at a time: there is one core and no interrupt runs code.
    let mut tables = unsafe { OffsetPageTable::new(&mut *(root as *mut PageTable), VirtAddr::new(0)) };
    // SAFETY: passed on from the caller.
    unsafe { mapping::identity_map(&mut tables, range, flags, PAGE_BYTES as u64, &mut HeapFrames)? };
    NonNull::new(physical as *mut u8).ok_or(MapError::Conflict)
}

/// Page tables out of the heap. They are never given back: device registers stay mapped.
struct HeapFrames;

// SAFETY: each frame is fresh, unused memory of the heap.
unsafe impl FrameAllocator<Size4KiB> for HeapFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let page = dma_allocate(1)?;
        Some(PhysFrame::containing_address(PhysAddr::new(physical_address(page))))
    }
}
