//! Two appliances and one pool: the second is refused while the first lives, and takes over when it does not.

mod rig;

use datum_service::PoolOption;
use datum_service::limits::{CHALLENGE_NANOSECONDS, GUARD_INTERVAL_NANOSECONDS, LOOK_NANOSECONDS};
use rig::Rig;
use rig::disk::MemoryDisk;
use serde_json::json;

/// Where the owner's mark lies, behind both slots of superblocks.
const MARK: u64 = 2;

fn first(disk: &MemoryDisk) -> Rig {
    let (mut rig, said) = Rig::start_as(1, &[disk], PoolOption::Auto);
    assert_eq!(said, "pool datum is open");
    rig.control().call(&mut rig, "volume.create", json!({"name": "db", "size": 1 << 20}));
    rig
}

/// An owner that is gone answers nobody: the next one waits its time, and then has everything.
#[test]
fn after_a_power_loss_the_next_one_waits_and_opens() {
    let disk = MemoryDisk::blank("vd0", 64);
    drop(first(&disk));
    let (mut rig, said) = Rig::start_as(2, &[&disk], PoolOption::Open);
    assert_eq!(said, "pool datum is open");
    assert!(rig.now() >= CHALLENGE_NANOSECONDS, "it waited {} ns", rig.now());
    rig.control().call(&mut rig, "volume.show", json!({"name": "db"}));
}

#[test]
fn after_a_shutdown_nobody_waits() {
    let disk = MemoryDisk::blank("vd0", 64);
    let mut rig = first(&disk);
    let mut control = rig.control();
    control.send("system.shutdown", json!({}));
    rig.sleep(1_000_000_000);
    assert!(rig.power().is_some(), "it has shut down");
    let (rig, said) = Rig::start_as(2, &[&disk], PoolOption::Open);
    assert_eq!((said.as_str(), rig.now()), ("pool datum is open", 0));
}

/// An owner that was paused for longer than the other one waits finds out when it goes on, and says so.
#[test]
fn a_paused_owner_notices_that_it_was_replaced() {
    let disk = MemoryDisk::blank("vd0", 64);
    let mut paused = first(&disk);
    let (mut rig, said) = Rig::start_as(2, &[&disk], PoolOption::Open);
    assert_eq!(said, "pool datum is open");
    rig.control().call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "c"}));

    paused.sleep(GUARD_INTERVAL_NANOSECONDS);
    let mut control = paused.control();
    let status = control.call(&mut paused, "pool.status", json!({}));
    let reason = status["read_only"].as_str().unwrap_or_default().to_string();
    assert!(reason.contains("another appliance has taken the pool over"), "{status}");
    let params = json!({"name": "late", "size": 4096});
    assert_eq!(control.kind(&mut paused, "volume.create", params), "read_only");

    let mut control = rig.control();
    control.call(&mut rig, "volume.create", json!({"name": "two", "size": 4096}));
    let job = control.call(&mut rig, "pool.check", json!({}));
    let job = control.wait(&mut rig, &job);
    assert_eq!((&job["state"], &job["result"]["errors"]), (&json!("done"), &json!(0)), "{job}");
}

/// Two appliances on one bench, in one time: the second finds the first alive, twice.
#[test]
fn while_an_owner_lives_another_is_refused() {
    let disk = MemoryDisk::blank("vd0", 64);
    let mut rig = first(&disk);
    for number in 2..4 {
        let said = rig.start_beside(number, &disk);
        assert!(said.contains("another appliance has the pool open"), "{said}");
    }
    let mut control = rig.control();
    assert_eq!(control.call(&mut rig, "pool.status", json!({}))["read_only"], json!(null));
    control.call(&mut rig, "volume.create", json!({"name": "two", "size": 4096}));
}

/// An answer that fails once is given again. The owner looked and answered no more after it, lived on, and lost its pool to
/// the next one that asked.
#[test]
fn an_answer_that_fails_is_tried_again() {
    let disk = MemoryDisk::blank("vd0", 64);
    let mut rig = first(&disk);
    let other = disk.elsewhere();
    for number in 2..4 {
        disk.refuse_write_at(MARK);
        let said = rig.start_beside(number, &other);
        assert!(said.contains("another appliance has the pool open"), "{said}");
    }
}

/// A look that does not end may have come too late: what the owner acknowledged while another one took the pool would be lost.
#[test]
fn while_a_look_is_overdue_nothing_is_acknowledged() {
    let disk = MemoryDisk::blank("vd0", 64);
    let mut rig = first(&disk);
    let other = disk.elsewhere();
    let mut control = rig.control();

    disk.stick_reads_at(Some(MARK));
    rig.sleep(GUARD_INTERVAL_NANOSECONDS + LOOK_NANOSECONDS / 2);
    control.call(&mut rig, "volume.create", json!({"name": "in-time", "size": 4096}));
    rig.sleep(LOOK_NANOSECONDS);
    control.send("volume.create", json!({"name": "held", "size": 4096}));
    rig.sleep(LOOK_NANOSECONDS);
    assert_eq!(control.client.pending(), 0, "acknowledged while nobody knew whose the pool was");
    disk.stick_reads_at(None);
    let answer = control.line(&mut rig);
    assert_eq!(answer["result"]["name"], "held", "{answer}");

    disk.stick_reads_at(Some(MARK));
    let said = rig.start_beside(2, &other);
    assert_eq!(said, "pool datum is open");
    control.send("volume.create", json!({"name": "late", "size": 4096}));
    rig.sleep(LOOK_NANOSECONDS);
    assert_eq!(control.client.pending(), 0, "acknowledged by one that has lost its pool");
    disk.stick_reads_at(None);
    let answer = control.line(&mut rig);
    assert_eq!(answer["error"]["data"]["kind"], "read_only", "{answer}");
}
