//! Two marks on member 0 that tell appliances of each other: who has the pool open, and who asks.

use super::codec::{Reader, Writer};
use super::pointer::{Checksummer, zeroed_block};
use crate::device::Block;

/// Blocks of the marks: the owner's, then the challenger's. Each is written by the one only, so that neither
/// can overwrite the other's.
pub(crate) const OWNER_BLOCKS: u64 = 2;
/// A mark fills one sector, so that no write of it can be half there.
const MARK_SIZE: usize = 512;
const MAGIC: [u8; 8] = *b"DATUMOWN";
const CHECKSUM_PURPOSE: u64 = 0x6f77_6e65_725f_6d6b;

/// One appliance's mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The incarnation of whoever wrote it; 0 for nobody.
    pub(crate) who: u64,
    /// The owner's: the last challenger it has answered.
    pub(crate) answered: u64,
}

impl Mark {
    pub(crate) fn encode(&self, sums: &Checksummer) -> Block {
        let mut w = Writer::default();
        w.bytes(&MAGIC).u64(self.who).u64(self.answered).pad_to(MARK_SIZE - 8);
        let sum = sums.bytes(CHECKSUM_PURPOSE, &w.0);
        w.u64(sum);
        let mut block = zeroed_block();
        block[..MARK_SIZE].copy_from_slice(&w.0);
        block
    }

    /// Nobody's mark where the bytes are none of this pool's.
    pub(crate) fn decode(block: &Block, sums: &Checksummer) -> Self {
        Self::fields(&block[..MARK_SIZE], sums).unwrap_or_default()
    }

    fn fields(bytes: &[u8], sums: &Checksummer) -> Option<Self> {
        let (body, sum) = bytes.split_at(MARK_SIZE - 8);
        let mut r = Reader(body);
        let known = r.bytes(8)? == MAGIC && sums.bytes(CHECKSUM_PURPOSE, body).to_le_bytes() == *sum;
        let mark = Self { who: r.u64()?, answered: r.u64()? };
        known.then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let sums = Checksummer::new(7);
        let mark = Mark { who: 5, answered: 9 };
        let block = mark.encode(&sums);
        assert_eq!(Mark::decode(&block, &sums), mark);
        assert_eq!(Mark::decode(&block, &Checksummer::new(8)), Mark::default());
        for bit in 0..MARK_SIZE * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::decode(&bad, &sums), Mark::default(), "bit {bit}");
        }
    }
}
