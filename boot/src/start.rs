//! The first Rust code: in order, what the kernel's entry function may rely on.

use crate::memory_map::Ranges;
use crate::start_info::{COMMAND_LINE_BYTES_MAX, StartInfo};
use crate::{descriptors, image, paging, stacks};
use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind, Optional};
use core::ops::Range;
use datum_drivers::{clock, memory, uart};
use spin::{Mutex, Once};

/// Below lie the null page, the firmware's data and its code: left alone.
const LOW_MEMORY: Range<u64> = 0..1 << 20;
/// Regions that `BootInfo` can list.
const REGIONS_MAX: usize = 192;

static COMMAND_LINE: Once<([u8; COMMAND_LINE_BYTES_MAX], usize)> = Once::new();
static REGIONS: Mutex<[MemoryRegion; REGIONS_MAX]> = Mutex::new([MemoryRegion::empty(); REGIONS_MAX]);
static BOOT_INFO: Mutex<Option<BootInfo>> = Mutex::new(None);

#[expect(improper_ctypes, reason = "the signature is bootloader_api's; both sides are this build's Rust")]
unsafe extern "C" {
    /// Exported by `bootloader_api::entry_point!` in the kernel.
    safe fn _start(boot_info: &'static mut BootInfo) -> !;
}

/// The kernel command line. Bytes that are not UTF-8 end it.
pub fn command_line() -> &'static str {
    let Some((bytes, length)) = COMMAND_LINE.get() else { return "" };
    let valid = bytes[..*length].utf8_chunks().next();
    valid.map_or("", |chunk| chunk.valid())
}

/// Called by the entry code, once, with the physical address of the start info.
pub(crate) extern "C" fn start(start_info: u64) -> ! {
    clock::begin();
    uart::initialise();
    descriptors::load();
    // SAFETY: the early page tables are in use until `paging::switch`.
    let Some(info) = (unsafe { StartInfo::read(start_info) }) else {
        panic!("no PVH start info with a memory map: start the kernel with QEMU's -kernel option");
    };
    let mut line = [0; COMMAND_LINE_BYTES_MAX];
    // SAFETY: as above.
    let length = unsafe { info.copy_command_line(&mut line) };
    COMMAND_LINE.call_once(|| (line, length));
    let mut usable = usable_memory(&info);
    let boot_info = describe(&info, &mut usable);
    _start(boot_info)
}

/// RAM above the first MiB, the image included.
fn usable_memory(info: &StartInfo) -> Ranges {
    let mut usable = Ranges::new();
    // SAFETY: the early page tables are in use.
    let entries = || unsafe { info.entries() };
    entries().filter(|entry| entry.is_usable()).for_each(|entry| usable.add(entry.range));
    entries().filter(|entry| !entry.is_usable()).for_each(|entry| usable.remove(entry.range));
    usable.remove(LOW_MEMORY);
    usable
}

/// Switches to the final page tables, hands free memory to the heap, and writes all of it down.
fn describe(info: &StartInfo, usable: &mut Ranges) -> &'static mut BootInfo {
    let mut regions = RegionList::new();
    // SAFETY: as above; listed before the early page tables go.
    for entry in unsafe { info.entries() }.filter(|entry| !entry.is_usable()) {
        regions.push(entry.range, MemoryRegionKind::UnknownBios(entry.kind));
    }
    let rights = image::all();
    usable.remove(rights.start..rights.end);
    // SAFETY: called once, here; `usable` is RAM beside the image, which nobody uses yet.
    let tables = match unsafe { paging::switch(usable) } {
        Ok(tables) => tables,
        Err(error) => {
            panic!("page tables could not be made ({error:?}): give the machine at least 64 MiB of RAM")
        }
    };
    regions.push(image::all().start..tables.end, MemoryRegionKind::Bootloader);
    usable.remove(tables);
    for range in usable.iter() {
        // SAFETY: mapped now, writable, and given away only here.
        unsafe { memory::add_heap_region(range.start as usize, range.end as usize) };
        regions.push(range, MemoryRegionKind::Usable);
    }
    boot_info(info, regions)
}

fn boot_info(info: &StartInfo, regions: RegionList) -> &'static mut BootInfo {
    let stack = stacks::MAIN_STACK.range();
    let image = image::all();
    let mut boot_info = BootInfo::new(regions.finish().into());
    boot_info.physical_memory_offset = Optional::Some(0);
    boot_info.rsdp_addr = info.acpi_root().into();
    boot_info.kernel_addr = image.start;
    boot_info.kernel_len = image.end - image.start;
    boot_info.kernel_stack_bottom = stack.start;
    boot_info.kernel_stack_len = stack.end - stack.start;
    spin::MutexGuard::leak(BOOT_INFO.lock()).insert(boot_info)
}

/// The regions for `BootInfo`, in a static that is never given back.
struct RegionList {
    places: &'static mut [MemoryRegion; REGIONS_MAX],
    count: usize,
}

impl RegionList {
    fn new() -> Self {
        Self { places: spin::MutexGuard::leak(REGIONS.lock()), count: 0 }
    }

    fn push(&mut self, range: Range<u64>, kind: MemoryRegionKind) {
        if let Some(place) = self.places.get_mut(self.count) {
            *place = MemoryRegion { start: range.start, end: range.end, kind };
            self.count += 1;
        }
    }

    fn finish(self) -> &'static mut [MemoryRegion] {
        &mut self.places[..self.count]
    }
}
