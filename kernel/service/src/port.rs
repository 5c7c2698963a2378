//! What the service needs of a port: a two-way byte channel that one client at a time connects to.
//!
//! The kernel implements it over virtio-serial, the hosted binary over a Unix socket and the simulator in
//! memory. A port knows nothing of what is said on it.

use alloc::vec::Vec;
use core::future::Future;
use datum_store::device::Block;

/// The client of the current session has left. Everything of that session is void; the next step is
/// [`Port::accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnected;

/// One piece of a message to a client. Buffers are handed over, so that a device can read them while the
/// sender goes on.
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

/// A port and the session on it. All methods take `&self`: one task receives while another sends.
pub trait Port {
    /// The name the host gave the port, e.g. `org.datum.nbd.0`.
    fn name(&self) -> &str;

    /// Waits for a client, then starts its session: what an earlier session left in either direction is
    /// dropped first.
    fn accept(&self) -> impl Future<Output = ()>;

    /// Receives between 1 and `into.len()` bytes, waiting for the first.
    fn receive(&self, into: &mut [u8]) -> impl Future<Output = Result<usize, Disconnected>>;

    /// As [`Port::receive`], into one piece of memory after the other. A port that can only fill one at a time fills
    /// the first that is not empty.
    fn receive_scattered(&self, into: &mut [&mut [u8]]) -> impl Future<Output = Result<usize, Disconnected>> {
        async {
            match into.iter_mut().find(|piece| !piece.is_empty()) {
                Some(first) => self.receive(first).await,
                None => Ok(0),
            }
        }
    }

    /// Completes when the client of the current session has left. A session that waits for something else than the
    /// port, such as a suspended volume, listens here. A port that cannot tell never completes: it then notices at
    /// the next [`Port::receive`].
    fn left(&self) -> impl Future<Output = ()> {
        core::future::pending()
    }

    /// Sends one message whole and in order. Returns when the buffers are free again. Messages of
    /// concurrent callers are never mixed. Blocks whose bytes are on their way go to `spare`, unless the port keeps
    /// or drops them: then they are lost to the next request, and nothing else is.
    fn send(
        &self,
        message: Vec<Chunk>,
        spare: impl FnMut(Block),
    ) -> impl Future<Output = Result<(), Disconnected>>;
}

impl Chunk {
    /// Bytes that the client receives of it.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Block { start, end, .. } => u64::from(end - start),
            Self::Zeroes(count) => u64::from(*count),
        }
    }

    /// Whether nothing of it reaches the client.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
