//! The heap against a plain list of what is handed out.

use super::*;
use alloc::vec::Vec;

/// A heap over memory of the host, which is leaked: a test process ends soon enough.
fn heap(sizes: &[usize]) -> Heap {
    let mut heap = Heap::empty();
    for &size in sizes {
        let memory = Vec::leak(alloc::vec![0u8; size]);
        let range = memory.as_mut_ptr_range();
        // SAFETY: leaked, so nobody else's.
        assert!(unsafe { heap.add_region(range.start as usize, range.end as usize) });
    }
    heap
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn random_traffic_never_overlaps_and_comes_back_whole() {
    let mut heap = heap(&[4 << 20, 3 << 20]);
    let mut live: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    for step in 0..60_000 {
        if next() % 2 == 0 || live.is_empty() {
            let size = if next() % 20 == 0 { next() % 200_000 + 1 } else { next() % 5000 + 1 };
            let wanted = layout(size, 1 << (next() % 13));
            let Some(memory) = heap.allocate(wanted) else { continue };
            assert_eq!(memory.as_ptr() as usize % wanted.align(), 0);
            // SAFETY: just handed out, `size` bytes long.
            unsafe { memory.write_bytes(step as u8, size) };
            live.push((memory, wanted, step as u8));
        } else {
            let (memory, wanted, mark) = live.swap_remove(next() % live.len());
            // SAFETY: still handed out, and filled above.
            let bytes = unsafe { core::slice::from_raw_parts(memory.as_ptr(), wanted.size()) };
            assert!(bytes.iter().all(|&byte| byte == mark));
            // SAFETY: handed out with this layout and not used again.
            unsafe { heap.release(memory, wanted) };
        }
    }
    for (memory, wanted, _) in live {
        // SAFETY: as above.
        unsafe { heap.release(memory, wanted) };
    }
    assert_eq!(heap.usage().used_bytes, 0);
    // Nothing is lost: nearly a whole region can be had in one piece again.
    assert!(heap.allocate(layout(3_900_000, 1)).is_some());
}

#[test]
fn a_hoard_of_one_size_serves_another_once_freed() {
    let mut heap = heap(&[2 << 20]);
    let blocks: Vec<_> = core::iter::from_fn(|| heap.allocate(layout(4096, 1))).collect();
    assert!(blocks.len() > 400, "{}", blocks.len());
    assert!(blocks.iter().all(|block| (block.as_ptr() as usize).is_multiple_of(4096)));
    for block in blocks {
        // SAFETY: handed out above with this layout.
        unsafe { heap.release(block, layout(4096, 1)) };
    }
    assert!(core::iter::from_fn(|| heap.allocate(layout(48, 8))).take(30_000).count() == 30_000);
}
