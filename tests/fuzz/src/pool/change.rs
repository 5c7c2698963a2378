//! Changes of an image, told by an input: eight bytes each.

use super::sound::Image;
use crate::input::Input;
use datum_store::device::BLOCK_SIZE;
use std::rc::Rc;

/// Changes an input may make.
const CHANGES_MAX: usize = 16;

/// Numbers on which bounds turn.
const TELLING: [u64; 16] = [
    0,
    1,
    2,
    127,
    128,
    4095,
    4096,
    1 << 32,
    1 << 34,
    (1 << 35) - 1,
    1 << 35,
    1 << 56,
    u64::MAX >> 8,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Makes the changes that `input` tells.
pub(super) fn apply(image: &mut Image, input: &mut Input<'_>) {
    for _ in 0..CHANGES_MAX {
        if input.is_empty() {
            break;
        }
        change(image, input);
    }
}

fn change(image: &mut Image, input: &mut Input<'_>) {
    let (kind, which, place, value, from) = (input.u8(), input.u8(), input.u16(), input.u16(), input.u16());
    let pick = |n: u8| image.metadata[usize::from(n) % image.metadata.len()];
    let (target, place) = (pick(which), usize::from(place) % BLOCK_SIZE);
    let source = image.block(pick(value as u8));
    let from = usize::from(from) % BLOCK_SIZE;
    let mut block = image.block(target);
    let bytes = Rc::make_mut(&mut block);
    let copy = |bytes: &mut [u8; BLOCK_SIZE], unit: usize| {
        let (to, from) = (place / unit * unit, from / unit * unit);
        bytes[to..to + unit].copy_from_slice(&source[from..from + unit]);
    };
    let number = |bytes: &mut [u8; BLOCK_SIZE], at: usize, change: &dyn Fn(u64) -> u64| {
        let at = at.min(BLOCK_SIZE - 8);
        let new = change(super::layout::word(bytes, at));
        bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
    };
    match kind % 10 {
        0 => bytes[place] = value as u8,
        1 => number(bytes, place & !7, &|_| TELLING[usize::from(value % 16)]),
        2 => number(bytes, place, &|_| TELLING[usize::from(value % 16)]),
        3 => number(bytes, place & !7, &|old| old.wrapping_add_signed(i64::from(value as i16))),
        4 => number(bytes, place, &|old| old.wrapping_add_signed(i64::from(value as i16))),
        5 => copy(bytes, 8),
        6 => copy(bytes, 32),
        7 => copy(bytes, 256),
        8 => copy(bytes, BLOCK_SIZE),
        _ => bytes[place / 32 * 32..][..32].fill(0),
    }
    image.contents.insert(target, block);
}
