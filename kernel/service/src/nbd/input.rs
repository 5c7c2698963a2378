//! A port's input as the NBD codecs want it: bytes for headers pass through a small buffer, payloads go
//! straight to where they stay.

use crate::port::{Disconnected, Port};
use crate::sessions::Session;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem;
use datum_store::device::Block;

/// Room for many headers, yet little enough that a payload behind one is hardly copied twice.
const BUFFER_BYTES: usize = 512;

pub(super) struct Input<P> {
    port: Rc<P>,
    session: Rc<Session>,
    buffer: [u8; BUFFER_BYTES],
    start: usize,
    end: usize,
}

impl<P: Port> Input<P> {
    pub(super) fn new(port: Rc<P>, session: Rc<Session>) -> Self {
        Self { port, session, buffer: [0; BUFFER_BYTES], start: 0, end: 0 }
    }

    /// Feeds a codec until it has something to say.
    pub(super) async fn next<T>(
        &mut self,
        mut codec: impl FnMut(&[u8]) -> (usize, Option<T>),
    ) -> Result<T, Disconnected> {
        loop {
            let (taken, event) = codec(&self.buffer[self.start..self.end]);
            self.start += taken;
            if let Some(event) = event {
                return Ok(event);
            }
            if self.start == self.end {
                self.refill().await?;
            }
        }
    }

    async fn refill(&mut self) -> Result<(), Disconnected> {
        (self.start, self.end) = (0, 0);
        self.end = self.port.receive(&mut self.buffer).await?;
        self.session.count(&self.session.bytes_received, self.end as u64);
        Ok(())
    }

    /// Receives exactly `into.len()` bytes of payload.
    pub(super) async fn fill(&mut self, into: &mut [u8]) -> Result<(), Disconnected> {
        let buffered = into.len().min(self.end - self.start);
        into[..buffered].copy_from_slice(&self.buffer[self.start..self.start + buffered]);
        self.start += buffered;
        let mut filled = buffered;
        while filled < into.len() {
            let received = self.port.receive(&mut into[filled..]).await?;
            self.session.count(&self.session.bytes_received, received as u64);
            filled += received;
        }
        Ok(())
    }

    /// Receives exactly so many bytes of payload, and drops them.
    pub(super) async fn skip(&mut self, bytes: u64) -> Result<(), Disconnected> {
        let mut left = bytes;
        while left > 0 {
            if self.start == self.end {
                self.refill().await?;
            }
            let dropped = left.min((self.end - self.start) as u64);
            self.start += dropped as usize;
            left -= dropped;
        }
        Ok(())
    }

    /// Receives whole blocks of payload.
    pub(super) async fn fill_blocks(&mut self, blocks: &mut [Block]) -> Result<(), Disconnected> {
        if let [block] = blocks {
            return self.fill(&mut block[..]).await;
        }
        let mut pieces: Vec<&mut [u8]> = blocks.iter_mut().map(|block| &mut block[..]).collect();
        let mut rest = &mut pieces[..];
        while let Some(first) = rest.first_mut() {
            if self.start < self.end {
                let buffered = first.len().min(self.end - self.start);
                self.fill(&mut first[..buffered]).await?;
                rest = advance(rest, buffered);
            } else {
                let received = self.port.receive_scattered(rest).await?;
                self.session.count(&self.session.bytes_received, received as u64);
                rest = advance(rest, received);
            }
        }
        Ok(())
    }

    /// Hears nothing more until the client leaves.
    pub(super) async fn discard(&mut self) {
        while self.refill().await.is_ok() {}
    }
}

/// What is left of the pieces after their first `count` bytes.
fn advance<'a, 'b>(pieces: &'a mut [&'b mut [u8]], mut count: usize) -> &'a mut [&'b mut [u8]] {
    let full = pieces.iter().take_while(|piece| {
        let left = count.checked_sub(piece.len());
        count = left.unwrap_or(count);
        left.is_some()
    });
    let full = full.count();
    let rest = &mut pieces[full..];
    if let Some(first) = rest.first_mut() {
        *first = &mut mem::take(first)[count..];
    }
    rest
}
