//! A device that keeps no rule, and the book of what it holds, by which the driver is judged.
//!
//! A chain is held from the moment the driver shows it until a used element names it with a length that it can
//! have, or until a reset that the device confirms. Nothing else gives it back.

use super::fake::Popped;
use super::fake::transport::{FakeTransport, Registers};
use super::fake::{u16_at, u32_at};
use crate::input::Input;
use crate::memory::{Run, let_go};
use datum_drivers::virtio::transport::DeviceStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// A chain the device holds.
pub(super) struct Held {
    pub(super) queue: u16,
    pub(super) popped: Popped,
    /// The device has forgotten it, and a correct one will not give it back.
    pub(super) lost: bool,
}

/// The device.
pub(super) struct Hostile<'a> {
    pub(super) transport: FakeTransport,
    pub(super) held: Vec<Held>,
    /// It broke a rule, so that it may have lost a request.
    pub(super) cheated: bool,
    /// Ports of a console that have a client.
    pub(super) clients: BTreeSet<u32>,
    run: &'a Run,
    /// The driver may take back what the device only reads.
    only_writable: bool,
    resets: usize,
    /// Chains that were given back before they were shown.
    ahead: BTreeMap<(u16, u32), u32>,
    /// Memory of the rings.
    rings: Vec<Range<usize>>,
}

fn range(address: u64, bytes: u64) -> Range<usize> {
    address as usize..(address + bytes) as usize
}

impl<'a> Hostile<'a> {
    pub(super) fn new(run: &'a Run, transport: FakeTransport, only_writable: bool) -> Self {
        // Memory may be freed in the very call that resets.
        transport.0.borrow_mut().on_reset = Some(let_go);
        Self {
            transport,
            held: Vec::new(),
            cheated: false,
            clients: BTreeSet::new(),
            run,
            only_writable,
            resets: 0,
            ahead: BTreeMap::new(),
            rings: Vec::new(),
        }
    }

    fn registers(&self) -> std::cell::RefMut<'_, Registers> {
        self.transport.0.borrow_mut()
    }

    /// Takes up what the driver has shown, and holds the driver against the book.
    pub(super) fn observe(&mut self) {
        let transport = self.transport.clone();
        let mut registers = transport.0.borrow_mut();
        if registers.resets > self.resets {
            self.resets = registers.resets;
            if !registers.stuck {
                self.held.clear();
                self.ahead.clear();
                self.rings.clear();
            }
        }
        for (&number, queue) in &mut registers.queues {
            let (size, used) = (u64::from(queue.size), queue.used);
            let ring = range(queue.descriptors, used + 6 + 8 * size - queue.descriptors);
            if !self.rings.contains(&ring) {
                self.rings.push(ring);
            }
            while let Some(popped) = queue.pop() {
                for &(address, length) in popped.reads.iter().chain(&popped.writes) {
                    let segment = range(address, u64::from(length));
                    assert!(self.run.has_given(&segment), "a descriptor of memory that nobody handed out");
                }
                // One that gave back what it had not seen may find the next in the place of it, and then again.
                if self.cheated {
                    self.held.retain(|held| (held.queue, held.popped.id) != (number, popped.id));
                }
                match self.ahead.get_mut(&(number, u32::from(popped.id))) {
                    Some(count) if *count > 0 => *count -= 1,
                    _ => self.held.push(Held { queue: number, popped, lost: false }),
                }
            }
        }
        drop(registers);
        self.book();
        assert!(!self.run.freed_while_held(), "memory that the device holds was freed");
    }

    fn book(&self) {
        let segments = self.held.iter().flat_map(|held| {
            let reads = held.popped.reads.iter().filter(|_| !self.only_writable);
            reads.chain(&held.popped.writes).map(|&(address, length)| range(address, u64::from(length)))
        });
        self.run.hold(self.rings.iter().cloned().chain(segments));
    }

    /// The oldest chain of a queue that the device has not forgotten.
    pub(super) fn oldest(&self, queue: u16) -> Option<usize> {
        self.held.iter().position(|held| held.queue == queue && !held.lost)
    }

    /// Gives a held chain back as it should be.
    pub(super) fn complete(&mut self, index: usize, written: u32) {
        let Held { queue, popped, .. } = &self.held[index];
        let (queue, id) = (*queue, u32::from(popped.id));
        self.push(queue, id, written);
    }

    /// Writes a used element, of whatever sense.
    pub(super) fn push(&mut self, queue: u16, id: u32, written: u32) {
        let known = self.registers().queues.get_mut(&queue).map(|queue| queue.push(id, written)).is_some();
        if known {
            self.give_back(queue, id, written);
        }
    }

    fn give_back(&mut self, queue: u16, id: u32, written: u32) {
        let of = |held: &Held| held.queue == queue && u32::from(held.popped.id) == id;
        match self.held.iter().position(of) {
            Some(index) if written <= self.held[index].popped.writable() => {
                self.cheated |= self.held.remove(index).lost;
            }
            Some(_) => self.cheated = true,
            None => {
                self.cheated = true;
                *self.ahead.entry((queue, id)).or_default() += 1;
            }
        }
        self.book();
    }

    /// Moves the used index without writing elements: what lies in them from earlier rounds counts.
    fn jump(&mut self, number: u16, by: u16) {
        self.cheated = true;
        let mut stale = Vec::new();
        if let Some(queue) = self.registers().queues.get_mut(&number) {
            let index = u16_at(queue.used + 2).load(Ordering::Relaxed);
            for step in 0..by.min(queue.size) {
                let slot = u64::from(index.wrapping_add(step) % queue.size);
                let word = |at| u32_at(queue.used + at + 8 * slot).load(Ordering::Relaxed);
                stale.push((word(4), word(8)));
            }
            queue.jump(by);
        }
        stale.into_iter().for_each(|(id, written)| self.give_back(number, id, written));
    }

    /// Writes what it likes to a chain that it holds.
    fn scribble(&self, input: &mut Input<'_>) {
        if let Some(held) = self.held.get(usize::from(input.u8()) % self.held.len().max(1)) {
            let (byte, count) = (input.u8(), held.popped.writable().min(8192));
            held.popped.write_all(&vec![byte; count as usize]);
        }
    }

    /// Something that no correct device does, or that a correct one does seldom.
    pub(super) fn misbehave(&mut self, input: &mut Input<'_>) {
        let queues: Vec<u16> = self.registers().queues.keys().copied().collect();
        let queue = queues.get(usize::from(input.u8()) % queues.len().max(1)).copied().unwrap_or(0);
        match input.u8() % 11 {
            0 => self.push(queue, u32::from(input.u16()) << 8 | u32::from(input.u8()), 0),
            1 => self.push(queue, u32::from(input.u8() % 64), u32::from(input.u8())),
            2 => {
                if let Some(index) = self.oldest(queue) {
                    let by = u32::from(input.u16());
                    self.complete(index, by);
                }
            }
            3 => {
                if let Some(index) = self.oldest(queue) {
                    let whole = self.held[index].popped.writable();
                    self.complete(index, whole.wrapping_add(u32::from(input.u8())));
                }
            }
            4 => self.jump(queue, u16::from(input.u8())),
            5 => self.jump(queue, input.u16()),
            6 => self.scribble(input),
            7 => {
                let mut registers = self.registers();
                let (at, byte) = (usize::from(input.u8()), input.u8());
                let length = registers.config.len().max(1);
                if let Some(place) = registers.config.get_mut(at % length) {
                    *place = byte;
                }
                registers.config_changed = true;
            }
            8 => {
                self.cheated = true;
                let mut registers = self.registers();
                registers.status |= DeviceStatus::DEVICE_NEEDS_RESET;
                registers.config_changed = input.u8() & 1 == 0;
            }
            9 => {
                self.cheated = true;
                let mut registers = self.registers();
                match input.u8() {
                    0 => registers.stuck = true,
                    1..=16 => (registers.restless, registers.config_changed) = (true, true),
                    _ => registers.config_changed = true,
                }
            }
            _ => self.wishes(queue, input.u16()),
        }
    }

    /// What the device says of when it wants to be told of more.
    fn wishes(&self, number: u16, value: u16) {
        let registers = self.registers();
        if let Some(queue) = registers.queues.get(&number) {
            let end = queue.used + 4 + 8 * u64::from(queue.size);
            let at = if queue.event_index { end } else { queue.used };
            u16_at(at).store(value, Ordering::Relaxed);
        }
    }
}
