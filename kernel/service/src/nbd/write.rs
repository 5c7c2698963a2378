//! WRITE. The payload is received straight into the blocks that the store keeps, a chunk at a time; while one
//! chunk is written the next is received. A block that is written in part is merged by the store.

use super::connection::{Connection, UnderWay};
use super::input::Input;
use crate::buffers::Permit;
use crate::limits::CHUNK_BLOCKS;
use crate::port::{Disconnected, Port};
use crate::signal::Signal;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use datum_protocol::nbd::{Request, Transmission};
use datum_store::device::{BLOCK_SIZE, Block, BlockDevice};
use datum_store::{BlockIndex, Error};

/// What the parts of one WRITE have come to.
#[derive(Default)]
struct Progress {
    parts: Cell<usize>,
    error: RefCell<Option<Error>>,
    changed: Signal,
}

impl Progress {
    /// The first error counts.
    fn settle(&self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.error.borrow_mut().get_or_insert(error);
        }
    }

    fn failed(&self) -> bool {
        self.error.borrow().is_some()
    }
}

/// A received part of a WRITE, with the memory it counts for.
struct Part {
    at: u64,
    blocks: Vec<Block>,
    /// For part of a block: how many bytes, from the block's start.
    partial: Option<usize>,
    _room: Permit,
}

impl Part {
    async fn write<D: BlockDevice, P: Port>(self, connection: &Connection<D, P>) -> Result<(), Error> {
        let first = BlockIndex(self.at / BLOCK_SIZE as u64);
        match self.partial {
            None => connection.image.write(first, self.blocks).await,
            Some(length) => {
                let offset = (self.at % BLOCK_SIZE as u64) as usize;
                let bytes = self.blocks.first().map_or(&[][..], |block| &block[..length]);
                connection.image.write_partial(first, offset, bytes).await
            }
        }
    }
}

/// Receives the payload of a WRITE, and sees to it that it is written and answered.
pub(super) async fn receive<D: BlockDevice + 'static, P: Port + 'static>(
    connection: &Rc<Connection<D, P>>,
    input: &mut Input<P>,
    transmission: &mut Transmission,
    request: Request,
) -> Result<(), Disconnected> {
    let under_way = connection.begin().await?;
    let progress = Rc::new(Progress::default());
    progress.settle(connection.allowed());
    let mut at = request.offset;
    let mut received = None;
    while transmission.payload_left() > 0 {
        if let Some(part) = received.take() {
            write_beside(connection, &progress, part);
        }
        let (part, bytes) = receive_part(connection, input, at, transmission.payload_left()).await?;
        transmission.payload_taken(bytes);
        at += bytes;
        // After a failure the rest of the payload is received, because it is in the way, and dropped.
        match part {
            Ok(part) if !progress.failed() => received = Some(part),
            Ok(_) => {}
            Err(error) => progress.settle(Err(error)),
        }
    }
    let connection = connection.clone();
    connection.clone().spawn(finish(connection, progress, received, request, under_way));
    Ok(())
}

/// Receives up to a chunk of whole blocks, or the part of one block that an unaligned request begins or ends with.
/// Returns how many bytes that was, also where there was no memory to keep them.
async fn receive_part<D: BlockDevice, P: Port>(
    connection: &Connection<D, P>,
    input: &mut Input<P>,
    at: u64,
    left: u64,
) -> Result<(Result<Part, Error>, u64), Disconnected> {
    let block_bytes = BLOCK_SIZE as u64;
    let in_block = at % block_bytes;
    let partial = (in_block != 0 || left < block_bytes).then(|| left.min(block_bytes - in_block) as usize);
    let count = if partial.is_some() { 1 } else { (left / block_bytes).min(CHUNK_BLOCKS as u64) as usize };
    let room = connection.room_to_receive(count).await?;
    let bytes = partial.unwrap_or(count * BLOCK_SIZE) as u64;
    let Some(mut blocks) = connection.image.buffers(count) else {
        input.skip(bytes).await?;
        return Ok((Err(Error::no_memory()), bytes));
    };
    match (partial, blocks.first_mut()) {
        (Some(length), Some(block)) => input.fill(&mut block[..length]).await?,
        _ => input.fill_blocks(&mut blocks).await?,
    }
    Ok((Ok(Part { at, blocks, partial, _room: room }), bytes))
}

fn write_beside<D: BlockDevice + 'static, P: Port + 'static>(
    connection: &Rc<Connection<D, P>>,
    progress: &Rc<Progress>,
    part: Part,
) {
    let (connection, progress) = (connection.clone(), progress.clone());
    progress.parts.set(progress.parts.get() + 1);
    connection.clone().spawn(async move {
        progress.settle(part.write(&connection).await);
        progress.parts.set(progress.parts.get() - 1);
        progress.changed.notify();
    });
}

/// Writes the last part, waits for the others, and replies.
async fn finish<D: BlockDevice + 'static, P: Port + 'static>(
    connection: Rc<Connection<D, P>>,
    progress: Rc<Progress>,
    last: Option<Part>,
    request: Request,
    under_way: UnderWay<D, P>,
) {
    if let Some(part) = last {
        progress.settle(part.write(&connection).await);
    }
    progress.changed.until(|| (progress.parts.get() == 0).then_some(())).await;
    let error = progress.error.take();
    let done = match error {
        Some(error) => Err(error),
        None if request.fua => connection.image.flush().await,
        None => Ok(()),
    };
    connection.finish(request.id, done).await;
    drop(under_way);
}
