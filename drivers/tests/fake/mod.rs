//! The device's side of a split virtqueue, over the same memory as the driver's, written from the
//! specification and not from the driver. It can also be told to lie.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod transport;

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A chain as the device finds it.
#[derive(Clone, Debug)]
pub struct Popped {
    pub id: u16,
    /// Address and length of what the device reads.
    pub reads: Vec<(u64, u32)>,
    /// Address and length of what the device writes.
    pub writes: Vec<(u64, u32)>,
}

impl Popped {
    pub fn writable(&self) -> u32 {
        self.writes.iter().map(|&(_, length)| length).sum()
    }

    /// Everything the driver lets the device read.
    pub fn read_all(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(address, length) in &self.reads {
            // SAFETY: the driver under test lends this memory until the chain is pushed back.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(pointer(address), length as usize) });
        }
        bytes
    }

    /// Writes `bytes` from the start of the writable segments on; returns how many fitted.
    pub fn write_all(&self, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        for &(address, length) in &self.writes {
            let (now, later) = rest.split_at(rest.len().min(length as usize));
            // SAFETY: as in `read_all`, for memory the device may write.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), pointer(address), now.len()) };
            rest = later;
        }
        (bytes.len() - rest.len()) as u32
    }
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

pub fn u16_at(address: u64) -> &'static AtomicU16 {
    // SAFETY: tests only pass addresses inside rings that are still alive.
    unsafe { AtomicU16::from_ptr(pointer(address).cast()) }
}

pub fn u32_at(address: u64) -> &'static AtomicU32 {
    // SAFETY: as above.
    unsafe { AtomicU32::from_ptr(pointer(address).cast()) }
}

fn u64_at(address: u64) -> &'static AtomicU64 {
    // SAFETY: as above.
    unsafe { AtomicU64::from_ptr(pointer(address).cast()) }
}

/// One queue as the device sees it.
#[derive(Debug)]
pub struct DeviceQueue {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub event_index: bool,
    next_available: u16,
    next_used: u16,
    announced: u16,
}

impl DeviceQueue {
    pub fn new(size: u16, [descriptors, available, used]: [u64; 3], event_index: bool) -> Self {
        let (next_available, next_used, announced) = (0, 0, 0);
        Self { size, descriptors, available, used, event_index, next_available, next_used, announced }
    }

    pub fn has_work(&self) -> bool {
        u16_at(self.available + 2).load(Ordering::Acquire) != self.next_available
    }

    pub fn pop(&mut self) -> Option<Popped> {
        if !self.has_work() {
            return None;
        }
        let slot = u64::from(self.next_available % self.size);
        let id = u16_at(self.available + 4 + 2 * slot).load(Ordering::Relaxed);
        assert!(id < self.size, "the driver offers a descriptor that exists");
        self.next_available = self.next_available.wrapping_add(1);
        let mut popped = Popped { id, reads: Vec::new(), writes: Vec::new() };
        self.walk(self.descriptors, u64::from(id), u64::from(self.size), &mut popped);
        Some(popped)
    }

    fn walk(&self, table: u64, first: u64, entries: u64, popped: &mut Popped) {
        let mut at = first;
        for _ in 0..entries {
            let address = u64_at(table + 16 * at).load(Ordering::Relaxed);
            let tail = u64_at(table + 16 * at + 8).load(Ordering::Relaxed);
            let (length, flags, next) = (tail as u32, (tail >> 32) as u16, tail >> 48);
            assert!(length > 0, "no empty segment");
            if flags & 4 != 0 {
                assert_eq!(flags, 4, "an indirect descriptor stands alone");
                return self.walk(address, 0, u64::from(length) / 16, popped);
            }
            let list = if flags & 2 != 0 { &mut popped.writes } else { &mut popped.reads };
            list.push((address, length));
            assert!(flags & 2 != 0 || popped.writes.is_empty(), "readable segments come first");
            if flags & 1 == 0 {
                return;
            }
            at = next;
        }
        panic!("a chain without end");
    }

    /// Hands a chain back, not yet considering an interrupt.
    pub fn push(&mut self, id: u32, written: u32) {
        let slot = u64::from(self.next_used % self.size);
        u32_at(self.used + 4 + 8 * slot).store(id, Ordering::Relaxed);
        u32_at(self.used + 8 + 8 * slot).store(written, Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
        u16_at(self.used + 2).store(self.next_used, Ordering::Release);
    }

    /// Claims completions that never happened.
    pub fn jump(&mut self, by: u16) {
        self.next_used = self.next_used.wrapping_add(by);
        u16_at(self.used + 2).store(self.next_used, Ordering::Release);
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call.
    pub fn take_interrupt(&mut self) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        let (old, new) = (self.announced, self.next_used);
        self.announced = new;
        if self.event_index {
            let event = u16_at(self.available + 4 + 2 * u64::from(self.size)).load(Ordering::Relaxed);
            new != old && new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            new != old && u16_at(self.available).load(Ordering::Relaxed) & 1 == 0
        }
    }

    /// Goes to sleep: asks for a notification of the next chain. False if one is there already.
    pub fn sleep(&mut self) -> bool {
        if self.event_index {
            u16_at(self.used + 4 + 8 * u64::from(self.size)).store(self.next_available, Ordering::Relaxed);
        } else {
            u16_at(self.used).store(0, Ordering::Relaxed);
        }
        std::sync::atomic::fence(Ordering::SeqCst);
        !self.has_work()
    }

    /// Works without being notified.
    pub fn stay_awake(&mut self) {
        if !self.event_index {
            u16_at(self.used).store(1, Ordering::Relaxed);
        }
    }
}

/// A small generator of reproducible numbers.
#[derive(Clone, Debug)]
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
