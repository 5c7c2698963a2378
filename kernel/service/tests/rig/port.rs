//! A port in memory and the client at its other end.

use datum_service::port::{Chunk, Disconnected, Port};
use datum_store::device::Block;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct Wire {
    name: String,
    /// Counts connections; a session is over once this moves on.
    connection: Cell<u64>,
    connected: Cell<bool>,
    to_server: RefCell<VecDeque<u8>>,
    to_client: RefCell<VecDeque<u8>>,
    /// While set, nothing the server sends is taken.
    stalled: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Wire {
    fn changed(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    fn wait<T>(&self, context: &Context<'_>) -> Poll<T> {
        self.waiting.borrow_mut().push(context.waker().clone());
        Poll::Pending
    }
}

pub struct MemoryPort {
    wire: Rc<Wire>,
    accepted: Cell<u64>,
}

impl MemoryPort {
    pub fn new(name: &str) -> Self {
        Self { wire: Rc::new(Wire { name: name.into(), ..Wire::default() }), accepted: Cell::new(0) }
    }

    pub fn client(&self) -> Client {
        Client(self.wire.clone())
    }

    fn is_over(&self) -> bool {
        !self.wire.connected.get() || self.wire.connection.get() != self.accepted.get()
    }
}

impl Port for MemoryPort {
    fn name(&self) -> &str {
        &self.wire.name
    }

    async fn accept(&self) {
        poll_fn(|context| {
            if !self.wire.connected.get() || self.wire.connection.get() == self.accepted.get() {
                return self.wire.wait(context);
            }
            self.accepted.set(self.wire.connection.get());
            Poll::Ready(())
        })
        .await;
    }

    async fn receive(&self, into: &mut [u8]) -> Result<usize, Disconnected> {
        poll_fn(|context| {
            if self.is_over() {
                return Poll::Ready(Err(Disconnected));
            }
            let mut queue = self.wire.to_server.borrow_mut();
            if queue.is_empty() {
                return self.wire.wait(context);
            }
            let count = into.len().min(queue.len());
            into[..count].iter_mut().zip(queue.drain(..count)).for_each(|(to, byte)| *to = byte);
            Poll::Ready(Ok(count))
        })
        .await
    }

    async fn left(&self) {
        poll_fn(|context| if self.is_over() { Poll::Ready(()) } else { self.wire.wait(context) }).await;
    }

    async fn send(&self, message: Vec<Chunk>, mut spare: impl FnMut(Block)) -> Result<(), Disconnected> {
        poll_fn(|context| {
            if !self.is_over() && self.wire.stalled.get() {
                return self.wire.wait(context);
            }
            Poll::Ready(())
        })
        .await;
        if self.is_over() {
            return Err(Disconnected);
        }
        let mut queue = self.wire.to_client.borrow_mut();
        for chunk in message {
            match chunk {
                Chunk::Bytes(bytes) => queue.extend(bytes),
                Chunk::Block { data, start, end } => {
                    queue.extend(&data[usize::from(start)..usize::from(end)]);
                    spare(data);
                }
                Chunk::Zeroes(count) => queue.extend(std::iter::repeat_n(0, count as usize)),
            }
        }
        drop(queue);
        self.wire.changed();
        Ok(())
    }
}

/// A client of a port. Clones are the same client.
#[derive(Clone)]
pub struct Client(Rc<Wire>);

impl Client {
    pub fn connect(&self) {
        self.0.to_server.borrow_mut().clear();
        self.0.to_client.borrow_mut().clear();
        self.0.connection.set(self.0.connection.get() + 1);
        self.0.connected.set(true);
        self.0.changed();
    }

    pub fn leave(&self) {
        self.0.connected.set(false);
        self.0.changed();
    }

    /// Stops or goes on taking what the server sends.
    pub fn stall(&self, stalled: bool) {
        self.0.stalled.set(stalled);
        self.0.changed();
    }

    pub fn send(&self, bytes: &[u8]) {
        self.0.to_server.borrow_mut().extend(bytes);
        self.0.changed();
    }

    /// What has come and was not received yet.
    pub fn pending(&self) -> usize {
        self.0.to_client.borrow().len()
    }

    /// All that has come so far.
    pub fn drain(&self) -> Vec<u8> {
        self.0.to_client.borrow_mut().drain(..).collect()
    }

    pub async fn receive(&self, count: usize) -> Vec<u8> {
        poll_fn(|context| {
            let mut queue = self.0.to_client.borrow_mut();
            if queue.len() < count {
                return self.0.wait(context);
            }
            Poll::Ready(queue.drain(..count).collect())
        })
        .await
    }

    pub async fn receive_line(&self) -> Vec<u8> {
        poll_fn(|context| {
            let mut queue = self.0.to_client.borrow_mut();
            match queue.iter().position(|byte| *byte == b'\n') {
                None => self.0.wait(context),
                Some(end) => Poll::Ready(queue.drain(..=end).collect()),
            }
        })
        .await
    }
}
