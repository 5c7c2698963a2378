//! A split virtqueue: chains of buffers go to the device, and come back in any order.
//!
//! What always holds:
//! - Links, lengths and owners of chains are kept privately. Of what the device writes, only an index, an id and
//!   a length are read, each copied once and checked; anything that cannot be is a [`Fault`], after which the
//!   queue says nothing but that fault. A device can make a queue useless, never unsound.
//! - Whoever lends memory hands over its *owner* with the chain and gets it back when the device is through.
//!   A queue that is dropped before that leaks its rings and owners: the device may still write there.
//! - Nothing is allocated per chain. Indices are 16 bits wide and wrap; they are compared by difference only.
//! - [`Queue::submit`] shows a chain to the device but does not wake it; one [`Queue::take_notification`] serves
//!   any number of submissions.
//!
//! The drivers beside this file decide what chains mean. Sections are those of virtio 1.2.

use super::SetupError;
use super::ring::{IndirectTables, Ring};
use super::segment::{Access, Segment};
use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use core::sync::atomic::{Ordering, fence};

/// What a device did that no correct device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It claims more completions than there are chains in flight.
    IndexJump,
    /// It completed a chain it does not hold: an id out of range, or one completed before.
    WrongId,
    /// It claims to have written more than it was given.
    WrongLength,
    /// It answered with something that means nothing.
    WrongAnswer,
    /// It asked to be reset.
    NeedsReset,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IndexJump => {
                "the device completed more requests than it holds; restart the appliance and check its host"
            }
            Self::WrongId => {
                "the device completed a request it does not hold; restart the appliance and check its host"
            }
            Self::WrongLength => {
                "the device wrote more or less than was asked; restart the appliance and check its host"
            }
            Self::WrongAnswer => {
                "the device gave an answer that means nothing; restart the appliance and check its host"
            }
            Self::NeedsReset => {
                "the device stopped and asks to be reset; restart the appliance and check its host"
            }
        })
    }
}

impl core::error::Error for Fault {}

/// A chain the device is through with.
#[derive(Debug)]
pub struct Completion<O> {
    /// What was handed over with the chain.
    pub owner: O,
    /// Bytes the device says it wrote, never more than the chain's writable bytes.
    pub written: u32,
}

#[derive(Debug)]
struct Chain<O> {
    owner: O,
    descriptors: u16,
    writable: u32,
    table: Option<u16>,
}

#[derive(Debug)]
struct Shared<O> {
    ring: Ring,
    tables: Option<IndirectTables>,
    chains: Vec<Option<Chain<O>>>,
}

/// What was negotiated with the device and matters to a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFeatures {
    /// VIRTIO_F_EVENT_IDX: both sides say after which index they want to be woken.
    pub event_index: bool,
    /// VIRTIO_F_INDIRECT_DESC: a chain may lie in a table of its own.
    pub indirect: bool,
}

/// A queue whose chains carry an owner of type `O`.
#[derive(Debug)]
pub struct Queue<O> {
    /// Not freed on drop: the device knows these addresses.
    shared: ManuallyDrop<Shared<O>>,
    /// Which descriptor follows which, for free ones and for chains in flight.
    links: Vec<u16>,
    free_head: u16,
    free: u16,
    in_flight: u16,
    /// Index of the next chain shown to the device.
    available: u16,
    /// `available` when the device was last considered for a notification.
    considered: u16,
    /// Index of the next completion to look at.
    used: u16,
    event_index: bool,
    fault: Option<Fault>,
}

impl<O> Queue<O> {
    /// A queue on `ring`, which the device has been told of or will be. `tables` indirect tables of
    /// `table_entries` segments each serve chains of more than one segment; where the device knows no
    /// indirect chains, or with no tables, such a chain takes one descriptor a segment. Interrupts are off.
    pub fn new(
        ring: Ring,
        features: QueueFeatures,
        tables: u16,
        table_entries: u16,
    ) -> Result<Self, SetupError> {
        let size = ring.size();
        let wants_tables = features.indirect && tables > 0 && table_entries > 1;
        // 2.7.5.3.1: an indirect chain is never longer than the queue.
        let entries = table_entries.min(size);
        let tables =
            if wants_tables { Some(IndirectTables::allocate(tables.min(size), entries)?) } else { None };
        let chains = (0..size).map(|_| None).collect();
        let mut queue = Self {
            shared: ManuallyDrop::new(Shared { ring, tables, chains }),
            links: (1..=size).collect(),
            free_head: 0,
            free: size,
            in_flight: 0,
            available: 0,
            considered: 0,
            used: 0,
            event_index: features.event_index,
            fault: None,
        };
        queue.suppress_interrupts();
        Ok(queue)
    }

    /// Segments the longest chain may have.
    pub fn longest_chain(&self) -> usize {
        self.shared.tables.as_ref().map_or(self.links.len(), IndirectTables::entries)
    }

    /// Chains the device holds.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Whether [`Queue::complete`] has something to say.
    #[inline]
    pub fn stirs(&self) -> bool {
        self.fault.is_some() || self.shared.ring.used_index() != self.used
    }

    /// Whether so many chains were submitted since the device was last considered for a notification that it may
    /// soon have seen all others.
    pub fn runs_dry(&self) -> bool {
        let unseen = self.available.wrapping_sub(self.considered);
        2 * u32::from(unseen) >= u32::from(self.in_flight)
    }

    /// Whether a chain of `segments` segments can be submitted now.
    pub fn has_room(&self, segments: usize) -> bool {
        match &self.shared.tables {
            _ if self.fault.is_some() || segments > self.longest_chain() => false,
            Some(tables) if segments > 1 => self.free > 0 && tables.any_free(),
            _ => usize::from(self.free) >= segments,
        }
    }

    /// Shows a chain to the device. Panics where [`Queue::has_room`] would say no.
    ///
    /// # Safety
    /// Until `owner` is handed back, every segment must be valid memory that nobody moves or frees, that nobody
    /// writes, and that nobody reads where the device writes. Device-read segments come first.
    pub unsafe fn submit(&mut self, segments: &[Segment], owner: O) {
        assert!(
            !segments.is_empty() && segments.iter().all(|segment| segment.length > 0),
            "no empty segment"
        );
        assert!(self.has_room(segments.len()), "room was asked for before");
        let head = self.free_head;
        let table = self.fill_table(segments);
        let descriptors = match table {
            Some(_) => 1,
            None => segments.len() as u16,
        };
        match table {
            Some((_, address)) => {
                self.shared.ring.write_indirect(head, address, segments.len());
                self.free_head = self.links[usize::from(head)];
            }
            None => self.write_chain(segments),
        }
        let writable = segments
            .iter()
            .filter(|segment| segment.access == Access::DeviceWrites)
            .fold(0u32, |sum, segment| sum.saturating_add(segment.length));
        let chain = Chain { owner, descriptors, writable, table: table.map(|(number, _)| number) };
        self.shared.chains[usize::from(head)] = Some(chain);
        self.free -= descriptors;
        self.in_flight += 1;
        self.shared.ring.write_available(self.available, head);
        self.available = self.available.wrapping_add(1);
        self.shared.ring.publish(self.available);
    }

    fn fill_table(&mut self, segments: &[Segment]) -> Option<(u16, u64)> {
        self.shared.tables.as_mut().filter(|_| segments.len() > 1)?.fill(segments)
    }

    fn write_chain(&mut self, segments: &[Segment]) {
        for (position, segment) in segments.iter().enumerate() {
            let at = self.free_head;
            self.free_head = self.links[usize::from(at)];
            let next = (position + 1 < segments.len()).then_some(self.free_head);
            self.shared.ring.write_descriptor(at, segment, next);
        }
    }

    /// Whether the device must be notified of what was submitted since the last call.
    #[must_use]
    pub fn take_notification(&mut self) -> bool {
        let (old, new) = (self.considered, self.available);
        if old == new {
            return false;
        }
        self.considered = new;
        // The index must be visible before the device's wish is read, or both sides may go to sleep (2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = self.shared.ring.available_event();
            // 2.7.13.4.2: was `event` among the entries since `old`? By difference, so that it survives the wrap.
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            !self.shared.ring.device_declines_notification()
        }
    }

    /// The next chain the device is through with.
    pub fn complete(&mut self) -> Result<Option<Completion<O>>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let waiting = self.shared.ring.used_index().wrapping_sub(self.used);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.in_flight {
            return Err(self.fail(Fault::IndexJump));
        }
        let used = self.shared.ring.used_element(self.used);
        let Some(head) = u16::try_from(used.id).ok().filter(|&id| usize::from(id) < self.links.len()) else {
            return Err(self.fail(Fault::WrongId));
        };
        let Some(chain) = self.shared.chains[usize::from(head)].take() else {
            return Err(self.fail(Fault::WrongId));
        };
        if used.length > chain.writable {
            self.shared.chains[usize::from(head)] = Some(chain);
            return Err(self.fail(Fault::WrongLength));
        }
        self.used = self.used.wrapping_add(1);
        self.release(head, &chain);
        Ok(Some(Completion { owner: chain.owner, written: used.length }))
    }

    fn release(&mut self, head: u16, chain: &Chain<O>) {
        let tail = (1..chain.descriptors).fold(head, |at, _| self.links[usize::from(at)]);
        self.links[usize::from(tail)] = self.free_head;
        self.free_head = head;
        self.free += chain.descriptors;
        self.in_flight -= 1;
        if let (Some(table), Some(tables)) = (chain.table, self.shared.tables.as_mut()) {
            tables.release(table);
        }
    }

    /// Declares the device broken: from now on every call answers with the first fault.
    pub fn fail(&mut self, fault: Fault) -> Fault {
        *self.fault.get_or_insert(fault)
    }

    /// Asks the device not to interrupt. It may still do so now and then.
    pub fn suppress_interrupts(&mut self) {
        if self.event_index {
            // An index just passed is as far away as one can be.
            self.shared.ring.set_used_event(self.used.wrapping_sub(1));
        } else {
            self.shared.ring.set_interrupts(false);
        }
    }

    /// Asks for an interrupt at the next completion. True where one is waiting already: then no interrupt may
    /// come for it, and the caller looks again instead of going to sleep.
    #[must_use]
    pub fn enable_interrupts(&mut self) -> bool {
        if self.event_index {
            self.shared.ring.set_used_event(self.used);
        } else {
            self.shared.ring.set_interrupts(true);
        }
        // The wish must be visible before the index is read again (2.7.14).
        fence(Ordering::SeqCst);
        self.shared.ring.used_index() != self.used
    }

    /// Takes back the chains that the device will never complete, though it runs on.
    ///
    /// # Safety
    /// The device must be through with every chain whose owner `lost` picks, as far as writing goes; memory that it
    /// only reads can at worst be read when something else lies there.
    pub unsafe fn take_back(&mut self, lost: impl Fn(&O) -> bool) {
        for head in 0..self.ring_size() {
            let entry = &mut self.shared.chains[usize::from(head)];
            if let Some(chain) = entry.take_if(|chain| lost(&chain.owner)) {
                self.release(head, &chain);
            }
        }
    }

    /// Owners of the chains the device holds.
    pub fn owners(&self) -> impl Iterator<Item = &O> {
        self.shared.chains.iter().flatten().map(|chain| &chain.owner)
    }

    fn ring_size(&self) -> u16 {
        self.shared.ring.size()
    }

    /// Takes back every chain the device still holds, and declares the queue broken.
    ///
    /// # Safety
    /// The device must have been reset, so that it no longer touches any memory.
    pub unsafe fn reclaim(&mut self) -> impl Iterator<Item = O> {
        self.fail(Fault::NeedsReset);
        self.in_flight = 0;
        self.shared.chains.iter_mut().filter_map(|chain| chain.take().map(|chain| chain.owner))
    }
}
