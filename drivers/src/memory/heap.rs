//! The heap: slabs of equal objects in front of `linked_list_allocator`.
//!
//! - Small requests (up to 32 KiB) come from 64 KiB *slabs* of one size class each. Allocation and release
//!   are a few loads and stores and never walk a list, whatever the fragmentation.
//! - A slab whose objects are all free goes to a common reserve, from which any class takes it (but each class keeps
//!   its last). All of these go back to the back end when it could not serve a request otherwise, so a load that
//!   moves from one size to another never runs out of memory that exists.
//! - Larger requests, rounded up to whole pages, go to the first-fit back end.
//! - Slab descriptors lie outside the slabs, so that 4 KiB objects are aligned to 4 KiB and fill a slab.
//!
//! Nothing here is called from an interrupt: see [`crate::interrupts`].

use super::size_class::{CLASS_COUNT, class_bytes, class_for};
use core::alloc::Layout;
use core::ptr::NonNull;
use linked_list_allocator::Heap as BackEnd;

/// Bytes in a slab, and its alignment.
const SLAB_BYTES: usize = 64 << 10;
/// Regions of memory the heap can span: below and above the PCI hole, and room for odd memory maps.
pub const REGIONS_MAX: usize = 8;
/// Large requests are rounded up to this, so that the back end does not crumble.
const PAGE_BYTES: usize = 4096;

/// Heap figures in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes the heap has in all.
    pub heap_bytes: usize,
    /// Bytes now handed out, rounding included.
    pub used_bytes: usize,
    /// The most that was ever handed out.
    pub high_water_bytes: usize,
}

/// A free object; its own memory holds the link.
struct FreeObject {
    next: Option<NonNull<FreeObject>>,
}

/// What is known about one slab. `next` and `previous` link the slabs of a class that have a free object.
struct Slab {
    free: Option<NonNull<FreeObject>>,
    next: SlabLink,
    previous: SlabLink,
    used: u32,
}

/// A descriptor in a region's table, which stays where it is for ever.
type SlabLink = Option<NonNull<Slab>>;

/// One contiguous piece of memory: its slab descriptors, then what the back end manages.
struct Region {
    base: usize,
    end: usize,
    slabs: *mut Slab,
    back: BackEnd,
}

impl Region {
    /// The slab that `address` lies in.
    fn slab_at(&self, address: usize) -> SlabLink {
        NonNull::new(self.slabs.wrapping_add((address - self.base) / SLAB_BYTES))
    }

    /// Where the memory of a slab begins; `None` for that of another region.
    fn start_of(&self, slab: NonNull<Slab>) -> Option<NonNull<u8>> {
        let index = (slab.as_ptr() as usize).checked_sub(self.slabs as usize)? / size_of::<Slab>();
        let start = self.base + index * SLAB_BYTES;
        if start < self.end { NonNull::new(start as *mut u8) } else { None }
    }
}

/// The heap. All memory it hands out lies in the regions given to [`Heap::add_region`].
pub struct Heap {
    /// The first `region_count` are there.
    regions: [Option<Region>; REGIONS_MAX],
    region_count: usize,
    /// For each class the first slab with a free object.
    partial: [SlabLink; CLASS_COUNT],
    /// The first wholly free slab.
    reserve: SlabLink,
    usage: Usage,
}

// SAFETY: the raw pointers in `Region` and `Slab` lead only into memory that the heap owns alone, so it may
// move between threads whole.
unsafe impl Send for Heap {}

impl Heap {
    /// A heap without memory.
    pub const fn empty() -> Self {
        Self {
            regions: [const { None }; REGIONS_MAX],
            region_count: 0,
            partial: [None; CLASS_COUNT],
            reserve: None,
            usage: Usage { heap_bytes: 0, used_bytes: 0, high_water_bytes: 0 },
        }
    }

    /// Gives the heap the memory from `start` to `end`. Returns false, and takes nothing, when the piece is too
    /// small to be useful or all places are taken.
    ///
    /// # Safety
    /// The memory is mapped, writable, and nobody else's from now on.
    pub unsafe fn add_region(&mut self, start: usize, end: usize) -> bool {
        let start = start.next_multiple_of(PAGE_BYTES);
        let end = end & !(PAGE_BYTES - 1);
        let Some(place) = self.regions.get_mut(self.region_count) else { return false };
        if end < start + 4 * SLAB_BYTES {
            return false;
        }
        let base = start & !(SLAB_BYTES - 1);
        let slabs = (end - base).div_ceil(SLAB_BYTES);
        let table_bytes = (slabs * size_of::<Slab>()).next_multiple_of(PAGE_BYTES);
        let back_start = start + table_bytes;
        // SAFETY: the range is the caller's gift; the descriptors lie before it and are written before use,
        // each when its slab is first carved.
        let back = unsafe { BackEnd::new(back_start as *mut u8, end - back_start) };
        *place = Some(Region { base, end, slabs: start as *mut Slab, back });
        self.region_count += 1;
        self.usage.heap_bytes += end - back_start;
        true
    }

    /// The figures now.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Memory for `layout`, or none.
    pub fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let (memory, bytes) = match class_for(layout) {
            Some(class) => (self.allocate_small(class)?, class_bytes(class)),
            None => {
                let layout = whole_pages(layout)?;
                (self.allocate_large(layout)?, layout.size())
            }
        };
        self.usage.used_bytes += bytes;
        self.usage.high_water_bytes = self.usage.high_water_bytes.max(self.usage.used_bytes);
        Some(memory)
    }

    /// Takes memory back.
    ///
    /// # Safety
    /// `memory` came from [`Heap::allocate`] of this heap with the same layout, and is not used any more.
    pub unsafe fn release(&mut self, memory: NonNull<u8>, layout: Layout) {
        match class_for(layout) {
            Some(class) => {
                self.usage.used_bytes -= class_bytes(class);
                // SAFETY: passed on from the caller; the class follows from the layout alone.
                unsafe { self.release_small(memory, class) }
            }
            None => {
                let Some(layout) = whole_pages(layout) else { return };
                self.usage.used_bytes -= layout.size();
                if let Some(region) = self.region_of(memory) {
                    // SAFETY: the region's back end gave this memory out for this very layout.
                    unsafe { region.back.deallocate(memory, layout) }
                }
            }
        }
    }

    /// Whether memory of layout `old` also serves `new_size` where it lies.
    pub fn fits_in_place(old: Layout, new_size: usize) -> bool {
        let Ok(new) = Layout::from_size_align(new_size, old.align()) else { return false };
        match (class_for(old), class_for(new)) {
            (Some(before), Some(after)) => before == after,
            (None, None) => whole_pages(old) == whole_pages(new),
            _ => false,
        }
    }

    fn allocate_small(&mut self, class: usize) -> Option<NonNull<u8>> {
        if self.partial[class].is_none() {
            let fresh = self.carve(class)?;
            self.link(class, fresh);
        }
        let link = self.partial[class]?;
        let slab = self.slab(link);
        let object = slab.free?;
        // SAFETY: an object on a free list is memory of the heap that holds a `FreeObject`.
        slab.free = unsafe { object.as_ref().next };
        slab.used += 1;
        if slab.free.is_none() {
            self.unlink(class, link);
        }
        Some(object.cast())
    }

    /// # Safety
    /// `memory` is an object of `class` that this heap handed out and that is not used any more.
    unsafe fn release_small(&mut self, memory: NonNull<u8>, class: usize) {
        let Some(link) = self.slab_of(memory) else { return };
        let slab = self.slab(link);
        let was_full = slab.free.is_none();
        let object = memory.cast::<FreeObject>();
        // SAFETY: the object is free now, at least 16 bytes long and aligned to 16.
        unsafe { object.write(FreeObject { next: slab.free }) };
        slab.free = Some(object);
        slab.used -= 1;
        let is_empty = slab.used == 0;
        if was_full {
            self.link(class, link);
        }
        // The last slab of a class stays, or a lone object that comes and goes would carve one each time.
        if is_empty && !(self.partial[class] == Some(link) && self.slab(link).next.is_none()) {
            self.retire(class, link);
        }
    }

    /// Moves a slab without a used object from its class to the reserve.
    fn retire(&mut self, class: usize, slab: NonNull<Slab>) {
        self.unlink(class, slab);
        let next = self.reserve.replace(slab);
        self.slab(slab).next = next;
    }

    /// Takes a slab, from the reserve if it has one, and strings its objects into a free list.
    fn carve(&mut self, class: usize) -> Option<NonNull<Slab>> {
        let start = match self.reserve {
            None => self.allocate_large(slab_layout())?,
            Some(slab) => {
                self.reserve = self.slab(slab).next;
                self.start_of(slab)?
            }
        };
        let bytes = class_bytes(class);
        let mut free = None;
        for index in (0..SLAB_BYTES / bytes).rev() {
            // SAFETY: object `index` lies inside the slab, which belongs to no one else, and is aligned to 16.
            unsafe {
                let object = start.add(index * bytes).cast::<FreeObject>();
                object.write(FreeObject { next: free });
                free = Some(object);
            }
        }
        let slab = self.slab_of(start)?;
        // SAFETY: the descriptor's place is reserved in the region's table; this initialises it.
        unsafe { slab.write(Slab { free, next: None, previous: None, used: 0 }) };
        Some(slab)
    }

    fn allocate_large(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.first_fit(layout).or_else(|| {
            self.give_back_reserve();
            self.first_fit(layout)
        })
    }

    /// Higher regions first: what lies below 4 GiB is the scarcer kind.
    fn first_fit(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let regions = self.regions[..self.region_count].iter_mut().rev().flatten();
        regions.filter_map(|region| region.back.allocate_first_fit(layout).ok()).next()
    }

    /// Gives every slab without a used object back, those that classes keep for themselves too.
    fn give_back_reserve(&mut self) {
        for class in 0..CLASS_COUNT {
            let mut left = self.partial[class];
            while let Some(slab) = left {
                left = self.slab(slab).next;
                if self.slab(slab).used == 0 {
                    self.retire(class, slab);
                }
            }
        }
        while let Some(slab) = self.reserve {
            self.reserve = self.slab(slab).next;
            let Some(start) = self.start_of(slab) else { return };
            if let Some(region) = self.region_of(start) {
                // SAFETY: the slab came from this region's back end with this layout, and all of it is free.
                unsafe { region.back.deallocate(start, slab_layout()) }
            }
        }
    }

    fn link(&mut self, class: usize, link: NonNull<Slab>) {
        let next = self.partial[class].replace(link);
        let slab = self.slab(link);
        (slab.next, slab.previous) = (next, None);
        if let Some(next) = next {
            self.slab(next).previous = Some(link);
        }
    }

    fn unlink(&mut self, class: usize, link: NonNull<Slab>) {
        let (next, previous) = (self.slab(link).next, self.slab(link).previous);
        match previous {
            None => self.partial[class] = next,
            Some(previous) => self.slab(previous).next = next,
        }
        if let Some(next) = next {
            self.slab(next).previous = previous;
        }
    }

    fn region_of(&mut self, memory: NonNull<u8>) -> Option<&mut Region> {
        let address = memory.as_ptr() as usize;
        self.regions[..self.region_count]
            .iter_mut()
            .flatten()
            // Not from `base` on: rounded down, it may lie in the region below.
            .find(|region| (region.slabs as usize..region.end).contains(&address))
    }

    fn slab_of(&mut self, memory: NonNull<u8>) -> SlabLink {
        self.region_of(memory)?.slab_at(memory.as_ptr() as usize)
    }

    fn start_of(&self, slab: NonNull<Slab>) -> Option<NonNull<u8>> {
        self.regions[..self.region_count].iter().flatten().find_map(|region| region.start_of(slab))
    }

    fn slab(&mut self, mut slab: NonNull<Slab>) -> &mut Slab {
        // SAFETY: only carved slabs are ever linked or have a live object, so the descriptor is initialised; it lies
        // in the heap's own table, and `&mut self` makes the reference the only one.
        unsafe { slab.as_mut() }
    }
}

fn slab_layout() -> Layout {
    const { assert!(SLAB_BYTES.is_power_of_two()) };
    // SAFETY: both are the same power of two, far below the limit.
    unsafe { Layout::from_size_align_unchecked(SLAB_BYTES, SLAB_BYTES) }
}

fn whole_pages(layout: Layout) -> Option<Layout> {
    let size = layout.size().checked_next_multiple_of(PAGE_BYTES)?;
    Layout::from_size_align(size, layout.align().max(PAGE_BYTES)).ok()
}

#[cfg(test)]
#[path = "heap_tests.rs"]
mod tests;
