//! The control queues of a multiport console (virtio 1.2, 5.3.6.2): announcements, names, and who is connected.
//!
//! - Every receive buffer is posted again before its message is acted on: a device without a buffer drops the
//!   event and tells nobody.
//! - One message to the device is under way at a time, and the next goes out only after the answers to it have
//!   been taken in: a device answers while it handles a message, with several messages, into those same buffers.
//! - A message the device is through with has taken effect; [`Control::is_done`] makes a barrier of that.

use crate::virtio::SetupError;
use crate::virtio::dma::DmaRegion;
use crate::virtio::queue::{Fault, Queue, QueueFeatures};
use crate::virtio::ring::Ring;
use crate::virtio::segment::Segment;
use crate::virtio::transport::DeviceTransport;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

pub(super) const RECEIVE_QUEUE: u16 = 2;
pub(super) const TRANSMIT_QUEUE: u16 = 3;
/// Room for a header and a long name; a device cuts what is longer.
const BUFFER_BYTES: usize = 256;
const HEADER_BYTES: usize = 8;

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_REMOVE: u16 = 2;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// What the device tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Added,
    Removed,
    Named(String),
    /// A client connected (true) or left.
    Open(bool),
    /// Nothing that means anything here.
    Meaningless,
}

/// What the driver tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    DeviceReady,
    PortReady(u32),
    PortOpen(u32, bool),
}

impl Message {
    fn encode(self) -> u64 {
        let (port, event, value) = match self {
            Self::DeviceReady => (0, DEVICE_READY, 1),
            Self::PortReady(port) => (port, PORT_READY, 1),
            Self::PortOpen(port, open) => (port, PORT_OPEN, u16::from(open)),
        };
        u64::from(port) | u64::from(event) << 32 | u64::from(value) << 48
    }
}

/// Counts messages to the device; a message is done when as many have been handled.
pub(super) type Ticket = u64;

#[derive(Debug)]
pub(super) struct Control {
    receive: Queue<u16>,
    transmit: Queue<()>,
    /// Receive buffers, then one place for a message to the device. Not freed, like the rings.
    buffers: ManuallyDrop<DmaRegion>,
    message_offset: usize,
    outbox: VecDeque<Message>,
    asked: Ticket,
    done: Ticket,
}

impl Control {
    pub(super) fn new(receive: Ring, transmit: Ring, features: QueueFeatures) -> Result<Self, SetupError> {
        let message_offset = usize::from(receive.size()) * BUFFER_BYTES;
        let buffers = ManuallyDrop::new(DmaRegion::allocate(message_offset + HEADER_BYTES)?);
        let receive = Queue::new(receive, features, 0, 0)?;
        let transmit = Queue::new(transmit, features, 0, 0)?;
        let (outbox, asked, done) = (VecDeque::new(), 0, 0);
        let mut control = Self { receive, transmit, buffers, message_offset, outbox, asked, done };
        (0..(message_offset / BUFFER_BYTES) as u16).for_each(|buffer| control.post(buffer));
        Ok(control)
    }

    fn post(&mut self, buffer: u16) {
        if self.receive.has_room(1) {
            let address = self.buffers.address(usize::from(buffer) * BUFFER_BYTES);
            // SAFETY: the region is never freed, and a buffer is read only between completion and posting.
            unsafe { self.receive.submit(&[Segment::device_writes(address, BUFFER_BYTES as u32)], buffer) };
        }
    }

    /// Whether there is anything to take in, or to send.
    pub(super) fn stirs(&self) -> bool {
        self.receive.stirs()
            || self.transmit.stirs()
            || !self.outbox.is_empty() && self.transmit.in_flight() == 0
    }

    /// Queues a message; it goes out when those before it are done.
    pub(super) fn send(&mut self, message: Message) -> Ticket {
        self.outbox.push_back(message);
        self.asked += 1;
        self.asked
    }

    /// Whether the device has handled this message, and whatever it answered was taken in.
    pub(super) fn is_done(&self, ticket: Ticket) -> bool {
        self.done >= ticket
    }

    /// Whether all messages are done.
    pub(super) fn is_idle(&self) -> bool {
        self.done == self.asked
    }

    /// The next event, with its port.
    pub(super) fn next_event(&mut self) -> Result<Option<(u32, Event)>, Fault> {
        let Some(completion) = self.receive.complete()? else { return Ok(None) };
        let mut bytes = [0; BUFFER_BYTES];
        let length = completion.written as usize;
        self.buffers.copy_out(usize::from(completion.owner) * BUFFER_BYTES, &mut bytes[..length]);
        self.post(completion.owner);
        Ok(Some(parse(&bytes[..length])))
    }

    /// How many events can have been there before one of them was looked at.
    pub(super) fn events_max(&self) -> usize {
        self.message_offset / BUFFER_BYTES
    }

    /// Notices that the message under way was handled. True if so: its answers must be taken in before
    /// [`Control::advance`] sends the next.
    pub(super) fn take_handled(&mut self) -> Result<bool, Fault> {
        Ok(self.transmit.complete()?.is_some())
    }

    /// Counts the message under way as done.
    pub(super) fn count_done(&mut self) {
        self.done += 1;
    }

    /// Sends the next message if none is under way, and tells the device what is new.
    pub(super) fn advance<T: DeviceTransport>(&mut self, transport: &mut T) {
        if self.transmit.in_flight() == 0
            && self.transmit.has_room(1)
            && let Some(message) = self.outbox.pop_front()
        {
            self.buffers.u64(self.message_offset).store(message.encode().to_le(), Ordering::Relaxed);
            let segment =
                Segment::device_reads(self.buffers.address(self.message_offset), HEADER_BYTES as u32);
            // SAFETY: the region is never freed, and written only while no message is under way.
            unsafe { self.transmit.submit(&[segment], ()) };
        }
        if self.receive.take_notification() {
            transport.notify(RECEIVE_QUEUE);
        }
        if self.transmit.take_notification() {
            transport.notify(TRANSMIT_QUEUE);
        }
    }

    pub(super) fn arm(&mut self) -> bool {
        // Both, whatever the first says.
        self.receive.enable_interrupts() | self.transmit.enable_interrupts()
    }

    pub(super) fn disarm(&mut self) {
        self.receive.suppress_interrupts();
        self.transmit.suppress_interrupts();
    }
}

fn parse(bytes: &[u8]) -> (u32, Event) {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return (0, Event::Meaningless);
    };
    let word = u64::from_le_bytes(*header);
    let (port, event, value) = (word as u32, (word >> 32) as u16, (word >> 48) as u16);
    let event = match event {
        PORT_ADD => Event::Added,
        PORT_REMOVE => Event::Removed,
        PORT_OPEN => Event::Open(value != 0),
        PORT_NAME => {
            let name = rest.split(|&byte| byte == 0).next().unwrap_or_default();
            Event::Named(String::from_utf8_lossy(name).into())
        }
        _ => Event::Meaningless,
    };
    (port, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_specification_says() {
        assert_eq!(Message::PortOpen(0x0102_0304, true).encode().to_le_bytes(), [4, 3, 2, 1, 6, 0, 1, 0]);
        assert_eq!(parse(&[5, 0, 0, 0, 6, 0, 1, 0]), (5, Event::Open(true)));
        assert_eq!(parse(b"\x02\0\0\0\x07\0\x01\0name\0rest"), (2, Event::Named("name".into())));
        assert_eq!(parse(b"\x02\0\0\0\x07\0\x01\0bare"), (2, Event::Named("bare".into())));
        assert_eq!(parse(&[1, 0, 0, 0, 99, 0, 0, 0]), (1, Event::Meaningless), "an unknown event");
        assert_eq!(parse(&[1, 0, 0]), (0, Event::Meaningless), "too short");
    }
}
