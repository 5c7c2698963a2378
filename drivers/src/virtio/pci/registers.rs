//! A mapped register window: the only code that reads and writes device registers in memory.

use core::ptr::NonNull;

/// Registers of a device, mapped for good. Every access is checked to be inside and aligned.
#[derive(Debug)]
pub(super) struct Registers {
    start: NonNull<u8>,
    bytes: usize,
}

impl Registers {
    /// # Safety
    /// `start` is the mapping of `bytes` bytes of device registers, it stays, and no Rust object lies there.
    pub(super) unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        Self { start, bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn pointer<V>(&self, offset: usize) -> *mut V {
        let inside = offset.checked_add(size_of::<V>()).is_some_and(|end| end <= self.bytes);
        // SAFETY: the offset is inside the window if the assertion below holds, and the pointer is not used else.
        let pointer = unsafe { self.start.as_ptr().add(if inside { offset } else { 0 }) }.cast::<V>();
        assert!(inside && pointer.is_aligned(), "a register inside its window");
        pointer
    }

    /// Reads a register of one, two, four or eight bytes.
    pub(super) fn read<V: Register>(&self, offset: usize) -> V {
        // SAFETY: inside the window and aligned; any bytes are a value of `V`.
        unsafe { self.pointer::<V>(offset).read_volatile() }
    }

    /// Writes a register.
    pub(super) fn write<V: Register>(&self, offset: usize, value: V) {
        // SAFETY: inside the window and aligned; what the register does with it is the device's business, which
        // touches only memory that it was given through queues.
        unsafe { self.pointer::<V>(offset).write_volatile(value) };
    }
}

/// Numbers that a register can hold.
pub(super) trait Register: Copy {}
impl Register for u8 {}
impl Register for u16 {}
impl Register for u32 {}
