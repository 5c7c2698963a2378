//! The device behind all ports: set-up, events, and the order in which things are looked at.
//!
//! The control queue is looked at before every transmission, so that nothing is sent into a session that the
//! device already knows to be over.

use super::control::{self, Control, Event, Message as ControlMessage, Ticket};
use super::message::{Message, ZEROES_BYTES};
use super::port::PortState;
use super::{ConsoleOptions, Disconnected};
use crate::virtio::SetupError;
use crate::virtio::dma::DmaRegion;
use crate::virtio::queue::{Fault, Queue, QueueFeatures};
use crate::virtio::ring::Ring;
use crate::virtio::segment::Segment;
use crate::virtio::transport::{DeviceStatus, DeviceTransport, config_u32, negotiate, open_queue, reset};
use crate::virtio::wakers::Waiters;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem::{self, ManuallyDrop};
use core::task::{Context, Poll, Waker};

const MULTIPORT: u64 = 1 << 1;
const MAX_PORTS_OFFSET: usize = 4;
/// Numbers of ports that the driver serves; a device may have more, which stay closed.
const PORTS_MAX: u32 = 64;
/// Entries of one queue; all that QEMU has.
const QUEUE_SIZE_MAX: u16 = 128;
/// Chains of several segments that a port may have under way, and the segments of each.
const TRANSMIT_TABLES: u16 = 4;
const TRANSMIT_TABLE_ENTRIES: u16 = 128;

#[derive(Debug)]
enum Slot {
    /// Its queues are set up, and no port was announced for them.
    Unused(Ring, Ring),
    /// The same, but the device was asked whether there is one.
    Asked(Ring, Ring, Ticket),
    Port(Box<PortState>),
    /// Being changed, or its queues could not be made.
    Gone,
}

#[derive(Debug)]
pub(super) struct Engine<T: DeviceTransport> {
    transport: T,
    options: ConsoleOptions,
    features: QueueFeatures,
    control: Control,
    slots: Vec<Slot>,
    /// The slots that are ports, in the order they were announced.
    announced: Vec<usize>,
    /// The message upon which the device announces its ports, until it has done so.
    announcing: Option<Ticket>,
    /// The first number announced that is none of the driver's.
    beyond: Option<usize>,
    /// Numbers of ports that the device has, the reserved one included.
    offered: usize,
    /// Not freed on drop: the device may still be reading it.
    zeroes: ManuallyDrop<DmaRegion>,
    segments: Vec<Segment>,
    settling: Waiters,
    woken: Vec<Waker>,
    fault: Option<Fault>,
}

/// Port 0 has queues 0 and 1, the control queues come next, then port n has 2n+2 and 2n+3.
fn queues_of(port: usize) -> (u16, u16) {
    let first = if port == 0 { 0 } else { 2 * port as u16 + 2 };
    (first, first + 1)
}

impl<T: DeviceTransport> Engine<T> {
    pub(super) fn new(mut transport: T, options: ConsoleOptions) -> Result<Self, SetupError> {
        let features = negotiate(&mut transport, MULTIPORT)?;
        if !features.has(MULTIPORT) {
            return Err(SetupError::NotMultiport);
        }
        let features = features.queue();
        let offered = config_u32(&transport, MAX_PORTS_OFFSET);
        let (ports, offered) = (offered.clamp(1, PORTS_MAX) as usize, offered as usize);
        let receive = open_queue(&mut transport, control::RECEIVE_QUEUE, QUEUE_SIZE_MAX)?;
        let transmit = open_queue(&mut transport, control::TRANSMIT_QUEUE, QUEUE_SIZE_MAX)?;
        let mut control = Control::new(receive, transmit, features)?;
        let mut slots = Vec::with_capacity(ports);
        for port in 0..ports {
            let (receive, transmit) = queues_of(port);
            let receive = open_queue(&mut transport, receive, QUEUE_SIZE_MAX)?;
            slots.push(Slot::Unused(receive, open_queue(&mut transport, transmit, QUEUE_SIZE_MAX)?));
        }
        let zeroes = ManuallyDrop::new(DmaRegion::allocate(ZEROES_BYTES)?);
        transport.finish_init();
        let announcing = Some(control.send(ControlMessage::DeviceReady));
        control.advance(&mut transport);
        Ok(Self {
            transport,
            options,
            features,
            control,
            slots,
            announced: Vec::new(),
            announcing,
            beyond: None,
            offered,
            zeroes,
            segments: Vec::with_capacity(usize::from(TRANSMIT_TABLE_ENTRIES)),
            settling: Waiters::default(),
            woken: Vec::new(),
            fault: None,
        })
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        mem::take(&mut self.woken)
    }

    /// Gives back the vector that [`Engine::take_woken`] took, for its memory.
    pub(super) fn reuse(&mut self, woken: Vec<Waker>) {
        if self.woken.is_empty() {
            self.woken = woken;
        }
    }

    fn port(&mut self, port: usize) -> Option<&mut PortState> {
        match self.slots.get_mut(port) {
            Some(Slot::Port(state)) => Some(state),
            _ => None,
        }
    }

    /// Numbers and names of the ports announced so far.
    pub(super) fn ports(&self) -> impl Iterator<Item = (usize, &str)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| match slot {
            Slot::Port(port) => Some((number, port.name.as_str())),
            _ => None,
        })
    }

    /// How many numbers of ports there are, and the first one announced that is beyond them.
    pub(super) fn beyond(&self) -> Option<(usize, usize)> {
        self.beyond.map(|number| (self.slots.len(), number))
    }

    /// Asks for ports that the device may have dropped: it announces all at once, as many as find a buffer, and QEMU's queue
    /// has 32. A port that is told to be ready answers with its name; a number without a port does not answer.
    fn ask_for_the_rest(&mut self) {
        let announced = self.announced.len();
        if announced < self.control.events_max() || self.offered <= announced + 1 {
            return;
        }
        for (number, slot) in self.slots.iter_mut().enumerate().skip(1) {
            *slot = match mem::replace(slot, Slot::Gone) {
                Slot::Unused(receive, transmit) => {
                    let ticket = self.control.send(ControlMessage::PortReady(number as u32));
                    Slot::Asked(receive, transmit, ticket)
                }
                other => other,
            };
        }
    }

    /// Takes in all events, and moves the conversation on.
    fn take_in_control(&mut self) -> Result<bool, Fault> {
        if !self.control.stirs() {
            return Ok(false);
        }
        let mut any = self.take_in_events()?;
        while self.control.take_handled()? {
            // The answers were written before the message came back: take them in before anything follows.
            self.take_in_events()?;
            self.control.count_done();
            if self.announcing.take_if(|ticket| self.control.is_done(*ticket)).is_some() {
                self.ask_for_the_rest();
            }
            any = true;
        }
        self.control.advance(&mut self.transport);
        if any {
            self.wake_acceptors();
        }
        Ok(any)
    }

    fn wake_acceptors(&mut self) {
        if self.control.is_idle() {
            self.settling.wake_into(&mut self.woken);
        }
        for slot in &mut self.slots {
            if let Slot::Port(port) = slot
                && port.host_open
                && port.is_settled(&self.control)
            {
                port.accepting.wake_into(&mut self.woken);
            }
        }
    }

    /// Takes in what is there, and of what comes meanwhile no more than that: a device that tells without end must not
    /// keep the processor.
    fn take_in_events(&mut self) -> Result<bool, Fault> {
        let mut any = false;
        for _ in 0..self.control.events_max() {
            let Some((number, event)) = self.control.next_event()? else { break };
            any = true;
            let number = number as usize;
            match event {
                Event::Added => self.add_port(number),
                Event::Removed => self.client_left(number),
                Event::Open(true) => {
                    // An edge that was missed is still an edge, but what a port that is being made ready tells is none.
                    let stale = match self.slots.get(number) {
                        Some(Slot::Port(port)) => port.stale && !port.is_settled(&self.control),
                        _ => false,
                    };
                    self.client_left(number);
                    if let Some(port) = self.port(number) {
                        port.host_open = true;
                        port.stale = stale;
                    }
                }
                Event::Open(false) => self.client_left(number),
                Event::Named(name) => {
                    self.add_asked_port(number);
                    if let Some(port) = self.port(number) {
                        port.name = name;
                    }
                }
                Event::Meaningless => {}
            }
        }
        Ok(any)
    }

    fn add_port(&mut self, number: usize) {
        let Some(slot) = self.slots.get_mut(number) else {
            self.beyond.get_or_insert(number);
            return;
        };
        match mem::replace(slot, Slot::Gone) {
            Slot::Unused(receive, transmit) | Slot::Asked(receive, transmit, _) => {
                let ticket = self.control.send(ControlMessage::PortReady(number as u32));
                self.make_port(number, receive, transmit, ticket);
            }
            other => *slot = other,
        }
    }

    /// A port that could not be announced has answered.
    fn add_asked_port(&mut self, number: usize) {
        let Some(slot) = self.slots.get_mut(number) else { return };
        match mem::replace(slot, Slot::Gone) {
            Slot::Asked(receive, transmit, ticket) => self.make_port(number, receive, transmit, ticket),
            other => *slot = other,
        }
    }

    /// A client that is there already is announced when it connects and once more in the answer to `ready`. Who greeted it
    /// in between would take the second for another client, and drop what the first had sent.
    fn make_port(&mut self, number: usize, receive: Ring, transmit: Ring, ready: Ticket) {
        let receive = Queue::new(receive, self.features, 0, 0);
        let transmit = Queue::new(transmit, self.features, TRANSMIT_TABLES, TRANSMIT_TABLE_ENTRIES);
        if let (Ok(receive), Ok(transmit)) = (receive, transmit) {
            let mut port = PortState::new(receive, transmit);
            port.unsettled = Some(ready);
            port.stale = self.options.after_reset;
            self.slots[number] = Slot::Port(Box::new(port));
            self.announced.push(number);
        }
    }

    fn client_left(&mut self, number: usize) {
        let Some(Slot::Port(port)) = self.slots.get_mut(number) else { return };
        port.host_open = false;
        port.stale = false;
        if port.in_session {
            port.end_session(&mut self.woken);
        }
        if mem::take(&mut port.end_open) {
            port.unsettled = Some(self.control.send(ControlMessage::PortOpen(number as u32, false)));
        }
    }

    /// Starts a session if a client is there and nothing of the last one can still come.
    pub(super) fn accept(&mut self, number: usize, context: &Context<'_>) -> Poll<()> {
        self.look_at_control();
        if self.port(number).is_some_and(|port| port.in_session) {
            // Accepting again gives up on the client there is: the session is for the next one.
            self.client_left(number);
        }
        let fault = self.fault.is_some();
        let Some(Slot::Port(port)) = self.slots.get_mut(number) else { return Poll::Pending };
        if fault || !port.host_open || !port.is_settled(&self.control) {
            port.accepting.register(context);
            return Poll::Pending;
        }
        port.stock((self.options.receive_buffers)(&port.name));
        if let Err(fault) = port.drain(&mut self.woken) {
            self.stop(fault);
            return Poll::Pending;
        }
        let accepted = if port.stale {
            // Our end is opened to this client too, so that it does not wait to be rid of what it says.
            port.accepting.register(context);
            Poll::Pending
        } else {
            port.begin_session();
            Poll::Ready(())
        };
        if !mem::replace(&mut port.end_open, true) {
            self.control.send(ControlMessage::PortOpen(number as u32, true));
        }
        self.control.advance(&mut self.transport);
        self.announce(number);
        accepted
    }

    fn look_at_control(&mut self) {
        if self.fault.is_none()
            && let Err(fault) = self.take_in_control()
        {
            self.stop(fault);
        }
    }

    pub(super) fn receive(
        &mut self,
        number: usize,
        into: &mut [&mut [u8]],
        context: &Context<'_>,
    ) -> Poll<Result<usize, Disconnected>> {
        // No change of client seen now means that all that has arrived is of this session.
        self.look_at_control();
        let Some(port) = self.port(number) else { return Poll::Ready(Err(Disconnected)) };
        match port.fetch(into) {
            Some(result) => {
                // The buffers just emptied are the device's again; a port that now rests is not looked at again.
                self.announce(number);
                Poll::Ready(result)
            }
            None => {
                port.wait_to_receive(context);
                Poll::Pending
            }
        }
    }

    /// The session there is on a port, as far as the device has told.
    pub(super) fn session(&self, number: usize) -> Option<u64> {
        match self.slots.get(number) {
            Some(Slot::Port(port)) => port.current_session(),
            _ => None,
        }
    }

    /// Waits for the end of a session.
    pub(super) fn left(&mut self, number: usize, session: u64, context: &Context<'_>) -> Poll<()> {
        self.look_at_control();
        match self.port(number) {
            Some(port) if port.current_session() == Some(session) => {
                port.wait_for_end(context);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Takes a message. False where there is no session to send it in.
    pub(super) fn send(&mut self, number: usize, message: &Rc<Message>) -> bool {
        self.look_at_control();
        let Some(port) = self.port(number).filter(|port| port.in_session) else { return false };
        port.enqueue(message.clone());
        if let Err(fault) = self.transmit(number) {
            self.stop(fault);
        }
        self.announce(number);
        true
    }

    /// Gives the device as much of the port's messages as it takes.
    fn transmit(&mut self, number: usize) -> Result<(), Fault> {
        loop {
            let Some(Slot::Port(port)) = self.slots.get_mut(number) else { return Ok(()) };
            let Some(message) = port.next_message() else { return Ok(()) };
            let place = message.lay_out(port.transmit.longest_chain(), &self.zeroes, &mut self.segments);
            if !self.segments.is_empty() {
                if !port.transmit.has_room(self.segments.len()) {
                    return Ok(());
                }
                // SAFETY: the message holds its chunks unchanged, and the queue holds the message until the chain
                // is complete. The zeroes are never written and never freed.
                unsafe { port.transmit.submit(&self.segments, message.clone()) };
                message.chain_begun(place);
            }
            port.pass_message(&message, &mut self.woken, self.segments.is_empty());
            self.take_in_control()?;
        }
    }

    fn announce(&mut self, number: usize) {
        let Some(Slot::Port(port)) = self.slots.get_mut(number) else { return };
        let (receive, transmit) = queues_of(number);
        // A device that has buffers left need not hear of each one more.
        if port.receive.runs_dry() && port.receive.take_notification() {
            self.transport.notify(receive);
        }
        if port.transmit.take_notification() {
            self.transport.notify(transmit);
        }
    }

    pub(super) fn poll(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if self.transport.take_configuration_change()
            && self.transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
        {
            self.stop(Fault::NeedsReset);
            return true;
        }
        self.poll_queues().unwrap_or_else(|fault| {
            self.stop(fault);
            true
        })
    }

    fn poll_queues(&mut self) -> Result<bool, Fault> {
        let mut any = self.take_in_control()?;
        for index in 0..self.announced.len() {
            let number = self.announced[index];
            let Some(Slot::Port(port)) = self.slots.get_mut(number) else { continue };
            if port.rests() {
                continue;
            }
            any |= port.take_in(&mut self.woken)?;
            if port.take_sent(&mut self.woken)? {
                any = true;
                self.transmit(number)?;
            }
            self.announce(number);
        }
        Ok(any)
    }

    /// Stops a device that broke the protocol: every session ends, and none starts again.
    fn stop(&mut self, fault: Fault) {
        self.fault = Some(fault);
        // If it does not come out of reset, the queues keep for ever what it may still touch.
        let silent = reset(&mut self.transport);
        for slot in &mut self.slots {
            let Slot::Port(port) = slot else { continue };
            port.host_open = false;
            port.end_session(&mut self.woken);
            if silent {
                // SAFETY: the device was just reset.
                unsafe {
                    port.receive.reclaim().for_each(drop);
                    port.transmit.reclaim().for_each(drop);
                }
            }
        }
        self.settling.wake_into(&mut self.woken);
    }

    /// Waits until every announced port is named and every connected client known.
    pub(super) fn settled(&mut self, context: &Context<'_>) -> Poll<Result<(), Fault>> {
        match self.fault {
            Some(fault) => Poll::Ready(Err(fault)),
            None if self.control.is_idle() => Poll::Ready(Ok(())),
            None => {
                self.settling.register(context);
                Poll::Pending
            }
        }
    }

    pub(super) fn arm(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let mut waiting = self.control.arm();
        for slot in &mut self.slots {
            if let Slot::Port(port) = slot {
                waiting |= port.receive.enable_interrupts();
                waiting |= port.transmit.enable_interrupts();
            }
        }
        waiting
    }

    pub(super) fn disarm(&mut self) {
        self.control.disarm();
        for slot in &mut self.slots {
            if let Slot::Port(port) = slot {
                port.receive.suppress_interrupts();
                port.transmit.suppress_interrupts();
            }
        }
    }
}
