//! Where the linker put the parts of the image. The names are the linker script's (`kernel/link.ld`).

use core::ops::Range;

unsafe extern "C" {
    static datum_image_start: u8;
    static datum_text_end: u8;
    static datum_constants_end: u8;
    static datum_image_end: u8;
}

fn address(symbol: *const u8) -> u64 {
    symbol as u64
}

/// Code: executed, never written.
pub(crate) fn text() -> Range<u64> {
    address(&raw const datum_image_start)..address(&raw const datum_text_end)
}

/// Constants: only read.
pub(crate) fn constants() -> Range<u64> {
    address(&raw const datum_text_end)..address(&raw const datum_constants_end)
}

/// Variables and stacks.
pub(crate) fn data() -> Range<u64> {
    address(&raw const datum_constants_end)..address(&raw const datum_image_end)
}

/// Everything.
pub(crate) fn all() -> Range<u64> {
    text().start..data().end
}
