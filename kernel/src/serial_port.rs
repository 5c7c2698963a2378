//! COM1 as a port, for the console where the machine has no console port.
//!
//! A serial line does not tell whether anyone is there. Its first session begins at once; if the service ends one, the
//! next begins when somebody types. No client ever leaves.

use alloc::vec::Vec;
use core::cell::Cell;
use datum_drivers::uart;
use datum_service::port::{Chunk, Disconnected, Port};
use datum_store::device::Block;
use event_listener::Event;

const ZEROES: [u8; 64] = [0; 64];

/// COM1.
#[derive(Default)]
pub(crate) struct SerialPort {
    accepted: Cell<bool>,
    turn: Turn,
}

impl Port for SerialPort {
    fn name(&self) -> &str {
        "com1"
    }

    async fn accept(&self) {
        if self.accepted.replace(true) {
            uart::readable().await;
        }
    }

    async fn receive(&self, into: &mut [u8]) -> Result<usize, Disconnected> {
        Ok(uart::receive(into).await)
    }

    async fn send(&self, message: Vec<Chunk>, _spare: impl FnMut(Block)) -> Result<(), Disconnected> {
        let _turn = self.turn.take().await;
        for chunk in &message {
            send_chunk(chunk).await;
        }
        Ok(())
    }
}

async fn send_chunk(chunk: &Chunk) {
    match chunk {
        Chunk::Bytes(bytes) => uart::send(bytes).await,
        Chunk::Block { data, start, end } => {
            uart::send(data.get(usize::from(*start)..usize::from(*end)).unwrap_or_default()).await;
        }
        Chunk::Zeroes(count) => {
            let mut left = *count as usize;
            while left > 0 {
                let now = left.min(ZEROES.len());
                uart::send(&ZEROES[..now]).await;
                left -= now;
            }
        }
    }
}

/// Lets one sender through at a time, so that messages are never mixed.
#[derive(Default)]
struct Turn {
    taken: Cell<bool>,
    free: Event,
}

impl Turn {
    async fn take(&self) -> TurnGuard<'_> {
        loop {
            let freed = self.free.listen();
            if !self.taken.replace(true) {
                return TurnGuard(self);
            }
            freed.await;
        }
    }
}

struct TurnGuard<'a>(&'a Turn);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        self.0.free.notify(1);
    }
}
