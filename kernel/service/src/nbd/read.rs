//! READ and CACHE. Blocks go from the store to the port without being copied.
//!
//! With structured replies a range becomes chunks of data and holes, one message for each step. A reply that
//! must be one piece (simple, or "don't fragment") has no room for a later error: a long one is therefore read
//! and verified once before its header goes out, and waits for memory where that is short afterwards.

use super::connection::Connection;
use super::{error_number, error_text};
use crate::limits::{CHUNK_BLOCKS, MEMORY_TURNS};
use crate::port::{Chunk, Port};
use alloc::vec::Vec;
use datum_protocol::limits::NBD_PAYLOAD_BYTES_MAX;
use datum_protocol::nbd::{Mode, Request};
use datum_store::device::{BLOCK_SIZE, Block, BlockDevice};
use datum_store::{BlockIndex, Error, ErrorKind, yield_now};

/// Bytes of one step at most.
const STEP_BYTES: u64 = (CHUNK_BLOCKS * BLOCK_SIZE) as u64;

/// A range of bytes that lies within [`CHUNK_BLOCKS`] blocks.
#[derive(Clone, Copy)]
struct Step {
    start: u64,
    end: u64,
}

impl Step {
    /// The first step of a range; later ones begin at a block's start.
    fn first(start: u64, end: u64) -> Self {
        let block_start = start - start % BLOCK_SIZE as u64;
        Self { start, end: end.min(block_start + STEP_BYTES) }
    }

    fn first_block(self) -> u64 {
        self.start / BLOCK_SIZE as u64
    }

    fn blocks(self) -> u64 {
        self.end.div_ceil(BLOCK_SIZE as u64) - self.first_block()
    }
}

/// The steps of a range, at least one.
fn steps(start: u64, end: u64) -> impl Iterator<Item = Step> {
    core::iter::successors(Some(Step::first(start, end)), move |step| {
        (step.end < end).then(|| Step::first(step.end, end))
    })
}

/// A piece of a step: part of a block of data, or of a hole.
struct Piece {
    bytes: u16,
    data: Option<(Block, u16)>,
}

/// Cuts the blocks of a step to its range.
fn pieces(step: Step, blocks: Vec<Option<Block>>) -> impl Iterator<Item = Piece> {
    blocks.into_iter().enumerate().map(move |(index, block)| {
        let at = (step.first_block() + index as u64) * BLOCK_SIZE as u64;
        let start = step.start.saturating_sub(at) as u16;
        let end = (step.end - at).min(BLOCK_SIZE as u64) as u16;
        Piece { bytes: end - start, data: block.map(|block| (block, start)) }
    })
}

impl Piece {
    fn into_chunk(self) -> Chunk {
        match self.data {
            Some((data, start)) => Chunk::Block { data, start, end: start + self.bytes },
            None => Chunk::Zeroes(u32::from(self.bytes)),
        }
    }
}

/// Replies to a READ.
pub(super) async fn reply<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    request: &Request,
    dont_fragment: bool,
) {
    if request.length == 0 {
        return connection.finish(request.id, Ok(())).await;
    }
    if connection.replies.mode() == Mode::Simple || dont_fragment {
        whole(connection, request).await;
    } else {
        fragmented(connection, request).await;
    }
}

async fn read<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    step: Step,
) -> Result<Vec<Option<Block>>, Error> {
    connection.image.read(BlockIndex(step.first_block()), step.blocks()).await
}

/// One message of chunks for each step.
async fn fragmented<D: BlockDevice, P: Port>(connection: &Connection<D, P>, request: &Request) {
    let (replies, id) = (connection.replies, request.id);
    let end = request.offset + request.length;
    for step in steps(request.offset, end) {
        let _room = connection.room_to_send(step.blocks() as usize).await;
        let (message, failed) = match read(connection, step).await {
            Ok(blocks) => (chunks(connection, request, step, blocks), false),
            Err(error) => {
                let (number, text) = (error_number(&error), error_text(&error));
                (alloc::vec![Chunk::Bytes(replies.error_at(id, number, &text, step.start, true))], true)
            }
        };
        if connection.send(message).await.is_err() || failed {
            return;
        }
    }
}

/// The chunks of one step: each run of data and each run of holes is one.
fn chunks<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    request: &Request,
    step: Step,
    blocks: Vec<Option<Block>>,
) -> Vec<Chunk> {
    let (replies, id) = (connection.replies, request.id);
    let final_step = step.end == request.offset + request.length;
    let mut message = Vec::with_capacity(blocks.len() + 2);
    let mut pieces = pieces(step, blocks).peekable();
    let mut offset = step.start;
    while let Some(first) = pieces.next() {
        let is_data = first.data.is_some();
        let header = message.len();
        let mut length = u32::from(first.bytes);
        message.push(Chunk::Bytes(Vec::new()));
        if is_data {
            message.push(first.into_chunk());
        }
        while let Some(piece) = pieces.next_if(|piece| piece.data.is_some() == is_data) {
            length += u32::from(piece.bytes);
            if is_data {
                message.push(piece.into_chunk());
            }
        }
        let last = final_step && pieces.peek().is_none();
        message[header] = Chunk::Bytes(match is_data {
            true => replies.data(id, offset, length, last),
            false => replies.hole(id, offset, length, last),
        });
        offset += u64::from(length);
    }
    message
}

/// One header, then all bytes, with nothing between.
async fn whole<D: BlockDevice, P: Port>(connection: &Connection<D, P>, request: &Request) {
    let end = request.offset + request.length;
    let _room = connection.room_to_send(CHUNK_BLOCKS).await;
    let mut steps = steps(request.offset, end);
    let Some(first_step) = steps.next() else { return };
    if first_step.end < end
        && let Err(error) = verify(connection, first_step.end, end).await
    {
        return connection.fail(request.id, &error).await;
    }
    let first = match read(connection, first_step).await {
        Ok(blocks) => blocks,
        Err(error) => return connection.fail(request.id, &error).await,
    };
    let length = u32::try_from(request.length).unwrap_or(u32::MAX);
    let header = connection.replies.data(request.id, request.offset, length, true);
    let mut message = alloc::vec![Chunk::Bytes(header)];
    message.extend(pieces(first_step, first).map(Piece::into_chunk));
    if first_step.end == end {
        // Where the client has left, there is nobody to tell.
        let _ = connection.send(message).await;
        return;
    }
    let turn = connection.turn().await;
    if connection.send_in(&turn, message).await.is_err() {
        return;
    }
    for step in steps {
        let Ok(blocks) = read_patiently(connection, step).await else {
            // Verified a moment ago, unreadable now, and the reply is half out: what is missing must not come
            // from anywhere else, so this session says no more.
            connection.session.end();
            return;
        };
        if connection.send_in(&turn, pieces(step, blocks).map(Piece::into_chunk).collect()).await.is_err() {
            return;
        }
    }
}

/// As [`read`]; where memory is short, again once others have had their turn, and may have given some back.
async fn read_patiently<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    step: Step,
) -> Result<Vec<Option<Block>>, Error> {
    for _ in 0..MEMORY_TURNS {
        match read(connection, step).await {
            Err(error) if error.kind() == ErrorKind::NoMemory => yield_now().await,
            done => return done,
        }
    }
    read(connection, step).await
}

/// Reads a range and drops it.
async fn verify<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    start: u64,
    end: u64,
) -> Result<(), Error> {
    for step in steps(start, end) {
        read(connection, step).await?;
    }
    Ok(())
}

/// CACHE: advice, taken for as much as one READ could ask.
pub(super) async fn cache<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    request: &Request,
) -> Result<(), Error> {
    if request.length == 0 {
        return Ok(());
    }
    let _room = connection.room_to_send(CHUNK_BLOCKS).await;
    let length = request.length.min(u64::from(NBD_PAYLOAD_BYTES_MAX));
    verify(connection, request.offset, request.offset + length).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;

    #[test]
    fn steps_cover_a_range_and_hold_few_blocks() {
        for (start, end) in [(0, 1), (4095, 4097), (1, STEP_BYTES + 1), (5000, 3 * STEP_BYTES + 77)] {
            let mut at = start;
            for step in steps(start, end) {
                assert_eq!(step.start, at);
                assert!(step.end > at && step.blocks() <= CHUNK_BLOCKS as u64);
                at = step.end;
            }
            assert_eq!(at, end);
        }
    }

    #[test]
    fn pieces_are_cut_at_both_ends() {
        let step = Step::first(4000, 8200);
        let blocks = alloc::vec![Some(Box::new([1; BLOCK_SIZE])), None, Some(Box::new([3; BLOCK_SIZE]))];
        let cut: Vec<_> = pieces(step, blocks).map(|p| (p.bytes, p.data.map(|(_, start)| start))).collect();
        assert_eq!(cut, [(96, Some(4000)), (4096, None), (8, Some(0))]);
    }
}
