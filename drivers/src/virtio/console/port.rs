//! One port: its two queues, and the session on it.
//!
//! A client's coming and going arrives on the control queue, unordered with the data. The driver makes an order:
//! it tells the device that its own end is open only while a session is accepted, and a device moves no data
//! towards an end that is closed. When a client leaves, the end is closed; when the device has handled that, no
//! more data can come, and what has come is of the old session and is dropped. Only then is the next accepted.
//!
//! Bytes that a client sends before it is accepted wait on the host, unless it follows another at once: what QEMU
//! reads before it has heard that the end is closed is dropped with the old client's. So a client waits for its
//! greeting before it speaks.

use super::control::{Control, Ticket};
use super::message::Message;
use super::{Disconnected, RECEIVE_BUFFER_BYTES};
use crate::virtio::queue::{Fault, Queue};
use crate::virtio::segment::Segment;
use crate::virtio::wakers::Waiters;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::task::Waker;

type Buffer = Box<[u8; RECEIVE_BUFFER_BYTES]>;

/// The state of one port.
#[derive(Debug)]
pub(super) struct PortState {
    pub(super) name: String,
    /// A client is connected on the host.
    pub(super) host_open: bool,
    /// Whoever is connected is a client of before the machine's reset.
    pub(super) stale: bool,
    /// A session is accepted and alive.
    pub(super) in_session: bool,
    /// Sessions so far.
    session: u64,
    /// The control message that made the port ready, or closed our end last; nothing is accepted before its answers
    /// are in.
    pub(super) unsettled: Option<Ticket>,
    /// The device may move data towards us.
    pub(super) end_open: bool,
    pub(super) receive: Queue<Buffer>,
    pub(super) transmit: Queue<Rc<Message>>,
    /// Receive buffers were posted.
    stocked: bool,
    /// What has arrived in this session and was not fetched yet: buffer, bytes in it.
    arrived: VecDeque<(Buffer, usize)>,
    /// Bytes already fetched from the first of `arrived`.
    fetched: usize,
    /// Messages that are not over, oldest first.
    unfinished: VecDeque<Rc<Message>>,
    /// How many of those were given to the device whole.
    laid_out: usize,
    pub(super) accepting: Waiters,
    receiving: Waiters,
    /// Those who wait for the end of the session.
    staying: Waiters,
}

impl PortState {
    pub(super) fn new(receive: Queue<Buffer>, transmit: Queue<Rc<Message>>) -> Self {
        Self {
            name: String::new(),
            host_open: false,
            stale: false,
            in_session: false,
            session: 0,
            unsettled: None,
            end_open: false,
            receive,
            transmit,
            stocked: false,
            arrived: VecDeque::new(),
            fetched: 0,
            unfinished: VecDeque::new(),
            laid_out: 0,
            accepting: Waiters::default(),
            receiving: Waiters::default(),
            staying: Waiters::default(),
        }
    }

    /// Posts the receive buffers, once: at most as many as the queue holds.
    pub(super) fn stock(&mut self, buffers: u16) {
        if !self.stocked {
            self.stocked = true;
            self.arrived.reserve(usize::from(buffers));
            for _ in 0..buffers {
                self.post(Box::new([0; RECEIVE_BUFFER_BYTES]));
            }
        }
    }

    fn post(&mut self, mut buffer: Buffer) {
        if self.receive.has_room(1) {
            let address = buffer.as_mut_ptr().expose_provenance() as u64;
            let segment = Segment::device_writes(address, RECEIVE_BUFFER_BYTES as u32);
            // SAFETY: the queue owns the buffer until it is complete; moving the box does not move the bytes.
            unsafe { self.receive.submit(&[segment], buffer) };
        }
    }

    /// Whether there is nothing to do: neither queue has news, and nothing that came waits.
    pub(super) fn rests(&self) -> bool {
        self.arrived.is_empty() && !self.receive.stirs() && !self.transmit.stirs()
    }

    /// Takes in what the device has received, just after a look at the control queue; between two sessions it is dropped.
    /// True if there was anything.
    pub(super) fn take_in(&mut self, woken: &mut Vec<Waker>) -> Result<bool, Fault> {
        let mut any = false;
        // No more than was posted when it began: an empty buffer goes back at once, and may come back at once.
        for _ in 0..self.receive.in_flight() {
            let Some(completion) = self.receive.complete()? else { break };
            any = true;
            match completion.written as usize {
                length if length > 0 && self.in_session => {
                    self.arrived.push_back((completion.owner, length));
                }
                _ => self.post(completion.owner),
            }
        }
        if any {
            self.receiving.wake_into(woken);
        }
        Ok(any)
    }

    /// Drops what has arrived for earlier sessions, before the next starts. What the device is through with of theirs is no
    /// more among what it holds.
    pub(super) fn drain(&mut self, woken: &mut Vec<Waker>) -> Result<(), Fault> {
        self.take_in(woken)?;
        self.take_sent(woken)?;
        Ok(())
    }

    fn drop_arrived(&mut self, count: usize) {
        for _ in 0..count {
            self.fetched = 0;
            let dropped = self.arrived.pop_front();
            dropped.into_iter().for_each(|(buffer, _)| self.post(buffer));
        }
    }

    /// Moves bytes that have arrived to the pieces of `into`, one after the other. None where there are none yet.
    pub(super) fn fetch(&mut self, into: &mut [&mut [u8]]) -> Option<Result<usize, Disconnected>> {
        if !self.in_session {
            return Some(Err(Disconnected));
        }
        let mut filled = 0;
        for piece in into.iter_mut() {
            let count = self.fetch_piece(piece);
            filled += count;
            if count < piece.len() {
                break;
            }
        }
        (filled > 0 || into.iter().all(|piece| piece.is_empty())).then_some(Ok(filled))
    }

    fn fetch_piece(&mut self, into: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < into.len()
            && let Some((buffer, length)) = self.arrived.front()
        {
            let count = (length - self.fetched).min(into.len() - filled);
            into[filled..filled + count].copy_from_slice(&buffer[self.fetched..self.fetched + count]);
            filled += count;
            self.fetched += count;
            if self.fetched == *length {
                self.drop_arrived(1);
            }
        }
        filled
    }

    pub(super) fn wait_to_receive(&mut self, context: &core::task::Context<'_>) {
        self.receiving.register(context);
    }

    /// The session there is; none between two.
    pub(super) fn current_session(&self) -> Option<u64> {
        self.in_session.then_some(self.session)
    }

    pub(super) fn wait_for_end(&mut self, context: &core::task::Context<'_>) {
        self.staying.register(context);
    }

    /// Whether the device has said of this port what there was to say when it was made ready, or our end closed last.
    pub(super) fn is_settled(&self, control: &Control) -> bool {
        self.unsettled.is_none_or(|ticket| control.is_done(ticket))
    }

    /// Starts the next session.
    pub(super) fn begin_session(&mut self) {
        // A device works on one chain at a time: what it still holds of sessions before the last of those that
        // left something, it lost. The first chain of this session that comes back proves it; only a port on which none
        // could be sent must do without.
        if !self.transmit.has_room(self.transmit.longest_chain()) {
            let newest = self.transmit.owners().map(|message| message.session()).max();
            self.take_back_before(newest.unwrap_or(0));
        }
        self.unsettled = None;
        self.in_session = true;
        self.session += 1;
    }

    /// QEMU forgets the chain it is sending when a client leaves: it is neither sent nor given back. Without this
    /// every such client would cost its port a chain for good.
    fn take_back_before(&mut self, session: u64) {
        // SAFETY: the device only reads these chains, and a stream has no use for one once a later one was begun.
        unsafe { self.transmit.take_back(|message| message.session() < session) };
    }

    /// Takes a message to be sent.
    pub(super) fn enqueue(&mut self, message: Rc<Message>) {
        message.set_session(self.session);
        self.unfinished.push_back(message);
    }

    /// The first message that is not with the device whole.
    pub(super) fn next_message(&self) -> Option<Rc<Message>> {
        self.unfinished.get(self.laid_out).cloned()
    }

    /// Goes on to the next message once this one is with the device whole.
    pub(super) fn pass_message(&mut self, message: &Message, woken: &mut Vec<Waker>, empty: bool) {
        if empty {
            self.unfinished.remove(self.laid_out);
            woken.extend(message.end(Ok(())));
        } else if message.is_laid_out() {
            self.laid_out += 1;
        }
    }

    /// Takes back what the device has sent. True if there was anything.
    pub(super) fn take_sent(&mut self, woken: &mut Vec<Waker>) -> Result<bool, Fault> {
        let mut any = false;
        while let Some(completion) = self.transmit.complete()? {
            if !any && completion.owner.session() == self.session && self.transmit.in_flight() > 0 {
                // What was begun in earlier sessions cannot come any more.
                self.take_back_before(self.session);
            }
            any = true;
            if completion.owner.chain_ended() {
                self.finish(&completion.owner, woken);
            }
        }
        Ok(any)
    }

    fn finish(&mut self, message: &Rc<Message>, woken: &mut Vec<Waker>) {
        // Messages of an ended session are not among them any more.
        if let Some(position) = self.unfinished.iter().position(|other| Rc::ptr_eq(other, message)) {
            self.unfinished.remove(position);
            self.laid_out = self.laid_out.saturating_sub(usize::from(position < self.laid_out));
            woken.extend(message.end(Ok(())));
        }
    }

    /// Ends the session: whoever receives or sends is told so. Chains with the device stay its own.
    pub(super) fn end_session(&mut self, woken: &mut Vec<Waker>) {
        self.in_session = false;
        self.laid_out = 0;
        self.drop_arrived(self.arrived.len());
        for message in self.unfinished.drain(..) {
            woken.extend(message.end(Err(Disconnected)));
        }
        self.receiving.wake_into(woken);
        self.staying.wake_into(woken);
    }
}
