//! A disk at one moment of its life: what is safe, and what a power loss may take, tear or leave.

use super::drive::torn;
use super::image::{Contents, Stored, weight_of};
use super::{DiskImage, SECTOR_SIZE, SimulatedDisk};
use datum_store::device::{BLOCK_SIZE, Geometry};
use std::rc::Rc;

/// What becomes of one unflushed block at a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It never reached the medium.
    Absent,
    /// It is there.
    Whole,
    /// Only some of the sectors that it changes are there.
    Torn,
}

/// What a power loss could find.
#[derive(Clone)]
pub struct Moment {
    geometry: Geometry,
    durable: Contents,
    weight: u64,
    /// Unflushed blocks in the order of their submission.
    unflushed: Vec<(u64, Rc<Stored>)>,
}

impl SimulatedDisk {
    /// The disk as it is now. It goes on.
    pub fn moment(&self) -> Moment {
        let state = self.state.borrow();
        Moment {
            geometry: state.geometry,
            weight: weight_of(&state.durable),
            durable: state.durable.clone(),
            unflushed: state.unflushed.iter().map(|write| (write.at, write.data.clone())).collect(),
        }
    }
}

impl Moment {
    /// Blocks that a power loss could take.
    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// The blocks that change, where each unflushed block meets its fate.
    fn changes(&self, fates: &[Fate]) -> Vec<(u64, Rc<Stored>)> {
        assert_eq!(fates.len(), self.unflushed.len(), "one fate for each unflushed block");
        let mut changes: Vec<(u64, Rc<Stored>)> = Vec::new();
        for (position, ((at, new), fate)) in self.unflushed.iter().zip(fates).enumerate() {
            if *fate == Fate::Absent {
                continue;
            }
            let earlier = changes.iter().position(|(other, _)| other == at);
            let landed = match fate {
                Fate::Torn => {
                    let old = earlier.map_or_else(|| self.durable.get(at), |index| Some(&changes[index].1));
                    match torn_sectors(old, new, position) {
                        Some(sectors) => torn(old, new, sectors),
                        None => continue,
                    }
                }
                _ => new.clone(),
            };
            match earlier {
                Some(index) => changes[index].1 = landed,
                None => changes.push((*at, landed)),
            }
        }
        changes
    }

    /// The digest of the image that these fates leave.
    pub fn digest(&self, fates: &[Fate]) -> u64 {
        let weighs = |at: u64| self.durable.get(&at).map_or(0, |old| old.weight(at));
        self.changes(fates)
            .iter()
            .fold(self.weight, |sum, (at, new)| sum.wrapping_sub(weighs(*at)).wrapping_add(new.weight(*at)))
    }

    /// The disk after a power loss with these fates.
    pub fn image(&self, fates: &[Fate]) -> DiskImage {
        let mut blocks = self.durable.clone();
        blocks.extend(self.changes(fates));
        DiskImage { geometry: self.geometry, blocks }
    }
}

/// Half of the sectors in which the blocks differ: the first half and the second half by turns. `None` where
/// they differ in fewer than two, so that nothing can be torn.
fn torn_sectors(old: Option<&Rc<Stored>>, new: &Stored, position: usize) -> Option<u8> {
    let zeros = [0; BLOCK_SIZE];
    let old = old.map_or(&zeros, |block| &block.bytes);
    let range = |sector: usize| sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
    let differing: Vec<usize> = (0..8).filter(|&s| old[range(s)] != new.bytes[range(s)]).collect();
    let (first, second) = differing.split_at(differing.len() / 2);
    let chosen = if position.is_multiple_of(2) { first } else { second };
    (differing.len() > 1).then(|| chosen.iter().fold(0, |sectors, sector| sectors | 1 << sector))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Executor;
    use datum_store::device::BlockDevice;

    #[test]
    fn every_fate_leaves_what_it_says() {
        let disk = SimulatedDisk::blank("d", 16);
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.clone()));
        for at in [3, 4] {
            executor.run(disk.write(at, vec![Box::new([7; BLOCK_SIZE])])).1.expect("written");
        }
        let moment = disk.moment();
        assert_eq!(moment.unflushed(), 2);
        for (fate, ends) in [(Fate::Absent, [0, 0]), (Fate::Whole, [7, 7]), (Fate::Torn, [7, 0])] {
            let fates = [fate, Fate::Absent];
            let image = moment.image(&fates);
            assert_eq!([image.block(3)[0], image.block(3)[BLOCK_SIZE - 1]], ends);
            assert_eq!(image.block(4), [0; BLOCK_SIZE]);
            assert_eq!(image.digest(), moment.digest(&fates), "the digest is the image's");
        }
        assert_eq!(moment.image(&[Fate::Absent, Fate::Torn]).block(4)[BLOCK_SIZE - 1], 7);
    }

    #[test]
    fn a_block_written_twice_may_be_either() {
        let disk = SimulatedDisk::blank("d", 16);
        let mut executor = Executor::new(1);
        executor.attach(Rc::new(disk.clone()));
        for byte in [1, 2] {
            executor.run(disk.write(3, vec![Box::new([byte; BLOCK_SIZE])])).1.expect("written");
        }
        let moment = disk.moment();
        let left = |fates: [Fate; 2]| moment.image(&fates).block(3)[0];
        assert_eq!(left([Fate::Whole, Fate::Absent]), 1);
        assert_eq!(left([Fate::Whole, Fate::Whole]), 2);
        assert_eq!(moment.digest(&[Fate::Whole; 2]), moment.digest(&[Fate::Absent, Fate::Whole]));
    }
}
