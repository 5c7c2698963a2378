//! Identity mapping of physical ranges: shared by `boot`, which maps memory, and [`super::map_mmio`].
//!
//! Virtual address = physical address, always and for everything. Memory is mapped in the largest pages that fit;
//! registers in the smallest, so that windows that share a neighbourhood never meet in one large page.

use x86_64::PhysAddr;
use x86_64::structures::paging::mapper::MapToError;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, PageSize, PageTableFlags, PhysFrame, Size1GiB, Size2MiB,
    Size4KiB,
};

/// Why a range could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No memory is left for page tables: give the machine more RAM.
    NoFrame,
    /// The range is in use for something else: two devices, or a device and RAM, claim one address.
    Conflict,
    /// The range ends beyond the physical addresses that can be identity mapped.
    OutOfRange,
}

/// First address that cannot be identity mapped: the lower half ends here.
const LOWER_HALF_END: u64 = 1 << 47;

/// Maps `start..end` (multiples of 4 KiB) onto itself, in pages of at most `largest_page` bytes. A 4 KiB page that is
/// already mapped with the same flags stays.
///
/// # Safety
/// The range is what `flags` make of it: ordinary memory, or a device's registers with caching off; mapping it
/// gives no one a second way to memory that Rust thinks is exclusive or constant.
pub unsafe fn identity_map<A: FrameAllocator<Size4KiB>>(
    tables: &mut OffsetPageTable<'_>,
    (start, end): (u64, u64),
    flags: PageTableFlags,
    largest_page: u64,
    frames: &mut A,
) -> Result<(), MapError> {
    if end > LOWER_HALF_END {
        return Err(MapError::OutOfRange);
    }
    let mut at = start;
    while at < end {
        let fits = |bytes: u64| bytes <= largest_page && at.is_multiple_of(bytes) && end - at >= bytes;
        // SAFETY: passed on from the caller, for a part of the range.
        at += unsafe {
            if fits(Size1GiB::SIZE) {
                map_page::<Size1GiB, A>(tables, at, flags, frames)?
            } else if fits(Size2MiB::SIZE) {
                map_page::<Size2MiB, A>(tables, at, flags, frames)?
            } else {
                map_page::<Size4KiB, A>(tables, at, flags, frames)?
            }
        };
    }
    Ok(())
}

/// Maps the one page of size `S` at `at` and returns its length.
///
/// # Safety
/// As for [`identity_map`].
unsafe fn map_page<S, A>(
    tables: &mut OffsetPageTable<'_>,
    at: u64,
    flags: PageTableFlags,
    frames: &mut A,
) -> Result<u64, MapError>
where
    S: PageSize,
    A: FrameAllocator<Size4KiB>,
    for<'a> OffsetPageTable<'a>: Mapper<S>,
{
    let frame = PhysFrame::<S>::containing_address(PhysAddr::new(at));
    // SAFETY: passed on from the caller.
    match unsafe { tables.identity_map(frame, flags, frames) } {
        Ok(flush) => flush.flush(),
        Err(MapToError::FrameAllocationFailed) => return Err(MapError::NoFrame),
        Err(MapToError::PageAlreadyMapped(_))
            if S::SIZE == Size4KiB::SIZE && mapped_alike(tables, at, flags) => {}
        Err(_) => return Err(MapError::Conflict),
    }
    Ok(S::SIZE)
}

/// Whether the page at `at` is already mapped with `flags` (beside what the processor notes by itself).
fn mapped_alike(tables: &OffsetPageTable<'_>, at: u64, flags: PageTableFlags) -> bool {
    use x86_64::structures::paging::mapper::{Translate, TranslateResult};
    let noted = PageTableFlags::ACCESSED | PageTableFlags::DIRTY | PageTableFlags::HUGE_PAGE;
    match tables.translate(x86_64::VirtAddr::new(at)) {
        TranslateResult::Mapped { flags: present, .. } => present.difference(noted) == flags,
        _ => false,
    }
}
