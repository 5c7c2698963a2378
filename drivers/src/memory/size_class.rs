//! The sizes in which the heap hands out small memory.
//!
//! Four classes to each doubling, from 16 bytes to 32 KiB, so that rounding up wastes at most a fifth of
//! what is handed out (and 15 bytes of the smallest). 4,096 is a class of its own: blocks are what the
//! appliance allocates most. Pure arithmetic; [`super::heap`] is the only user.

use core::alloc::Layout;

/// Classes in all.
pub(super) const CLASS_COUNT: usize = class_of(LARGEST_CLASS_BYTES) + 1;
/// Requests above this go to the back end.
pub(super) const LARGEST_CLASS_BYTES: usize = 32 << 10;
/// The spacing of the smallest classes, and the alignment that every class gives.
const GRAIN_BYTES: usize = 16;

/// Index of the smallest class that holds `bytes`.
const fn class_of(bytes: usize) -> usize {
    if bytes <= GRAIN_BYTES * 4 {
        return if bytes == 0 { 0 } else { (bytes - 1) / GRAIN_BYTES };
    }
    // `bytes` lies in (2^e, 2^(e+1)], cut into four equal steps.
    let exponent = (usize::BITS - 1 - (bytes - 1).leading_zeros()) as usize;
    let step = ((bytes - 1) >> (exponent - 2)) & 3;
    (exponent - 5) * 4 + step
}

/// Bytes of one object of each class.
const CLASS_BYTES: [u16; CLASS_COUNT] = {
    let mut bytes = [0; CLASS_COUNT];
    let mut class = 0;
    while class < CLASS_COUNT {
        let exponent = class / 4 + 5;
        let size = if class < 4 { (class + 1) * GRAIN_BYTES } else { (class % 4 + 5) << (exponent - 2) };
        bytes[class] = size as u16;
        class += 1;
    }
    bytes
};

/// Bytes of one object of `class`.
#[inline]
pub(super) fn class_bytes(class: usize) -> usize {
    usize::from(CLASS_BYTES[class])
}

/// The class for `layout`, or none if it must come from the back end. Objects lie at multiples of their
/// size from an aligned start, so a class serves an alignment if its size is a multiple of it.
#[inline]
pub(super) fn class_for(layout: Layout) -> Option<usize> {
    if layout.size() > LARGEST_CLASS_BYTES || layout.align() > LARGEST_CLASS_BYTES {
        return None;
    }
    if layout.align() <= GRAIN_BYTES {
        return Some(class_of(layout.size()));
    }
    // Alignments are powers of two: a mask, for a division on every allocation would show.
    let is_aligned = |class: &usize| class_bytes(*class) & (layout.align() - 1) == 0;
    (class_of(layout.size())..CLASS_COUNT).find(is_aligned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_no_smaller_one() {
        for bytes in 1..=LARGEST_CLASS_BYTES {
            let class = class_of(bytes);
            assert!(class_bytes(class) >= bytes, "{bytes}");
            assert!(class == 0 || class_bytes(class - 1) < bytes, "{bytes}");
        }
        assert_eq!(class_bytes(CLASS_COUNT - 1), LARGEST_CLASS_BYTES);
    }

    #[test]
    fn alignment_is_honoured() {
        for align in (0..=15).map(|shift| 1usize << shift) {
            for bytes in [1, 17, 65, 100, 4096, 4104, 20_000] {
                let Some(class) = class_for(Layout::from_size_align(bytes, align).unwrap()) else { continue };
                assert!(class_bytes(class) >= bytes && class_bytes(class).is_multiple_of(align));
            }
        }
        assert_eq!(class_bytes(class_for(Layout::new::<[u8; 4096]>()).unwrap()), 4096);
    }
}
