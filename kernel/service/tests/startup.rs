//! What the appliance makes of the disks it finds: opened, made, or refused by name and left untouched.

mod rig;

use datum_service::PoolOption;
use datum_service::environment::Power;
use datum_store::device::Geometry;
use rig::disk::MemoryDisk;
use rig::nbd::{Mode, Nbd};
use rig::{Control, Rig};
use serde_json::{Value, json};

fn started(disks: &[&MemoryDisk], pool: PoolOption) -> (Rig, Control) {
    let mut rig = Rig::start(disks, pool);
    let control = rig.control();
    (rig, control)
}

fn problem(rig: &mut Rig, control: &mut Control) -> String {
    let info = control.call(rig, "system.info", json!({}));
    assert_eq!(info["pool_state"], "absent", "{info}");
    info["pool_problem"].as_str().unwrap().to_string()
}

fn states(rig: &mut Rig, control: &mut Control) -> Vec<Value> {
    let list = control.call(rig, "device.list", json!({}));
    list["items"].as_array().unwrap().iter().map(|item| item["state"].clone()).collect()
}

fn pool_of(disks: &[&MemoryDisk]) {
    let (mut rig, mut control) = started(disks, PoolOption::Auto);
    control.call(&mut rig, "volume.create", json!({"name": "kept", "size": 4096}));
    control.call(&mut rig, "system.shutdown", json!({}));
}

#[test]
fn blank_disks_become_a_pool_only_when_asked() {
    let (a, b) = (MemoryDisk::blank("a", 64), MemoryDisk::blank("b", 64));
    let (mut rig, mut control) = started(&[&a, &b], PoolOption::Open);
    assert!(problem(&mut rig, &mut control).contains("pool create"));
    assert_eq!(states(&mut rig, &mut control), ["blank", "blank"]);
    assert_eq!(a.written() + b.written(), 0, "nothing was written");
    pool_of(&[&a, &b]);
    let (mut rig, mut control) = started(&[&b, &a], PoolOption::Open);
    let volumes = control.call(&mut rig, "volume.list", json!({}));
    assert_eq!(volumes["items"][0]["name"], "kept", "found again in any order");
    assert_eq!(states(&mut rig, &mut control), ["member", "member"]);
    let create = json!({"devices": ["a"]});
    assert_eq!(control.kind(&mut rig, "pool.create", create), "device");
    let (mut rig, mut control) = started(&[&a, &b], PoolOption::None);
    assert!(problem(&mut rig, &mut control).contains("pool=none"));
}

#[test]
fn before_its_disks_are_found_the_appliance_greets_and_says_that_it_opens() {
    let mut rig = Rig::unstarted();
    let mut control = rig.control();
    let info = control.call(&mut rig, "system.info", json!({}));
    assert_eq!((&info["pool_state"], &info["devices"]), (&json!("opening"), &json!(0)));
    let listed = control.send("device.list", json!({}));
    rig.settle();
    assert_eq!(rig.find(&[&MemoryDisk::blank("a", 64)]), "pool datum is open");
    let list = control.line(&mut rig);
    assert_eq!((&list["id"], &list["result"]["items"][0]["name"]), (&json!(listed), &json!("a")));
    assert_eq!(control.call(&mut rig, "system.info", json!({}))["devices"], 1);
}

#[test]
fn a_foreign_disk_is_named_and_left_alone() {
    let (blank, foreign) = (MemoryDisk::blank("data", 64), MemoryDisk::foreign("windows", 64));
    let (mut rig, mut control) = started(&[&blank, &foreign], PoolOption::Auto);
    assert!(problem(&mut rig, &mut control).contains("windows"));
    assert_eq!((blank.written(), foreign.written()), (0, 1));
    assert_eq!(states(&mut rig, &mut control), ["blank", "foreign"]);
    assert_eq!(control.kind(&mut rig, "pool.create", json!({"devices": ["windows"]})), "device");
    assert_eq!(control.kind(&mut rig, "pool.create", json!({"devices": ["nope"]})), "not_found");
    let made = control.call(&mut rig, "pool.create", json!({"devices": ["data"], "name": "tank"}));
    assert_eq!((&made["name"], &made["state"]), (&json!("tank"), &json!("open")));
    assert_eq!(control.kind(&mut rig, "pool.create", json!({"devices": ["data"]})), "device");
    assert_eq!(foreign.written(), 1);
    control.call(&mut rig, "volume.create", json!({"name": "v", "size": 4096}));
}

#[test]
fn missing_copied_and_strange_members_are_told_apart() {
    let (a, b) = (MemoryDisk::blank("a", 64), MemoryDisk::blank("b", 64));
    pool_of(&[&a, &b]);
    let (mut rig, mut control) = started(&[&a], PoolOption::Auto);
    let missing = problem(&mut rig, &mut control);
    assert!(missing.contains("2 members") && missing.contains("member 1"), "{missing}");
    let copy = b.copy("b-copy");
    let (mut rig, mut control) = started(&[&a, &b, &copy], PoolOption::Open);
    let copied = problem(&mut rig, &mut control);
    assert!(copied.contains("b-copy") && copied.contains("copy"), "{copied}");
    let other = MemoryDisk::blank("c", 64);
    pool_of(&[&other]);
    let (mut rig, mut control) = started(&[&a, &b, &other], PoolOption::Open);
    assert!(problem(&mut rig, &mut control).contains("detach"));
    let more = MemoryDisk::blank("more", 64);
    let (mut rig, mut control) = started(&[&a, &b, &more], PoolOption::Auto);
    assert_eq!(
        control.call(&mut rig, "pool.status", json!({}))["state"],
        "open",
        "a blank disk beside it is no harm"
    );
    assert_eq!(more.written(), 0);
}

#[test]
fn equal_serials_are_refused_by_place() {
    let (a, b) = (MemoryDisk::blank("same", 64), MemoryDisk::blank("same", 64));
    let (mut rig, mut control) = started(&[&a, &b], PoolOption::Auto);
    let problem = problem(&mut rig, &mut control);
    assert!(problem.contains("0000:00:00.0") && problem.contains("0000:00:01.0"), "{problem}");
    assert_eq!(a.written() + b.written(), 0);
}

#[test]
fn small_read_only_and_broken_disks_are_refused() {
    let small = MemoryDisk::with_geometry("small", Geometry { blocks: 2, read_only: false, discard: true });
    let (mut rig, mut control) = started(&[&small], PoolOption::Auto);
    assert!(problem(&mut rig, &mut control).contains("small"));
    let locked =
        MemoryDisk::with_geometry("locked", Geometry { blocks: 65536, read_only: true, discard: true });
    let (mut rig, mut control) = started(&[&locked], PoolOption::Auto);
    assert!(problem(&mut rig, &mut control).contains("read-only"));
    assert_eq!(states(&mut rig, &mut control), ["read_only"]);
    let broken = MemoryDisk::blank("broken", 64);
    broken.fail();
    let (mut rig, mut control) = started(&[&broken], PoolOption::Auto);
    assert!(problem(&mut rig, &mut control).contains("broken"));
}

#[test]
fn a_disk_that_fails_turns_the_pool_read_only_and_the_event_says_so() {
    let disk = MemoryDisk::blank("vd0", 64);
    let (mut rig, mut control) = started(&[&disk], PoolOption::Auto);
    control.call(&mut rig, "event.subscribe", json!({}));
    disk.fail();
    let kind = control.kind(&mut rig, "volume.create", json!({"name": "v", "size": 4096}));
    assert!(kind == "io" || kind == "read_only", "{kind}");
    let event = control.line(&mut rig);
    assert_eq!(event["params"]["type"], "pool.read_only", "{event}");
    assert_eq!(control.call(&mut rig, "pool.status", json!({}))["state"], "read_only");
}

/// The power button is `system.shutdown` by other means: what a client wrote last is there at the next start, and
/// everybody is told.
#[test]
fn the_power_button_shuts_down_in_good_order() {
    let disk = MemoryDisk::blank("vd0", 64);
    let mut rig = Rig::start(&[&disk], PoolOption::Auto);
    let (mut control, console) = (rig.control(), rig.console());
    control.call(&mut rig, "volume.create", json!({"name": "v", "size": 4096}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "v", &[]).unwrap();
    assert_eq!(nbd.write(&mut rig, 0, &[7; 4096]), 0);
    control.call(&mut rig, "event.subscribe", json!({}));
    console.connect();
    console.send(b"volume li");
    rig.settle();
    console.drain();
    let event = control.line(&mut rig);
    assert_eq!(event["params"]["type"], "session.opened", "{event}");
    for _ in 0..2 {
        let appliance = rig.appliance.clone();
        rig.run(async move { appliance.power_button().await });
    }
    let event = control.line(&mut rig);
    assert_eq!(event["params"]["type"], "system.stopping", "{event}");
    assert_eq!(event["params"]["reason"], "power_button", "{event}");
    let shown = String::from_utf8(console.drain()).unwrap();
    assert!(
        shown.contains("* The power button was pressed") && shown.contains("datum> volume li"),
        "{shown:?}"
    );
    assert_eq!(rig.power(), None);
    assert_eq!(control.kind(&mut rig, "volume.list", json!({})), "stopping");
    rig.sleep(250_000_000);
    assert_eq!(rig.power(), Some(Power::Off));
    assert_eq!(control.client.drain(), b"", "it is told once");
    drop(rig);
    let mut rig = Rig::start(&[&disk], PoolOption::Open);
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "v", &[]).unwrap();
    assert_eq!(nbd.read(&mut rig, 0, 4096).unwrap(), [7; 4096]);
}
