//! A whole small disk image with some of its bytes changed. Whatever it says, opening it, reading all of it,
//! checking it and writing to it end, in errors or not.

mod change;
mod exercise;
#[allow(dead_code, unreachable_pub, reason = "it is shared with the other tests")]
#[path = "../../../src/disk/layout.rs"]
mod layout;
mod sound;

use crate::disk::{Blocks, MemoryDisk};
use crate::input::Input;

/// Blocks of the disk: the smallest that a pool takes.
const DISK_BLOCKS: u64 = 4096;

/// Changes a sound image and uses it: no checksum fits what was changed.
pub(crate) fn damaged(bytes: &[u8]) {
    changed(bytes, |_| {});
}

/// The same with checksums that fit the changes, as if a defect or a liar had written them.
pub(crate) fn verified(bytes: &[u8]) {
    changed(bytes, layout::repair);
}

fn changed(bytes: &[u8], finish: impl Fn(&mut Blocks)) {
    let mut input = Input(bytes);
    let which = input.u8();
    let deeds = input.u16();
    let mut image = sound::image(usize::from(which));
    change::apply(&mut image, &mut input);
    finish(&mut image.contents);
    exercise::all(&MemoryDisk::new(DISK_BLOCKS, image.contents), deeds);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise nothing behind the superblock would be reached.
    #[test]
    fn repair_leaves_a_sound_image_as_it_is() {
        for which in 0..sound::COUNT {
            let sound = sound::image(which);
            let mut repaired = sound.contents.clone();
            layout::repair(&mut repaired);
            assert!(repaired == sound.contents, "image {which}");
            assert!(sound.metadata.len() > 20, "{:?}", sound.metadata);
        }
    }
}
