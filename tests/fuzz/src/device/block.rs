//! A disk that lies, and a user who reads, writes and gives up.

use super::fake::transport::FakeTransport;
use super::hostile::Hostile;
use super::{STEPS_MAX, TURNS_MAX};
use crate::input::Input;
use crate::memory::Run;
use datum_drivers::virtio::Polled;
use datum_drivers::virtio::block::{Block, BlockDevice, BlockError};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

type Device = BlockDevice<FakeTransport>;
/// A request, and what became of it.
type Request<'a> = LocalBoxFuture<'a, Result<(), BlockError>>;

/// Requests that the user has under way.
const REQUESTS_MAX: usize = 64;
const BLOCKS_MAX: u8 = 20;
const CONFIG_BYTES: usize = 60;
const SIZES: [u32; 8] = [16, 4, 8, 64, 256, 3, 1, u32::MAX];

/// What the device says of itself: as a rule a disk that works, some of it as the input has it.
fn transport(input: &mut Input<'_>) -> FakeTransport {
    let mut config = vec![0; CONFIG_BYTES];
    let fields: [(usize, u32); 10] = [
        (0, 8 * 1000),
        (8, 8192),
        (12, 30),
        (20, 512),
        (36, 80),
        (40, 1),
        (44, 8),
        (48, 24),
        (52, 1),
        (56, 1),
    ];
    for (offset, value) in fields {
        config[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    let shape = input.u8();
    let features = u64::from(input.u16()) | u64::from(input.u8() & 3) << 28;
    for _ in 0..shape >> 5 {
        let (at, byte) = (usize::from(input.u8()) % CONFIG_BYTES, input.u8());
        config[at] = byte;
    }
    if shape & 8 != 0 {
        config.truncate(usize::from(input.u8()) % CONFIG_BYTES);
    }
    let transport = FakeTransport::new(features, SIZES[usize::from(shape & 7)], config);
    if shape & 0x18 == 0x18 {
        transport.0.borrow_mut().restless = true;
    }
    transport
}

pub(super) fn block(run: &Run, input: &mut Input<'_>) {
    let transport = transport(input);
    let mut device = Hostile::new(run, transport.clone(), false);
    let Ok(driver) = Device::new(transport, 256) else { return };
    let mut requests: Vec<Request<'_>> = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        device.observe();
        step(&driver, &mut device, &mut requests, input);
        device.observe();
        requests.retain_mut(|request| request.now_or_never().is_none());
        assert!(
            driver.fault().is_none() || requests.is_empty(),
            "the device is stopped, and a request waits"
        );
    }
    settle(&driver, &mut device, requests);
    drop(driver);
    device.observe();
}

fn step<'a>(
    driver: &'a Device,
    device: &mut Hostile<'_>,
    requests: &mut Vec<Request<'a>>,
    input: &mut Input<'_>,
) {
    match input.u8() % 10 {
        0..=2 if requests.len() < REQUESTS_MAX => requests.push(request(driver, input)),
        3 if !requests.is_empty() => {
            drop(requests.swap_remove(usize::from(input.u8()) % requests.len()));
        }
        4 | 5 => {
            let index = usize::from(input.u8()) % device.held.len().max(1);
            answer(device, index, input.u8());
        }
        6 => {
            let waiting = driver.arm();
            if waiting {
                driver.poll();
            }
            driver.disarm();
        }
        7 => device.misbehave(input),
        _ => drop(driver.poll()),
    }
}

fn buffers(count: u8) -> Vec<Block> {
    (0..count % BLOCKS_MAX).map(|fill| Box::new([fill; 4096])).collect()
}

fn request<'a>(driver: &'a Device, input: &mut Input<'_>) -> Request<'a> {
    let (kind, count) = (input.u8(), input.u8());
    // Places near the end of the disk, and of what can be counted.
    let start = match input.u8() {
        place @ 0..=239 => u64::from(place) * 4,
        place => u64::MAX - u64::from(place - 240),
    };
    match kind % 6 {
        0 | 1 => driver.read(start, buffers(count)).map(|(_buffers, outcome)| outcome).boxed_local(),
        2 => driver.write(start, buffers(count)).map(|(_buffers, outcome)| outcome).boxed_local(),
        3 => driver.flush().boxed_local(),
        4 if count & 1 == 0 => driver.discard(start, u64::from(count)).boxed_local(),
        4 => driver.write_zeroes(start, u64::from(count) << 20, kind & 64 != 0).boxed_local(),
        _ => driver.serial().map(|serial| serial.map(drop)).boxed_local(),
    }
}

/// Answers a request: rightly where `status` is one that devices give.
fn answer(device: &mut Hostile<'_>, index: usize, status: u8) {
    let Some(held) = device.held.get(index) else { return };
    let writable = held.popped.writable();
    let mut bytes = vec![status; writable as usize];
    if let Some(last) = bytes.last_mut() {
        *last = if status < 250 { status % 3 } else { status };
    }
    device.cheated |= status >= 250;
    held.popped.write_all(&bytes);
    device.complete(index, writable);
}

/// An honest device answers whatever it holds: then every request ends, or is one of so many parts (a device may take
/// three blocks of zeros at a time) that the device has always more to answer.
fn settle(driver: &Device, device: &mut Hostile<'_>, mut requests: Vec<Request<'_>>) {
    for _ in 0..TURNS_MAX {
        device.observe();
        requests.retain_mut(|request| request.now_or_never().is_none());
        if requests.is_empty() {
            return;
        }
        answer(device, 0, 0);
        driver.poll();
    }
    device.observe();
    let goes_on = !device.held.is_empty();
    assert!(device.cheated || goes_on, "{} requests never end", requests.len());
}
