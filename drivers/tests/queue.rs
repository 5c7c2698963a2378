//! The virtqueue against a device in the same process: both sides sleep unless woken by the protocol, so a
//! lost notification or interrupt shows as a standstill; and the device lies in every way it can.

mod fake;

use datum_drivers::virtio::queue::{Fault, Queue, QueueFeatures};
use datum_drivers::virtio::ring::Ring;
use datum_drivers::virtio::segment::Segment;
use fake::{DeviceQueue, Numbers, Popped};
use std::collections::HashMap;

const FEATURES: [QueueFeatures; 4] = [
    QueueFeatures { event_index: true, indirect: true },
    QueueFeatures { event_index: true, indirect: false },
    QueueFeatures { event_index: false, indirect: true },
    QueueFeatures { event_index: false, indirect: false },
];

fn pair(size: u16, features: QueueFeatures) -> (Queue<u64>, DeviceQueue) {
    let ring = Ring::allocate(size).expect("memory");
    let device = DeviceQueue::new(size, ring.addresses(), features.event_index);
    (Queue::new(ring, features, size / 2, 8).expect("memory"), device)
}

/// Both sides of one queue, each awake or asleep.
struct World {
    queue: Queue<u64>,
    device: DeviceQueue,
    numbers: Numbers,
    driver_awake: bool,
    device_awake: bool,
    held: Vec<Popped>,
    /// Per operation: its segments, and once the device has answered, how much it claims to have written.
    expected: HashMap<u64, (Vec<Segment>, Option<u32>)>,
    submitted: u64,
    completed: u64,
}

impl World {
    fn new(size: u16, features: QueueFeatures, seed: u64) -> Self {
        let (queue, mut device) = pair(size, features);
        assert!(device.sleep());
        let (held, expected) = (Vec::new(), HashMap::new());
        let numbers = Numbers(seed);
        Self {
            queue,
            device,
            numbers,
            driver_awake: true,
            device_awake: false,
            held,
            expected,
            submitted: 0,
            completed: 0,
        }
    }

    /// Several submissions, then one look at whether to notify.
    fn submit_some(&mut self) {
        for _ in 0..self.numbers.below(24) {
            let count = 1 + self.numbers.below(self.queue.longest_chain().min(6) as u64);
            if !self.queue.has_room(count as usize) {
                break;
            }
            let operation = self.submitted;
            let split = self.numbers.below(count + 1);
            let segments: Vec<Segment> = (0..count)
                .map(|n| {
                    let (address, length) = (operation << 8 | n, 1 + self.numbers.below(5000) as u32);
                    if n < split {
                        Segment::device_reads(address, length)
                    } else {
                        Segment::device_writes(address, length)
                    }
                })
                .collect();
            // SAFETY: this device never touches the memory that segments name.
            unsafe { self.queue.submit(&segments, operation) };
            self.expected.insert(operation, (segments, None));
            self.submitted += 1;
        }
        if self.queue.take_notification() {
            self.device_awake = true;
            self.device.stay_awake();
        }
    }

    fn drive(&mut self) {
        while let Some(completion) = self.queue.complete().expect("an honest device") {
            let (_, written) = self.expected.remove(&completion.owner).expect("completed once");
            assert_eq!(Some(completion.written), written);
            self.completed += 1;
        }
        self.submit_some();
        if self.numbers.below(2) == 0 && self.device_awake {
            // Completions that come between the last look and the wish for an interrupt.
            self.serve();
        }
        self.driver_awake = self.queue.enable_interrupts();
    }

    fn serve(&mut self) {
        for _ in 0..self.numbers.below(40) {
            let Some(popped) = self.device.pop() else { break };
            let operation = popped.reads.iter().chain(&popped.writes).next().expect("a segment").0 >> 8;
            let (segments, _) = &self.expected[&operation];
            let seen: Vec<Segment> = popped
                .reads
                .iter()
                .map(|&(address, length)| Segment::device_reads(address, length))
                .chain(popped.writes.iter().map(|&(address, length)| Segment::device_writes(address, length)))
                .collect();
            assert_eq!(&seen, segments);
            self.held.push(popped);
        }
        for _ in 0..self.numbers.below(40) {
            if self.held.is_empty() {
                break;
            }
            let popped = self.held.swap_remove(self.numbers.below(self.held.len() as u64) as usize);
            let operation = popped.reads.iter().chain(&popped.writes).next().expect("a segment").0 >> 8;
            let written = self.numbers.below(u64::from(popped.writable()) + 1) as u32;
            self.expected.get_mut(&operation).expect("in flight").1 = Some(written);
            self.device.push(u32::from(popped.id), written);
        }
        if self.device.take_interrupt() {
            self.driver_awake = true;
            self.queue.suppress_interrupts();
        }
        if self.held.is_empty() && !self.device.has_work() {
            self.device_awake = !self.device.sleep();
        }
    }

    fn run(&mut self, operations: u64) {
        while self.completed < operations {
            match self.numbers.below(3) {
                0 if self.driver_awake => self.drive(),
                1 if self.device_awake => self.serve(),
                2 if self.numbers.below(8) == 0 => self.submit_some(),
                _ => {}
            }
            let asleep = !self.driver_awake && !self.device_awake;
            assert!(!asleep || self.queue.in_flight() == 0, "standstill at operation {}", self.completed);
            self.driver_awake |= self.queue.in_flight() == 0;
        }
    }
}

/// virtio-drivers 0.13 stood still at index 65,536 when several additions shared one notification check.
#[test]
fn millions_of_chains_cross_the_index_wrap_without_a_lost_wakeup() {
    for (seed, features) in FEATURES.into_iter().enumerate() {
        World::new(256, features, 0x5eed + seed as u64).run(600_000);
        World::new(8, features, 0xfeed + seed as u64).run(300_000);
        World::new(1, features, 0xdeed + seed as u64).run(80_000);
    }
}

fn submit(queue: &mut Queue<u64>, owner: u64, writable: u32) {
    // SAFETY: this device never touches the memory that segments name.
    unsafe { queue.submit(&[Segment::device_writes(0x1000, writable)], owner) };
}

#[test]
fn an_index_that_jumps_is_a_fault() {
    for by in [2, 3, 257, 40_000, u16::MAX] {
        let (mut queue, mut device) = pair(8, FEATURES[0]);
        submit(&mut queue, 1, 16);
        device.jump(by);
        assert_eq!(queue.complete().map(|_| ()), Err(Fault::IndexJump), "by {by}");
    }
}

#[test]
fn an_id_out_of_range_free_or_repeated_is_a_fault() {
    for id in [8, 5, u32::MAX, 0x1_0000] {
        let (mut queue, mut device) = pair(8, FEATURES[0]);
        submit(&mut queue, 1, 16);
        device.push(id, 0);
        assert_eq!(queue.complete().map(|_| ()), Err(Fault::WrongId), "id {id}");
    }
    let (mut queue, mut device) = pair(8, FEATURES[0]);
    submit(&mut queue, 1, 16);
    submit(&mut queue, 2, 16);
    device.push(0, 16);
    device.push(0, 16);
    assert_eq!(queue.complete().expect("honest").expect("one").owner, 1);
    assert_eq!(queue.complete().map(|_| ()), Err(Fault::WrongId));
    assert_eq!(queue.complete().map(|_| ()), Err(Fault::WrongId), "and it stays broken");
    assert!(!queue.has_room(1));
    // SAFETY: the device is this test, which stops here.
    assert_eq!(unsafe { queue.reclaim() }.collect::<Vec<_>>(), [2]);
}

#[test]
fn more_written_than_was_given_is_a_fault_and_keeps_the_owner() {
    let (mut queue, mut device) = pair(8, FEATURES[0]);
    submit(&mut queue, 7, 16);
    device.push(0, 17);
    assert_eq!(queue.complete().map(|_| ()), Err(Fault::WrongLength));
    // SAFETY: the device is this test, which stops here.
    assert_eq!(unsafe { queue.reclaim() }.collect::<Vec<_>>(), [7]);
}

/// Whatever is written to the used ring: no panic, and no owner comes back twice.
#[test]
fn garbage_in_the_used_ring_never_harms() {
    for seed in 1..20_000 {
        let mut numbers = Numbers(seed * 0x9e37_79b9);
        let (mut queue, mut device) = pair(16, FEATURES[(seed % 4) as usize]);
        let mut returned = std::collections::HashSet::new();
        let mut next = 0;
        for _ in 0..60 {
            match numbers.below(4) {
                0 | 1 if queue.has_room(1) => {
                    submit(&mut queue, next, 64);
                    next += 1;
                }
                2 => device.push(numbers.below(18) as u32, numbers.below(66) as u32),
                3 if numbers.below(30) == 0 => device.jump(numbers.next() as u16),
                _ => {}
            }
            if numbers.below(2) == 0 {
                while let Ok(Some(completion)) = queue.complete() {
                    assert!(completion.owner < next && returned.insert(completion.owner));
                }
            }
        }
        // SAFETY: the device is this test, which stops here.
        assert!(unsafe { queue.reclaim() }.all(|owner| owner < next && returned.insert(owner)));
        assert_eq!(returned.len() as u64, next, "every owner comes back in the end");
    }
}

#[test]
fn adjacent_segments_join_up_to_the_limit() {
    let mut segment = Segment::device_reads(0x1000, 0x1000);
    assert!(segment.absorb(&Segment::device_reads(0x2000, 0x1000), 0x2000));
    assert!(!segment.absorb(&Segment::device_reads(0x3000, 1), 0x2000), "beyond the limit");
    assert!(!segment.absorb(&Segment::device_writes(0x3000, 1), u32::MAX), "other access");
    assert!(!segment.absorb(&Segment::device_reads(0x3001, 1), u32::MAX), "a gap");
    assert_eq!(segment, Segment::device_reads(0x1000, 0x2000));
}
