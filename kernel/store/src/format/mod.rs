//! Everything that is laid out in bytes on a disk, and nothing else.
//!
//! Each file here is the one home of its offsets; `docs/FORMAT.md` tells the idea and the order of writes.
//! All numbers are little-endian. What comes from a disk is decoded to `None` or an error where it cannot be
//! right; it never panics.

pub(crate) mod codec;
pub(crate) mod journal;
pub(crate) mod object;
pub(crate) mod owner;
pub(crate) mod pointer;
pub(crate) mod superblock;

pub(crate) use pointer::{Address, NODE_FANOUT, Pointer};
