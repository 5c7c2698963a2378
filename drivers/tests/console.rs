//! The console driver against a multiport device in the same process: the handshake, sessions and their edges,
//! clients that do not read, and a device that forgets a chain as QEMU does.

mod fake;

use datum_drivers::virtio::console::{Chunk, Console, ConsoleOptions, Disconnected, Port};
use datum_drivers::virtio::dma::DmaRegion;
use datum_drivers::virtio::queue::Fault;
use datum_drivers::virtio::{Polled, SetupError};
use fake::Popped;
use fake::transport::{EVENT_IDX, FakeTransport, INDIRECT};
use futures_util::FutureExt;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

const MULTIPORT: u64 = 1 << 1;
const NAMES: [&str; 3] = ["org.datum.control.0", "org.datum.nbd.0", "org.datum.nbd.1"];

/// The device: three named ports, numbers 1 to 3.
struct Host {
    transport: FakeTransport,
    guest_open: BTreeMap<u32, bool>,
    host_open: BTreeMap<u32, bool>,
    /// What the client of each port has been sent.
    sent: BTreeMap<u32, Vec<u8>>,
    /// Chains taken up while their client does not read.
    held: BTreeMap<u32, VecDeque<Popped>>,
    throttled: bool,
    events_dropped: usize,
}

impl Host {
    fn start() -> (Self, Rc<Console<FakeTransport>>, Vec<Port<FakeTransport>>) {
        Self::start_with(false, &[], 32)
    }

    /// Starts the driver where somebody is connected to some ports already, on queues of so many entries.
    fn start_with(
        after_reset: bool,
        connected: &[u32],
        queue_size: u32,
    ) -> (Self, Rc<Console<FakeTransport>>, Vec<Port<FakeTransport>>) {
        let mut config = vec![0; 12];
        // One number more than there are ports.
        config[4] = 5;
        let transport = FakeTransport::new(MULTIPORT | EVENT_IDX | INDIRECT, queue_size, config);
        let options = ConsoleOptions { receive_buffers: |_| 4, after_reset };
        let console = Console::new(transport.clone(), options).expect("a working device");
        let (guest_open, host_open, sent, held) = Default::default();
        let mut host =
            Self { transport, guest_open, host_open, sent, held, throttled: false, events_dropped: 0 };
        host.host_open.extend(connected.iter().map(|&port| (port, true)));
        let mut settled = Box::pin(console.settled());
        while (&mut settled).now_or_never().is_none() {
            host.turn(&console);
        }
        drop(settled);
        let ports = console.ports();
        (host, console, ports)
    }

    fn pop(&mut self, queue: u16) -> Option<Popped> {
        self.transport.0.borrow_mut().queues.get_mut(&queue).and_then(|queue| queue.pop())
    }

    fn push(&mut self, queue: u16, popped: &Popped, written: u32) {
        if let Some(queue) = self.transport.0.borrow_mut().queues.get_mut(&queue) {
            queue.push(u32::from(popped.id), written);
        }
    }

    fn event(&mut self, port: u32, event: u16, value: u16, rest: &[u8]) {
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend_from_slice(&event.to_le_bytes());
        bytes.extend_from_slice(&value.to_le_bytes());
        bytes.extend_from_slice(rest);
        match self.pop(2) {
            Some(popped) => {
                let written = popped.write_all(&bytes);
                self.push(2, &popped, written);
            }
            None => self.events_dropped += 1,
        }
    }

    /// One turn of the device, then one of the driver.
    fn turn(&mut self, console: &Console<FakeTransport>) {
        while let Some(popped) = self.pop(3) {
            let bytes = popped.read_all();
            let port = u32::from_le_bytes(bytes[..4].try_into().expect("four"));
            match (bytes[4], bytes[6]) {
                (0, 1) => (1..=3).for_each(|port| self.event(port, 1, 1, &[])),
                (3, 1) if port > 3 => {}
                (3, 1) => {
                    self.event(port, 7, 1, format!("{}\0", NAMES[port as usize - 1]).as_bytes());
                    if self.host_open.get(&port) == Some(&true) {
                        self.event(port, 6, 1, &[]);
                    }
                }
                (6, open) => drop(self.guest_open.insert(port, open == 1)),
                other => panic!("an unknown control message {other:?}"),
            }
            self.push(3, &popped, 0);
        }
        for port in 1..=3 {
            self.take_sent(port);
        }
        console.poll();
    }

    fn take_sent(&mut self, port: u32) {
        let queue = 2 * port as u16 + 3;
        while let Some(popped) = self.pop(queue) {
            self.held.entry(port).or_default().push_back(popped);
        }
        if self.throttled {
            return;
        }
        while let Some(popped) = self.held.entry(port).or_default().pop_front() {
            if self.host_open.get(&port) == Some(&true) {
                self.sent.entry(port).or_default().extend(popped.read_all());
            }
            self.push(queue, &popped, 0);
        }
    }

    fn connect(&mut self, port: u32) {
        self.host_open.insert(port, true);
        self.sent.remove(&port);
        self.event(port, 6, 1, &[]);
    }

    /// As QEMU does it: of the chains taken up, the first is forgotten and the others come back unsent.
    fn disconnect(&mut self, port: u32) {
        self.host_open.insert(port, false);
        let mut held = self.held.remove(&port).unwrap_or_default();
        held.pop_front();
        for popped in held {
            self.push(2 * port as u16 + 3, &popped, 0);
        }
        self.event(port, 6, 0, &[]);
    }

    /// The client says something. False where the device holds it back.
    fn say(&mut self, port: u32, bytes: &[u8]) -> bool {
        if self.guest_open.get(&port) != Some(&true) {
            return false;
        }
        let queue = 2 * port as u16 + 2;
        self.pop(queue).is_some_and(|popped| {
            let written = popped.write_all(bytes);
            self.push(queue, &popped, written);
            true
        })
    }
}

fn bytes(text: &str) -> Vec<Chunk> {
    vec![Chunk::Bytes(text.into())]
}

fn receive(port: &Port<FakeTransport>) -> Option<Result<String, Disconnected>> {
    let mut into = [0; 10_000];
    let count = port.receive(&mut into).now_or_never()?;
    Some(count.map(|count| String::from_utf8_lossy(&into[..count]).into()))
}

#[test]
fn a_port_beyond_the_last_number_stays_closed_and_is_told_of() {
    let (mut host, console, ports) = Host::start();
    assert_eq!(console.beyond(), None);
    host.event(6, 1, 1, b"");
    host.event(5, 1, 1, b"");
    host.turn(&console);
    assert_eq!((console.beyond(), console.ports().len()), (Some((5, 6)), ports.len()));
}

/// QEMU announces all ports at once and has room for 32: a port more was never heard of.
#[test]
fn ports_that_found_no_room_to_be_announced_are_asked_for() {
    for connected in [&[][..], &[3]] {
        let (mut host, console, ports) = Host::start_with(false, connected, 2);
        assert_eq!(host.events_dropped, 1, "the last port");
        assert_eq!(ports.iter().map(Port::name).collect::<Vec<_>>(), NAMES);
        if connected.is_empty() {
            host.connect(3);
            host.turn(&console);
        }
        assert!(ports[2].accept().now_or_never().is_some());
        host.turn(&console);
        assert!(host.say(3, b"hello"));
        console.poll();
        assert_eq!(receive(&ports[2]), Some(Ok("hello".into())));
    }
}

#[test]
fn every_port_is_announced_and_named() {
    let (host, _console, ports) = Host::start();
    assert_eq!(ports.iter().map(Port::name).collect::<Vec<_>>(), NAMES);
    assert_eq!(host.events_dropped, 0);
}

#[test]
fn a_message_of_many_pieces_arrives_whole_and_in_order() {
    let (mut host, console, ports) = Host::start();
    host.connect(2);
    assert!(ports[1].accept().now_or_never().is_some());
    let mut message = bytes("head");
    let mut expected = b"head".to_vec();
    for n in 0..700u16 {
        let (start, end) = (n % 7, 4096 - n % 5);
        message.push(Chunk::Block { data: Box::new([n as u8; 4096]), start, end });
        expected.extend(std::iter::repeat_n(n as u8, usize::from(end - start)));
    }
    message.push(Chunk::Bytes(Vec::new()));
    message.push(Chunk::Zeroes(100_000));
    expected.extend([0; 100_000]);
    let mut spare = Vec::new();
    let mut sends = Box::pin(futures_util::future::join3(
        ports[1].send(message, &mut |block| spare.push(block)),
        ports[1].send(Vec::new(), &mut drop),
        ports[1].send(bytes("tail"), &mut drop),
    ));
    let outcome = loop {
        host.turn(&console);
        if let Some(outcome) = (&mut sends).now_or_never() {
            break outcome;
        }
    };
    assert_eq!(outcome, (Ok(()), Ok(()), Ok(())));
    assert_eq!(spare.len(), 700, "what was copied is free again");
    expected.extend(b"tail");
    assert!(host.sent[&2] == expected);
}

#[test]
fn a_session_sees_nothing_of_the_one_before() {
    let (mut host, console, ports) = Host::start();
    for round in 0..40 {
        host.connect(2);
        assert!(!host.say(2, b"too early"), "our end is closed between sessions");
        let mut accept = Box::pin(ports[1].accept());
        while (&mut accept).now_or_never().is_none() {
            host.turn(&console);
        }
        host.turn(&console);
        assert!(host.say(2, b"question"));
        console.poll();
        assert_eq!(receive(&ports[1]), Some(Ok("question".into())));
        host.throttled = true;
        let stuck: Vec<_> =
            (0..9).map(|n| ports[1].send(bytes(&format!("{round} {n}")), &mut drop)).collect();
        host.turn(&console);
        host.say(2, b"never read");
        console.poll();
        host.disconnect(2);
        host.throttled = false;
        console.poll();
        for send in stuck {
            assert_eq!(send.now_or_never(), Some(Err(Disconnected)));
        }
        assert_eq!(receive(&ports[1]), Some(Err(Disconnected)));
        assert_eq!(ports[1].send(bytes("late"), &mut drop).now_or_never(), Some(Err(Disconnected)));
        host.turn(&console);
        assert!(!host.sent.contains_key(&2) || host.sent[&2].is_empty());
    }
    assert_eq!(host.events_dropped, 0);
}

/// QEMU neither sends nor returns the chain it was sending when its client left. With four tables a port was dead
/// after four such clients.
#[test]
fn chains_that_the_device_forgot_are_taken_back() {
    let (mut host, console, ports) = Host::start();
    for _ in 0..100 {
        host.connect(2);
        let mut accept = Box::pin(ports[1].accept());
        while (&mut accept).now_or_never().is_none() {
            host.turn(&console);
        }
        host.throttled = true;
        let message = (0..3).map(|n| Chunk::Block { data: Box::new([n; 4096]), start: 1, end: 9 }).collect();
        let send = ports[1].send(message, &mut drop);
        host.turn(&console);
        assert_eq!(host.held[&2].len(), 1, "there is room for the chain");
        host.disconnect(2);
        console.poll();
        assert_eq!(send.now_or_never(), Some(Err(Disconnected)));
        host.throttled = false;
        host.turn(&console);
    }
    assert_eq!(console.fault(), None);
}

/// A chain that the device gave back just before a session began was also taken back as lost, and so was one that it had not
/// come to: when the driver came to look, the device had completed a request it did not hold, and every port was stopped.
#[test]
fn a_chain_given_back_about_the_start_of_a_session_is_not_taken_for_lost() {
    for late in [false, true] {
        let (mut host, console, ports) = Host::start();
        host.throttled = true;
        for session in 0..3 {
            host.host_open.insert(2, true);
            host.event(2, 6, 1, &[]);
            host.turn(&console);
            let first = host.held.get_mut(&2).filter(|_| session == 2).and_then(VecDeque::pop_front);
            let give_back = |host: &mut Host| first.iter().for_each(|first| host.push(7, first, 0));
            if !late {
                give_back(&mut host);
            }
            assert!(ports[1].accept().now_or_never().is_some(), "session {session}");
            if late {
                give_back(&mut host);
            }
            let send = ports[1].send(bytes("left behind"), &mut drop);
            host.turn(&console);
            // The client leaves, and the device has not come to its chain yet.
            host.event(2, 6, 0, &[]);
            host.turn(&console);
            assert_eq!(send.now_or_never(), Some(Err(Disconnected)));
        }
        assert_eq!(console.fault(), None);
    }
}

/// On ports where clients may speak before they are greeted, such bytes were once taken for the new client's: it
/// got the answers to the requests of the one before.
#[test]
fn bytes_that_may_be_of_either_client_are_dropped() {
    let (mut host, console, ports) = Host::start();
    host.connect(2);
    for _ in 0..20 {
        let mut accept = Box::pin(ports[1].accept());
        while (&mut accept).now_or_never().is_none() {
            host.turn(&console);
        }
        host.turn(&console);
        assert!(host.say(2, b"new"));
        console.poll();
        assert_eq!(receive(&ports[1]), Some(Ok("new".into())));
        assert!(host.say(2, b"old"));
        host.disconnect(2);
        host.connect(2);
        assert!(host.say(2, b"before its greeting"), "the device has not heard yet that our end is closed");
        assert_eq!(receive(&ports[1]), Some(Err(Disconnected)));
    }
}

/// A reset leaves clients connected. The greeting of the next start came to them in the middle of their sessions.
#[test]
fn who_was_connected_before_a_reset_is_not_accepted_and_not_heard() {
    let (mut host, console, ports) = Host::start_with(true, &[2], 32);
    let mut accept = Box::pin(ports[1].accept());
    for _ in 0..9 {
        assert!((&mut accept).now_or_never().is_none());
        host.turn(&console);
        host.say(2, b"an old request");
    }
    assert!(host.say(2, b"taken and dropped, for ever so long"));
    console.poll();
    host.disconnect(2);
    host.connect(2);
    while (&mut accept).now_or_never().is_none() {
        host.turn(&console);
    }
    host.turn(&console);
    assert!(host.say(2, b"new"));
    console.poll();
    assert_eq!(receive(&ports[1]), Some(Ok("new".into())));
}

#[test]
fn who_connects_after_a_reset_or_while_the_machine_starts_is_accepted() {
    let (mut host, console, ports) = Host::start_with(true, &[], 32);
    host.connect(2);
    host.turn(&console);
    assert!(ports[1].accept().now_or_never().is_some());
    let (_host, _console, ports) = Host::start_with(false, &[2], 32);
    assert!(ports[1].accept().now_or_never().is_some());
    // An edge that the device could not tell of.
    let (mut host, console, ports) = Host::start_with(true, &[2], 32);
    assert!(ports[1].accept().now_or_never().is_none());
    host.connect(2);
    let mut accept = Box::pin(ports[1].accept());
    while (&mut accept).now_or_never().is_none() {
        host.turn(&console);
    }
}

#[test]
fn a_session_that_is_given_up_waits_for_the_next_client() {
    let (mut host, console, ports) = Host::start();
    host.connect(2);
    assert!(ports[1].accept().now_or_never().is_some());
    assert!(ports[1].accept().now_or_never().is_none(), "the same client is not accepted twice");
    host.turn(&console);
    assert!(ports[1].accept().now_or_never().is_none());
    host.disconnect(2);
    host.connect(2);
    host.turn(&console);
    assert!(ports[1].accept().now_or_never().is_some());
}

/// A port stood still for 55 ms at a time, until a timer of QEMU's own ended: its reader had emptied the last buffers
/// after the last look at the port, and nobody told the device, which had none left, that they were its own again.
#[test]
fn a_device_without_buffers_hears_of_those_that_a_reader_empties() {
    let (mut host, console, ports) = Host::start();
    host.connect(2);
    assert!(ports[1].accept().now_or_never().is_some());
    host.turn(&console);
    let queue = 6;
    for round in 0..20 {
        let said = (0..).take_while(|_| host.say(2, b"word")).count();
        assert_eq!(said, 4, "round {round}: all buffers came back");
        let registers = host.transport.0.clone();
        let asleep = registers.borrow_mut().queues.get_mut(&queue).is_some_and(|queue| queue.sleep());
        assert!(asleep, "nothing is left to read into");
        console.poll();
        registers.borrow_mut().notified.clear();
        assert_eq!(receive(&ports[1]), Some(Ok("word".repeat(4))));
        assert!(registers.borrow().notified.contains(&queue), "round {round}: the device was not told");
    }
}

/// A session whose requests wait for something else than the port must still notice that nobody waits for them.
#[test]
fn whoever_waits_for_the_end_of_a_session_is_told_of_that_one_only() {
    let (mut host, console, ports) = Host::start();
    assert!(ports[1].left().now_or_never().is_some(), "there is no session yet");
    host.connect(2);
    assert!(ports[1].accept().now_or_never().is_some());
    let mut left = Box::pin(ports[1].left());
    assert!((&mut left).now_or_never().is_none());
    host.turn(&console);
    assert!(host.say(2, b"data alone does not end it"));
    console.poll();
    assert!((&mut left).now_or_never().is_none());
    host.disconnect(2);
    host.connect(2);
    console.poll();
    host.turn(&console);
    assert!(ports[1].accept().now_or_never().is_some(), "the next session is there already");
    assert!(ports[1].left().now_or_never().is_none());
    assert!((&mut left).now_or_never().is_some());
}

#[test]
fn a_lying_device_ends_every_session() {
    let (mut host, console, ports) = Host::start();
    host.connect(2);
    assert!(ports[1].accept().now_or_never().is_some());
    host.throttled = true;
    let send = ports[1].send(bytes("on its way"), &mut drop);
    host.turn(&console);
    host.transport.0.borrow_mut().queues.get_mut(&7).expect("set up").push(31, 0);
    console.poll();
    assert_eq!(send.now_or_never(), Some(Err(Disconnected)));
    assert_eq!(console.fault(), Some(Fault::WrongId));
    assert_eq!(receive(&ports[1]), Some(Err(Disconnected)));
    assert!(ports[1].accept().now_or_never().is_none());
    assert_eq!(console.settled().now_or_never(), Some(Err(Fault::WrongId)));
}

#[test]
fn a_single_port_console_is_refused() {
    let transport = FakeTransport::new(0, 32, vec![0; 12]);
    let refused = Console::new(transport, ConsoleOptions::default()).map(|_| ());
    assert_eq!(refused, Err(SetupError::NotMultiport));
}

/// Queues of ports that nobody has announced are known to the device all the same, and it runs on.
#[test]
fn rings_outlive_the_driver() {
    let (host, console, ports) = Host::start();
    let known: Vec<_> = host.transport.0.borrow().queues.values().map(|queue| queue.descriptors).collect();
    assert_eq!(known.len(), 12, "six pairs, two of them of numbers without a port");
    drop((console, ports));
    let others: Vec<_> = (0..200).map(|_| DmaRegion::allocate(4096).expect("memory")).collect();
    assert!(others.iter().all(|other| !known.contains(&other.address(0))), "a ring was freed");
}
