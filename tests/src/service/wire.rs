//! A simulated port: two streams of bytes that travel in pieces, and a client that may leave at any moment.
//!
//! What is sent is under way until the executor lets a piece of it arrive, of a size that the seed draws. What the
//! client's end has not taken counts against a bound, beyond which the appliance waits: a client that does not read
//! holds it up. A client that leaves drops what is under way to it; of what it has sent some still arrives. Its own memory
//! is not the product's.

use crate::executor::Hardware;
use crate::rng::Rng;
use datum_scarcity::exempt;
use datum_service::port::{Chunk, Disconnected, Port};
use datum_store::device::Block;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    /// Counts connections; a session is over once this moves on.
    connection: u64,
    connected: bool,
    accepted: u64,
    to_server: Stream,
    to_client: Stream,
    /// Bytes to the client, under way or not taken, beyond which a sender waits.
    room: usize,
    /// Most bytes that arrive at a time.
    piece: u64,
    sending: bool,
    /// Pieces that have arrived at either end.
    carried: u64,
    waiting: Vec<Waker>,
}

#[derive(Default)]
struct Stream {
    under_way: VecDeque<u8>,
    arrived: VecDeque<u8>,
}

impl Stream {
    fn clear(&mut self) {
        self.under_way.clear();
        self.arrived.clear();
    }

    fn len(&self) -> usize {
        self.under_way.len() + self.arrived.len()
    }

    fn arrive(&mut self, bytes: u64) {
        let count = self.under_way.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.arrived.extend(self.under_way.drain(..count));
    }
}

impl State {
    fn is_over(&self) -> bool {
        !self.connected || self.connection != self.accepted
    }

    fn changed(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn wait<T>(&mut self, context: &Context<'_>) -> Poll<T> {
        if !self.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            exempt(|| self.waiting.push(context.waker().clone()));
        }
        Poll::Pending
    }
}

/// Both ends of a port. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Wire {
    name: Rc<str>,
    state: Rc<RefCell<State>>,
}

impl Wire {
    /// A port nobody is connected to. The seed draws how fast and how patient its client's end is.
    pub(crate) fn new(name: &str, rng: &mut Rng) -> Self {
        let room = *rng.pick(&[3000, 20_000, 300_000, 300_000, usize::MAX]);
        let piece = *rng.pick(&[700, 4096, 4096, 1 << 16, 1 << 20]);
        let state = State { room, piece, ..State::default() };
        Self { name: name.into(), state: Rc::new(RefCell::new(state)) }
    }

    /// The client connects.
    pub(crate) fn connect(&self) {
        let mut state = self.state.borrow_mut();
        state.to_server.clear();
        state.to_client.clear();
        state.connection += 1;
        state.connected = true;
        state.changed();
    }

    /// The client leaves without a word. Of what it has sent some still arrives.
    pub(crate) fn leave(&self, rng: &mut Rng) {
        let mut state = self.state.borrow_mut();
        let last = rng.below(state.to_server.under_way.len() as u64 + 1);
        state.to_server.arrive(last);
        state.to_server.under_way.clear();
        state.to_client.clear();
        state.connected = false;
        state.changed();
    }

    /// Pieces that have arrived at either end so far.
    pub(crate) fn carried(&self) -> u64 {
        self.state.borrow().carried
    }

    /// The client sends.
    pub(crate) fn say(&self, bytes: &[u8]) {
        self.state.borrow_mut().to_server.under_way.extend(bytes);
    }

    /// Waits for so many bytes.
    pub(crate) async fn hear(&self, count: usize) -> Vec<u8> {
        let mut heard = Vec::with_capacity(count);
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            let taken = state.to_client.arrived.len().min(count - heard.len());
            heard.extend(state.to_client.arrived.drain(..taken));
            if taken > 0 {
                state.changed();
            }
            if heard.len() == count { Poll::Ready(()) } else { state.wait(context) }
        })
        .await;
        heard
    }

    /// Waits for a line; its end is left out.
    pub(crate) async fn hear_line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        loop {
            match self.hear(1).await[0] {
                b'\n' => return line,
                byte => line.push(byte),
            }
        }
    }
}

impl Hardware for Wire {
    fn pending(&self) -> usize {
        let state = self.state.borrow();
        usize::from(!state.to_server.under_way.is_empty())
            + usize::from(!state.to_client.under_way.is_empty())
    }

    fn advance(&self, rng: &mut Rng) {
        let mut state = self.state.borrow_mut();
        let most = if rng.chance(5) { 40 } else { state.piece };
        let bytes = rng.between(1, most);
        let both = !state.to_server.under_way.is_empty() && !state.to_client.under_way.is_empty();
        let up = if both { rng.chance(50) } else { !state.to_server.under_way.is_empty() };
        if up {
            state.to_server.arrive(bytes)
        } else {
            state.to_client.arrive(bytes)
        }
        state.carried += 1;
        state.changed();
    }
}

/// One sender at a time.
struct Turn<'a>(&'a Wire);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.sending = false;
        state.changed();
    }
}

impl Port for Wire {
    fn name(&self) -> &str {
        &self.name
    }

    async fn accept(&self) {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if !state.connected || state.connection == state.accepted {
                return state.wait(context);
            }
            state.accepted = state.connection;
            Poll::Ready(())
        })
        .await;
    }

    async fn receive(&self, into: &mut [u8]) -> Result<usize, Disconnected> {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            let has_more = !state.to_server.arrived.is_empty() && state.connection == state.accepted;
            if state.is_over() && !has_more {
                return Poll::Ready(Err(Disconnected));
            }
            if !has_more {
                return state.wait(context);
            }
            let count = into.len().min(state.to_server.arrived.len());
            let bytes = state.to_server.arrived.drain(..count);
            into[..count].iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
            Poll::Ready(Ok(count))
        })
        .await
    }

    async fn left(&self) {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if state.is_over() { Poll::Ready(()) } else { state.wait(context) }
        })
        .await;
    }

    async fn send(&self, message: Vec<Chunk>, mut spare: impl FnMut(Block)) -> Result<(), Disconnected> {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if !std::mem::replace(&mut state.sending, true) {
                return Poll::Ready(());
            }
            state.wait(context)
        })
        .await;
        let _turn = Turn(self);
        let session = self.state.borrow().accepted;
        let mut bytes = exempt(|| VecDeque::from(flatten(message, &mut spare)));
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if state.is_over() || state.accepted != session {
                return Poll::Ready(Err(Disconnected));
            }
            let count = bytes.len().min(state.room.saturating_sub(state.to_client.len()));
            exempt(|| state.to_client.under_way.extend(bytes.drain(..count)));
            if bytes.is_empty() { Poll::Ready(Ok(())) } else { state.wait(context) }
        })
        .await
    }
}

fn flatten(message: Vec<Chunk>, spare: &mut impl FnMut(Block)) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in message {
        match chunk {
            Chunk::Bytes(part) => bytes.extend(part),
            Chunk::Block { data, start, end } => {
                bytes.extend(&data[usize::from(start)..usize::from(end)]);
                spare(data);
            }
            Chunk::Zeroes(count) => bytes.extend(std::iter::repeat_n(0, count as usize)),
        }
    }
    bytes
}
