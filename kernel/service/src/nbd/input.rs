//! A port's input as the NBD codecs want it: bytes for headers pass through a small buffer, payloads go
//! straight to where they stay.

use crate::port::{Disconnected, Port};
use crate::sessions::Session;
use alloc::rc::Rc;

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

    /// Hears nothing more until the client leaves.
    pub(super) async fn discard(&mut self) {
        while self.refill().await.is_ok() {}
    }
}
