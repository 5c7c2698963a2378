//! What the requests of one NBD session share: the image, the reply encoder, and the bounds.
//!
//! A reply goes out when its request is done. Those that are ready together go out together: whoever finds nobody
//! sending sends all that waits, and what becomes ready meanwhile is the next one's. Chunks of different replies may
//! mix, messages never; where one message cannot hold a reply that must not be mixed, its sender keeps the [`Turn`].

use super::{error_number, error_text};
use crate::appliance::Appliance;
use crate::buffers::{Direction, Permit, SessionBuffers};
use crate::environment::Environment;
use crate::exports::Export;
use crate::limits::REQUESTS_PER_SESSION;
use crate::port::{Chunk, Disconnected, Port};
use crate::sessions::Session;
use crate::signal::Signal;
use crate::tasks::Tasks;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::mem;
use core::pin::pin;
use datum_protocol::nbd::{self, ErrorNumber, Replies, RequestId};
use datum_store::device::BlockDevice;
use datum_store::{Error, ErrorKind, Image, View, yield_now};
use futures_util::future::{Either, select};

pub(super) struct Connection<D: BlockDevice, P> {
    pub(super) image: Image<crate::disks::Disk<D>>,
    pub(super) replies: Replies,
    pub(super) session: Rc<Session>,
    /// What each selected context shows, or why it no longer can.
    pub(super) contexts: Vec<(u32, Result<View, Error>)>,
    port: Rc<P>,
    tasks: Tasks,
    buffers: Rc<SessionBuffers>,
    requests: Cell<usize>,
    /// Notified when a request is over.
    room: Signal,
    outbox: RefCell<Outbox>,
    sending: Cell<bool>,
    /// Notified when a sender is done.
    sent: Signal,
}

/// Messages that wait to be sent, as one.
#[derive(Default)]
struct Outbox {
    chunks: Vec<Chunk>,
    /// Messages that were put in.
    put: u64,
    /// Messages that the port is through with.
    out: u64,
}

/// The right to send; one sender of a session at a time.
pub(super) struct Turn<'a> {
    sending: &'a Cell<bool>,
    sent: &'a Signal,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.sending.set(false);
        self.sent.notify();
    }
}

impl<D: BlockDevice, P: Port> Connection<D, P> {
    pub(super) fn new<E: Environment>(
        appliance: &Appliance<D, E>,
        port: Rc<P>,
        session: Rc<Session>,
        settled: &nbd::Session,
        export: Export<D>,
    ) -> Self {
        Self {
            image: export.image,
            replies: Replies::new(settled.mode),
            session,
            contexts: export.contexts,
            port,
            tasks: appliance.tasks.clone(),
            buffers: SessionBuffers::new(&appliance.buffers),
            requests: Cell::new(0),
            room: Signal::default(),
            outbox: RefCell::default(),
            sending: Cell::new(false),
            sent: Signal::default(),
        }
    }

    /// Waits for room for one more request.
    pub(super) async fn begin(self: &Rc<Self>) -> Result<UnderWay<D, P>, Disconnected> {
        let room = self.room.until(|| (self.requests.get() < REQUESTS_PER_SESSION).then_some(()));
        self.unless_left(room).await?;
        self.requests.set(self.requests.get() + 1);
        Ok(UnderWay(self.clone()))
    }

    /// Waits, and notices when the client leaves meanwhile: requests of a suspended volume may hold all room, and the
    /// port must still serve the next client.
    async fn unless_left<T>(&self, wait: impl Future<Output = T>) -> Result<T, Disconnected> {
        match select(pin!(wait), pin!(self.port.left())).await {
            Either::Left((value, _)) => Ok(value),
            Either::Right(_) => Err(Disconnected),
        }
    }

    /// Runs a request or a part of one to its end, beside the others.
    pub(super) fn spawn(&self, part: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(part);
    }

    /// Waits for room for what is to be received.
    pub(super) async fn room_to_receive(&self, blocks: usize) -> Result<Permit, Disconnected> {
        self.unless_left(self.buffers.acquire(Direction::Receive, blocks)).await
    }

    /// Waits for room for what is to be sent.
    pub(super) async fn room_to_send(&self, blocks: usize) -> Permit {
        self.buffers.acquire(Direction::Send, blocks).await
    }

    /// Whether the session may still do anything.
    pub(super) fn allowed(&self) -> Result<(), Error> {
        if self.session.is_revoked() {
            let message = "an operator deleted, reverted or shrank the volume by force; reconnect to go on";
            return Err(Error::new(ErrorKind::InUse, message));
        }
        Ok(())
    }

    /// Waits until nobody else of this session sends.
    pub(super) async fn turn(&self) -> Turn<'_> {
        self.sent.until(|| self.take_turn()).await
    }

    fn take_turn(&self) -> Option<Turn<'_>> {
        (!self.sending.replace(true)).then(|| Turn { sending: &self.sending, sent: &self.sent })
    }

    /// Sends one message, with whatever else is ready.
    pub(super) async fn send(&self, message: Vec<Chunk>) -> Result<(), Disconnected> {
        let number = match self.put(message) {
            Ok(number) => number,
            // Without memory to wait among others it goes alone.
            Err(message) => return self.send_in(&self.turn().await, message).await,
        };
        let is_out = || self.outbox.borrow().out >= number;
        let turn = self.sent.until(|| if is_out() { Some(None) } else { self.take_turn().map(Some) });
        match turn.await {
            None => self.still_there(),
            Some(turn) => {
                // Whoever is ready as well joins.
                yield_now().await;
                let (chunks, last) = {
                    let mut outbox = self.outbox.borrow_mut();
                    (mem::take(&mut outbox.chunks), outbox.put)
                };
                let sent = self.send_in(&turn, chunks).await;
                self.outbox.borrow_mut().out = last;
                sent
            }
        }
    }

    /// Puts a message with those that wait, and numbers it. Returns it where there is no memory for that.
    fn put(&self, message: Vec<Chunk>) -> Result<u64, Vec<Chunk>> {
        let mut outbox = self.outbox.borrow_mut();
        if outbox.chunks.try_reserve(message.len()).is_err() {
            return Err(message);
        }
        outbox.chunks.extend(message);
        outbox.put += 1;
        Ok(outbox.put)
    }

    /// Sends one message within a turn.
    pub(super) async fn send_in(&self, _turn: &Turn<'_>, message: Vec<Chunk>) -> Result<(), Disconnected> {
        self.still_there()?;
        let bytes: u64 = message.iter().map(Chunk::len).sum();
        self.session.count(&self.session.bytes_sent, bytes);
        self.port.send(message, |block| self.image.give_back(block)).await
    }

    fn still_there(&self) -> Result<(), Disconnected> {
        if self.session.is_over() { Err(Disconnected) } else { Ok(()) }
    }

    /// Replies to a request that returns no data.
    pub(super) async fn finish(&self, id: RequestId, done: Result<(), Error>) {
        match done {
            Ok(()) => self.reply(self.replies.done(id)).await,
            Err(error) => self.fail(id, &error).await,
        }
    }

    pub(super) async fn fail(&self, id: RequestId, error: &Error) {
        self.error(id, error_number(error), &error_text(error)).await;
    }

    pub(super) async fn error(&self, id: RequestId, error: ErrorNumber, message: &str) {
        self.reply(self.replies.error(id, error, message)).await;
    }

    async fn reply(&self, bytes: Vec<u8>) {
        // Where the client has left, there is nobody to tell.
        let _ = self.send(vec![Chunk::Bytes(bytes)]).await;
    }
}

/// A request counts until this is dropped.
pub(super) struct UnderWay<D: BlockDevice, P>(Rc<Connection<D, P>>);

impl<D: BlockDevice, P> Drop for UnderWay<D, P> {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.room.notify();
    }
}
