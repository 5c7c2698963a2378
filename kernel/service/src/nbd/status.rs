//! BLOCK_STATUS: what the selected contexts say of a range, as runs of bytes.

use super::connection::Connection;
use crate::limits::{STATUS_BLOCKS, STATUS_EXTENTS_MAX};
use crate::memory::room_for;
use crate::port::{Chunk, Port};
use alloc::vec::Vec;
use datum_protocol::nbd::{Extent, Request};
use datum_store::device::{BLOCK_SIZE, BlockDevice};
use datum_store::{self as store, BlockIndex, Content, Error, ErrorKind, View};

/// `base:allocation`: the range is a hole and reads as zeros.
const HOLE_AND_ZERO: u64 = 3;

/// What an extent takes on its way into a reply, at most.
const REPLY_BYTES: usize = 64;

/// Replies with one chunk a context, all in one message.
pub(super) async fn reply<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    request: &Request,
    one: bool,
    contexts: &[u32],
) {
    let _room = connection.room_to_send(STATUS_BLOCKS).await;
    let limit = if one { 1 } else { STATUS_EXTENTS_MAX / contexts.len().max(1) };
    let mut message = Vec::with_capacity(contexts.len());
    for (index, id) in contexts.iter().enumerate() {
        match extents(connection, request, *id, limit).await {
            Ok(extents) => {
                let last = index + 1 == contexts.len();
                message.push(Chunk::Bytes(connection.replies.block_status(request.id, *id, &extents, last)));
            }
            Err(error) => return connection.fail(request.id, &error).await,
        }
    }
    // Where the client has left, there is nobody to tell.
    let _ = connection.send(message).await;
}

async fn extents<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    request: &Request,
    id: u32,
    limit: usize,
) -> Result<Vec<Extent>, Error> {
    let known = connection.contexts.iter().find(|(known, _)| *known == id);
    let view = match known {
        Some((_, Ok(view))) => *view,
        Some((_, Err(error))) => return Err(error.clone()),
        None => return Err(Error::new(ErrorKind::Invalid, "select the context in the negotiation first")),
    };
    let block_bytes = BLOCK_SIZE as u64;
    let (start, end) = (request.offset, request.offset + request.length);
    let (first, past) = (BlockIndex(start / block_bytes), BlockIndex(end.div_ceil(block_bytes)));
    let page = connection.image.extents(first, past, view, limit).await?;
    room_for(page.extents.len() * REPLY_BYTES)?;
    Ok(in_bytes(&page.extents, view, start, end))
}

/// Extents of blocks as runs of bytes of `start..end`, neighbours of one meaning joined.
fn in_bytes(extents: &[store::Extent], view: View, start: u64, end: u64) -> Vec<Extent> {
    let block_bytes = BLOCK_SIZE as u64;
    let mut runs: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        let from = (extent.first.0 * block_bytes).max(start);
        let to = ((extent.first.0 + extent.blocks) * block_bytes).min(end);
        let (length, flags) = (to - from, flags(extent, view));
        match runs.last_mut() {
            Some(last) if last.flags == flags => last.length += length,
            _ => runs.push(Extent { length, flags }),
        }
    }
    runs
}

fn flags(extent: &store::Extent, view: View) -> u64 {
    match view {
        View::Allocation if extent.content == Content::Zero => HOLE_AND_ZERO,
        View::Allocation => 0,
        View::Changes(_) => u64::from(extent.changed),
        View::ChangeIds => extent.change.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datum_store::ChangeId;

    fn extent(first: u64, blocks: u64, content: Content, changed: bool, change: u64) -> store::Extent {
        store::Extent { first: BlockIndex(first), blocks, content, changed, change: ChangeId(change) }
    }

    #[test]
    fn runs_are_cut_to_the_request_and_joined() {
        let extents = [
            extent(1, 1, Content::Data, true, 9),
            extent(2, 2, Content::Zero, true, 9),
            extent(4, 10, Content::Zero, false, 3),
        ];
        let run = |length, flags| Extent { length, flags };
        let changes = in_bytes(&extents, View::Changes(ChangeId(5)), 5000, 20000);
        assert_eq!(changes, [run(16384 - 5000, 1), run(20000 - 16384, 0)]);
        let allocation = in_bytes(&extents, View::Allocation, 5000, 20000);
        assert_eq!(allocation, [run(8192 - 5000, 0), run(20000 - 8192, 3)]);
        let ids = in_bytes(&extents, View::ChangeIds, 4096, 14 * 4096);
        assert_eq!(ids, [run(3 * 4096, 9), run(10 * 4096, 3)]);
    }
}
