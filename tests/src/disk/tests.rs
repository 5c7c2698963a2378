//! The simulated disk keeps, and breaks, exactly what the contract lets it.

use super::*;
use crate::executor::Executor;

fn machine(blocks: u64) -> (Executor, SimulatedDisk) {
    let disk = SimulatedDisk::blank("d", blocks);
    let mut executor = Executor::new(1);
    executor.attach(Rc::new(disk.clone()));
    (executor, disk)
}

fn block(byte: u8) -> Block {
    Box::new([byte; BLOCK_SIZE])
}

fn first_byte(image: &DiskImage, at: u64) -> u8 {
    image.block(at)[0]
}

#[test]
fn an_unflushed_write_is_visible_and_may_vanish() {
    let (mut executor, disk) = machine(16);
    executor.run(disk.write(3, vec![block(7)])).1.unwrap();
    let read = executor.run(disk.read(3, vec![block(0)]));
    assert_eq!(read.0[0][0], 7);
    let mut rng = Rng::new(1);
    assert_eq!(first_byte(&disk.power_loss(PowerLoss::Nothing, &mut rng), 3), 0);
    assert_eq!(first_byte(&disk.power_loss(PowerLoss::Everything, &mut rng), 3), 7);
}

#[test]
fn a_slow_read_is_carried_out_late_and_for_good() {
    let (mut executor, disk) = machine(16);
    disk.slow(Slow { sort: Sort::Reads, requests: 1, one_in: 1, lasting: 100 });
    let slow = disk.read(3, vec![block(0)]);
    executor.run(disk.write(3, vec![block(7)])).1.unwrap();
    assert_eq!((disk.pending(), disk.state.borrow().in_flight.len()), (0, 1));
    assert_eq!(executor.run(slow).0[0][0], 7, "nothing else is left to do");
}

#[test]
fn a_flushed_write_survives_every_power_loss() {
    let (mut executor, disk) = machine(16);
    executor.run(disk.write(3, vec![block(7)])).1.unwrap();
    executor.run(disk.flush()).unwrap();
    for policy in PowerLoss::ALL {
        assert_eq!(first_byte(&disk.power_loss(policy, &mut Rng::new(5)), 3), 7);
    }
    assert_eq!(disk.unflushed(), 0);
}

#[test]
fn a_flush_covers_only_writes_completed_before_it_was_submitted() {
    let (mut executor, disk) = machine(16);
    let write = disk.write(3, vec![block(7)]);
    let flush = disk.flush();
    executor.run(write).1.unwrap();
    executor.run(flush).unwrap();
    assert_eq!(first_byte(&disk.power_loss(PowerLoss::Nothing, &mut Rng::new(5)), 3), 0);
}

#[test]
fn a_write_goes_on_when_its_future_is_dropped() {
    let (mut executor, disk) = machine(16);
    drop(disk.write(3, vec![block(7)]));
    executor.idle();
    assert_eq!(first_byte(&disk.visible(), 3), 7);
}

#[test]
fn a_write_in_flight_may_have_landed() {
    let (_, disk) = machine(16);
    drop(disk.write(3, vec![block(7)]));
    assert_eq!(first_byte(&disk.visible(), 3), 0);
    assert_eq!(first_byte(&disk.power_loss(PowerLoss::Everything, &mut Rng::new(5)), 3), 7);
}

#[test]
fn unflushed_writes_tear_between_sectors_and_land_out_of_order() {
    let (mut executor, disk) = machine(16);
    for byte in 1..=2 {
        executor.run(disk.write(3, vec![block(byte)])).1.unwrap();
    }
    let images: Vec<_> =
        (0..200).map(|s| disk.power_loss(PowerLoss::Any, &mut Rng::new(s)).block(3)).collect();
    assert!(images.iter().any(|b| b[0] != b[SECTOR_SIZE]), "some write is torn");
    assert!(
        images.iter().all(|b| b.chunks(SECTOR_SIZE).all(|s| s.iter().all(|x| *x == s[0]))),
        "sectors are whole"
    );
    for byte in 0..=2 {
        assert!(images.iter().any(|b| b.iter().all(|x| *x == byte)), "{byte} can be what is left");
    }
}

#[test]
fn one_block_of_a_long_write_can_be_dropped_or_kept() {
    let (mut executor, disk) = machine(16);
    executor.run(disk.write(0, (0..8).map(|_| block(9)).collect())).1.unwrap();
    let landed = |policy| {
        let image = disk.power_loss(policy, &mut Rng::new(4));
        (0..8).filter(|at| first_byte(&image, *at) == 9).count()
    };
    assert_eq!((landed(PowerLoss::DropOne), landed(PowerLoss::KeepOne)), (7, 1));
}

#[test]
fn a_discard_leaves_rubbish() {
    let (mut executor, disk) = machine(16);
    executor.run(disk.write(3, vec![block(7)])).1.unwrap();
    executor.run(disk.flush()).unwrap();
    executor.run(disk.discard(0, 16)).unwrap();
    assert_ne!(first_byte(&disk.visible(), 3), 7);
    assert_eq!(first_byte(&disk.power_loss(PowerLoss::Nothing, &mut Rng::new(1)), 3), 7);
}

#[test]
fn requests_past_the_end_and_writes_to_a_read_only_disk_are_refused() {
    let (mut executor, disk) = machine(16);
    assert_eq!(executor.run(disk.read(15, vec![block(0), block(0)])).1, Err(DeviceError::OutOfRange));
    assert_eq!(executor.run(disk.write(u64::MAX, vec![block(0)])).1, Err(DeviceError::OutOfRange));
    let disk = SimulatedDisk::power_on("d", DiskImage::blank(16).read_only());
    assert_eq!(executor.run(disk.write(0, vec![block(0)])).1, Err(DeviceError::ReadOnly));
}

#[test]
fn requests_finish_in_an_order_the_seed_chooses() {
    let winner = |seed| {
        let (mut executor, disk) = machine(16);
        executor.reseed(seed);
        let first = disk.write(3, vec![block(1)]);
        let second = disk.write(3, vec![block(2)]);
        executor.run_all(vec![Box::pin(first), Box::pin(second)]);
        first_byte(&disk.visible(), 3)
    };
    let winners: Vec<u8> = (0..20).map(winner).collect();
    assert!(winners.contains(&1) && winners.contains(&2));
    assert_eq!(winner(3), winner(3));
}
