//! What is sent through a port: messages of chunks, each owned until the device has sent it.
//!
//! A message is cut into chains for the device wherever it must be. Its memory is shared by the sender's future,
//! the port and every chain in flight, so that none of them can free it under the others.

use super::super::dma::DmaRegion;
use super::super::segment::Segment;
use super::Disconnected;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::iter;
use core::task::Waker;

/// Bytes of zeroes that are kept to be sent.
pub(super) const ZEROES_BYTES: usize = 32 << 10;
/// Bytes in one chain. What a client leaves unread of a chain when it goes can reach the next client, who must
/// refuse it: so a chain is large enough for speed, and no larger.
const CHAIN_BYTES_MAX: u64 = 256 << 10;
/// What is copied to stand beside its neighbours; larger pieces are worth a segment of their own.
const SMALL_BYTES_MAX: u64 = 4096;

/// A block of bytes.
pub type Block = Box<[u8; 4096]>;

/// One piece of a message.
#[derive(Debug)]
pub enum Chunk {
    /// Headers, text, anything small.
    Bytes(Vec<u8>),
    /// Bytes `start..end` of a block, sent from where they lie.
    Block {
        /// The block; it need not be aligned.
        data: Block,
        /// First byte sent.
        start: u16,
        /// One past the last byte sent, at most 4096.
        end: u16,
    },
    /// This many zero bytes.
    Zeroes(u32),
}

impl Chunk {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Block { data, start, end } => {
                data.get(usize::from(*start)..usize::from(*end)).map_or(0, <[u8]>::len) as u64
            }
            Self::Zeroes(count) => u64::from(*count),
        }
    }

    fn copy_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(own) => bytes.extend_from_slice(own),
            Self::Block { data, start, end } => {
                let own = data.get(usize::from(*start)..usize::from(*end));
                bytes.extend_from_slice(own.unwrap_or_default());
            }
            Self::Zeroes(count) => bytes.resize(bytes.len() + *count as usize, 0),
        }
    }

    /// The piece of memory at `offset`, of at most `limit` bytes.
    fn piece(&self, offset: u64, limit: u64, zeroes: &DmaRegion) -> Segment {
        let rest = (self.len() - offset).min(limit);
        let within = |bytes: &[u8]| bytes.as_ptr().expose_provenance() as u64 + offset;
        match self {
            Self::Bytes(bytes) => Segment::device_reads(within(bytes), rest as u32),
            Self::Block { data, start, .. } => {
                Segment::device_reads(within(&data[..]) + u64::from(*start), rest as u32)
            }
            Self::Zeroes(_) => Segment::device_reads(zeroes.address(0), rest.min(ZEROES_BYTES as u64) as u32),
        }
    }
}

/// A message on its way. Its chunks never change while it lives, which is what the device relies on.
#[derive(Debug)]
pub(super) struct Message {
    chunks: Vec<Chunk>,
    /// The session it is sent in; 0 until it is taken.
    session: Cell<u64>,
    progress: RefCell<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    chunk: usize,
    offset: u64,
    chains_in_flight: u32,
    outcome: Option<Result<(), Disconnected>>,
    waker: Option<Waker>,
}

impl Message {
    /// Blocks that were copied go to `spare`.
    pub(super) fn new(chunks: Vec<Chunk>, spare: &mut dyn FnMut(Block)) -> Self {
        Self { chunks: together(chunks, spare), session: Cell::new(0), progress: RefCell::default() }
    }

    pub(super) fn session(&self) -> u64 {
        self.session.get()
    }

    pub(super) fn set_session(&self, session: u64) {
        self.session.set(session);
    }

    /// Lays out the next chain of at most `segments_max` segments, without moving on. Leaves `segments` empty
    /// when everything is laid out. Gives the place after it.
    pub(super) fn lay_out(
        &self,
        segments_max: usize,
        zeroes: &DmaRegion,
        segments: &mut Vec<Segment>,
    ) -> Place {
        let progress = self.progress.borrow();
        let (mut place, mut bytes) = (Place { chunk: progress.chunk, offset: progress.offset }, 0);
        segments.clear();
        while let Some(chunk) = self.chunks.get(place.chunk) {
            if place.offset == chunk.len() {
                place = Place { chunk: place.chunk + 1, offset: 0 };
                continue;
            }
            if bytes == CHAIN_BYTES_MAX {
                break;
            }
            let piece = chunk.piece(place.offset, CHAIN_BYTES_MAX - bytes, zeroes);
            let joined = segments.last_mut().is_some_and(|last| last.absorb(&piece, u32::MAX));
            if !joined && segments.len() == segments_max {
                break;
            }
            if !joined {
                segments.push(piece);
            }
            bytes += u64::from(piece.length);
            place.offset += u64::from(piece.length);
        }
        place
    }

    /// A chain that ends at `place` is with the device.
    pub(super) fn chain_begun(&self, place: Place) {
        let mut progress = self.progress.borrow_mut();
        (progress.chunk, progress.offset) = (place.chunk, place.offset);
        progress.chains_in_flight += 1;
    }

    /// A chain came back. True if it was the last and everything has been sent.
    pub(super) fn chain_ended(&self) -> bool {
        let mut progress = self.progress.borrow_mut();
        progress.chains_in_flight -= 1;
        progress.chains_in_flight == 0 && progress.chunk == self.chunks.len()
    }

    /// Whether all of it was given to the device.
    pub(super) fn is_laid_out(&self) -> bool {
        self.progress.borrow().chunk == self.chunks.len()
    }

    /// Settles what the sender is told, once.
    pub(super) fn end(&self, outcome: Result<(), Disconnected>) -> Option<Waker> {
        let mut progress = self.progress.borrow_mut();
        progress.outcome.get_or_insert(outcome);
        progress.waker.take()
    }

    /// What became of it, or a promise to wake.
    pub(super) fn outcome(&self, waker: &Waker) -> Option<Result<(), Disconnected>> {
        let mut progress = self.progress.borrow_mut();
        if progress.outcome.is_none() {
            progress.waker = Some(waker.clone());
        }
        progress.outcome
    }
}

/// Copies neighbours that are small into one piece. QEMU hands each segment to the client's socket by itself, and a
/// system call costs more than 4 KiB copied. Where there is no memory for it, they go as they are.
fn together(chunks: Vec<Chunk>, spare: &mut dyn FnMut(Block)) -> Vec<Chunk> {
    let mut pieces = Vec::with_capacity(chunks.len().min(16));
    let mut rest = chunks.into_iter();
    while let Some(first) = rest.next() {
        let mut bytes = first.len();
        let is_small = |chunk: &Chunk| chunk.len() <= SMALL_BYTES_MAX;
        let joins = |chunk: &&Chunk| {
            bytes += chunk.len();
            is_small(chunk) && bytes <= CHAIN_BYTES_MAX
        };
        let count = if is_small(&first) { rest.as_slice().iter().take_while(joins).count() } else { 0 };
        let length: u64 = first.len() + rest.as_slice()[..count].iter().map(Chunk::len).sum::<u64>();
        let mut joined = Vec::new();
        if count == 0 || joined.try_reserve_exact(length as usize).is_err() {
            pieces.push(first);
            continue;
        }
        for chunk in iter::once(first).chain(rest.by_ref().take(count)) {
            chunk.copy_to(&mut joined);
            if let Chunk::Block { data, .. } = chunk {
                spare(data);
            }
        }
        pieces.push(Chunk::Bytes(joined));
    }
    pieces
}

/// A position in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    chunk: usize,
    offset: u64,
}
