//! Jobs that return space end, also where somebody keeps it, and the pool says who does.

mod rig;

use datum_service::PoolOption;
use rig::disk::MemoryDisk;
use rig::nbd::{Mode, Nbd};
use rig::{Control, Rig};
use serde_json::{Value, json};

const BLOCK: u64 = 4096;
const SECOND: u64 = 1_000_000_000;

fn on(disk: &MemoryDisk) -> (Rig, Control) {
    let mut rig = Rig::start(&[disk], PoolOption::Auto);
    let control = rig.control();
    (rig, control)
}

/// Writes a block of `db`.
fn write(rig: &mut Rig, at: u64, byte: u8) {
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(rig, &port, Mode::Structured, "db", &[]).unwrap();
    assert_eq!(nbd.write(rig, at * BLOCK, &[byte; BLOCK as usize]), 0);
    port.leave();
    rig.settle();
}

fn checkpoint(rig: &mut Rig, control: &mut Control, name: &str) {
    control.call(rig, "checkpoint.create", json!({"volumes": ["db"], "name": name}));
}

/// A volume with checkpoints `a` and `b`, reverted to `a` and written.
fn reverted(disk: &MemoryDisk) -> (Rig, Control) {
    let (mut rig, mut control) = on(disk);
    control.call(&mut rig, "volume.create", json!({"name": "db", "size": 1 << 20}));
    write(&mut rig, 0, 1);
    checkpoint(&mut rig, &mut control, "a");
    write(&mut rig, 1, 2);
    checkpoint(&mut rig, &mut control, "b");
    let job = control.call(&mut rig, "volume.revert", json!({"volume": "db", "checkpoint": "a"}));
    assert_eq!(control.wait(&mut rig, &job)["state"], "done");
    write(&mut rig, 0, 3);
    (rig, control)
}

fn held(rig: &mut Rig, control: &mut Control) -> Vec<(Value, Value)> {
    rig.sleep(6 * SECOND);
    let status = control.call(rig, "pool.status", json!({}));
    let items = status["held"].as_array().unwrap().clone();
    assert_eq!(status["releases_pending"], status["held_more"].as_u64().unwrap() + items.len() as u64);
    items.into_iter().map(|item| (item["name"].clone(), item["held_by"].clone())).collect()
}

/// The job stayed `running` at 0.0, without a word, until `b` was deleted; after a restart nothing told of it.
#[test]
fn a_conversion_ends_although_a_later_checkpoint_keeps_the_space() {
    let disk = MemoryDisk::blank("vd0", 128);
    let (mut rig, mut control) = reverted(&disk);
    let list = control.call(&mut rig, "checkpoint.list", json!({"volume": "db"}));
    assert_eq!(list["items"][0]["held_by"], json!(["checkpoint db@b"]));
    let converted = control.call(&mut rig, "checkpoint.convert", json!({"volume": "db", "name": "a"}));
    let job = control.wait(&mut rig, &converted);
    assert_eq!((&job["state"], &job["progress"]), (&json!("done"), &json!(1.0)), "{job}");
    assert_eq!(job["result"], json!({"held_by": ["checkpoint db@b"]}));
    let expected = [(json!("a"), json!(["checkpoint db@b"]))];
    assert_eq!(held(&mut rig, &mut control), expected);
    control.call(&mut rig, "system.shutdown", json!({}));
    let (mut rig, mut control) = on(&disk);
    assert_eq!(control.call(&mut rig, "job.list", json!({}))["items"], json!([]));
    assert_eq!(held(&mut rig, &mut control), expected);
    let status = control.call(&mut rig, "pool.status", json!({}));
    assert_eq!(status["held"][0]["volume"], "db");
    let deleted = control.call(&mut rig, "checkpoint.delete", json!({"volume": "db", "name": "b"}));
    assert_eq!(control.wait(&mut rig, &deleted)["result"], json!({}));
    assert_eq!(held(&mut rig, &mut control), []);
}

#[test]
fn a_deletion_ends_although_clones_keep_the_space() {
    let (mut rig, mut control) = reverted(&MemoryDisk::blank("vd0", 128));
    let clone = json!({"volume": "db", "checkpoint": "a", "name": "copy"});
    control.call(&mut rig, "volume.clone", clone);
    let deleted = control.call(&mut rig, "checkpoint.delete", json!({"volume": "db", "name": "a"}));
    let job = control.wait(&mut rig, &deleted);
    assert_eq!(job["result"], json!({"held_by": ["checkpoint db@b", "volume copy"]}), "{job}");
    control.call(&mut rig, "volume.delete", json!({"name": "copy"}));
    assert_eq!(held(&mut rig, &mut control), [(json!("a"), json!(["checkpoint db@b"]))]);
    // Reverted away from it, the volume holds a no more than b does: whichever goes first.
    control.call(&mut rig, "volume.delete", json!({"name": "db"}));
    assert_eq!(held(&mut rig, &mut control), []);
}

/// A reader may be about to leave, so a job waits for it, but not for days.
#[test]
fn a_job_waits_for_readers_for_a_while() {
    let (mut rig, mut control) = reverted(&MemoryDisk::blank("vd0", 128));
    let port = rig.nbd_port("org.datum.nbd.1");
    for (stays, result) in [(20, json!({"held_by": ["1 open reader(s)"]})), (3, json!({}))] {
        checkpoint(&mut rig, &mut control, "read");
        Nbd::open(&mut rig, &port, Mode::Structured, "db@read", &[]).unwrap();
        let begun = rig.now();
        let deleted = control.call(&mut rig, "checkpoint.delete", json!({"volume": "db", "name": "read"}));
        rig.sleep(SECOND);
        let job = control.call(&mut rig, "job.show", json!({"job": deleted["job"]}));
        let waits = (json!("running"), json!(["1 open reader(s)"]));
        assert_eq!((&job["state"], &job["held_by"]), (&waits.0, &waits.1), "{job}");
        assert_eq!(held(&mut rig, &mut control).len(), 1);
        rig.sleep((begun + stays * SECOND).saturating_sub(rig.now()));
        port.leave();
        rig.settle();
        let job = control.wait(&mut rig, &deleted);
        assert_eq!((&job["state"], &job["result"]), (&json!("done"), &result), "{job}");
        assert_eq!(held(&mut rig, &mut control), [], "the space comes back by itself");
    }
}

/// The records of what is held lie on the disk, and may not be in memory.
#[test]
fn a_disk_that_does_not_answer_keeps_nobody_from_the_status() {
    let disk = MemoryDisk::blank("vd0", 128);
    let (mut rig, mut control) = reverted(&disk);
    for number in 0..40 {
        checkpoint(&mut rig, &mut control, &format!("more{number}"));
    }
    control.call(&mut rig, "checkpoint.convert", json!({"volume": "db", "name": "a"}));
    control.call(&mut rig, "system.shutdown", json!({}));
    let (mut rig, mut control) = on(&disk);
    disk.be_silent(true);
    let status = control.call(&mut rig, "pool.status", json!({}));
    assert_eq!((status.get("held"), status.get("held_more")), (None, None));
    disk.be_silent(false);
    assert_eq!(held(&mut rig, &mut control).len(), 1);
}
