//! TRIM and WRITE_ZEROES: whole blocks become holes, the parts of blocks at the edges are written with zeros.
//!
//! "No hole" asks for space that a later write can rely on. Here every write takes fresh space, so a block of
//! zeros would promise nothing that a hole does not; both make holes.

use super::connection::Connection;
use crate::port::Port;
use datum_protocol::nbd::Request;
use datum_store::device::{BLOCK_SIZE, BlockDevice};
use datum_store::{BlockIndex, Error};

static ZEROES: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// A range cut at block borders.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    /// Block, offset within it and bytes.
    head: Option<(u64, usize, usize)>,
    /// First whole block and count.
    whole: Option<(u64, u64)>,
    tail: Option<(u64, usize, usize)>,
}

fn cut(offset: u64, length: u64) -> Cut {
    let block_bytes = BLOCK_SIZE as u64;
    let end = offset + length;
    let (first, last) = (offset.div_ceil(block_bytes), end / block_bytes);
    let part = |start: u64, end: u64| {
        let within = (start % block_bytes) as usize;
        (end > start).then(|| (start / block_bytes, within, (end - start) as usize))
    };
    if first > last {
        return Cut { head: part(offset, end), whole: None, tail: None };
    }
    Cut {
        head: part(offset, first * block_bytes),
        whole: (last > first).then_some((first, last - first)),
        tail: part(last * block_bytes, end),
    }
}

/// Makes the range read as zeros.
pub(super) async fn zero<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    request: &Request,
) -> Result<(), Error> {
    let image = &connection.image;
    let cut = cut(request.offset, request.length);
    for (block, offset, length) in cut.head.into_iter().chain(cut.tail) {
        image.write_partial(BlockIndex(block), offset, &ZEROES[..length]).await?;
    }
    if let Some((first, count)) = cut.whole {
        image.trim(BlockIndex(first), count).await?;
    }
    if request.fua { image.flush().await } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_block_borders() {
        let none = Cut { head: None, whole: None, tail: None };
        assert_eq!(cut(0, 0), none);
        assert_eq!(cut(5, 0), none);
        assert_eq!(cut(0, 8192), Cut { whole: Some((0, 2)), ..cut(0, 0) });
        assert_eq!(cut(10, 20), Cut { head: Some((0, 10, 20)), ..cut(0, 0) });
        assert_eq!(cut(4096, 20), Cut { tail: Some((1, 0, 20)), ..cut(0, 0) });
        assert_eq!(cut(4000, 196), Cut { head: Some((0, 4000, 96)), tail: Some((1, 0, 100)), whole: None });
        let all = Cut { head: Some((0, 1, 4095)), whole: Some((1, 2)), tail: Some((3, 0, 5)) };
        assert_eq!(cut(1, 3 * 4096 + 4), all);
    }
}
