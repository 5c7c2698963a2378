//! virtio-console with many ports: byte channels with sessions.
//!
//! - A *session* lasts from the moment a client is accepted until it leaves. Nothing of one session is seen in
//!   the next, except for the rest of a chain that the device was already sending when the client left: the
//!   device keeps it, and the next client must refuse it by its greeting.
//! - After a reset of the machine the client of a port may still be the one of before. It is not accepted, and what it
//!   says is dropped: it would take a greeting for part of its session.
//! - What is sent is owned by the driver until the device has sent it, and goes out whole, in order and never
//!   mixed. A client that does not read makes senders wait; one that leaves ends their wait.
//! - Receive buffers are posted when a port first accepts: their number, times 4 KiB, is a port's memory.
//!
//! [`control`] speaks with the device about ports, [`port`] is one port's state, [`message`] what is sent,
//! [`engine`] the device behind them.

mod control;
mod engine;
mod message;
mod port;

use super::queue::Fault;
use super::transport::DeviceTransport;
use super::wakers::wake_all;
use super::{Polled, SetupError};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::{Future, poll_fn};
use core::task::Poll;
use engine::Engine;
use message::Message;

pub use message::{Block, Chunk};

/// Bytes of a receive buffer: what QEMU moves at a time.
pub const RECEIVE_BUFFER_BYTES: usize = 4096;

/// The client of the session has left; the next step is [`Port::accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnected;

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client has left; wait for the next one")
    }
}

impl core::error::Error for Disconnected {}

/// What may be chosen about a console.
#[derive(Clone, Copy, Debug)]
pub struct ConsoleOptions {
    /// Receive buffers for a port of this name, at least one and at most as many as its queue holds (128).
    pub receive_buffers: fn(&str) -> u16,
    /// The machine was reset: whoever is connected when a port is found is a client of before, and is not accepted.
    pub after_reset: bool,
}

impl Default for ConsoleOptions {
    fn default() -> Self {
        Self { receive_buffers: |_| 32, after_reset: false }
    }
}

/// A multiport console on transport `T`.
#[derive(Debug)]
pub struct Console<T: DeviceTransport> {
    engine: RefCell<Engine<T>>,
}

impl<T: DeviceTransport> Console<T> {
    /// Sets the device up. Its ports are known once [`Console::settled`] has returned.
    pub fn new(transport: T, options: ConsoleOptions) -> Result<Rc<Self>, SetupError> {
        Ok(Rc::new(Self { engine: RefCell::new(Engine::new(transport, options)?) }))
    }

    /// Waits until all ports are announced and named, and until it is known where clients are connected.
    pub async fn settled(&self) -> Result<(), Fault> {
        poll_fn(|context| self.with(|engine| engine.settled(context))).await
    }

    /// The ports announced so far.
    pub fn ports(self: &Rc<Self>) -> Vec<Port<T>> {
        let engine = self.engine.borrow();
        engine
            .ports()
            .map(|(number, name)| Port { console: self.clone(), number, name: name.into() })
            .collect()
    }

    /// How many numbers of ports are served, and the first one announced that is beyond them and stays closed.
    pub fn beyond(&self) -> Option<(usize, usize)> {
        self.engine.borrow().beyond()
    }

    /// What the device did wrong, once it was stopped for it.
    pub fn fault(&self) -> Option<Fault> {
        self.engine.borrow().fault()
    }

    /// Runs `action` on the engine, then wakes whom it made ready, with nothing borrowed.
    fn with<R>(&self, action: impl FnOnce(&mut Engine<T>) -> R) -> R {
        let (result, mut woken) = {
            let mut engine = self.engine.borrow_mut();
            (action(&mut engine), engine.take_woken())
        };
        if !woken.is_empty() {
            wake_all(&mut woken);
            self.engine.borrow_mut().reuse(woken);
        }
        result
    }
}

impl<T: DeviceTransport> Polled for Console<T> {
    fn poll(&self) -> bool {
        self.with(Engine::poll)
    }

    fn arm(&self) -> bool {
        self.with(Engine::arm)
    }

    fn disarm(&self) {
        self.with(Engine::disarm);
    }
}

/// One port of a console. One task accepts and receives; any number may send.
#[derive(Clone, Debug)]
pub struct Port<T: DeviceTransport> {
    console: Rc<Console<T>>,
    number: usize,
    name: String,
}

impl<T: DeviceTransport> Port<T> {
    /// The name the host gave the port, empty if it gave none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port's number on its device.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Waits for a client, other than one of before a reset, and starts its session: what an earlier session left in either direction is dropped.
    pub async fn accept(&self) {
        poll_fn(|context| self.console.with(|engine| engine.accept(self.number, context))).await;
    }

    /// Receives between 1 and `into.len()` bytes, waiting for the first. An empty `into` receives nothing.
    pub async fn receive(&self, into: &mut [u8]) -> Result<usize, Disconnected> {
        self.receive_scattered(&mut [into]).await
    }

    /// As [`Port::receive`], into one piece of memory after the other.
    pub async fn receive_scattered(&self, into: &mut [&mut [u8]]) -> Result<usize, Disconnected> {
        poll_fn(|context| self.console.with(|engine| engine.receive(self.number, into, context))).await
    }

    /// Is ready once the client of the session that there is now has left; at once where there is none.
    pub fn left(&self) -> impl Future<Output = ()> + use<'_, T> {
        let session = self.console.engine.borrow().session(self.number);
        poll_fn(move |context| match session {
            Some(session) => self.console.with(|engine| engine.left(self.number, session, context)),
            None => Poll::Ready(()),
        })
    }

    /// Sends one message. It is taken at once, and goes out whole and in order even if the future is dropped;
    /// the future is ready when the device has sent it, or when the client has left. Blocks whose bytes were copied
    /// go to `spare` at once.
    pub fn send(
        &self,
        message: Vec<Chunk>,
        spare: &mut dyn FnMut(Block),
    ) -> impl Future<Output = Result<(), Disconnected>> + use<T> {
        let message = Rc::new(Message::new(message, spare));
        let taken = self.console.with(|engine| engine.send(self.number, &message));
        poll_fn(move |context| match taken {
            true => message.outcome(context.waker()).map_or(Poll::Pending, Poll::Ready),
            false => Poll::Ready(Err(Disconnected)),
        })
    }
}
