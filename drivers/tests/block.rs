//! The disk driver against a disk in the same process: limits, splitting, errors, and a device that lies.

mod fake;

use datum_drivers::virtio::block::{Block, BlockDevice, BlockError};
use datum_drivers::virtio::queue::Fault;
use datum_drivers::virtio::transport::DeviceStatus;
use datum_drivers::virtio::{Polled, SetupError};
use fake::transport::{EVENT_IDX, FakeTransport, INDIRECT};
use fake::{Numbers, Popped};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use std::collections::BTreeMap;

const ALL: u64 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 13 | 1 << 14;
const READ_ONLY: u64 = 1 << 5;
const SIZE_MAX: u64 = 1 << 1;

struct Disk {
    transport: FakeTransport,
    sectors: BTreeMap<u64, [u8; 512]>,
    held: Vec<Popped>,
    numbers: Numbers,
    segments_max: usize,
    bytes_max: u32,
    requests: Vec<(u32, u64, u32)>,
    answer: u8,
}

impl Disk {
    fn with(features: u64, segments_max: u32, bytes_max: u32) -> (Self, BlockDevice<FakeTransport>) {
        let mut config = vec![0; 60];
        let mut put =
            |offset: usize, value: u32| config[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        put(0, 8 * 1000 + 3);
        put(8, bytes_max);
        put(12, segments_max);
        put(20, 512);
        put(36, 80);
        put(40, 1);
        put(44, 16);
        put(48, 24);
        put(52, 1);
        put(56, 1);
        let transport = FakeTransport::new(features, 256, config);
        let device = BlockDevice::new(transport.clone(), 256).expect("a working device");
        let bytes_max = if features & SIZE_MAX != 0 { bytes_max } else { u32::MAX };
        let (sectors, held, requests) = (BTreeMap::new(), Vec::new(), Vec::new());
        let (numbers, segments_max) = (Numbers(77), segments_max as usize);
        (Self { transport, sectors, held, numbers, segments_max, bytes_max, requests, answer: 0 }, device)
    }

    fn plain() -> (Self, BlockDevice<FakeTransport>) {
        Self::with(ALL & !READ_ONLY & !SIZE_MAX | EVENT_IDX | INDIRECT, 62, 0)
    }

    fn take_in(&mut self) {
        let mut registers = self.transport.0.borrow_mut();
        if registers.notified.remove(&0)
            && let Some(queue) = registers.queues.get_mut(&0)
        {
            loop {
                while let Some(popped) = queue.pop() {
                    self.held.push(popped);
                }
                if queue.sleep() {
                    break;
                }
            }
        }
    }

    /// Answers one request, any of those held.
    fn answer_one(&mut self) -> bool {
        self.take_in();
        if self.held.is_empty() {
            return false;
        }
        let popped = self.held.swap_remove(self.numbers.below(self.held.len() as u64) as usize);
        let written = self.execute(&popped);
        if let Some(queue) = self.transport.0.borrow_mut().queues.get_mut(&0) {
            queue.push(u32::from(popped.id), written);
        }
        true
    }

    fn execute(&mut self, popped: &Popped) -> u32 {
        let out = popped.read_all();
        let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().expect("four"));
        let long = |at: usize| u64::from_le_bytes(out[at..at + 8].try_into().expect("eight"));
        let (kind, sector) = (word(0), long(8));
        self.requests.push((kind, if kind > 8 { long(16) } else { sector }, popped.writable()));
        for &(_, length) in popped.reads.iter().chain(&popped.writes) {
            assert!(length <= self.bytes_max.max(32));
        }
        let data = if kind == 0 { popped.writes.len() - 1 } else { popped.reads.len() - 1 };
        assert!(data <= self.segments_max, "{data} segments");
        let mut input = Vec::new();
        match kind {
            0 => {
                for n in 0..u64::from(popped.writable() - 1) / 512 {
                    input.extend_from_slice(self.sectors.get(&(sector + n)).unwrap_or(&[0; 512]));
                }
            }
            1 => {
                for (n, bytes) in out[16..].chunks(512).enumerate() {
                    self.sectors.insert(sector + n as u64, bytes.try_into().expect("a whole sector"));
                }
            }
            8 => input.extend_from_slice(b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            11 | 13 => {
                assert!(word(24) <= if kind == 11 { 80 } else { 24 });
                self.sectors.retain(|at, _| !(long(16)..long(16) + u64::from(word(24))).contains(at));
            }
            _ => {}
        }
        input.push(self.answer);
        popped.write_all(&input)
    }

    fn settle<O>(&mut self, device: &BlockDevice<FakeTransport>, future: impl Future<Output = O>) -> O {
        let mut future = std::pin::pin!(future);
        for _ in 0..10_000 {
            if let Some(output) = future.as_mut().now_or_never() {
                return output;
            }
            device.poll();
            self.answer_one();
            device.poll();
        }
        panic!("no end");
    }
}

fn block(fill: u64) -> Block {
    let mut block = Box::new([0; 4096]);
    for (n, bytes) in block.chunks_mut(8).enumerate() {
        bytes.copy_from_slice(&(fill * 0x1_0001 + n as u64).to_le_bytes());
    }
    block
}

#[test]
fn what_is_written_is_read_whatever_the_limits() {
    let all = [
        (ALL & !READ_ONLY, 62, 4096),
        (ALL & !READ_ONLY, 5, 1000),
        (ALL & !READ_ONLY, 1, 8192),
        (ALL & !READ_ONLY & !SIZE_MAX, 254, 0),
    ];
    for (features, segments, bytes) in all {
        for ring in [0, EVENT_IDX, INDIRECT, EVENT_IDX | INDIRECT] {
            let (mut disk, device) = Disk::with(features | ring, segments, bytes);
            let blocks = (0..301).map(block).collect();
            let (back, outcome) = disk.settle(&device, device.write(7, blocks));
            assert_eq!((back.len(), outcome), (301, Ok(())));
            let empty = (0..301).map(|_| block(9999)).collect();
            let (read, outcome) = disk.settle(&device, device.read(7, empty));
            assert_eq!(outcome, Ok(()));
            assert!(read.iter().zip(0..).all(|(read, fill)| *read == block(fill)));
        }
    }
}

#[test]
fn thousands_of_requests_at_once_complete_in_any_order() {
    let (mut disk, device) = Disk::plain();
    let writes: Vec<LocalBoxFuture<'_, _>> =
        (0..900).map(|n| device.write(n, vec![block(n)]).boxed_local()).collect();
    assert_eq!(device.in_flight(), 256);
    let outcomes = disk.settle(&device, futures_util::future::join_all(writes));
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    let reads: Vec<_> = (0..900).map(|n| device.read(n, vec![block(0)]).boxed_local()).collect();
    for (n, (read, outcome)) in
        disk.settle(&device, futures_util::future::join_all(reads)).into_iter().enumerate()
    {
        assert_eq!((&read[0], outcome), (&block(n as u64), Ok(())));
    }
}

#[test]
fn discards_and_zeroes_are_cut_as_the_device_asks() {
    let (mut disk, device) = Disk::plain();
    assert_eq!(disk.settle(&device, device.discard(10, 25)), Ok(()));
    let mut cuts: Vec<_> = disk.requests.drain(..).map(|(kind, sector, _)| (kind, sector)).collect();
    cuts.sort_unstable();
    assert_eq!(cuts, [(11, 80), (11, 160), (11, 240)]);
    assert_eq!(disk.settle(&device, device.write_zeroes(0, 4, true)), Ok(()));
    assert_eq!(disk.requests.len(), 2);
    assert_eq!(disk.settle(&device, device.flush()), Ok(()));
    assert_eq!(disk.requests.last().map(|request| request.0), Some(4));
    assert_eq!(disk.settle(&device, device.serial()), Ok("disk-7".into()));
}

#[test]
fn what_cannot_be_done_is_refused_by_its_name() {
    let (mut disk, device) = Disk::with(READ_ONLY, 1, 0);
    assert!(device.limits().read_only);
    assert_eq!(disk.settle(&device, device.write(0, vec![block(1)])).1, Err(BlockError::ReadOnly));
    assert_eq!(
        disk.settle(&device, device.read(999, vec![block(1), block(2)])).1,
        Err(BlockError::OutOfRange)
    );
    assert_eq!(disk.settle(&device, device.read(u64::MAX, vec![block(1)])).1, Err(BlockError::OutOfRange));
    assert_eq!(disk.settle(&device, device.flush()), Ok(()), "no cache, nothing to flush");
    let (mut disk, device) = Disk::with(0, 1, 0);
    assert_eq!(disk.settle(&device, device.discard(0, 1)), Err(BlockError::Unsupported));
    disk.answer = 1;
    assert_eq!(disk.settle(&device, device.read(0, vec![block(1)])).1, Err(BlockError::Io));
    disk.answer = 2;
    assert_eq!(disk.settle(&device, device.write(0, vec![block(1)])).1, Err(BlockError::Unsupported));
    disk.answer = 0;
    assert_eq!(disk.settle(&device, device.read(0, vec![])).1, Ok(()));
    assert_eq!(
        disk.settle(&device, device.read(0, vec![block(1)])).1,
        Ok(()),
        "errors do not outlive their request"
    );
}

#[test]
fn a_dropped_future_leaves_its_buffers_to_the_device() {
    let (mut disk, device) = Disk::plain();
    drop(device.write(3, vec![block(3)]));
    let mut second = device.write(4, vec![block(4)]).boxed_local();
    assert!((&mut second).now_or_never().is_none());
    drop(second);
    device.poll();
    while disk.answer_one() {}
    device.poll();
    assert_eq!(device.in_flight(), 0);
    let (read, _) = disk.settle(&device, device.read(3, vec![block(0), block(0)]));
    assert!(read[0] == block(3) && read[1] == block(4), "the writes went on");
}

/// Lies at the level of the queue and of the request; each ends every request and gives the buffers back.
#[test]
fn a_lying_device_is_reset_and_everything_ends_with_broken() {
    type Lie = fn(&mut Disk);
    let lies: [(Lie, Fault); 5] = [
        (
            |disk| disk.transport.0.borrow_mut().queues.get_mut(&0).expect("set up").push(300, 1),
            Fault::WrongId,
        ),
        (
            |disk| disk.transport.0.borrow_mut().queues.get_mut(&0).expect("set up").push(0, 9000),
            Fault::WrongLength,
        ),
        (
            |disk| disk.transport.0.borrow_mut().queues.get_mut(&0).expect("set up").jump(500),
            Fault::IndexJump,
        ),
        (
            |disk| disk.transport.0.borrow_mut().queues.get_mut(&0).expect("set up").push(0, 1),
            Fault::WrongAnswer,
        ),
        (
            |disk| {
                let mut registers = disk.transport.0.borrow_mut();
                registers.status |= DeviceStatus::DEVICE_NEEDS_RESET;
                registers.config_changed = true;
            },
            Fault::NeedsReset,
        ),
    ];
    for (lie, fault) in lies {
        let (mut disk, device) = Disk::plain();
        let requests: Vec<_> = (0..300).map(|n| device.read(n, vec![block(n)]).boxed_local()).collect();
        disk.take_in();
        lie(&mut disk);
        device.poll();
        let outcomes = futures_util::future::join_all(requests).now_or_never().expect("all over at once");
        assert!(
            outcomes.iter().all(|(back, outcome)| back.len() == 1 && *outcome == Err(BlockError::Broken))
        );
        assert_eq!(device.fault(), Some(fault));
        assert_eq!(disk.transport.0.borrow().resets, 2, "once to set up, once to silence it");
        assert_eq!(device.flush().now_or_never(), Some(Err(BlockError::Broken)));
    }
}

#[test]
fn a_device_stuck_in_reset_keeps_the_buffers_it_may_write() {
    let (disk, device) = Disk::plain();
    let read = device.read(0, vec![block(0)]).boxed_local();
    {
        let mut registers = disk.transport.0.borrow_mut();
        registers.stuck = true;
        registers.queues.get_mut(&0).expect("set up").jump(9);
    }
    device.poll();
    let (back, outcome) = read.now_or_never().expect("over");
    assert!(back.is_empty() && outcome == Err(BlockError::Broken));
}

#[test]
fn a_disk_that_grows_is_noticed() {
    let (disk, device) = Disk::plain();
    assert_eq!(device.blocks(), 1000);
    {
        let mut registers = disk.transport.0.borrow_mut();
        registers.config[0..4].copy_from_slice(&(8u32 * 5000).to_le_bytes());
        registers.config_changed = true;
    }
    device.poll();
    assert_eq!((device.blocks(), device.limits().blocks), (5000, 1000));
}

/// Whoever reads the capacity until the generation stays waits for ever on a device whose generation never does.
#[test]
fn a_configuration_that_never_settles_stops_the_device() {
    let (disk, device) = Disk::plain();
    let read = device.read(0, vec![block(0)]).boxed_local();
    {
        let mut registers = disk.transport.0.borrow_mut();
        (registers.restless, registers.config_changed) = (true, true);
    }
    device.poll();
    let (back, outcome) = read.now_or_never().expect("over");
    assert_eq!((back.len(), outcome), (1, Err(BlockError::Broken)));
    assert_eq!(device.fault(), Some(Fault::WrongAnswer));
    let refused = BlockDevice::new(disk.transport.clone(), 256).map(|_| ());
    assert_eq!(refused, Err(SetupError::NeverSettles));
}
