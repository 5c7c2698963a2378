//! Blocks that were not what was written: how often one was met, and where, until a scrub finds everything sound.
//!
//! Every mismatch, whoever meets it, passes `Shell::corrupt`, which notes it here; who knows whose block it is adds that.
//! It is kept in memory: after an opening nothing is known until something is read.

use crate::device::{BLOCK_SIZE, BlockDevice};
use crate::format::Address;
use crate::format::object::VersionKind;
use crate::holders::KnownAs;
use crate::limits::DAMAGED_PLACES_MAX;
use crate::shell::Shell;
use crate::types::{Damage, DamagedPlace};
use alloc::string::ToString;
use alloc::vec::Vec;

/// What was met in this opening.
#[derive(Default)]
pub(crate) struct Noted {
    met: u64,
    /// How many of them a scrub has disproved.
    disproved: u64,
    places: Vec<(Address, DamagedPlace)>,
}

impl Noted {
    fn note(&mut self, address: Address, disk: &str) {
        self.met += 1;
        let met = self.met;
        if let Some((_, place)) = self.places.iter_mut().find(|(at, _)| *at == address) {
            place.last_met = met;
        } else if self.places.len() < DAMAGED_PLACES_MAX {
            let (disk, block) = (disk.to_string(), address.block());
            let place = DamagedPlace { first_met: met, last_met: met, disk, block, ..Default::default() };
            self.places.push((address, place));
        }
    }

    /// How many were met so far.
    pub(crate) fn met(&self) -> u64 {
        self.met
    }

    /// All is sound that was met as damaged when so many had been met.
    pub(crate) fn disprove(&mut self, met: u64) {
        self.disproved = self.disproved.max(met);
        self.places.retain(|(_, place)| place.last_met > met);
    }

    pub(crate) fn shown(&self) -> Damage {
        let places = self.places.iter().map(|(_, place)| place.clone()).collect();
        Damage { read_errors: self.met - self.disproved, places }
    }
}

impl<D: BlockDevice> Shell<D> {
    /// A block is not what was written.
    pub(crate) fn note_damage(&self, address: Address) {
        let disk = self.devices.get(address.member()).map_or("?", |device| device.name());
        self.damage.borrow_mut().note(address, disk);
    }

    /// Whose block it is that was met as damaged: the version's, from this block on.
    pub(crate) fn tell_whose(&self, address: Address, known: &KnownAs, block: u64) {
        let mut damage = self.damage.borrow_mut();
        if let Some((_, place)) = damage.places.iter_mut().find(|(at, _)| *at == address) {
            place.volume.clone_from(&known.volume);
            place.checkpoint = known.point.clone().filter(|_| known.kind != VersionKind::Head);
            place.offset = Some(block.saturating_mul(BLOCK_SIZE as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_told_apart() {
        let mut noted = Noted::default();
        for block in 0..2 * DAMAGED_PLACES_MAX as u64 {
            noted.note(Address::new(0, block), "vd0");
            noted.note(Address::new(0, block), "vd0");
        }
        let shown = noted.shown();
        assert_eq!(shown.places.len(), DAMAGED_PLACES_MAX);
        assert_eq!(shown.read_errors, 4 * DAMAGED_PLACES_MAX as u64);
        assert_eq!((shown.places[1].first_met, shown.places[1].last_met), (3, 4));
    }

    /// What is met while a scrub is under way may lie behind it.
    #[test]
    fn a_scrub_disproves_what_was_met_before_it_began() {
        let mut noted = Noted::default();
        noted.note(Address::new(0, 1), "vd0");
        noted.note(Address::new(0, 2), "vd0");
        let begun = noted.met();
        noted.note(Address::new(0, 2), "vd0");
        noted.disprove(begun);
        let shown = noted.shown();
        assert_eq!((shown.read_errors, shown.places.len(), shown.places[0].block), (1, 1, 2));
        noted.disprove(noted.met());
        assert_eq!(noted.shown(), Damage::default());
    }
}
