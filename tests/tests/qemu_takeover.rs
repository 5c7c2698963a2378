//! Two machines on one disk, QEMU's own lock off: the second is refused while the first runs, takes over when the
//! first is paused, and the first finds out.

use std::thread;
use std::time::{Duration, Instant};

use datum_tests::qemu::{Stage, ask_monitor, boot, call, end, finish, refused, volume};
use serde_json::{Value, json};
use xtask::qemu::{Disk, Machine};

/// More than a paused machine is allowed to take to notice, on a busy host.
const NOTICE_PATIENCE: Duration = Duration::from_secs(10);

fn sharing(stage: &Stage, disk: Disk) -> Machine {
    let unlocked = |mut node: Value| {
        node["file"]["locking"] = "off".into();
        node
    };
    stage.machine().disk(disk.wrap(unlocked)).option("takeover=wait")
}

#[test]
fn a_pool_has_one_appliance() {
    let stage = Stage::wait();
    let other = Stage::wait();
    let disk = stage.disk("a", 1 << 30);
    let machine = sharing(&stage, disk.clone());
    let monitor = machine.monitor();
    let (first, mut owner) = boot(&machine);
    volume(&mut owner, "db", 1 << 20);

    let second = sharing(&other, disk);
    let (appliance, mut control) = boot(&second);
    let refusal = refused(&mut control, "volume.list", json!({}), "no_pool").to_string();
    assert!(refusal.contains("another appliance has the pool open"), "{refusal}");
    end(appliance, control);
    call(&mut owner, "checkpoint.create", json!({ "volumes": ["db"], "name": "mine" }));

    ask_monitor(&monitor, "stop");
    let (appliance, mut control) = boot(&second);
    call(&mut control, "checkpoint.create", json!({ "volumes": ["db"], "name": "theirs" }));
    ask_monitor(&monitor, "cont");
    let deadline = Instant::now() + NOTICE_PATIENCE;
    let reason = loop {
        let status = call(&mut owner, "pool.status", json!({}));
        if let Some(reason) = status["read_only"].as_str() {
            break reason.to_owned();
        }
        assert!(Instant::now() < deadline, "the first appliance does not notice: {status}");
        thread::sleep(Duration::from_millis(50));
    };
    assert!(reason.contains("another appliance has taken the pool over"), "{reason}");
    refused(&mut owner, "volume.create", json!({ "name": "late", "size": 4096 }), "read_only");
    drop(owner);
    first.kill().unwrap();

    call(&mut control, "checkpoint.show", json!({ "volume": "db", "name": "mine" }));
    finish(appliance, control);
}
