//! What PVH tells the guest: memory map, command line, ACPI's root. Layout: Xen's `arch-x86/hvm/start_info.h`.

use crate::paging::EARLY_MAPPED_BYTES;
use core::ops::Range;

const MAGIC: u32 = 0x336E_C578;
/// Longest command line that is kept.
pub(crate) const COMMAND_LINE_BYTES_MAX: usize = 4096;
/// Most entries of the memory map that are looked at.
const ENTRIES_MAX: u32 = 256;
/// The entry type of ordinary memory, as in E820.
const USABLE: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawStartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    acpi_root: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<RawStartInfo>() == 56);

#[repr(C)]
#[derive(Clone, Copy)]
struct RawEntry {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<RawEntry>() == 24);

/// One range of the machine's memory map.
pub(crate) struct Entry {
    pub(crate) range: Range<u64>,
    pub(crate) kind: u32,
}

impl Entry {
    pub(crate) fn is_usable(&self) -> bool {
        self.kind == USABLE
    }
}

/// The start info, checked to be one and to lie in mapped memory.
pub(crate) struct StartInfo(RawStartInfo);

impl StartInfo {
    /// Reads the start info at `address`; none if there is no such thing.
    ///
    /// # Safety
    /// Only while the early page tables are in use.
    pub(crate) unsafe fn read(address: u64) -> Option<Self> {
        // SAFETY: passed on from the caller; any bytes make a `RawStartInfo`.
        let raw = unsafe { read_early::<RawStartInfo>(address)? };
        // Version 1 added the memory map, without which there is nothing to start on.
        (raw.magic == MAGIC && raw.version >= 1).then_some(Self(raw))
    }

    pub(crate) fn acpi_root(&self) -> Option<u64> {
        Some(self.0.acpi_root).filter(|&address| address != 0)
    }

    /// The memory map, as the machine wrote it: perhaps unsorted, perhaps overlapping.
    ///
    /// # Safety
    /// As for [`StartInfo::read`].
    pub(crate) unsafe fn entries(&self) -> impl Iterator<Item = Entry> {
        let start = self.0.memory_map;
        (0..self.0.memory_map_entries.min(ENTRIES_MAX)).filter_map(move |index| {
            let address = start + u64::from(index) * size_of::<RawEntry>() as u64;
            // SAFETY: passed on from the caller; any bytes make a `RawEntry`.
            let raw = unsafe { read_early::<RawEntry>(address)? };
            let end = raw.start.saturating_add(raw.bytes);
            Some(Entry { range: raw.start..end, kind: raw.kind })
        })
    }

    /// Copies the command line and returns its length; what does not fit is cut off.
    ///
    /// # Safety
    /// As for [`StartInfo::read`].
    pub(crate) unsafe fn copy_command_line(&self, into: &mut [u8; COMMAND_LINE_BYTES_MAX]) -> usize {
        if self.0.command_line == 0 {
            return 0;
        }
        for (index, place) in into.iter_mut().enumerate() {
            // SAFETY: passed on from the caller.
            match unsafe { read_early::<u8>(self.0.command_line + index as u64) } {
                None | Some(0) => return index,
                Some(byte) => *place = byte,
            }
        }
        into.len()
    }
}

/// # Safety
/// Only while the early page tables are in use; any bytes must make a valid `T`.
unsafe fn read_early<T: Copy>(address: u64) -> Option<T> {
    let end = address.checked_add(size_of::<T>() as u64)?;
    if address == 0 || end > EARLY_MAPPED_BYTES {
        return None;
    }
    // SAFETY: the early tables map this address; nothing else uses the memory yet.
    Some(unsafe { (address as *const T).read_unaligned() })
}
