//! Memory shared with devices.
//!
//! All memory is mapped one to one, so an address in a pointer is the address a device uses. A [`DmaRegion`]
//! is only ever touched through atomics: the device is another thread of execution that may write it at any
//! time, and atomics make that a defined race instead of undefined behaviour. Buffers that carry data are not
//! held here; they are lent to a queue by whoever owns them (see [`super::queue`]).

use super::SetupError;
use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The machine's memory as virtio sees it: mapped one to one, coherent, allocated from the heap.
#[derive(Debug)]
pub struct IdentityMemory;

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok().filter(|layout| layout.size() > 0)
}

// SAFETY: the heap gives exclusive, page-aligned, zeroed memory that stays until `dma_dealloc`, and with a
// one-to-one mapping its address is the device's too, and a register window's address is its pointer.
unsafe impl Hal for IdentityMemory {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: `layout` never gives a layout of size zero.
        let memory = layout(pages).and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }));
        // Address 0 is the interface's way to say that there was no memory.
        memory
            .map_or((0, NonNull::dangling()), |start| (start.as_ptr().expose_provenance() as PhysAddr, start))
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        let Some(layout) = layout(pages) else { return -1 };
        // SAFETY: the caller passes what `dma_alloc` returned, which was allocated with this layout.
        unsafe { dealloc(vaddr.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        // The PCI transport has mapped its windows, one to one, before anything asks for them.
        NonNull::new(core::ptr::with_exposed_provenance_mut(paddr as usize)).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// Zeroed pages that a device reads and writes while the driver does.
#[derive(Debug)]
pub struct DmaRegion {
    start: NonNull<u8>,
    address: u64,
    pages: usize,
}

impl DmaRegion {
    /// At least `bytes` bytes, rounded up to whole pages.
    pub fn allocate(bytes: usize) -> Result<Self, SetupError> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        match IdentityMemory::dma_alloc(pages, BufferDirection::Both) {
            (0, _) => Err(SetupError::OutOfMemory),
            (address, start) => Ok(Self { start, address, pages }),
        }
    }

    /// The device's address of the byte at `offset`.
    pub fn address(&self, offset: usize) -> u64 {
        assert!(offset < self.bytes(), "an address inside the region");
        self.address + offset as u64
    }

    fn bytes(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// A pointer to `length` aligned bytes at `offset`; panics where they are not all inside.
    fn pointer(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(
            offset.is_multiple_of(length) && offset + length <= self.bytes(),
            "an aligned field inside the region"
        );
        // SAFETY: just checked to stay inside the one allocation.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// The byte at `offset`.
    pub fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: `pointer` checked bounds; the region lives as long as `self` and is only accessed atomically.
        unsafe { AtomicU8::from_ptr(self.pointer(offset, 1)) }
    }

    /// The two bytes at `offset`.
    pub fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as for `u8`; the alignment was checked and the region itself is page aligned.
        unsafe { AtomicU16::from_ptr(self.pointer(offset, 2).cast()) }
    }

    /// The four bytes at `offset`.
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `u16`.
        unsafe { AtomicU32::from_ptr(self.pointer(offset, 4).cast()) }
    }

    /// The eight bytes at `offset`.
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as for `u16`.
        unsafe { AtomicU64::from_ptr(self.pointer(offset, 8).cast()) }
    }

    /// Copies what lies at `offset`, once; the copy can then be checked and used.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = self.u8(offset + index).load(Ordering::Relaxed);
        }
    }
}

impl Drop for DmaRegion {
    fn drop(&mut self) {
        // SAFETY: these are the values `dma_alloc` returned. That no device uses the memory any more is for
        // the owner to know: rings are never dropped while their device runs.
        unsafe { IdentityMemory::dma_dealloc(self.address, self.start, self.pages) };
    }
}
