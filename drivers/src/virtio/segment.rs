//! Pieces of memory as a chain names them: what a driver submits and a ring describes.

/// Which side of a queue writes to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The driver wrote it, the device reads it.
    DeviceReads,
    /// The device writes it.
    DeviceWrites,
}

/// A contiguous piece of memory in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies, as the device sees it.
    pub address: u64,
    /// Its bytes, never zero.
    pub length: u32,
    /// Who writes it.
    pub access: Access,
}

impl Segment {
    /// A segment the device reads.
    pub fn device_reads(address: u64, length: u32) -> Self {
        Self { address, length, access: Access::DeviceReads }
    }

    /// A segment the device writes.
    pub fn device_writes(address: u64, length: u32) -> Self {
        Self { address, length, access: Access::DeviceWrites }
    }

    /// Takes `next` into this segment where it follows in memory without a gap, up to `limit` bytes in all.
    pub fn absorb(&mut self, next: &Self, limit: u32) -> bool {
        let joined = self.length.checked_add(next.length).filter(|&sum| sum <= limit);
        let adjacent =
            self.access == next.access && self.address.wrapping_add(u64::from(self.length)) == next.address;
        match joined {
            Some(length) if adjacent => {
                self.length = length;
                true
            }
            _ => false,
        }
    }
}
