//! A multiport console that lies, and users who accept, receive, send and give up.

use super::fake::transport::{FakeTransport, INDIRECT};
use super::hostile::Hostile;
use super::{STEPS_MAX, TURNS_MAX};
use crate::input::Input;
use crate::memory::Run;
use datum_drivers::virtio::Polled;
use datum_drivers::virtio::console::{Chunk, Console, ConsoleOptions, Port};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use std::rc::Rc;

type Driver = Rc<Console<FakeTransport>>;

/// What a user waits for.
struct Wait {
    /// A client may never come, say anything or leave.
    may_last: bool,
    /// Even a device that is stopped does not end it: there is no client to accept.
    outlasts_a_fault: bool,
    future: LocalBoxFuture<'static, ()>,
}

const WAITS_MAX: usize = 48;
const MULTIPORT: u64 = 1 << 1;
const EVENTS: u16 = 2;
const MESSAGES: u16 = 3;
const SIZES: [u32; 8] = [16, 1, 2, 4, 8, 32, 3, u32::MAX];
const NAMES: [&[u8]; 4] = [b"first", b"second\0", b"", &[0xff; 300]];

const READY: u16 = 0;
const ADD: u16 = 1;
const PORT_READY: u16 = 3;
const OPEN: u16 = 6;
const NAME: u16 = 7;

/// The device, and whether it is one of a machine that was reset.
fn transport(input: &mut Input<'_>) -> (FakeTransport, bool) {
    let (shape, ports) = (input.u8(), input.u8());
    let (mut config, after_reset) = (vec![0; 12], ports & 16 != 0);
    // As a rule a few; now and then what cannot be.
    let ports = if ports < 224 { u32::from(ports % 5) } else { u32::from(ports) << 24 | 70 };
    config[4..8].copy_from_slice(&ports.to_le_bytes());
    if shape & 0xC0 == 0xC0 {
        config.truncate(usize::from(shape & 15));
    }
    let features = MULTIPORT | u64::from(shape >> 4 & 3) << 28;
    let transport = FakeTransport::new(features, SIZES[usize::from(shape & 7)], config);
    if shape & 0xC8 == 0x88 {
        transport.0.borrow_mut().queues_end = Some(u16::from(input.u8() % 16));
    }
    (transport, after_reset)
}

pub(super) fn console(run: &Run, input: &mut Input<'_>) {
    let (transport, after_reset) = transport(input);
    let mut device = Hostile::new(run, transport.clone(), true);
    let options = ConsoleOptions { receive_buffers: |_| 4, after_reset };
    let Ok(driver) = Console::new(transport, options) else { return };
    let mut waits = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        device.observe();
        step(&driver, &mut device, &mut waits, input);
        device.observe();
        poll(&mut waits);
        if let Some(fault) = driver.fault() {
            assert!(device.cheated, "an honest device is stopped: {fault}");
            // One user may have met the fault after another was asked.
            poll(&mut waits);
            assert!(
                waits.iter().all(|wait| wait.outlasts_a_fault),
                "the device is stopped, and a user waits"
            );
        }
    }
    settle(&driver, &mut device, waits);
    drop(driver);
    device.observe();
}

fn poll(waits: &mut Vec<Wait>) {
    waits.retain_mut(|wait| (&mut wait.future).now_or_never().is_none());
}

fn step(driver: &Driver, device: &mut Hostile<'_>, waits: &mut Vec<Wait>, input: &mut Input<'_>) {
    match input.u8() % 16 {
        0 | 1 => converse(device, input.u8()),
        2 => {
            let (port, event, value) = (u32::from(input.u8()), u16::from(input.u8() % 9), input.u8());
            let rest = NAMES[usize::from(input.u8()) % NAMES.len()];
            let port = if port > 250 { u32::MAX - port } else { port % 6 };
            tell(device, port, event, u16::from(value), rest);
        }
        3 => {
            let length = usize::from(input.u8() % 12);
            send_event(device, input.bytes(length));
        }
        4 => {
            let (event, port) = (u16::from(input.u8() % 9), u32::from(input.u8() % 6));
            (0..40).for_each(|round| tell(device, port, event, round & 1, b"flood"));
        }
        5 | 6 => {
            let (port, count) = (u16::from(input.u8() % 5), input.u16());
            say(device, port, count);
        }
        7 => {
            let index = usize::from(input.u8()) % device.held.len().max(1);
            if let Some(held) = device.held.get(index).filter(|held| held.popped.writes.is_empty()) {
                // What is sent is a stream: it goes out in order.
                device.cheated |= device.oldest(held.queue) != Some(index);
                device.complete(index, 0);
            }
        }
        8..=10 if waits.len() < WAITS_MAX => waits.extend(wait(driver, input)),
        11 if !waits.is_empty() => {
            drop(waits.swap_remove(usize::from(input.u8()) % waits.len()));
        }
        12 => {
            if driver.arm() {
                driver.poll();
            }
            driver.disarm();
        }
        13 => device.misbehave(input),
        _ => drop(driver.poll()),
    }
}

/// Something that a user begins.
fn wait(driver: &Driver, input: &mut Input<'_>) -> Option<Wait> {
    let (kind, mut ports) = (input.u8(), driver.ports());
    if kind % 8 == 7 {
        let driver = driver.clone();
        let future = async move { driver.settled().await.unwrap_or(()) }.boxed_local();
        return Some(Wait { may_last: false, outlasts_a_fault: false, future });
    }
    if ports.is_empty() {
        return None;
    }
    let port = ports.swap_remove(usize::from(input.u8()) % ports.len());
    assert!(port.name().len() <= 3 * 256, "a name as long as its message");
    let (may_last, outlasts_a_fault) = (kind % 8 < 5, kind % 8 < 2);
    let future = match kind % 8 {
        0 | 1 => async move { port.accept().await }.boxed_local(),
        2 | 3 => receive(port, usize::from(input.u8()) * 40).boxed_local(),
        4 => async move { port.left().await }.boxed_local(),
        _ => port.send(message(input), &mut drop).map(drop).boxed_local(),
    };
    Some(Wait { may_last, outlasts_a_fault, future })
}

async fn receive(port: Port<FakeTransport>, bytes: usize) {
    let mut into = vec![0; bytes];
    if let Ok(count) = port.receive(&mut into).await {
        assert!(count <= bytes && (count > 0 || bytes == 0), "{count} of {bytes} bytes");
    }
}

fn message(input: &mut Input<'_>) -> Vec<Chunk> {
    let chunk = |kind: u8, size: u8| match kind % 4 {
        0 => Chunk::Bytes(vec![kind; usize::from(size)]),
        1 => Chunk::Block { data: Box::new([kind; 4096]), start: u16::from(size), end: 4096 },
        // Ends before it begins.
        2 => Chunk::Block { data: Box::new([kind; 4096]), start: u16::from(size) * 16, end: 100 },
        _ => Chunk::Zeroes(u32::from(size) << 12),
    };
    (0..input.u8() % 8).map(|_| chunk(input.u8(), input.u8())).collect()
}

/// Takes one message of the driver's and answers it as a host does.
fn converse(device: &mut Hostile<'_>, number: u8) {
    let Some(index) = device.oldest(MESSAGES) else { return };
    let bytes = device.held[index].popped.read_all();
    device.complete(index, 0);
    let Ok(header) = <[u8; 8]>::try_from(bytes) else { panic!("a message of the driver's has eight bytes") };
    let word = u64::from_le_bytes(header);
    let (port, event) = (word as u32, (word >> 32) as u16);
    match event {
        READY => (0..4).for_each(|port| tell(device, port, ADD, 1, &[])),
        PORT_READY => {
            tell(device, port, NAME, 1, NAMES[usize::from(number) % 2]);
            tell(device, port, OPEN, u16::from(number & 2), &[]);
        }
        OPEN => {}
        other => panic!("the driver says {other}"),
    }
}

fn tell(device: &mut Hostile<'_>, port: u32, event: u16, value: u16, rest: &[u8]) {
    let mut bytes = port.to_le_bytes().to_vec();
    bytes.extend_from_slice(&event.to_le_bytes());
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.extend_from_slice(rest);
    send_event(device, &bytes);
}

/// An event without a buffer is dropped.
fn send_event(device: &mut Hostile<'_>, bytes: &[u8]) {
    let Some(index) = device.oldest(EVENTS) else { return };
    let written = device.held[index].popped.write_all(bytes);
    device.complete(index, written);
    if let Some(&[p0, p1, p2, p3, e0, e1, v0, v1]) = bytes.first_chunk()
        && u16::from_le_bytes([e0, e1]) == OPEN
    {
        let port = u32::from_le_bytes([p0, p1, p2, p3]);
        match [v0, v1] {
            [0, 0] => leave(device, port),
            // Before the next one comes, a client leaves.
            _ => device.cheated |= !device.clients.insert(port),
        }
    }
}

/// Of what its client was being sent, the device forgets the first chain and gives the others back unsent, as QEMU does. None is
/// forgotten where the queue has no room for the chains of two sessions and one more: such a port would be dead.
fn leave(device: &mut Hostile<'_>, port: u32) {
    device.clients.remove(&port);
    let Ok(port @ 0..=1000) = u16::try_from(port) else { return };
    let queue = receive_queue(port) + 1;
    let forgets = {
        let registers = device.transport.0.borrow();
        let size = registers.queues.get(&queue).map_or(0, |queue| queue.size);
        size >= 4 && registers.agreed & INDIRECT != 0
    };
    if let Some(first) = device.oldest(queue).filter(|_| forgets) {
        device.held[first].lost = true;
    }
    while let Some(next) = device.oldest(queue) {
        device.complete(next, 0);
    }
}

/// The queue that a port receives by; the next one is what it sends by.
fn receive_queue(port: u16) -> u16 {
    if port == 0 { 0 } else { 2 * port + 2 }
}

/// Bytes from a port's client.
fn say(device: &mut Hostile<'_>, port: u16, count: u16) {
    let queue = receive_queue(port);
    if let Some(index) = device.oldest(queue) {
        let bytes = vec![0x5a; usize::from(count % 4097)];
        let written = device.held[index].popped.write_all(&bytes);
        device.complete(index, written);
    }
}

/// An honest device takes whatever is sent: then every message is over, and the device settled.
fn settle(driver: &Driver, device: &mut Hostile<'_>, mut waits: Vec<Wait>) {
    for _ in 0..TURNS_MAX {
        device.observe();
        poll(&mut waits);
        if waits.iter().all(|wait| wait.may_last) {
            return;
        }
        device.observe();
        if let Some(index) = device.held.iter().position(|held| held.popped.writes.is_empty() && !held.lost) {
            device.complete(index, 0);
        }
        driver.poll();
    }
    assert!(device.cheated, "{} users wait for ever", waits.len());
}
