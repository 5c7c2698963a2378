//! Disks as they should not be, and pools of several: nothing foreign is touched, and every refusal names the
//! disk and the way out.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use datum_tests::qemu::{Stage, boot, call, client, end, finish, refused, same, volume};
use serde_json::{Value, json};
use xtask::control::Client;
use xtask::qemu::{Machine, MachineType};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// The states of all disks, by name.
fn states(control: &mut Client) -> Vec<(String, String)> {
    let list = call(control, "device.list", json!({}));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(|disk| (text(&disk["name"]), text(&disk["state"]))).collect()
}

fn state(control: &mut Client, name: &str) -> String {
    states(control).into_iter().find(|(disk, _)| disk == name).unwrap().1
}

/// Boots without a pool: control must answer, and say why there is none, naming `word`.
fn has_no_pool(machine: &Machine, word: &str) {
    let (appliance, mut control) = boot(machine);
    let refusal = refused(&mut control, "volume.list", json!({}), "no_pool");
    let text = refusal.to_string();
    assert!(text.contains(word), "{word} is not named: {text}");
    end(appliance, control);
}

/// Makes a pool on these disks with one volume that holds data, and shuts down.
fn make_pool(machine: &Machine) {
    let (appliance, mut control) = boot(machine);
    volume(&mut control, "db", 16 * MIB);
    client("qemu-io", &["-f", "raw", "-c", "write -P 5 0 8M", "-c", "flush", &appliance.nbd_uri(0, "db")]);
    finish(appliance, control);
}

/// Boots the pool again and reads what [`make_pool`] wrote.
fn is_whole(machine: &Machine) {
    let (appliance, control) = boot(machine);
    let said = client("qemu-io", &["-f", "raw", "-c", "read -P 5 0 8M", &appliance.nbd_uri(0, "db")]);
    assert!(!said.contains("verification failed"), "{said}");
    finish(appliance, control);
}

fn put(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn no_disk_is_said() {
    let stage = Stage::wait();
    has_no_pool(&stage.machine(), "disk");
}

#[test]
fn a_foreign_disk_is_left_untouched() {
    let stage = Stage::wait();
    let image = stage.file("foreign.img", 64 << 20, 3);
    let before = stage.path("before");
    fs::copy(&image, &before).unwrap();
    let machine = stage.machine().disk(stage.disk("foreign", 0));
    let (appliance, mut control) = boot(&machine);
    assert_eq!(state(&mut control, "foreign"), "foreign");
    let refusal = refused(&mut control, "pool.create", json!({ "devices": ["foreign"] }), "device");
    assert!(refusal.to_string().contains("foreign"), "{refusal}");
    refused(&mut control, "volume.create", json!({ "name": "db", "size": MIB }), "no_pool");
    end(appliance, control);
    assert!(same(&image, &before), "a foreign disk was written to");
}

/// A single byte anywhere in the first or last MiB is somebody's data.
#[test]
fn one_byte_makes_a_disk_foreign() {
    for at in [0, MIB - 1, 64 * MIB - MIB, 64 * MIB - 1] {
        let stage = Stage::wait();
        fs::write(stage.path("a.img"), vec![0; 64 << 20]).unwrap();
        put(&stage.path("a.img"), at, &[1]);
        let before = stage.path("before");
        fs::copy(stage.path("a.img"), &before).unwrap();
        has_no_pool(&stage.with_disk(0), "a");
        assert!(same(&stage.path("a.img"), &before), "the disk with a byte at {at} was written to");
    }
}

#[test]
fn a_foreign_disk_beside_a_pool_does_no_harm() {
    let stage = Stage::wait();
    let machine = stage.with_disk(GIB);
    make_pool(&machine);
    let image = stage.file("foreign.img", 64 << 20, 4);
    let before = stage.path("before");
    fs::copy(&image, &before).unwrap();
    is_whole(&machine.disk(stage.disk("foreign", 0)));
    assert!(same(&image, &before));
}

#[test]
fn three_members_make_one_pool() {
    let stage = Stage::wait();
    let disks = ["a", "b", "c"].map(|name| stage.disk(name, GIB));
    let machine = stage.machine().disks(disks.clone());
    let (appliance, mut control) = boot(&machine);
    assert_eq!(call(&mut control, "pool.status", json!({}))["devices"].as_array().unwrap().len(), 3);
    end(appliance, control);
    make_pool(&machine);
    let [a, b, c] = disks;
    is_whole(&stage.machine().disks([c.clone(), a.clone(), b.clone()]));
    has_no_pool(&stage.machine().disks([a.clone(), c.clone()]), "member");
    is_whole(&stage.machine().disks([b, a, c]));
}

#[test]
fn a_member_of_another_pool_is_told_apart() {
    let stage = Stage::wait();
    let one = stage.machine().disks([stage.disk("a", GIB), stage.disk("b", GIB)]);
    make_pool(&one);
    make_pool(&stage.machine().disk(stage.disk("c", GIB)));
    // Half of the first pool beside all of the second.
    let mixed = stage.machine().disks([stage.disk("a", GIB), stage.disk("c", GIB)]);
    let (appliance, mut control) = boot(&mixed);
    assert_eq!(states(&mut control).iter().filter(|(_, state)| state == "member").count(), 2);
    end(appliance, control);
    is_whole(&one);
}

#[test]
fn two_disks_of_one_serial_are_both_refused() {
    let stage = Stage::wait();
    let twin = |file: &str| xtask::qemu::Disk::file(stage.path(file), GIB).serial("twin");
    let machine = stage.machine().disks([twin("one.img"), twin("two.img")]);
    has_no_pool(&machine, "twin");
    assert_eq!(fs::metadata(stage.path("one.img")).unwrap().len(), GIB);
}

/// The same member twice, as after a copy of its file: which is the right one cannot be known.
#[test]
fn a_copied_member_beside_its_original_is_refused() {
    let stage = Stage::wait();
    let machine = stage.with_disk(64 * MIB);
    make_pool(&machine);
    fs::copy(stage.path("a.img"), stage.path("b.img")).unwrap();
    has_no_pool(&machine.clone().disk(stage.disk("b", 0)), "a");
    is_whole(&machine);
}

#[test]
fn a_read_only_member_opens_for_reading_or_says_why_not() {
    let stage = Stage::wait();
    make_pool(&stage.with_disk(64 * MIB));
    let before = stage.path("before");
    fs::copy(stage.path("a.img"), &before).unwrap();
    let (appliance, mut control) = boot(&stage.machine().disk(stage.disk("a", 0).read_only()));
    assert_eq!(state(&mut control, "a"), "read_only");
    let error = control.call("volume.create", json!({ "name": "x", "size": MIB })).unwrap_err();
    assert!(matches!(error.kind(), Some("read_only" | "no_pool")), "{error}");
    end(appliance, control);
    assert!(same(&stage.path("a.img"), &before));
}

#[test]
fn a_read_only_blank_disk_makes_no_pool() {
    let stage = Stage::wait();
    has_no_pool(&stage.machine().disk(stage.disk("a", GIB).read_only()), "a");
}

#[test]
fn a_disk_too_small_is_said() {
    let stage = Stage::wait();
    for (name, bytes) in [("tiny", 512), ("small", MIB)] {
        has_no_pool(&stage.machine().disk(stage.disk(name, bytes)), name);
    }
}

#[test]
fn a_member_that_shrank_is_refused_and_unharmed() {
    let stage = Stage::wait();
    let machine = stage.with_disk(64 * MIB);
    make_pool(&machine);
    let whole = stage.path("whole");
    fs::copy(stage.path("a.img"), &whole).unwrap();
    fs::OpenOptions::new().write(true).open(stage.path("a.img")).unwrap().set_len(32 * MIB).unwrap();
    has_no_pool(&machine, "a");
    fs::copy(&whole, stage.path("a.img")).unwrap();
    is_whole(&machine);
}

/// Larger files change nothing: a member stays as large as it was made.
#[test]
fn members_that_grew_are_what_they_were() {
    let stage = Stage::wait();
    let machine = stage.machine().disks([stage.disk("a", 64 * MIB), stage.disk("b", 64 * MIB)]);
    make_pool(&machine);
    for (files, mebibytes) in [(&["a"][..], 65), (&["a", "b"], 256)] {
        for file in files {
            let path = stage.path(file).with_extension("img");
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(mebibytes * MIB).unwrap();
        }
        is_whole(&machine);
        let (appliance, mut control) = boot(&machine);
        let status = call(&mut control, "pool.status", json!({}));
        let sizes = status["devices"].as_array().unwrap().iter().map(|disk| disk["size"].as_u64().unwrap());
        assert_eq!(sizes.collect::<Vec<_>>(), [64 * MIB; 2], "{status}");
        finish(appliance, control);
    }
}

/// Two members whose files were swapped have each other's serial: what lies on a disk counts, not its name.
#[test]
fn swapped_members_are_one_pool() {
    let stage = Stage::wait();
    let machine = stage.machine().disks([stage.disk("a", 64 * MIB), stage.disk("b", 64 * MIB)]);
    make_pool(&machine);
    fs::rename(stage.path("a.img"), stage.path("c.img")).unwrap();
    fs::rename(stage.path("b.img"), stage.path("a.img")).unwrap();
    fs::rename(stage.path("c.img"), stage.path("b.img")).unwrap();
    is_whole(&machine);
}

#[test]
fn sixteen_members_make_one_pool_on_both_chipsets() {
    for machine_type in [MachineType::Q35, MachineType::Pc] {
        let stage = Stage::wait();
        let disks: Vec<_> = (0..16).map(|number| stage.disk(&format!("d{number}"), 64 * MIB)).collect();
        let machine = stage.machine().machine_type(machine_type);
        make_pool(&machine.clone().disks(disks.clone()));
        is_whole(&machine.clone().disks(disks.iter().rev().cloned()));
        has_no_pool(&machine.disks(disks[1..].to_vec()), "member");
    }
}

/// Power fails while a pool is made: the next start with `pool=auto` carries on, whenever that was.
#[test]
fn an_unfinished_pool_is_finished() {
    let stage = Stage::wait();
    let machine = stage.machine().disks(["a", "b", "c"].map(|name| stage.disk(name, GIB)));
    for round in 0..6 {
        ["a.img", "b.img", "c.img"].iter().for_each(|file| drop(fs::remove_file(stage.path(file))));
        let appliance = machine.start().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60 + 40 * round));
        appliance.kill().unwrap();
        make_pool(&machine);
    }
    is_whole(&machine);
}

#[test]
fn a_pool_option_of_none_or_open_makes_nothing() {
    let stage = Stage::wait();
    for option in ["pool=none", "pool=open"] {
        let machine = stage.with_disk(GIB).option(option);
        let (appliance, mut control) = boot(&machine);
        refused(&mut control, "volume.list", json!({}), "no_pool");
        assert_eq!(state(&mut control, "a"), "blank");
        end(appliance, control);
    }
}
